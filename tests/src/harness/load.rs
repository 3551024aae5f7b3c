//! Concurrent producers that remember what they sent and what was acknowledged, and a check of what was
//! stored.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::client::{Api, list, try_send};
use super::wait::{until, within};

/// Longest wait for an answer or the end of the connection, in seconds.
const ANSWER_WAIT_MAX_S: u64 = 30;
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// State of one sent record. Its value is its unique name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// Sent, but not acknowledged: it may be stored.
    Unknown,
    /// Stored at this partition and offset.
    At(i64, i64),
    /// Stored somewhere: it was part of an acknowledged NDJSON stream.
    Stored,
}

#[derive(Default)]
struct Book {
    /// Records by topic and name.
    sent: Mutex<HashMap<(String, String), Sent>>,
    acked: AtomicUsize,
    refused: AtomicUsize,
    stop: AtomicBool,
}

/// A set of running producers.
pub struct Load {
    book: Arc<Book>,
    producers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts four producers per topic: two that retry with an idempotency key until they are answered, one
    /// that sends each record once without a key, and one that streams lines with a key.
    pub fn start(api: &Api, topics: &[&str]) -> Self {
        let book = Arc::new(Book::default());
        let mut producers = Vec::new();
        for topic in topics {
            for number in 0..4 {
                let producer = Producer {
                    api: api.clone(),
                    topic: (*topic).to_owned(),
                    number,
                    book: Arc::clone(&book),
                };
                producers.push(tokio::spawn(producer.run()));
            }
        }
        Self { book, producers }
    }

    pub fn acked(&self) -> usize {
        self.book.acked.load(Ordering::Relaxed)
    }

    /// Number of answers with status 503 or 429.
    pub fn refused(&self) -> usize {
        self.book.refused.load(Ordering::Relaxed)
    }

    /// Waits until this number of further requests was acknowledged.
    pub async fn more(&self, requests: usize) {
        let goal = self.acked() + requests;
        until(90, "acknowledged requests under load", async || (self.acked() >= goal).then_some(())).await;
    }

    /// Stops sending and waits for requests under way.
    pub async fn stop(self) -> Outcome {
        self.book.stop.store(true, Ordering::Relaxed);
        for producer in self.producers {
            within(90, "the last answer to a producer", producer)
                .await
                .expect("a producer that did not panic");
        }
        let sent = std::mem::take(&mut *self.book.sent.lock().expect("not poisoned"));
        Outcome { sent }
    }

    /// Aborts the producers: requests under way stay unknown.
    pub async fn abandon(self) -> Outcome {
        for producer in self.producers {
            producer.abort();
            producer.await.ok();
        }
        let sent = std::mem::take(&mut *self.book.sent.lock().expect("not poisoned"));
        Outcome { sent }
    }
}

struct Producer {
    api: Api,
    topic: String,
    number: usize,
    book: Arc<Book>,
}

impl Producer {
    async fn run(self) {
        for n in 0.. {
            if self.book.stop.load(Ordering::Relaxed) {
                return;
            }
            let names: Vec<String> = (0..3).map(|i| format!("{}-{n}-{i}", self.number)).collect();
            self.note(&names, |_| Sent::Unknown);
            match self.number {
                0 => self.once(&names).await,
                1 => self.streamed(&names, n).await,
                _ => self.kept_up(&names, n).await,
            }
        }
    }

    fn note(&self, names: &[String], what: impl Fn(usize) -> Sent) {
        let mut sent = self.book.sent.lock().expect("not poisoned");
        for (n, name) in names.iter().enumerate() {
            sent.insert((self.topic.clone(), name.clone()), what(n));
        }
    }

    fn acked(&self, names: &[String], what: impl Fn(usize) -> Sent) {
        self.note(names, what);
        self.book.acked.fetch_add(1, Ordering::Relaxed);
    }

    /// Sends a request once; `None` if it was refused or there was no whole answer.
    async fn attempt(&self, content_type: &str, key: Option<&str>, body: String) -> Option<Value> {
        let mut request = self.api.post(&self.topic, content_type).body(body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let answer = within(ANSWER_WAIT_MAX_S, "an answer or the end of a connection", try_send(request))
            .await
            .ok()?;
        match answer.status {
            200 => Some(answer.json()),
            429 | 503 => {
                self.book.refused.fetch_add(1, Ordering::Relaxed);
                None
            }
            _ => panic!("{answer:?}"),
        }
    }

    fn records(names: &[String]) -> String {
        let records: Vec<Value> = names.iter().map(|name| json!({"key": name, "value": name})).collect();
        json!({ "records": records }).to_string()
    }

    async fn once(&self, names: &[String]) {
        match self.attempt("application/json", None, Self::records(names)).await {
            Some(answer) => self.acked(names, |n| place(&answer, n)),
            None => tokio::time::sleep(RETRY_PAUSE).await,
        }
    }

    async fn kept_up(&self, names: &[String], n: usize) {
        let key = format!("{}-{n}", self.number);
        loop {
            if let Some(answer) = self.attempt("application/json", Some(&key), Self::records(names)).await {
                return self.acked(names, |n| place(&answer, n));
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn streamed(&self, names: &[String], n: usize) {
        let key = format!("{}-{n}", self.number);
        let lines: String = names.iter().map(|name| format!("\"{name}\"\n")).collect();
        loop {
            if let Some(answer) = self.attempt("application/x-ndjson", Some(&key), lines.clone()).await {
                assert_eq!(answer["count"], json!(names.len()));
                return self.acked(names, |_| Sent::Stored);
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
}

fn place(answer: &Value, n: usize) -> Sent {
    let result = &list(answer, "results")[n];
    let number = |name: &str| result[name].as_i64().unwrap_or_else(|| panic!("{name} in {result}"));
    Sent::At(number("partition"), number("offset"))
}

/// What was sent, and what was acknowledged.
pub struct Outcome {
    sent: HashMap<(String, String), Sent>,
}

impl Outcome {
    /// Checks that every acknowledged record is stored once and where the answer said, every other at most
    /// once, and nothing else. Offsets must be dense.
    pub async fn check(&self, api: &Api) {
        let mut topics: Vec<&String> = self.sent.keys().map(|(topic, _)| topic).collect();
        topics.sort_unstable();
        topics.dedup();
        let mut found: HashMap<(String, String), (i64, i64)> = HashMap::new();
        for topic in topics {
            for record in api.topic_log(topic).await {
                let name = (topic.clone(), record["value"].as_str().expect("a name").to_owned());
                let at = (
                    record["partition"].as_i64().expect("a number"),
                    record["offset"].as_i64().expect("a number"),
                );
                assert!(self.sent.contains_key(&name), "{name:?} was never sent");
                if let Some(other) = found.insert(name.clone(), at) {
                    panic!("{name:?} is stored at {other:?} and at {at:?}");
                }
            }
        }
        for (name, sent) in &self.sent {
            match (sent, found.get(name)) {
                (Sent::At(partition, offset), at) => {
                    assert_eq!(at, Some(&(*partition, *offset)), "{name:?} was acknowledged")
                }
                (Sent::Stored, None) => panic!("{name:?} was acknowledged and is lost"),
                (Sent::Stored | Sent::Unknown, _) => {}
            }
        }
    }

    pub fn records(&self) -> usize {
        self.sent.len()
    }
}
