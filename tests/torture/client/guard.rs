//! Clients that append with `If-Match`, only at the end that they expect.

use super::{Book, Client, GUARDED, Reply};
use millpond_tests::harness::client::{Api, list};
use millpond_tests::history::{Call, Log, Outcome, Produce, Sent, payload};
use rand::Rng;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::task::JoinHandle;

pub fn spawn(book: &Arc<Book>, seed: u64) -> JoinHandle<()> {
    let mut client = book.client(seed);
    tokio::spawn(async move {
        while !client.book.is_stopped() {
            client.append_where_expected().await;
            client.pause(60).await;
        }
    })
}

impl Client {
    /// Appends with `If-Match`. Every other request has a key and is sent until its verdict is known.
    async fn append_where_expected(&mut self) {
        let log = Log::new(GUARDED.name, 0);
        let api = self.somewhere();
        let Some(expect) = self.end(&api, &log).await else { return };
        let id = self.record_id();
        let sent = Sent::new(&log.topic, Some(0), id);
        let key = self.rng.random_bool(0.5).then(|| format!("{}-{}", self.number, self.counter));
        let produce = Produce { records: vec![sent], key: key.clone(), expect: Some(expect) };
        let body = json!({"records": [{"partition": 0, "text": payload(id, None, GUARDED.filler_bytes)}]})
            .to_string();
        loop {
            let api = self.somewhere();
            let mut request = api
                .post(&log.topic, "application/json")
                .header("if-match", expect.to_string())
                .body(body.clone());
            if let Some(key) = &key {
                request = request.header("idempotency-key", key);
            }
            let op = self.invoke(Call::Produce(produce.clone()));
            let (outcome, decided) = match self.send("if-match", request).await {
                Reply::Ok(answer) => {
                    let placed = list(&answer, "results").iter().map(super::produce::place).collect();
                    (Outcome::Produced { placed, duplicate: answer["duplicate"] == json!(true) }, true)
                }
                Reply::Refused(answer) => match answer.status {
                    429 => (Outcome::Fail { current: None }, false),
                    _ => (
                        Outcome::Fail {
                            current: answer.problem(409, "offset_mismatch")["high_watermark"].as_i64(),
                        },
                        true,
                    ),
                },
                Reply::Unknown => (Outcome::Info, false),
            };
            self.returned(op, outcome);
            if decided || key.is_none() {
                return;
            }
            self.pause(200).await;
        }
    }

    /// High watermark from a topic's description; all the topic's high watermarks are recorded.
    pub async fn end(&mut self, api: &Api, log: &Log) -> Option<i64> {
        let description = self.describe(api, &log.topic).await?;
        let of = |partition: &Value| {
            (partition["partition"] == json!(log.partition)).then(|| partition["high_watermark"].as_i64())
        };
        list(&description, "partitions").iter().find_map(of)?
    }
}
