//! Clients that follow a topic for ever, on one agent until that fails, then on another.

use super::read::seen;
use super::{Book, Client, Topic};
use millpond_tests::history::{Call, From, Log, Outcome, Read, ReadAnswer, Seen};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// A tail that is silent for longer is given up; an agent sends something every 15 seconds.
const TAIL_SILENCE_MAX: Duration = Duration::from_secs(18);

pub fn spawn(book: &Arc<Book>, seed: u64, topic: Topic) -> JoinHandle<()> {
    let mut client = book.client(seed);
    tokio::spawn(async move {
        let mut tail = Tail { topic: topic.name, position: None, begun: BTreeSet::new() };
        while !client.book.is_stopped() {
            client.follow(&mut tail).await;
            client.pause(300).await;
        }
    })
}

struct Tail {
    topic: &'static str,
    /// Position in the last complete chunk, where the next tail continues.
    position: Option<String>,
    /// Partitions of which something was read.
    begun: BTreeSet<i32>,
}

impl Client {
    /// Follows a tail until the connection ends. Records without a later position are read again by the next
    /// tail.
    async fn follow(&mut self, tail: &mut Tail) {
        let from =
            tail.position.as_ref().map_or("from=earliest".to_owned(), |token| format!("after={token}"));
        let path = format!("/v1/topics/{}/records?encoding=text&follow=true&{from}", tail.topic);
        let request =
            self.somewhere().request(reqwest::Method::GET, &path).header("accept", "application/x-ndjson");
        let asked = self.now();
        let Ok(Ok(mut response)) = tokio::time::timeout(Duration::from_secs(8), request.send()).await else {
            return;
        };
        let status = response.status().as_u16();
        assert!(matches!(status, 200 | 500 | 503), "a tail was answered {status}");
        let mut text = Vec::new();
        let mut records = Vec::new();
        while status == 200 && !self.book.is_stopped() {
            let Ok(Ok(Some(piece))) = tokio::time::timeout(TAIL_SILENCE_MAX, response.chunk()).await else {
                break;
            };
            text.extend_from_slice(&piece);
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                if line.trim_ascii().is_empty() {
                    continue;
                }
                let line: Value = serde_json::from_slice(&line).expect("a line is JSON");
                match line["next"].as_str() {
                    Some(next) => {
                        self.write_down(tail, asked, std::mem::take(&mut records));
                        tail.position = Some(next.to_owned());
                    }
                    None => records.push(line),
                }
            }
        }
    }

    /// Records a chunk as one read of each partition in it. It may have been read at any time since the tail
    /// was requested.
    fn write_down(&mut self, tail: &mut Tail, asked: u64, records: Vec<Value>) {
        let mut partitions: BTreeMap<i32, Vec<(i64, Seen)>> = BTreeMap::new();
        for record in &records {
            let partition =
                record["partition"].as_i64().and_then(|p| i32::try_from(p).ok()).expect("a partition");
            partitions.entry(partition).or_default().push(seen(record));
        }
        for (partition, records) in partitions {
            let from = if tail.begun.insert(partition) { From::Earliest } else { From::Next };
            let log = Log::new(tail.topic, partition);
            let op = self.recorder.invoke(asked, Call::Read(Read { log, from, session: 0 }));
            self.returned(
                op,
                Outcome::Records(ReadAnswer { log_start: None, high_watermark: None, records }),
            );
            self.book.count("tail ok".to_owned());
        }
    }
}
