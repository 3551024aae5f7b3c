//! Two worlds on which the same operations are executed.

use crate::generate::{Call, Operation, Write};
use millpond_core::control_plane::{
    Batch, Commit, Committed, DrainBatch, Found, PieceOutcome, Swap, Verdict,
};
use millpond_core::topic::{NoSuchTopic, PutTopicRejected};
use millpond_core::{Error, MemberId, Name, Offset, Topic, TopicChange};
use millpond_tests::stage::{Draft, Home, MINUTE, PartKind, Stage, home, name};
use millpond_tests::world::{MemoryWorld, PostgresWorld};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Number of last commits that may be sent again.
const COMMITS_KEPT_MAX: usize = 8;
/// Offset between the keys of the two tenants: a key's hash covers the name of its tenant.
const THEIR_KEYS: u128 = 1_000;

/// A topic that was created, as it is in either world.
pub struct Slot {
    pub name: usize,
    pub alive: bool,
    pub memory: Topic,
    pub postgres: Topic,
}

pub struct Pair {
    pub memory: Stage,
    pub postgres: Stage,
    pub slots: Vec<Slot>,
    /// High watermarks as last seen, by slot and partition.
    pub ends: BTreeMap<(usize, i32), i64>,
    /// Number of times each verdict was given.
    pub counts: BTreeMap<&'static str, usize>,
    pub members: Vec<(usize, MemberId)>,
    commits: Vec<(Commit, Commit)>,
    swaps: Vec<(Swap, Swap)>,
    next_tag: u64,
}

pub fn topic_name(n: usize) -> Name {
    name(["a", "b", "c", "d"][n])
}

/// An answer without the parts that may differ.
fn plain(committed: &Committed, commit: &Commit) -> (Vec<Verdict>, Vec<Option<PieceOutcome>>) {
    let stored = |request: usize| committed.verdicts[request] == Verdict::Stored;
    let pieces = commit
        .pieces
        .iter()
        .zip(&committed.pieces)
        .map(|(p, o)| stored(p.request).then(|| o.clone()))
        .collect();
    (committed.verdicts.clone(), pieces)
}

pub fn plain_batch(batch: &Batch) -> Batch {
    Batch { committed_at_ms: 0, ..batch.clone() }
}

pub fn plain_found(found: Option<Found>) -> Option<Found> {
    found.map(|f| Found { now_ms: 0, batches: f.batches.iter().map(plain_batch).collect(), ..f })
}

impl Pair {
    pub async fn new(seed: u64) -> Self {
        let memory = Stage::seeded(Box::new(MemoryWorld::new()), seed);
        let postgres = Stage::seeded(Box::new(PostgresWorld::new().await), seed);
        Self {
            memory,
            postgres,
            slots: Vec::new(),
            ends: BTreeMap::new(),
            counts: BTreeMap::new(),
            members: Vec::new(),
            commits: Vec::new(),
            swaps: Vec::new(),
            next_tag: 0,
        }
    }

    pub async fn close(self) {
        self.memory.close().await;
        self.postgres.close().await;
    }

    /// A partition in either world.
    pub fn homes(&self, slot: usize, partition: i32) -> (Home, Home) {
        let slot = &self.slots[slot];
        (home(&slot.memory, partition), home(&slot.postgres, partition))
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Carries an operation out, on behalf of the other tenant if `theirs`.
    pub async fn apply_as(&mut self, theirs: bool, operation: Operation) {
        if !theirs {
            return self.apply(operation).await;
        }
        let scope = self.memory.scope.clone();
        (self.memory.scope, self.postgres.scope) = (crate::them(), crate::them());
        self.apply(operation).await;
        (self.memory.scope, self.postgres.scope) = (scope.clone(), scope);
        self.count("theirs");
    }

    async fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Put { name, partitions, retention_ms, retention_bytes } => {
                let change =
                    TopicChange { partitions, retention_ms, retention_bytes, ..TopicChange::default() };
                self.put(name, &change).await;
            }
            Operation::Delete { name } => self.delete(name).await,
            Operation::Commit { place, calls } => self.commit(place, &calls, true).await,
            Operation::Prepare { calls } => self.commit(PartKind::Segment, &calls, false).await,
            Operation::Resend { nth } => {
                if let Some((memory, postgres)) = self.commits.iter().rev().nth(nth).cloned() {
                    self.send(memory, postgres).await;
                    self.count("resent");
                }
            }
            Operation::Plan { max_bytes } => self.plan(max_bytes).await,
            Operation::Compact { slot, partition, from } => self.compact(slot, partition, from).await,
            Operation::Swap { nth } => self.swap(nth).await,
            Operation::Advance { ms } => self.advance(ms).await,
            Operation::Retain { limit } => {
                let memory = self.memory.plane.retain(limit).await.expect("an answer");
                assert_eq!(memory, self.postgres.plane.retain(limit).await.expect("an answer"));
                if memory > 0 {
                    self.count("unlinked");
                }
            }
            Operation::Forget => {
                // A commit whose payload was forgotten is not recognized when it is sent again. In practice
                // no call is under way for that long.
                self.commits.clear();
                self.memory.plane.forget(10_000).await.expect("an answer");
                self.postgres.plane.forget(10_000).await.expect("an answer");
            }
            Operation::Sweep { says_swept } => self.sweep(says_swept).await,
            Operation::Find { slot, partition, offset, max_bytes } => {
                let (m, p) = self.homes(slot, partition);
                let memory = plain_found(self.memory.find(m.id, offset, max_bytes).await);
                assert_eq!(memory, plain_found(self.postgres.find(p.id, offset, max_bytes).await));
            }
            Operation::Group(operation) => self.apply_to_group(operation).await,
            Operation::OffsetsAt { slot, timestamp } => {
                let (m, p) = (self.slots[slot].memory.id, self.slots[slot].postgres.id);
                let memory =
                    self.memory.plane.offsets_at(&self.memory.scope, m, timestamp).await.expect("an answer");
                let postgres = self
                    .postgres
                    .plane
                    .offsets_at(&self.postgres.scope, p, timestamp)
                    .await
                    .expect("an answer");
                let plain = |told: Vec<(i32, _, Offset)>| {
                    told.into_iter().map(|(number, _, offset)| (number, offset)).collect::<Vec<_>>()
                };
                assert_eq!(plain(memory), plain(postgres));
            }
        }
    }

    async fn advance(&mut self, ms: i64) {
        self.memory.advance(ms).await;
        self.postgres.advance(ms).await;
        // In Postgres time passes by moving stored timestamps back; pending swaps hold copies of such
        // timestamps.
        for output in self.swaps.iter_mut().flat_map(|(_, swap)| &mut swap.outputs) {
            output.batch.committed_at_ms -= ms;
        }
    }

    async fn put(&mut self, number: usize, change: &TopicChange) {
        let name = topic_name(number);
        let memory = self.memory.plane.put_topic(&self.memory.scope, &name, change, 2).await;
        let postgres = self.postgres.plane.put_topic(&self.postgres.scope, &name, change, 2).await;
        let (memory, postgres) = match (memory, postgres) {
            (Ok(memory), Ok(postgres)) => (memory, postgres),
            (Err(Error::Rejected(memory)), Err(Error::Rejected(postgres))) => {
                assert_eq!(memory, postgres);
                let shrink = matches!(memory, PutTopicRejected::PartitionsShrink { .. });
                return self.count(if shrink { "shrink" } else { "out of range" });
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(
            (&memory.0.config, memory.0.partition_count(), memory.1),
            (&postgres.0.config, postgres.0.partition_count(), postgres.1)
        );
        if memory.1 {
            self.slots.push(Slot { name: number, alive: true, memory: memory.0, postgres: postgres.0 });
        } else {
            let slot = self.slots.iter_mut().find(|s| s.alive && s.name == number).expect("a topic");
            (slot.memory, slot.postgres) = (memory.0, postgres.0);
        }
    }

    async fn delete(&mut self, number: usize) {
        let name = topic_name(number);
        let memory = self.memory.plane.delete_topic(&self.memory.scope, &name).await.expect("an answer");
        assert_eq!(
            memory,
            self.postgres.plane.delete_topic(&self.postgres.scope, &name).await.expect("an answer")
        );
        let gone = self.postgres.plane.topic(&self.postgres.scope, &name).await;
        assert!(matches!(gone, Err(Error::Rejected(NoSuchTopic))));
        for slot in self.slots.iter_mut().filter(|s| s.name == number) {
            slot.alive = false;
        }
    }

    /// The calls as requests of either world. Records are numbered, so that all are different.
    pub fn drafts(&mut self, calls: &[Call]) -> (Vec<Draft>, Vec<Draft>) {
        let (mut memory, mut postgres) = (Vec::new(), Vec::new());
        for call in calls {
            let mut drafts = [Draft::new(), Draft::new()];
            if let Some((key, body)) = call.key {
                let theirs = call.theirs || self.memory.scope == crate::them();
                drafts = drafts.map(|d| d.key(if theirs { key + THEIR_KEYS } else { key }, body));
            }
            if let Some(expect) = call.expect {
                drafts = drafts.map(|d| d.expect(expect));
            }
            let [mut m, mut p] = drafts;
            for Write { slot, partition, records, timestamp } in &call.writes {
                let homes = self.homes(*slot, *partition);
                (m, p) = (m.at(homes.0, *timestamp), p.at(homes.1, *timestamp));
                for id in records {
                    self.next_tag += 1;
                    let tag = self.next_tag;
                    (m, p) = match id {
                        Some(id) => (m.once(homes.0, tag, *id), p.once(homes.1, tag, *id)),
                        None => (m.to(homes.0, &[tag]), p.to(homes.1, &[tag])),
                    };
                }
            }
            memory.push(m);
            postgres.push(p);
        }
        (memory, postgres)
    }

    async fn commit(&mut self, place: PartKind, calls: &[Call], sends: bool) {
        let (memory, postgres) = self.drafts(calls);
        let mut memory = self.memory.prepare(place, &memory).await;
        let mut postgres = self.postgres.prepare(place, &postgres).await;
        for (nth, _) in calls.iter().enumerate().filter(|(_, call)| call.theirs) {
            memory.requests[nth].scope = crate::them();
            postgres.requests[nth].scope = crate::them();
        }
        self.keep(&memory, &postgres);
        if sends {
            self.send(memory, postgres).await;
        }
    }

    /// Keeps a commit, to be sent again later.
    pub fn keep(&mut self, memory: &Commit, postgres: &Commit) {
        self.commits.push((memory.clone(), postgres.clone()));
        if self.commits.len() > COMMITS_KEPT_MAX {
            self.commits.remove(0);
        }
    }

    pub async fn send(&mut self, memory: Commit, postgres: Commit) {
        let in_memory = self.memory.commit(&memory).await;
        let in_postgres = self.postgres.commit(&postgres).await;
        // The model's timestamps are all different; after a millisecond, so are the server's.
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(plain(&in_memory, &memory), plain(&in_postgres, &postgres));
        for verdict in &in_memory.verdicts {
            self.count(match verdict {
                Verdict::Stored => "stored",
                Verdict::Duplicate(_) => "duplicate",
                Verdict::Conflict => "conflict",
                Verdict::OffsetMismatch { .. } => "mismatch",
                Verdict::PartitionGone => "gone",
                Verdict::OffsetsRejected(_) => "offsets rejected",
                Verdict::LeaseLost(_) => "lease lost",
                Verdict::Unknown => "unknown",
                Verdict::TooLate => "too late",
            });
        }
        for slot in 0..self.slots.len() {
            let status = self
                .memory
                .plane
                .partitions(&self.memory.scope, self.slots[slot].memory.id)
                .await
                .expect("a list");
            self.ends.extend(status.iter().map(|p| ((slot, p.partition), p.high_watermark.0)));
        }
    }

    async fn plan(&mut self, max_bytes: i64) {
        self.advance(MINUTE).await;
        let memory = self.memory.plane.drain_plan(None, max_bytes).await.expect("a plan");
        let postgres = self.postgres.plane.drain_plan(None, max_bytes).await.expect("a plan");
        let plain = |plan: &[DrainBatch]| -> Vec<_> {
            plan.iter()
                .map(|d| {
                    (
                        plain_batch(&d.batch),
                        d.expires_at_ms,
                        d.bytes.clone(),
                        d.topic.topic.clone(),
                        d.topic.partition,
                    )
                })
                .collect()
        };
        assert_eq!(plain(&memory), plain(&postgres));
        if !memory.is_empty() {
            let swaps = (self.memory.rewrite(&memory).await, self.postgres.rewrite(&postgres).await);
            self.remember(swaps);
        }
    }

    async fn compact(&mut self, slot: usize, partition: i32, from: i64) {
        let (m, p) = self.homes(slot, partition);
        let (Some(found), Some(_)) =
            (self.memory.find(m.id, 0, 1).await, self.postgres.find(p.id, 0, 1).await)
        else {
            return;
        };
        let from = from.max(found.log_start_offset.0);
        let (memory, postgres) =
            (self.memory.compaction(m, from).await, self.postgres.compaction(p, from).await);
        if !memory.inputs.is_empty() {
            self.remember((memory, postgres));
        }
    }

    fn remember(&mut self, swaps: (Swap, Swap)) {
        self.swaps.push(swaps);
        if self.swaps.len() > 3 {
            self.swaps.remove(0);
        }
    }

    async fn swap(&mut self, nth: usize) {
        let Some((memory, postgres)) = self.swaps.iter().rev().nth(nth).cloned() else { return };
        let swapped = self.memory.swap(&memory).await;
        assert_eq!(swapped, self.postgres.swap(&postgres).await);
        self.count(if swapped.is_ok() { "swapped" } else { "swap rejected" });
    }

    async fn sweep(&mut self, says_swept: bool) {
        let memory = self.memory.sweep_plan().await;
        assert_eq!(memory, self.postgres.sweep_plan().await);
        let in_use =
            self.memory.parts_in_use(&self.all_homes().iter().map(|h| h.0).collect::<Vec<_>>()).await;
        assert_eq!(memory.intersection(&in_use).collect::<BTreeSet<_>>(), BTreeSet::new());
        if says_swept {
            self.memory.swept(&memory).await;
            self.postgres.swept(&memory).await;
        }
        if !memory.is_empty() {
            self.count("swept");
        }
    }

    /// Every partition that was ever created.
    pub fn all_homes(&self) -> Vec<(Home, Home)> {
        let numbers = |slot: &Slot| 0..slot.memory.partition_count();
        (0..self.slots.len())
            .flat_map(|slot| numbers(&self.slots[slot]).map(move |n| self.homes(slot, n)))
            .collect()
    }
}
