//! Listings and counts of queues.

use super::row::{QueueRow, count};
use crate::control_plane::Batch;
use crate::id::{Offset, PartitionId};
use crate::memory::State;
use crate::number::saturated;
use crate::queue::{Listed, Listing, QueueCounts};
use std::collections::BTreeMap;

type Page = BTreeMap<(PartitionId, i64), Listed>;

fn add(page: &mut Page, partition: PartitionId, offset: i64, like: &Listed) {
    page.insert((partition, offset), Listed { partition, offset: Offset(offset), ..like.clone() });
}

fn listed(attempt: i32, failures: i32, at_ms: Option<i64>, reason: Option<String>) -> Listed {
    Listed { partition: PartitionId(0), offset: Offset::ZERO, attempt, failures, at_ms, reason, gone: false }
}

impl QueueRow {
    fn page(&self, listing: Listing) -> Page {
        let mut page = Page::new();
        match listing {
            Listing::InFlight => {
                for part in self.leases.values().flatten() {
                    let like = listed(part.attempt, part.failures, Some(part.deadline_ms), None);
                    part.pending.offsets().for_each(|offset| add(&mut page, part.partition, offset, &like));
                }
            }
            Listing::Waiting => {
                for ((partition, lo), run) in &self.waiting {
                    let like = listed(run.attempt, run.failures, Some(run.due_ms), run.reason.clone());
                    (*lo..run.hi).for_each(|offset| add(&mut page, *partition, offset, &like));
                }
                for ((partition, offset), row) in self.admitted.iter().filter(|(_, row)| !row.given_out) {
                    add(&mut page, *partition, *offset, &listed(row.attempt, 0, row.due_ms, None));
                }
            }
            Listing::Dead => {
                for ((partition, offset), dead) in &self.dead {
                    let like = listed(dead.attempt, dead.failures, Some(dead.at_ms), dead.reason.clone());
                    add(&mut page, *partition, *offset, &like);
                }
            }
        }
        page
    }

    /// Partition, first offset, due time, attempt and number of records of each waiting run and each admitted
    /// record, and whether no other record of its key keeps it from being leased.
    fn waiting_runs(&self) -> impl Iterator<Item = (PartitionId, i64, Option<i64>, i32, i64, bool)> {
        let runs = self
            .waiting
            .iter()
            .map(|((partition, lo), w)| (*partition, *lo, Some(w.due_ms), w.attempt, w.hi - lo, true));
        let admitted = self.admitted.iter().filter(|(_, row)| !row.given_out);
        runs.chain(admitted.map(|((partition, offset), row)| {
            let free = self.keys.get(&(*partition, row.key_hash)).is_none_or(|key| !key.taken);
            (*partition, *offset, row.due_ms, row.attempt, 1, free)
        }))
    }
}

impl State {
    pub(super) fn list_queue(
        &self,
        row: &QueueRow,
        listing: Listing,
        after: Option<(PartitionId, Offset)>,
        limit: i64,
    ) -> Vec<Listed> {
        let limit = saturated::<usize, _>(limit);
        let after = after.map(|(partition, offset)| (partition, offset.0));
        let page = row.page(listing).into_iter().filter(|(at, _)| after.is_none_or(|after| *at > after));
        let gone = |l: &Listed| self.alive_partition(l.partition).is_some_and(|p| l.offset < p.log_start);
        page.take(limit).map(|(_, l)| Listed { gone: gone(&l), ..l }).collect()
    }

    pub(super) fn queue_counts(&self, row: &QueueRow, now: i64) -> QueueCounts {
        let mut counts =
            QueueCounts { in_flight: row.leased(), dead: count(row.dead.len()), ..QueueCounts::default() };
        let committed = |batch: Option<&Batch>| batch.map(|b| b.committed_at_ms);
        let mut oldest: Vec<i64> = Vec::new();
        for (partition, cursor) in &row.cursors {
            let end = self.alive_partition(*partition).map_or(0, |p| p.high_watermark.0);
            counts.ready += (end - cursor.next).max(0);
            oldest.extend(committed(self.batch_after(*partition, cursor.next, |_| true)));
        }
        for (partition, lo, due_ms, attempt, records, free) in row.waiting_runs() {
            let due = due_ms.is_none_or(|due| due <= now);
            let kind = match attempt {
                _ if due => &mut counts.ready,
                0 => &mut counts.delayed,
                _ => &mut counts.retrying,
            };
            *kind += records;
            if due && free {
                oldest.extend(committed(self.batch_after(partition, lo, |_| true)));
            }
        }
        counts.oldest_ms = oldest.into_iter().min();
        let rates = row.rates.after(0, 0, now);
        (counts.lease_rate, counts.settle_rate) = (rates.leased, rates.settled);
        counts
    }

    /// The lowest offset of a partition that a queue of its topic has not settled: retention holds the
    /// records from there on.
    pub(in crate::memory) fn held_from(&self, partition: PartitionId) -> Option<i64> {
        self.queues.values().filter_map(|row| row.lowest_unsettled(partition)).min()
    }

    /// Deletes kept answers of settlements that are too old to be asked for. Returns how many.
    pub(in crate::memory) fn forget_operations(&mut self, now: i64) -> usize {
        let forget = |row: &mut QueueRow| {
            let before = row.operations.len();
            row.operations.retain(|_, (until, _)| *until > now);
            before - row.operations.len()
        };
        self.queues.values_mut().map(forget).sum()
    }
}
