//! A produce request as a client intends it, and the sending of it.

use crate::client::Client;
use crate::world::{Agent, World};
use millpond_core::{Name, Offset, Scope, partition};
use millpond_engine::hash;
use millpond_engine::produce::append::{AppendBuilder, RecordError};
use millpond_engine::produce::atomic::AtomicRequest;
use millpond_engine::produce::{AppendError, Identity, KeySpace, ProduceError, RecordSource};
use millpond_format::record::NewRecord;
use millpond_tests::history::{Log, Outcome, Placed, Produce, RecordId, Sent, payload};
use rand::Rng;
use std::sync::Arc;
use uuid::Uuid;

#[derive(Clone)]
pub struct Draft {
    pub produce: Produce,
    /// Key and size of each record.
    bodies: Vec<(Option<String>, usize)>,
    /// Whether each record has a dedup id.
    pub dedup: bool,
}

pub struct Body<'a> {
    pub key: Option<&'a str>,
    pub value: String,
    pub dedup_id: Option<String>,
}

impl Draft {
    fn new() -> Self {
        Self { produce: Produce::default(), bodies: Vec::new(), dedup: false }
    }

    /// Some records for one topic or both, to partitions by number or by key.
    pub fn random(client: &mut Client) -> Self {
        let mut draft = Self::new();
        let topics = client.world.topics.len();
        let home = client.rng.random_range(0..topics);
        let spread = client.rng.random_ratio(1, 3);
        for _ in 0..[1, 1, 2, 3, 8][client.rng.random_range(0..5)] {
            let topic = if spread { client.rng.random_range(0..topics) } else { home };
            let topic = Arc::clone(&client.world.topics[topic]);
            let explicit = client.rng.random_ratio(2, 3);
            let partition = explicit.then(|| client.rng.random_range(0..topic.partition_count()));
            draft.push(client, topic.name.as_str(), partition);
        }
        draft
    }

    /// One or two records for one partition.
    pub fn to(client: &mut Client, log: &Log) -> Self {
        let mut draft = Self::new();
        for _ in 0..client.rng.random_range(1..3) {
            draft.push(client, &log.topic, Some(log.partition));
        }
        draft
    }

    /// Scope of its idempotency key: over HTTP, a path.
    pub fn scope(&self, world: &World) -> String {
        let mut topics: Vec<&str> = self.produce.records.iter().map(|r| r.topic.as_str()).collect();
        topics.sort_unstable();
        topics.dedup();
        match topics.as_slice() {
            [one] if world.http => (*one).to_owned(),
            _ => String::new(),
        }
    }

    /// Key and content of each record as they are sent.
    pub fn records(&self) -> impl Iterator<Item = Body<'_>> {
        self.produce.records.iter().zip(&self.bodies).map(|(sent, (key, filler))| Body {
            key: key.as_deref(),
            value: payload(sent.id, key.as_deref(), *filler),
            dedup_id: self.dedup.then(|| format!("{}.{}", sent.id.client, sent.id.counter)),
        })
    }

    fn push(&mut self, client: &mut Client, topic: &str, partition: Option<i32>) {
        let id = RecordId { client: client.recorder.client, counter: client.counter };
        client.counter += 1;
        // Over HTTP the server may choose the partition.
        let free = client.world.http && partition.is_none() && client.rng.random_ratio(1, 3);
        let key = (!free && (partition.is_none() || client.rng.random_ratio(1, 4)))
            .then(|| format!("k{}", client.rng.random_range(0..5)));
        let sizes = if client.rng.random_ratio(1, 10) { 5 } else { 4 };
        let filler = [0, 0, 40, 300, 20_000][client.rng.random_range(0..sizes)];
        // The client can compute a key's partition too, as long as the topic does not grow.
        let of = client.world.topics.iter().find(|t| t.name.as_str() == topic).expect("a topic");
        let partition = partition
            .or_else(|| key.as_ref().map(|k| partition::for_key(k.as_bytes(), of.partition_count())));
        self.produce.records.push(Sent::new(topic, partition, id));
        self.bodies.push((key, filler));
    }

    /// Its topics without repetition, in order of first use.
    fn topics(&self) -> Vec<&str> {
        let mut topics: Vec<&str> = Vec::new();
        for sent in &self.produce.records {
            if !topics.contains(&sent.topic.as_str()) {
                topics.push(&sent.topic);
            }
        }
        topics
    }

    pub async fn send(&self, world: &World, agent: &Agent) -> Outcome {
        if agent.router.is_some() {
            return crate::http::send(self, agent).await;
        }
        let request = AtomicRequest {
            topics: self.topics().into_iter().map(crate::world::name).collect::<Vec<Name>>(),
            records: Arc::new(self.clone()),
            identity: Identity { key: self.produce.key.clone(), shape: Vec::new() },
            key_space: KeySpace::Batch,
            expect: self.produce.expect.map(Offset),
            offsets: None,
            acks: Vec::new(),
            timestamp: agent.engine.clock.now_ms(),
            permit: None,
        };
        match agent.engine.produce.atomic(&Scope::unauthenticated(), request).await {
            Ok(stored) => {
                let mut placed = Vec::new();
                for record in &stored.records {
                    if record.duplicate && !stored.duplicate && !self.dedup {
                        world.flaw(format!("a record without dedup id was dropped: {stored:?}"));
                    }
                    // The place of a dedup id's first record is not known.
                    let Some(offset) = record.offset else { return Outcome::Info };
                    placed.push(Placed { partition: record.partition, offset: offset.0 });
                }
                Outcome::Produced { placed, duplicate: stored.duplicate }
            }
            Err(ProduceError::Append(AppendError::OffsetMismatch { current })) => {
                Outcome::Fail { current: Some(current.0) }
            }
            // The place of a dedup id's first record may be unknown although the request was stored.
            Err(ProduceError::Append(AppendError::OutcomeUnknown) | ProduceError::ControlPlane(_)) => {
                Outcome::Info
            }
            Err(_) => Outcome::Fail { current: None },
        }
    }
}

impl RecordSource for Draft {
    type Refusal = RecordError;

    fn read(&self, into: &mut AppendBuilder) -> Result<(), RecordError> {
        let topics = self.topics();
        for (sent, Body { key, value, dedup_id }) in self.produce.records.iter().zip(self.records()) {
            let record = NewRecord {
                key: key.map(str::as_bytes),
                value: Some(value.as_bytes()),
                dedup_id: dedup_id.as_deref(),
                ..NewRecord::default()
            };
            let topic = topics.iter().position(|t| *t == sent.topic).expect("it is one of its topics");
            into.push(topic, sent.partition, &record)?;
        }
        Ok(())
    }

    fn input_bytes(&self) -> usize {
        0
    }

    fn content_hash(&self, shape: &[u8]) -> Uuid {
        let values: Vec<String> = self.records().map(|body| body.value).collect();
        hash::of(&[shape, values.concat().as_bytes()])
    }
}
