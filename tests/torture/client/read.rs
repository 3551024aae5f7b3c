//! Clients that read: random partitions, polls that continue, high watermarks, and complete logs at the end.

use super::{Book, Client, Reply, TOPICS, logs};
use millpond_tests::harness::client::{Api, list};
use millpond_tests::history::{Call, From, Log, Outcome, Read, ReadAnswer, Seen, identify};
use rand::Rng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Starts a client that reads at random positions on any agent, and asks for high watermarks.
pub fn spawn_random(book: &Arc<Book>, seed: u64) -> JoinHandle<()> {
    let mut client = book.client(seed);
    tokio::spawn(async move {
        for session in 0.. {
            if client.book.is_stopped() {
                return;
            }
            let api = client.somewhere();
            if client.rng.random_bool(0.3) {
                let topic = TOPICS.choose(&mut client.rng).expect("a topic").name;
                client.describe(&api, topic).await;
            } else {
                client.read_somewhere(&api, session).await;
            }
            client.pause(80).await;
        }
    })
}

/// Starts a client that polls a partition, each time on another agent, continuing at its last position.
pub fn spawn_poll(book: &Arc<Book>, seed: u64, log: Log) -> JoinHandle<()> {
    let mut client = book.client(seed);
    tokio::spawn(async move {
        let mut next = None;
        while !client.book.is_stopped() {
            let api = client.somewhere();
            let from = if next.is_none() { From::Earliest } else { From::Next };
            let query = format!("offset={}&wait_ms=1500&max_records=300", next.unwrap_or(0));
            match client.read(&api, &log, from, 0, &query).await {
                Some(reached) => next = Some(reached),
                None => client.pause(200).await,
            }
        }
    })
}

impl Client {
    async fn read_somewhere(&mut self, api: &Api, session: u64) {
        let log = logs().choose(&mut self.rng).expect("a log").clone();
        let end = self.book.end(&log);
        let (from, start) = match self.rng.random_range(0..10) {
            0 => (From::Earliest, "from=earliest".to_owned()),
            1 => (From::Latest, "from=latest".to_owned()),
            2..5 => (From::Offset(end), format!("offset={end}")),
            _ => {
                let offset = self.rng.random_range(0..=end);
                (From::Offset(offset), format!("offset={offset}"))
            }
        };
        self.read(api, &log, from, session, &format!("{start}&max_records=200")).await;
    }

    /// Reads once; returns the position of the next read.
    async fn read(&mut self, api: &Api, log: &Log, from: From, session: u64, query: &str) -> Option<i64> {
        let path =
            format!("/v1/topics/{}/partitions/{}/records?encoding=text&{query}", log.topic, log.partition);
        let op = self.invoke(Call::Read(Read { log: log.clone(), from, session }));
        let (outcome, next) = match self.send("read", api.request(reqwest::Method::GET, &path)).await {
            Reply::Ok(page) => {
                let high_watermark = page["high_watermark"].as_i64();
                self.book.saw_end(log, high_watermark.unwrap_or(0));
                let records = list(&page, "records").iter().map(seen).collect();
                let answer =
                    ReadAnswer { log_start: page["log_start_offset"].as_i64(), high_watermark, records };
                (Outcome::Records(answer), page["next_offset"].as_i64())
            }
            Reply::Refused(answer) => panic!("a read: {answer:?}"),
            Reply::Unknown => (Outcome::Info, None),
        };
        self.returned(op, outcome);
        next
    }

    /// A topic's description; its high watermarks are recorded.
    pub async fn describe(&mut self, api: &Api, topic: &str) -> Option<Value> {
        let logs: Vec<Log> = logs().into_iter().filter(|log| log.topic == topic).collect();
        let ops: Vec<_> = logs.iter().map(|log| self.invoke(Call::End(log.clone()))).collect();
        let reply = self.send("end", api.request(reqwest::Method::GET, &format!("/v1/topics/{topic}"))).await;
        let description = match reply {
            Reply::Ok(description) => Some(description),
            Reply::Refused(answer) => panic!("a description: {answer:?}"),
            Reply::Unknown => None,
        };
        for (log, op) in logs.iter().zip(ops) {
            let of = |partition: &Value| {
                (partition["partition"] == json!(log.partition)).then(|| partition["high_watermark"].as_i64())
            };
            let end = description.as_ref().and_then(|d| list(d, "partitions").iter().find_map(of)).flatten();
            if let Some(end) = end {
                self.book.saw_end(log, end);
            }
            self.returned(op, end.map_or(Outcome::Info, |high_watermark| Outcome::End { high_watermark }));
        }
        description
    }

    /// Reads a complete log.
    pub async fn read_all(&mut self, agent: usize, log: &Log) -> usize {
        let api = self.at(agent);
        let op = self.invoke(Call::Final(log.clone()));
        let mut all = ReadAnswer::default();
        let mut next = 0;
        loop {
            let query = format!("?encoding=text&offset={next}&max_records=5000&max_bytes=4194304");
            let page = api.partition(&log.topic, log.partition, &query).await.ok();
            all.log_start = all.log_start.or(page["log_start_offset"].as_i64());
            all.high_watermark = page["high_watermark"].as_i64();
            all.records.extend(list(&page, "records").iter().map(seen));
            let reached = page["next_offset"].as_i64().expect("where to go on");
            if Some(reached) == all.high_watermark {
                break;
            }
            assert!(reached > next, "a page below the high watermark that does not go on: {page}");
            next = reached;
        }
        let records = all.records.len();
        self.returned(op, Outcome::Records(all));
        records
    }
}

/// Offset of a returned record, and the identity in its value.
pub fn seen(record: &Value) -> (i64, Seen) {
    let offset = record["offset"].as_i64().unwrap_or_else(|| panic!("no offset in {record}"));
    let value = record["text"].as_str().unwrap_or_else(|| panic!("no text in {record}"));
    (offset, identify(record["key"].as_str().map(str::as_bytes), value.as_bytes()))
}
