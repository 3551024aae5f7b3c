//! A produce request as a client means it, and its sending.

use crate::client::Client;
use crate::world::{Agent, World};
use millpond_core::control_plane::RequestKey;
use millpond_core::{Name, Offset, RequestId, Topic, limits, partition};
use millpond_engine::hash;
use millpond_engine::produce::AppendError;
use millpond_engine::produce::append::{AppendBuilder, Appended, Basis, BasisTopic, Input, Place};
use millpond_tests::history::{Log, Outcome, Placed, Produce, RecordId, Sent, payload};
use rand::Rng;
use std::sync::Arc;

#[derive(Clone)]
pub struct Draft {
    pub produce: Produce,
    /// Key and size of each record.
    bodies: Vec<(Option<String>, usize)>,
    /// Each record has a dedup id.
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

    /// Some records, of one topic or of both, to partitions by number or by key.
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

    /// One record or two to a log.
    pub fn to(client: &mut Client, log: &Log) -> Self {
        let mut draft = Self::new();
        for _ in 0..client.rng.random_range(1..3) {
            draft.push(client, &log.topic, Some(log.partition));
        }
        draft
    }

    /// Where its key counts: over HTTP on one path.
    pub fn scope(&self, world: &World) -> String {
        let mut topics: Vec<&str> = self.produce.records.iter().map(|r| r.topic.as_str()).collect();
        topics.sort_unstable();
        topics.dedup();
        match topics.as_slice() {
            [one] if world.http => (*one).to_owned(),
            _ => String::new(),
        }
    }

    /// What is sent of each record.
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
        // Over HTTP the server may choose.
        let free = client.world.http && partition.is_none() && client.rng.random_ratio(1, 3);
        let key = (!free && (partition.is_none() || client.rng.random_ratio(1, 4)))
            .then(|| format!("k{}", client.rng.random_range(0..5)));
        let sizes = if client.rng.random_ratio(1, 10) { 5 } else { 4 };
        let filler = [0, 0, 40, 300, 20_000][client.rng.random_range(0..sizes)];
        // Where a key leads is known to the client too, while the topic does not grow.
        let of = client.world.topics.iter().find(|t| t.name.as_str() == topic).expect("a topic");
        let partition = partition
            .or_else(|| key.as_ref().map(|k| partition::for_key(k.as_bytes(), of.partition_count())));
        self.produce.records.push(Sent::new(topic, partition, id));
        self.bodies.push((key, filler));
    }

    pub async fn send(&self, world: &World, agent: &Agent) -> Outcome {
        if agent.router.is_some() {
            return crate::http::send(self, agent).await;
        }
        let app = &agent.app;
        let tenant = Name::default_tenant();
        let mut topics: Vec<Arc<Topic>> = Vec::new();
        for sent in &self.produce.records {
            if topics.iter().any(|t| t.name.as_str() == sent.topic) {
                continue;
            }
            match app.topics.get(&tenant, &crate::world::name(&sent.topic)).await {
                Ok(topic) => topics.push(topic),
                Err(_) => return Outcome::Fail { current: None },
            }
        }
        let basis_topics =
            topics.iter().map(|t| BasisTopic { partitions: t.partition_count(), sticky: 0 }).collect();
        let mut builder =
            AppendBuilder::new(topics.clone(), Basis { timestamp: app.clock.now_ms(), topics: basis_topics });
        let mut body = Vec::new();
        for (sent, Body { key, value, dedup_id }) in self.produce.records.iter().zip(self.records()) {
            body.extend_from_slice(value.as_bytes());
            let input = Input {
                key: key.map(str::as_bytes),
                value: Some(value.as_bytes()),
                partition: sent.partition,
                dedup_id: dedup_id.as_deref(),
                ..Input::default()
            };
            let topic = topics.iter().position(|t| t.name.as_str() == sent.topic).expect("it was found");
            builder.push(topic, &input).expect("a small record for a partition that is there");
        }
        let order = builder.order.clone();
        let hashes: Vec<_> = order.iter().map(|place| builder.dedup_hash(*place)).collect();
        let key = self.produce.key.as_ref().map(|key| RequestKey {
            key_hash: hash::of(&[key.as_bytes()]),
            body_hash: hash::of(&[&body]),
            ttl_ms: limits::IDEMPOTENCY_KEY_TTL_MS,
        });
        let id = RequestId(app.ids.uuid(app.clock.now_ms()));
        let append = builder.into_append(id, key, self.produce.expect.map(Offset));
        match app.writer.append(append).await {
            Ok(appended) => self.placed(world, agent, &topics, &order, &hashes, &appended).await,
            Err(AppendError::OffsetMismatch { current }) => Outcome::Fail { current: Some(current.0) },
            Err(AppendError::ControlPlane) => Outcome::Info,
            Err(_) => Outcome::Fail { current: None },
        }
    }

    /// Where each record lies; where a dedup id was known, the control plane is asked for the first one's
    /// place.
    async fn placed(
        &self,
        world: &World,
        agent: &Agent,
        topics: &[Arc<Topic>],
        order: &[Place],
        hashes: &[Option<uuid::Uuid>],
        appended: &Appended,
    ) -> Outcome {
        let mut placed = Vec::new();
        for (place, hash) in order.iter().zip(hashes) {
            let piece =
                appended.pieces.iter().find(|p| (p.topic, p.partition) == (place.topic, place.partition));
            let Some(piece) = piece else {
                world.flaw(format!("an answer lacks a piece: {appended:?}"));
                return Outcome::Info;
            };
            if let Some(offset) = piece.offset(place.position) {
                placed.push(Placed { partition: place.partition, offset: offset.0 });
                continue;
            }
            let Some(hash) = hash else {
                world.flaw(format!("a record without dedup id was dropped: {appended:?}"));
                return Outcome::Info;
            };
            match agent
                .app
                .plane
                .dedup_offsets(topics[place.topic].id, &[*hash])
                .await
                .ok()
                .and_then(|mut all| all.pop())
            {
                Some(Some((partition, offset))) => placed.push(Placed { partition, offset: offset.0 }),
                _ => return Outcome::Info,
            }
        }
        Outcome::Produced { placed, duplicate: appended.duplicate }
    }
}
