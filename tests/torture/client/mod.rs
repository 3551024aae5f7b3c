//! Clients with their own connections, which record what they ask and what comes back.

pub mod guard;
pub mod produce;
pub mod read;
pub mod tail;
pub mod work;

use millpond_tests::harness::client::{Answer, Api, try_send};
use millpond_tests::history::{Call, Log, OpId, Outcome, RecordId, Recorder, Shelf};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use reqwest::RequestBuilder;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// A topic, and the greatest size of random filler in its values.
#[derive(Clone, Copy, Debug)]
pub struct Topic {
    pub name: &'static str,
    pub partitions: i32,
    pub placement: &'static str,
    pub filler_bytes: usize,
}

pub const SMALL: Topic = Topic { name: "small", partitions: 3, placement: "auto", filler_bytes: 60 };
pub const LARGE: Topic = Topic { name: "large", partitions: 2, placement: "object", filler_bytes: 3_000 };
pub const GUARDED: Topic = Topic { name: "guarded", partitions: 1, placement: "auto", filler_bytes: 20 };
/// Topic of the queues.
pub const WORK: Topic = Topic { name: "work", partitions: 3, placement: "auto", filler_bytes: 200 };
pub const TOPICS: [Topic; 4] = [SMALL, LARGE, GUARDED, WORK];

pub fn logs() -> Vec<Log> {
    TOPICS
        .iter()
        .flat_map(|topic| (0..topic.partitions).map(|partition| Log::new(topic.name, partition)))
        .collect()
}

/// State that all clients share.
pub struct Book {
    start: Instant,
    shelf: Shelf,
    fronts: Vec<SocketAddr>,
    clients: AtomicU32,
    stop: AtomicBool,
    /// Number of answers by kind.
    answers: Mutex<BTreeMap<String, u64>>,
    ends: Mutex<HashMap<Log, i64>>,
}

impl Book {
    pub fn new(fronts: Vec<SocketAddr>) -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            shelf: Shelf::memory(),
            fronts,
            clients: AtomicU32::new(0),
            stop: AtomicBool::new(false),
            answers: Mutex::default(),
            ends: Mutex::default(),
        })
    }

    pub fn client(self: &Arc<Self>, seed: u64) -> Client {
        let number = self.clients.fetch_add(1, Ordering::SeqCst);
        rustls::crypto::ring::default_provider().install_default().ok();
        Client {
            number,
            rng: StdRng::seed_from_u64(seed ^ (u64::from(number) << 32)),
            recorder: self.shelf.client(number).expect("a client that is new"),
            http: reqwest::Client::builder().no_proxy().build().expect("a client"),
            book: Arc::clone(self),
            counter: 0,
        }
    }

    /// Tells clients to begin nothing more.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    pub fn answers(&self) -> BTreeMap<String, u64> {
        self.answers.lock().clone()
    }

    pub fn history(&self) -> millpond_tests::history::History {
        self.shelf.history().expect("a history in memory")
    }

    fn count(&self, what: String) {
        *self.answers.lock().entry(what).or_default() += 1;
    }

    fn saw_end(&self, log: &Log, high_watermark: i64) {
        let mut ends = self.ends.lock();
        let end = ends.entry(log.clone()).or_default();
        *end = (*end).max(high_watermark);
    }

    fn end(&self, log: &Log) -> i64 {
        self.ends.lock().get(log).copied().unwrap_or(0)
    }
}

pub struct Client {
    pub number: u32,
    pub rng: StdRng,
    recorder: Recorder,
    http: reqwest::Client,
    book: Arc<Book>,
    counter: u64,
}

/// Outcome of a request.
pub enum Reply {
    Ok(Value),
    /// Refused, certainly without effect.
    Refused(Answer),
    /// No complete answer, or one that leaves the outcome open.
    Unknown,
}

impl Client {
    /// Nanoseconds since the start.
    fn now(&self) -> u64 {
        u64::try_from(self.book.start.elapsed().as_nanos()).expect("a short run")
    }

    fn record_id(&mut self) -> RecordId {
        self.counter += 1;
        RecordId { client: self.number, counter: self.counter }
    }

    fn invoke(&self, call: Call) -> OpId {
        self.recorder.invoke(self.now(), call)
    }

    fn returned(&self, op: OpId, outcome: Outcome) {
        self.recorder.returned(self.now(), op, outcome);
    }

    pub fn agents(&self) -> usize {
        self.book.fronts.len()
    }

    /// The API of an agent, by its number.
    pub fn at(&self, agent: usize) -> Api {
        let address = self.book.fronts[agent];
        Api { http: self.http.clone(), base: format!("http://{address}"), address }
    }

    /// The API of a random agent.
    fn somewhere(&mut self) -> Api {
        let agent = self.rng.random_range(0..self.agents());
        self.at(agent)
    }

    /// Sends a request and waits for a random time at most. A problem that no fault explains fails the test.
    async fn send(&mut self, what: &str, request: RequestBuilder) -> Reply {
        let patience = Duration::from_millis(self.rng.random_range(2_000..12_000));
        let answer = tokio::time::timeout(patience, try_send(request)).await;
        let (said, reply) = match answer {
            Err(_) => ("no answer".to_owned(), Reply::Unknown),
            Ok(Err(_)) => ("broke off".to_owned(), Reply::Unknown),
            Ok(Ok(answer)) if answer.status == 200 => ("ok".to_owned(), Reply::Ok(answer.json())),
            Ok(Ok(answer)) => {
                let code = answer.json()["code"].as_str().unwrap_or("").to_owned();
                match answer.status {
                    503 => (code, Reply::Unknown),
                    // The store returned other bytes than were put, and the agent refused to hand them on.
                    500 if code == "corrupt" => (code, Reply::Unknown),
                    409 | 429 => (code, Reply::Refused(answer)),
                    _ => panic!("client {} {what}: {answer:?}", self.number),
                }
            }
        };
        self.book.count(format!("{what} {said}"));
        reply
    }

    async fn pause(&mut self, most_ms: u64) {
        let ms = self.rng.random_range(0..=most_ms);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}
