//! A queue's rows, and the moves between them; each keeps the counts.

use crate::id::{AgentId, LeaseId, PartitionId};
use crate::number::saturated;
use crate::queue::ranges::Ranges;
use crate::queue::{Ledger, Mode, Queue, Settled};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use uuid::Uuid;

pub(in crate::memory) struct QueueRow {
    pub queue: Queue,
    pub cursors: BTreeMap<PartitionId, CursorRow>,
    /// None is empty; parts by number.
    pub leases: BTreeMap<LeaseId, Vec<LeasePartRow>>,
    pub waiting: BTreeMap<(PartitionId, i64), Waiting>,
    pub dead: BTreeMap<(PartitionId, i64), Dead>,
    /// Keyed queues: what is admitted and not settled for good, and its keys.
    pub admitted: BTreeMap<(PartitionId, i64), AdmittedRow>,
    pub keys: BTreeMap<(PartitionId, i64), KeyRow>,
    pub counts: Counts,
    pub tokens: f64,
    pub refilled_ms: i64,
    pub rates: Rates,
    /// The last settlement of each agent.
    pub settled: HashMap<AgentId, (Uuid, Settled)>,
    /// Those that are kept, until when.
    pub operations: HashMap<Uuid, (i64, Settled)>,
}

#[derive(Clone, Copy)]
pub(in crate::memory) struct CursorRow {
    pub start: i64,
    pub next: i64,
}

#[derive(Clone)]
pub(in crate::memory) struct LeasePartRow {
    pub number: i32,
    pub partition: PartitionId,
    pub attempt: i32,
    pub failures: i32,
    pub deadline_ms: i64,
    pub pending: Ranges,
}

#[derive(Clone)]
pub(in crate::memory) struct Waiting {
    pub hi: i64,
    pub due_ms: i64,
    pub attempt: i32,
    pub failures: i32,
    /// Its lease expired.
    pub alone: bool,
    pub reason: Option<String>,
}

#[derive(Clone)]
pub(in crate::memory) struct Dead {
    pub at_ms: i64,
    pub attempt: i32,
    pub failures: i32,
    pub reason: Option<String>,
    /// In keyed queues, for its redrive.
    pub key_hash: Option<i64>,
}

pub(in crate::memory) struct AdmittedRow {
    pub key_hash: i64,
    pub due_ms: Option<i64>,
    pub attempt: i32,
    /// Given out and not yet settled for good: leased, or waiting for its next attempt.
    pub out: bool,
}

#[derive(Default)]
pub(in crate::memory) struct KeyRow {
    pub offsets: BTreeSet<i64>,
    /// One of them is out.
    pub taken: bool,
}

#[derive(Clone, Copy, Default)]
pub(in crate::memory) struct Counts {
    pub acked: i64,
    pub expired: i64,
    pub purged: i64,
    pub dead: i64,
    pub waiting: i64,
}

/// Moving averages, records a second.
#[derive(Clone, Copy, Default)]
pub(in crate::memory) struct Rates {
    pub leased: f64,
    pub settled: f64,
    pub at_ms: i64,
}

impl QueueRow {
    pub fn is_keyed(&self) -> bool {
        self.queue.mode == Mode::Keyed
    }

    pub fn leased(&self) -> i64 {
        self.leases.values().flatten().map(|p| p.pending.count()).sum()
    }

    pub fn ledger(&self) -> Ledger {
        let runs: i64 = self.waiting.iter().map(|((_, lo), w)| w.hi - lo).sum();
        let ready = self.admitted.values().filter(|a| !a.out).count();
        Ledger {
            passed: self.cursors.values().map(|c| c.next - c.start).sum(),
            acked: self.counts.acked,
            expired: self.counts.expired,
            purged: self.counts.purged,
            dead: self.counts.dead,
            waiting: self.counts.waiting,
            dead_rows: count(self.dead.len()),
            waiting_rows: runs + count(ready),
            leased_rows: self.leased(),
        }
    }

    /// The lowest offset of a partition that is not settled, or dead.
    pub fn lowest(&self, partition: PartitionId) -> Option<i64> {
        let cursor = self.cursors.get(&partition)?.next;
        let first = partition_range(partition);
        let leased = self
            .leases
            .values()
            .flatten()
            .filter(|p| p.partition == partition)
            .filter_map(|p| p.pending.first());
        let waiting = self.waiting.range(first.clone()).next().map(|((_, lo), _)| *lo);
        let admitted = self.admitted.range(first.clone()).next().map(|((_, offset), _)| *offset);
        let dead = self.dead.range(first).next().map(|((_, offset), _)| *offset);
        leased.chain(waiting).chain(admitted).chain(dead).chain([cursor]).min()
    }

    pub fn wait(&mut self, partition: PartitionId, lo: i64, run: Waiting) {
        self.counts.waiting += run.hi - lo;
        self.waiting.insert((partition, lo), run);
    }

    /// Takes the first records of a waiting run; what is left stays as it was.
    pub fn unwait(&mut self, partition: PartitionId, lo: i64, give: i64) {
        let Some(run) = self.waiting.remove(&(partition, lo)) else { return };
        self.counts.waiting -= run.hi - lo;
        if lo + give < run.hi {
            self.wait(partition, lo + give, run);
        }
    }

    pub fn admit(&mut self, partition: PartitionId, offset: i64, row: AdmittedRow) {
        self.counts.waiting += 1;
        self.keys.entry((partition, row.key_hash)).or_default().offsets.insert(offset);
        self.admitted.insert((partition, offset), row);
    }

    /// Takes an admitted record, and with it its key.
    pub fn take(&mut self, partition: PartitionId, offset: i64) {
        let Some(row) = self.admitted.get_mut(&(partition, offset)) else { return };
        row.out = true;
        self.counts.waiting -= 1;
        if let Some(key) = self.keys.get_mut(&(partition, row.key_hash)) {
            key.taken = true;
        }
    }

    /// Records that were out are settled for good.
    pub fn free(&mut self, partition: PartitionId, range: Range<i64>) {
        for offset in range {
            let Some(row) = self.admitted.remove(&(partition, offset)) else { continue };
            if let Some(key) = self.keys.get_mut(&(partition, row.key_hash)) {
                key.offsets.remove(&offset);
                key.taken = false;
                if key.offsets.is_empty() {
                    self.keys.remove(&(partition, row.key_hash));
                }
            }
        }
    }

    pub fn die(&mut self, partition: PartitionId, range: Range<i64>, row: &Dead) {
        self.counts.dead += range.end - range.start;
        for offset in range.clone() {
            let key_hash = self.admitted.get(&(partition, offset)).map(|a| a.key_hash);
            self.dead.insert((partition, offset), Dead { key_hash, ..row.clone() });
        }
        self.free(partition, range);
    }
}

pub(in crate::memory) fn partition_range(
    partition: PartitionId,
) -> std::ops::RangeInclusive<(PartitionId, i64)> {
    (partition, 0)..=(partition, i64::MAX)
}

pub(in crate::memory) fn count(n: usize) -> i64 {
    saturated::<i64, _>(n)
}
