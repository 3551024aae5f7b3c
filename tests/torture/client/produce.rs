//! Clients that produce: atomic requests over partitions and topics, streams, with and without keys.

use super::{Book, Client, LARGE, Reply, SMALL, Topic, WORK};
use millpond_tests::harness::client::{Api, list};
use millpond_tests::history::{Call, Outcome, Placed, Produce, Sent, payload};
use rand::Rng;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Request format of a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFormat {
    /// `{"records":[…]}` to one topic.
    Atomic,
    /// `/v1/batches` to two topics.
    Batches,
    /// NDJSON lines with a partition in each.
    Stream,
}

/// A request that can be sent repeatedly.
struct Request {
    form: BodyFormat,
    topic: &'static str,
    produce: Produce,
    body: String,
}

/// Sends requests until the book is closed: with a key each until it is acknowledged, otherwise once.
pub fn spawn(book: &Arc<Book>, seed: u64, form: BodyFormat, topic: Topic, keyed: bool) -> JoinHandle<()> {
    let mut client = book.client(seed);
    tokio::spawn(async move {
        while !client.book.is_stopped() {
            let request = client.draw(form, topic, keyed);
            client.keep_sending(&request).await;
            client.pause(25).await;
        }
    })
}

impl Client {
    fn draw(&mut self, form: BodyFormat, topic: Topic, keyed: bool) -> Request {
        let topics = if form == BodyFormat::Batches { vec![LARGE, SMALL] } else { vec![topic] };
        let mut produce = Produce::default();
        let mut bodies: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        for topic in topics {
            for _ in 0..self.rng.random_range(1..=4) {
                let id = self.record_id();
                let key = self.rng.random_bool(0.5).then(|| format!("k{}", self.rng.random_range(0..20)));
                let chosen = form == BodyFormat::Stream || self.rng.random_bool(0.6);
                let partition = chosen.then(|| self.rng.random_range(0..topic.partitions));
                let filler_bytes = self.rng.random_range(0..=topic.filler_bytes);
                let mut record = json!({"text": payload(id, key.as_deref(), filler_bytes)});
                if let Some(key) = key {
                    record["key"] = key.into();
                }
                if let Some(partition) = partition {
                    record["partition"] = partition.into();
                }
                if topic.name == WORK.name && self.rng.random_bool(0.05) {
                    record["delay_ms"] = self.rng.random_range(1..3_000).into();
                }
                bodies.entry(topic.name).or_default().push(record);
                produce.records.push(Sent::new(topic.name, partition, id));
            }
        }
        produce.key = keyed.then(|| format!("{}-{}", self.number, self.counter));
        let body = match form {
            BodyFormat::Atomic => json!({"records": bodies[topic.name]}).to_string(),
            BodyFormat::Batches => json!({"topics": bodies}).to_string(),
            BodyFormat::Stream => bodies[topic.name].iter().map(|record| format!("{record}\n")).collect(),
        };
        Request { form, topic: topic.name, produce, body }
    }

    async fn keep_sending(&mut self, request: &Request) {
        loop {
            let api = self.somewhere();
            if self.attempt(&api, request).await || request.produce.key.is_none() {
                return;
            }
            self.pause(200).await;
        }
    }

    /// Sends the request once; true if it was acknowledged.
    async fn attempt(&mut self, api: &Api, request: &Request) -> bool {
        let op = self.invoke(Call::Produce(request.produce.clone()));
        let what = match (request.form, request.produce.key.is_some()) {
            (BodyFormat::Atomic, true) => "produce with key",
            (BodyFormat::Atomic, false) => "produce once",
            (BodyFormat::Batches, _) => "batches",
            (BodyFormat::Stream, _) => "stream",
        };
        let reply = self.send(what, request.http(api)).await;
        let outcome = match &reply {
            Reply::Ok(answer) => request.outcome(answer),
            Reply::Refused(answer) => {
                assert_eq!(answer.status, 429, "{what}: {answer:?}");
                Outcome::Fail { current: None }
            }
            Reply::Unknown => Outcome::Info,
        };
        self.returned(op, outcome);
        matches!(reply, Reply::Ok(_))
    }

    /// Sends one record with a key to an agent until that agent acknowledges it.
    pub async fn acknowledged_by(&mut self, agent: usize) {
        let request = self.draw(BodyFormat::Atomic, SMALL, true);
        let api = self.at(agent);
        while !self.attempt(&api, &request).await {
            self.pause(100).await;
        }
    }
}

impl Request {
    fn http(&self, api: &Api) -> RequestBuilder {
        let request = match self.form {
            BodyFormat::Atomic => api.post(self.topic, "application/json"),
            BodyFormat::Batches => {
                api.request(Method::POST, "/v1/batches").header("content-type", "application/json")
            }
            BodyFormat::Stream => {
                let path = format!("/v1/topics/{}/records?records=true", self.topic);
                api.request(Method::POST, &path).header("content-type", "application/x-ndjson")
            }
        };
        let request = request.body(self.body.clone());
        match &self.produce.key {
            Some(key) => request.header("idempotency-key", key),
            None => request,
        }
    }

    fn outcome(&self, answer: &Value) -> Outcome {
        let placed = match self.form {
            BodyFormat::Stream => self.places_in_ranges(answer),
            BodyFormat::Atomic => list(answer, "results").iter().map(place).collect(),
            BodyFormat::Batches => {
                let mut results: HashMap<&str, std::slice::Iter<'_, Value>> = HashMap::new();
                let mut next = |topic: &'static str| {
                    results.entry(topic).or_insert_with(|| list(&answer["results"], topic).iter()).next()
                };
                let topic = |sent: &Sent| if sent.topic == SMALL.name { SMALL.name } else { LARGE.name };
                self.produce
                    .records
                    .iter()
                    .map(|sent| place(next(topic(sent)).expect("a result for each record")))
                    .collect()
            }
        };
        Outcome::Produced { placed, duplicate: answer["duplicate"] == json!(true) }
    }

    /// Places of a stream's records. A stream this small is one chunk, so a partition's records are
    /// contiguous.
    fn places_in_ranges(&self, answer: &Value) -> Vec<Placed> {
        let ranges = list(answer, "partitions");
        let mut next: HashMap<i64, i64> =
            ranges.iter().map(|range| (number(range, "partition"), number(range, "first_offset"))).collect();
        let place = |sent: &Sent| {
            let partition = sent.partition.expect("chosen");
            let next = next
                .get_mut(&i64::from(partition))
                .unwrap_or_else(|| panic!("partition {partition} in {answer}"));
            *next += 1;
            Placed { partition, offset: *next - 1 }
        };
        let placed = self.produce.records.iter().map(place).collect();
        for range in ranges {
            assert_eq!(next[&number(range, "partition")], number(range, "last_offset") + 1, "{answer}");
        }
        placed
    }
}

fn number(value: &Value, name: &str) -> i64 {
    value[name].as_i64().unwrap_or_else(|| panic!("{name} in {value}"))
}

pub fn place(result: &Value) -> Placed {
    Placed {
        partition: i32::try_from(number(result, "partition")).expect("few partitions"),
        offset: number(result, "offset"),
    }
}
