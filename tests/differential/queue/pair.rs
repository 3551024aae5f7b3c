//! Two worlds to which the same happens, and what names what in either.

use millpond_core::queue::{Mode, Queue};
use millpond_core::{Clock, Error, LeaseId, Offset, PartitionId, QueueId, RandomSource, SystemClock, Topic};
use millpond_tests::stage::{Home, Stage, home};
use millpond_tests::world::{MemoryWorld, PostgresWorld, ShiftedClock};
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::Arc;

/// Its records are never delayed.
pub const TAME_TOPIC: &str = "v";

pub struct TopicSlot {
    pub alive: bool,
    pub memory: Topic,
    pub postgres: Topic,
}

/// Records that were given out by a lease, whatever became of them.
#[derive(Clone, Debug)]
pub struct Seen {
    pub lease: LeaseId,
    pub records: Vec<(PartitionId, i32, std::ops::Range<i64>)>,
}

pub struct QueueSlot {
    pub alive: bool,
    pub memory: Queue,
    pub postgres: QueueId,
    pub seen: Vec<Seen>,
    /// As the last grant said.
    pub unadmitted: Vec<millpond_core::queue::Unadmitted>,
    pub settles: Vec<millpond_core::queue::Settle>,
}

impl QueueSlot {
    /// Of such queues nearly all is fresh, and nearly all is acked: for them there are statements of their
    /// own.
    pub fn is_tame(&self) -> bool {
        self.memory.mode == Mode::Shared && self.memory.topic.as_str() == TAME_TOPIC
    }
}

/// The same for two worlds.
pub struct Both<T> {
    pub memory: T,
    pub postgres: T,
}

pub struct Pair {
    pub memory: Stage,
    pub postgres: Stage,
    pub clock: Arc<ShiftedClock>,
    pub random: RandomSource,
    pub topics: Vec<TopicSlot>,
    pub queues: Vec<QueueSlot>,
    pub commits: Vec<Both<millpond_core::control_plane::Commit>>,
    pub counts: BTreeMap<String, usize>,
    /// From the model's ids, and back.
    there: HashMap<PartitionId, PartitionId>,
    back: HashMap<PartitionId, PartitionId>,
    last_ms: i64,
}

/// A failure without what may differ.
pub fn known<T, R: Debug>(outcome: Result<T, Error<R>>) -> Result<T, String> {
    outcome.map_err(|error| match error {
        Error::Rejected(rejected) => format!("{rejected:?}"),
        other => panic!("{other:?}"),
    })
}

impl Pair {
    pub async fn new(seed: u64) -> Self {
        let clock = Arc::new(ShiftedClock::default());
        Self {
            memory: Stage::seeded(Box::new(MemoryWorld::at(Arc::clone(&clock))), seed),
            postgres: Stage::seeded(Box::new(PostgresWorld::new().await), seed),
            clock,
            // Others than the stages draw: a settlement with the id of a request would be taken for its acks.
            random: RandomSource::seeded(seed.wrapping_add(1)),
            topics: Vec::new(),
            queues: Vec::new(),
            commits: Vec::new(),
            counts: BTreeMap::new(),
            there: HashMap::new(),
            back: HashMap::new(),
            last_ms: 0,
        }
    }

    pub async fn close(self) {
        self.memory.close().await;
        self.postgres.close().await;
    }

    pub fn count(&mut self, what: impl Into<String>) {
        *self.counts.entry(what.into()).or_default() += 1;
    }

    /// Waits for another millisecond than the last operation's.
    async fn tick(&mut self) {
        while SystemClock.now_ms() <= self.last_ms {
            tokio::task::yield_now().await;
        }
    }

    /// Does one operation of so many steps.
    pub async fn step(&mut self, rng: &mut StdRng) -> usize {
        self.tick().await;
        if rng.random_bool(0.03) && self.queues.iter().any(|q| q.alive) {
            let steps = self.step_of_theirs(rng).await;
            self.last_ms = SystemClock.now_ms();
            return steps;
        }
        let steps = if self.topics.iter().any(|t| t.alive) && self.queues.iter().any(|q| q.alive) {
            match rng.random_range(0..100) {
                0..30 => self.grant(rng).await,
                30..58 => self.settle(rng).await,
                58..62 => self.settle_again(rng).await,
                62..69 => self.admit(rng).await,
                69..74 => self.expire(rng).await,
                74..80 => self.advance(rng).await,
                80..86 => self.fill(rng).await,
                86..91 => self.commit_acks(rng).await,
                _ => self.manage(rng).await,
            }
        } else {
            self.manage(rng).await
        };
        self.last_ms = SystemClock.now_ms();
        steps
    }

    /// An operation by the other tenant, which has no queues.
    async fn step_of_theirs(&mut self, rng: &mut StdRng) -> usize {
        let scope = self.memory.scope.clone();
        (self.memory.scope, self.postgres.scope) = (crate::them(), crate::them());
        println!("by another tenant:");
        let steps = match rng.random_range(0..10) {
            0..3 => self.grant(rng).await,
            3..6 => self.settle(rng).await,
            6..7 => self.admit(rng).await,
            7..8 => self.commit_acks(rng).await,
            _ => self.manage_queue(rng).await,
        };
        (self.memory.scope, self.postgres.scope) = (scope.clone(), scope);
        self.count("theirs");
        steps
    }

    pub fn alive_queue(&self, rng: &mut StdRng) -> usize {
        let alive: Vec<usize> = (0..self.queues.len()).filter(|n| self.queues[*n].alive).collect();
        match alive[..] {
            // Now and then one that is gone.
            _ if rng.random_bool(0.01) => rng.random_range(0..self.queues.len()),
            [] => 0,
            _ => alive[rng.random_range(0..alive.len())],
        }
    }

    pub fn a_partition(&self, queue: usize, rng: &mut StdRng) -> PartitionId {
        let partitions = &self.queues[queue].memory.partitions;
        partitions[rng.random_range(0..partitions.len())]
    }

    pub fn alive_topic(&self, rng: &mut StdRng) -> Option<usize> {
        let alive: Vec<usize> = (0..self.topics.len()).filter(|n| self.topics[*n].alive).collect();
        (!alive.is_empty()).then(|| alive[rng.random_range(0..alive.len())])
    }

    pub fn homes(&self, topic: usize, number: i32) -> Both<Home> {
        let slot = &self.topics[topic];
        Both { memory: home(&slot.memory, number), postgres: home(&slot.postgres, number) }
    }

    /// Takes note of the partitions of a topic.
    pub fn learn(&mut self, memory: &Topic, postgres: &Topic) {
        assert_eq!(memory.partition_count(), postgres.partition_count());
        for (m, p) in memory.partitions.iter().zip(&postgres.partitions) {
            self.there.insert(*m, *p);
            self.back.insert(*p, *m);
        }
    }

    pub fn there(&self, partition: PartitionId) -> PartitionId {
        self.there[&partition]
    }

    pub fn back(&self, partition: PartitionId) -> PartitionId {
        self.back[&partition]
    }

    pub fn places_there(&self, places: &[(PartitionId, Offset)]) -> Vec<(PartitionId, Offset)> {
        places.iter().map(|(partition, offset)| (self.there(*partition), *offset)).collect()
    }

    /// Instants of Postgres as the model would tell them, to the length of a call.
    pub fn assert_near(&self, memory_ms: i64, postgres_ms: i64, what: &str) {
        const CALL_MS: i64 = 20_000;
        let apart = memory_ms - self.clock.shift_ms() - postgres_ms;
        assert!(apart.abs() < CALL_MS, "{what}: {apart} ms apart");
    }
}
