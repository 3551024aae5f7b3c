//! The rows of a queue and the moves of records between them. Each move also updates the counters.

use crate::id::{AgentId, LeaseId, PartitionId};
use crate::number::saturated;
use crate::queue::ranges::Ranges;
use crate::queue::{Ledger, Mode, Queue, Settled};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use uuid::Uuid;

pub(in crate::memory) struct QueueRow {
    pub queue: Queue,
    /// Counts the changes of its configuration.
    pub version: i64,
    pub cursors: BTreeMap<PartitionId, CursorRow>,
    /// By lease, the parts by number. No lease is empty.
    pub leases: BTreeMap<LeaseId, Vec<LeasePartRow>>,
    /// Runs by partition and first offset.
    pub waiting: BTreeMap<(PartitionId, i64), Waiting>,
    /// Records by partition and offset.
    pub dead: BTreeMap<(PartitionId, i64), Dead>,
    /// Keyed queues: records, by partition and offset, from their admission until they are acked, expired or
    /// dead.
    pub admitted: BTreeMap<(PartitionId, i64), AdmittedRow>,
    /// Keyed queues: keys of the admitted records, by partition and key hash.
    pub keys: BTreeMap<(PartitionId, i64), KeyRow>,
    pub counts: Counts,
    /// Unsettled records that the last seek skipped.
    pub skipped: i64,
    /// Tokens of the rate limit, as of `refilled_ms`.
    pub tokens: f64,
    pub refilled_ms: i64,
    pub rates: Rates,
    /// Operation and answer of the last settlement of each agent.
    pub settled: HashMap<AgentId, (Uuid, Settled)>,
    /// Kept answers of settlements, with the time until which they are kept.
    pub operations: HashMap<Uuid, (i64, Settled)>,
}

#[derive(Clone, Copy)]
pub(in crate::memory) struct CursorRow {
    /// Offset where the cursor began.
    pub start: i64,
    /// Offset of the first record that the cursor has not passed.
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
    /// Whether its lease expired, so that it goes to a caller that gets nothing else.
    pub alone: bool,
    pub reason: Option<String>,
}

#[derive(Clone)]
pub(in crate::memory) struct Dead {
    pub at_ms: i64,
    pub attempt: i32,
    pub failures: i32,
    pub reason: Option<String>,
    /// In keyed queues: hash of the key, which a redrive needs.
    pub key_hash: Option<i64>,
}

pub(in crate::memory) struct AdmittedRow {
    pub key_hash: i64,
    pub due_ms: Option<i64>,
    pub attempt: i32,
    /// Leased, or waiting for its next attempt.
    pub given_out: bool,
}

#[derive(Default)]
pub(in crate::memory) struct KeyRow {
    pub offsets: BTreeSet<i64>,
    /// Whether one of these records is leased or waits for its next attempt.
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

/// Records per second, as moving averages over a minute.
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
        let ready = self.admitted.values().filter(|a| !a.given_out).count();
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

    /// The lowest offset of a partition whose record is not settled or is dead.
    pub fn lowest_unsettled(&self, partition: PartitionId) -> Option<i64> {
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

    pub fn add_waiting(&mut self, partition: PartitionId, lo: i64, run: Waiting) {
        self.counts.waiting += run.hi - lo;
        self.waiting.insert((partition, lo), run);
    }

    /// Removes the first `give` records of a waiting run. The rest stays as it was.
    pub fn take_waiting(&mut self, partition: PartitionId, lo: i64, give: i64) {
        let Some(run) = self.waiting.remove(&(partition, lo)) else { return };
        self.counts.waiting -= run.hi - lo;
        if lo + give < run.hi {
            self.add_waiting(partition, lo + give, run);
        }
    }

    pub fn admit(&mut self, partition: PartitionId, offset: i64, row: AdmittedRow) {
        self.counts.waiting += 1;
        self.keys.entry((partition, row.key_hash)).or_default().offsets.insert(offset);
        self.admitted.insert((partition, offset), row);
    }

    /// Marks an admitted record as given out, and its key as taken.
    pub fn take_admitted(&mut self, partition: PartitionId, offset: i64) {
        let Some(row) = self.admitted.get_mut(&(partition, offset)) else { return };
        row.given_out = true;
        self.counts.waiting -= 1;
        if let Some(key) = self.keys.get_mut(&(partition, row.key_hash)) {
            key.taken = true;
        }
    }

    /// Removes admitted records that are acked, expired or dead, and frees their keys.
    pub fn remove_admitted(&mut self, partition: PartitionId, range: Range<i64>) {
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

    pub fn mark_dead(&mut self, partition: PartitionId, range: Range<i64>, row: &Dead) {
        self.counts.dead += range.end - range.start;
        for offset in range.clone() {
            let key_hash = self.admitted.get(&(partition, offset)).map(|a| a.key_hash);
            self.dead.insert((partition, offset), Dead { key_hash, ..row.clone() });
        }
        self.remove_admitted(partition, range);
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
