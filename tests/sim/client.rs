//! Clients that produce, read and poll through any live agent, and record the answers.

use crate::bugs::Bug;
use crate::draft::Draft;
use crate::world::{Agent, World, name};
use millpond_core::{Offset, Scope};
use millpond_engine::fetch::fetched::Fetched;
use millpond_engine::fetch::partition::PartitionRead;
use millpond_engine::fetch::{FetchError, ReadError, Start};
use millpond_engine::topics::TopicError;
use millpond_tests::history::{Call, From, Log, OpId, Outcome, Read, ReadAnswer, Recorder, identify};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Longer than any operation of an agent may take: four attempts at a PUT, a commit without an answer.
const STUCK_AFTER: Duration = Duration::from_secs(600);
const PRODUCE_ATTEMPTS_MAX: u64 = 12;

pub struct Client {
    pub world: Arc<World>,
    pub rng: StdRng,
    pub recorder: Recorder,
    /// Number of the next record.
    pub counter: u64,
    sessions: BTreeMap<Log, i64>,
    /// Ends of logs, as far as the client has seen them.
    ends: BTreeMap<Log, i64>,
    /// Stored idempotency keys, with the scope in which each is unique.
    stored_keys: BTreeMap<String, String>,
}

impl Client {
    pub fn new(world: &Arc<World>, number: u32, seed: u64) -> Self {
        Self {
            world: Arc::clone(world),
            rng: StdRng::seed_from_u64(seed),
            recorder: world.shelf.client(number).expect("in memory"),
            counter: 0,
            sessions: BTreeMap::new(),
            ends: BTreeMap::new(),
            stored_keys: BTreeMap::new(),
        }
    }

    pub async fn work(mut self) {
        for _ in 0..self.world.ops {
            let pause = self.rng.random_range(0..=self.world.think_ms);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            match self.rng.random_range(0..100) {
                0..20 => self.produce_once().await,
                20..42 => self.produce_until_known().await,
                42..52 => self.produce_if_match().await,
                52..56 => self.repeat_a_key().await,
                56..70 => self.read().await,
                70..88 => self.poll().await,
                _ => drop(self.end().await),
            }
        }
    }

    fn log(&mut self) -> Log {
        let topic = &self.world.topics[self.rng.random_range(0..self.world.topics.len())];
        let partition = self.rng.random_range(0..topic.partition_count());
        Log::new(topic.name.as_str(), partition)
    }

    /// Performs an operation through an agent, and records its outcome or that there was none.
    async fn call<F: Future<Output = Outcome>>(
        &mut self,
        call: Call,
        act: impl FnOnce(Agent) -> F,
    ) -> Outcome {
        let Some(agent) = self.world.agent(self.rng.random()) else { return Outcome::Fail { current: None } };
        let leaves = self.rng.random_ratio(self.world.fates.weather().leave, 1_000);
        let patience = if leaves { Duration::from_millis(self.rng.random_range(0..30)) } else { STUCK_AFTER };
        self.call_at(&agent, call, patience, !leaves, act(agent.clone())).await.1
    }

    async fn call_at(
        &self,
        agent: &Agent,
        call: Call,
        patience: Duration,
        stuck: bool,
        act: impl Future<Output = Outcome>,
    ) -> (OpId, Outcome) {
        let op = self.recorder.invoke(self.world.now(), call);
        let outcome = tokio::select! {
            biased;
            () = agent.dead.cancelled() => Outcome::Info,
            outcome = act => outcome,
            () = tokio::time::sleep(patience) => {
                if stuck {
                    self.world.flaw(format!("stuck: operation {op} has no answer after {} s", patience.as_secs()));
                }
                Outcome::Info
            }
        };
        self.recorder.returned(self.world.now(), op, outcome.clone());
        (op, outcome)
    }

    async fn send(&mut self, draft: &Draft) -> Outcome {
        let world = Arc::clone(&self.world);
        let outcome =
            self.call(Call::Produce(draft.produce.clone()), |agent| async move {
                draft.send(&world, &agent).await
            })
            .await;
        if let Outcome::Produced { placed, .. } = &outcome {
            for (sent, placed) in draft.produce.records.iter().zip(placed) {
                self.saw(&Log::new(&sent.topic, placed.partition), placed.offset + 1);
            }
        }
        outcome
    }

    fn saw(&mut self, log: &Log, end: i64) {
        let known = self.ends.entry(log.clone()).or_default();
        *known = (*known).max(end);
    }

    async fn produce_once(&mut self) {
        let draft = Draft::random(self);
        self.send(&draft).await;
    }

    /// Sends a request with a key or dedup ids until its outcome is known.
    async fn produce_until_known(&mut self) {
        let mut draft = Draft::random(self);
        if self.rng.random_ratio(1, 3) {
            draft.dedup = true;
        } else {
            draft.produce.key = Some(format!("{}-{}", self.recorder.client, self.counter));
        }
        for attempt in 0..PRODUCE_ATTEMPTS_MAX {
            if let Outcome::Produced { .. } = self.send(&draft).await {
                self.stored_keys.extend(draft.produce.key.clone().map(|key| (draft.scope(&self.world), key)));
                // Some clients ask again although they know the outcome.
                if self.rng.random_ratio(4, 5) {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..200 << attempt.min(5)))).await;
        }
    }

    /// Uses a key again with another request, whose records must not be stored.
    async fn repeat_a_key(&mut self) {
        let mut draft = Draft::random(self);
        let Some(key) = self.stored_keys.get(&draft.scope(&self.world)).cloned() else { return };
        draft.produce.key = Some(key);
        self.send(&draft).await;
    }

    async fn produce_if_match(&mut self) {
        let Some((log, mut end)) = self.end().await else { return };
        if self.rng.random_ratio(1, 4) {
            end = self.rng.random_range(0..=end);
        }
        let mut draft = Draft::to(self, &log);
        draft.produce.expect = Some(end);
        self.send(&draft).await;
    }

    async fn end(&mut self) -> Option<(Log, i64)> {
        let log = self.log();
        let (topic, partition) = (name(&log.topic), log.partition);
        let act = |agent: Agent| async move {
            match agent.engine.topics.describe(&Scope::unauthenticated(), &topic).await {
                Ok(described) => match described.partitions.iter().find(|p| p.partition == partition) {
                    Some(status) => Outcome::End { high_watermark: status.high_watermark.0 },
                    None => Outcome::Fail { current: None },
                },
                Err(TopicError::NoSuchTopic(_)) => Outcome::Fail { current: None },
                Err(TopicError::ControlPlane(_)) => Outcome::Info,
            }
        };
        match self.call(Call::End(log.clone()), act).await {
            Outcome::End { high_watermark } => {
                self.saw(&log, high_watermark);
                Some((log, high_watermark))
            }
            _ => None,
        }
    }

    async fn read(&mut self) {
        let log = self.log();
        let known = self.ends.get(&log).copied().unwrap_or(0);
        let from = if self.rng.random_ratio(1, 3) {
            From::Earliest
        } else {
            From::Offset(self.rng.random_range(0..=known))
        };
        let start = if let From::Offset(offset) = from { offset } else { 0 };
        let (limit, max_bytes) =
            (self.rng.random_range(1..40), [1, 300, 1 << 20][self.rng.random_range(0..3)]);
        let (retention, bug) = (self.world.retention, self.world.bug);
        let place = log.clone();
        let act = |agent: Agent| async move {
            let from_start = Fetch { log: &place, max_bytes, limit, wait: Duration::ZERO, bug };
            match from_start.at(&agent, start).await {
                Some(answer) if answer.log_start.is_some_and(|s| s > start) => match (from, retention) {
                    (From::Earliest, _) => {
                        let start = answer.log_start.unwrap_or(0);
                        let again = from_start.at(&agent, start).await;
                        again.filter(|a| a.log_start == Some(start)).map_or(Outcome::Info, Outcome::Records)
                    }
                    (_, true) => Outcome::Fail { current: None },
                    (_, false) => Outcome::Records(answer),
                },
                Some(answer) => Outcome::Records(answer),
                None => Outcome::Info,
            }
        };
        // A separate session, so that it does not move the polls' position.
        let outcome = self.call(Call::Read(Read { log: log.clone(), from, session: 1 }), act).await;
        self.learn(&log, &outcome);
    }

    fn learn(&mut self, log: &Log, outcome: &Outcome) {
        if let Outcome::Records(answer) = outcome {
            self.saw(log, answer.high_watermark.unwrap_or(0));
        }
    }

    /// Reads on from the last position, and waits if there is nothing new.
    async fn poll(&mut self) {
        let log = self.log();
        let position = self.sessions.get(&log).copied();
        let start = position.unwrap_or(0);
        let from = if position.is_some() { From::Next } else { From::Earliest };
        let (limit, wait) =
            (self.rng.random_range(1..20), Duration::from_millis(self.rng.random_range(0..1_500)));
        let bug = self.world.bug;
        let place = log.clone();
        let act = |agent: Agent| async move {
            let fetch = Fetch { log: &place, max_bytes: 1 << 20, limit, wait, bug };
            let mut start = start;
            loop {
                let Some(answer) = fetch.at(&agent, start).await else { return Outcome::Info };
                match answer.log_start {
                    Some(log_start) if log_start > start => start = log_start,
                    _ => return Outcome::Records(answer),
                }
            }
        };
        let outcome = self.call(Call::Read(Read { log: log.clone(), from, session: 0 }), act).await;
        self.learn(&log, &outcome);
        if let Outcome::Records(answer) = outcome {
            let next = answer
                .records
                .last()
                .map(|r| r.0 + 1)
                .or(answer.log_start.filter(|s| *s > start))
                .unwrap_or(start);
            self.sessions.insert(log, next);
        }
    }

    /// After all faults have ended: a produce must succeed, and everything must be readable.
    pub async fn finish(mut self, agent: &Agent) {
        let world = Arc::clone(&self.world);
        let draft = Draft::random(&mut self);
        let (_, outcome) = self
            .call_at(
                agent,
                Call::Produce(draft.produce.clone()),
                STUCK_AFTER,
                true,
                draft.send(&world, agent),
            )
            .await;
        if !matches!(outcome, Outcome::Produced { .. }) {
            world.flaw(format!("stuck: after everything has healed a produce is answered {outcome:?}"));
        }
        for topic in &world.topics {
            for partition in 0..topic.partition_count() {
                let log = Log::new(topic.name.as_str(), partition);
                let act =
                    async { read_all(agent, &log, world.bug).await.map_or(Outcome::Info, Outcome::Records) };
                let (_, outcome) =
                    self.call_at(agent, Call::Final(log.clone()), STUCK_AFTER, true, act).await;
                if outcome == Outcome::Info {
                    world.flaw(format!("stuck: after everything has healed {log} cannot be read"));
                }
            }
        }
    }
}

async fn read_all(agent: &Agent, log: &Log, bug: Option<Bug>) -> Option<ReadAnswer> {
    let fetch = Fetch { log, max_bytes: 400, limit: usize::MAX, wait: Duration::ZERO, bug };
    let mut all: Option<ReadAnswer> = None;
    let mut start = 0;
    loop {
        let mut answer = fetch.at(agent, start).await?;
        let end = answer.high_watermark.unwrap_or(0);
        let log_start = answer.log_start.unwrap_or(0);
        if log_start > start {
            // Retention has deleted records meanwhile: begin again at the new start.
            (start, all) = (log_start, None);
            continue;
        }
        let (next, none) = (answer.records.last().map_or(start, |r| r.0 + 1), answer.records.is_empty());
        if let Some(before) = all {
            // Keep the log's start as it was when the first page was read: retention may have moved it since.
            answer.log_start = before.log_start;
            answer.records.splice(0..0, before.records);
        }
        if none || next >= end || next <= start {
            return Some(answer);
        }
        (start, all) = (next, Some(answer));
    }
}

struct Fetch<'a> {
    log: &'a Log,
    max_bytes: i64,
    limit: usize,
    wait: Duration,
    bug: Option<Bug>,
}

impl Fetch<'_> {
    /// Reads a page; `None` if the agent could not answer.
    async fn at(&self, agent: &Agent, offset: i64) -> Option<ReadAnswer> {
        if agent.router.is_some() {
            let wait_ms = u64::try_from(self.wait.as_millis()).unwrap_or(0);
            return crate::http::read(agent, self.log, offset, self.max_bytes, self.limit, wait_ms).await;
        }
        match self.read(agent, offset).await {
            // A planted bug: missing objects are skipped.
            Err(ReadError::Fetch(FetchError::Corrupt { .. })) if self.bug == Some(Bug::MissingIsSkipped) => {
                self.read(agent, offset + 1).await.ok()
            }
            outcome => outcome.ok(),
        }
    }

    async fn read(&self, agent: &Agent, offset: i64) -> Result<ReadAnswer, ReadError> {
        let read = PartitionRead {
            topic: name(&self.log.topic),
            partition: self.log.partition,
            start: Start::Offset(Offset(offset)),
            max_bytes: usize::try_from(self.max_bytes).unwrap_or(usize::MAX),
            wait: self.wait,
        };
        match agent.engine.fetch.partition(&Scope::unauthenticated(), &read).await {
            Ok(records) => Ok(answer(&records.fetched, offset, self.limit)),
            Err(ReadError::OutOfRange { log_start_offset, high_watermark, .. }) => Ok(ReadAnswer {
                log_start: Some(log_start_offset.0),
                high_watermark: Some(high_watermark.0),
                records: Vec::new(),
            }),
            Err(error) => Err(error),
        }
    }
}

fn answer(fetched: &Fetched, offset: i64, limit: usize) -> ReadAnswer {
    let mut records = Vec::new();
    for batch in &fetched.batches {
        for record in batch.records() {
            let (at, record) = record.expect("what was verified can be read");
            records.push((at.0, identify(record.key, record.value.unwrap_or_default())));
        }
    }
    records.retain(|(at, _)| *at >= offset);
    records.truncate(limit);
    ReadAnswer {
        log_start: Some(fetched.log_start_offset.0),
        high_watermark: Some(fetched.high_watermark.0),
        records,
    }
}
