//! Settlements, acks in commits, and the expiry of leases.

use super::row::{Dead, LeasePartRow, QueueRow, Rates, Waiting, count};
use crate::id::{LeaseId, Offset, PartitionId, QueueId};
use crate::limits;
use crate::memory::State;
use crate::name::Name;
use crate::number::saturated;
use crate::queue::fate::{Fate, Judge, Run};
use crate::queue::ranges::Ranges;
use crate::queue::{Ack, Action, Claim, Entry, Outcome, Settle, Settled, Verdict};
use std::collections::BTreeMap;
use std::ops::Range;

/// Records of one lease part that an entry is about.
struct Claimed {
    entry: usize,
    /// Index of the part in the lease.
    part: usize,
    records: Ranges,
}

fn is_of_part(part: &LeasePartRow, partition: PartitionId, attempt: i32) -> bool {
    part.partition == partition && part.attempt == attempt
}

/// The records of a lease that each entry is about. Entries are disjoint, except that an entry for the whole
/// lease means the records that the other entries leave.
fn claimed(parts: &[LeasePartRow], entries: &[(usize, &Entry)]) -> Vec<Claimed> {
    let mut all = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        let mut rest = part.pending.clone();
        for (entry, e) in entries {
            if let Claim::Run { partition, attempt, lo, hi } = e.claim
                && is_of_part(part, partition, attempt)
            {
                let records = rest.within(&(lo.0..hi.0));
                rest = rest.without(&records);
                all.push(Claimed { entry: *entry, part: number, records });
            }
        }
        if let Some((entry, _)) = entries.iter().find(|(_, e)| e.claim == Claim::Whole) {
            all.push(Claimed { entry: *entry, part: number, records: rest });
        }
    }
    all.retain(|c| !c.records.is_empty());
    all.sort_by_key(|c| (c.entry, c.part));
    all
}

/// Applies renewals: one that names all records left in a part changes its deadline, any other moves its
/// records to a new part.
fn apply_renewals(parts: &mut Vec<LeasePartRow>, renewals: &[(usize, Ranges, i64)]) {
    let mut next = parts.iter().map(|p| p.number).max().unwrap_or(0);
    let left: Vec<Ranges> = parts.iter().map(|p| p.pending.clone()).collect();
    for (number, records, deadline_ms) in renewals {
        let part = &mut parts[*number];
        if left[*number] == *records {
            part.deadline_ms = *deadline_ms;
            continue;
        }
        part.pending = part.pending.without(records);
        next += 1;
        let moved = LeasePartRow {
            number: next,
            deadline_ms: *deadline_ms,
            pending: records.clone(),
            ..part.clone()
        };
        parts.push(moved);
    }
}

impl QueueRow {
    pub(super) fn settle(&mut self, settle: &Settle, now: i64) -> Settled {
        let last =
            self.settled.get(&settle.agent).filter(|(op, _)| *op == settle.op).map(|(_, settled)| settled);
        let kept = self.operations.get(&settle.op).map(|(_, settled)| settled);
        if let Some(settled) = last.or(kept) {
            return settled.clone();
        }
        let verdicts = self.apply(&settle.entries, settle.random, now);
        let records =
            verdicts.iter().filter(|v| v.outcome != Outcome::Renewed).map(|v| v.hi.0 - v.lo.0).sum();
        self.rates = self.rates.after(settle.leased, records, now);
        let settled = Settled { at_ms: now, verdicts };
        if settled.verdicts.is_empty() {
            return settled;
        }
        if settle.keep {
            self.operations.insert(settle.op, (now + limits::OPERATION_TTL_MS, settled.clone()));
        } else {
            self.settled.insert(settle.agent, (settle.op, settled.clone()));
        }
        settled
    }

    fn apply(&mut self, entries: &[Entry], random: f64, now: i64) -> Vec<Verdict> {
        let judge = Judge::new(self.queue.config.retry, now, random);
        let mut by_lease: BTreeMap<LeaseId, Vec<(usize, &Entry)>> = BTreeMap::new();
        for (number, entry) in entries.iter().enumerate() {
            by_lease.entry(entry.lease).or_default().push((number, entry));
        }
        let mut verdicts = Vec::new();
        for (lease, own) in by_lease {
            let Some(mut parts) = self.leases.remove(&lease) else { continue };
            let mut renewals = Vec::new();
            for claim in claimed(&parts, &own) {
                let part = parts[claim.part].clone();
                let action = &entries[claim.entry].action;
                for range in claim.records.iter() {
                    let fate = judge.settle(
                        action,
                        &Run { range: range.clone(), attempt: part.attempt, failures: part.failures },
                    );
                    let (lo, hi) = (Offset(range.start), Offset(range.end));
                    verdicts.push(Verdict {
                        entry: claim.entry,
                        partition: part.partition,
                        lo,
                        hi,
                        outcome: fate.outcome(),
                    });
                    self.apply_fate(&part, range.clone(), fate, now);
                }
                match action {
                    Action::Renew { lease_ms } => renewals.push((claim.part, claim.records, now + lease_ms)),
                    _ => parts[claim.part].pending = part.pending.without(&claim.records),
                }
            }
            apply_renewals(&mut parts, &renewals);
            parts.retain(|p| !p.pending.is_empty());
            if !parts.is_empty() {
                self.leases.insert(lease, parts);
            }
        }
        verdicts.sort_by_key(|v| (v.entry, v.partition, v.lo));
        verdicts
    }

    /// Applies a fate to records that have left their lease.
    fn apply_fate(&mut self, part: &LeasePartRow, range: Range<i64>, fate: Fate, now: i64) {
        let partition = part.partition;
        match fate {
            Fate::Renewed { .. } => {}
            Fate::Acked => {
                self.counts.acked += range.end - range.start;
                self.remove_admitted(partition, range);
            }
            Fate::Expired => {
                self.counts.expired += range.end - range.start;
                self.remove_admitted(partition, range);
            }
            Fate::Dead { failures, reason } => {
                let row = Dead { at_ms: now, attempt: part.attempt, failures, reason, key_hash: None };
                self.mark_dead(partition, range, &row);
            }
            Fate::Waits { due_ms, attempt, failures, alone, reason } => {
                self.add_waiting(
                    partition,
                    range.start,
                    Waiting { hi: range.end, due_ms, attempt, failures, alone, reason },
                );
            }
        }
    }

    fn expire(&mut self, lease: LeaseId, number: i32, random: f64, now: i64) {
        let Some(parts) = self.leases.get_mut(&lease) else { return };
        let Some(at) = parts.iter().position(|p| p.number == number) else { return };
        let part = parts.remove(at);
        if parts.is_empty() {
            self.leases.remove(&lease);
        }
        let judge = Judge::new(self.queue.config.retry, now, random);
        for range in part.pending.iter() {
            let run = Run { range: range.clone(), attempt: part.attempt, failures: part.failures };
            for (range, fate) in judge.expire(&run) {
                self.apply_fate(&part, range, fate, now);
            }
        }
    }

    /// Whether the lease of an ack holds its record.
    fn holds(&self, ack: &Ack) -> bool {
        let parts = self.leases.get(&ack.lease).into_iter().flatten();
        parts
            .into_iter()
            .any(|p| is_of_part(p, ack.partition, ack.attempt) && p.pending.contains(ack.offset.0))
    }
}

impl State {
    pub(in crate::memory) fn expire(&mut self, limit: i64, random: f64, now: i64) -> i64 {
        let mut due: Vec<(i64, LeaseId, i32, QueueId)> = Vec::new();
        for (id, row) in &self.queues {
            let parts = row
                .leases
                .iter()
                .flat_map(|(lease, parts)| parts.iter().map(move |p| (p.deadline_ms, *lease, p.number, *id)));
            due.extend(parts.filter(|(deadline, ..)| *deadline <= now));
        }
        due.sort_unstable();
        due.truncate(saturated::<usize, _>(limit));
        for (_, lease, number, queue) in &due {
            if let Some(row) = self.queues.get_mut(queue) {
                row.expire(*lease, *number, random, now);
            }
        }
        count(due.len())
    }

    /// Indexes of the acks whose lease does not hold the record.
    pub(in crate::memory) fn lost_acks(&self, tenant: &Name, acks: &[Ack]) -> Vec<usize> {
        let held = |ack: &Ack| self.queues.values().any(|row| row.queue.tenant == *tenant && row.holds(ack));
        (0..).zip(acks).filter(|(_, ack)| !held(ack)).map(|(n, _)| n).collect()
    }

    /// Applies acks, all of which are held.
    pub(in crate::memory) fn apply_acks(&mut self, tenant: &Name, acks: &[Ack], now: i64) {
        for row in self.queues.values_mut().filter(|row| row.queue.tenant == *tenant) {
            let entry = |ack: &Ack| {
                let hi = Offset(ack.offset.0 + 1);
                let claim = Claim::Run { partition: ack.partition, attempt: ack.attempt, lo: ack.offset, hi };
                Entry { lease: ack.lease, claim, action: Action::Ack }
            };
            let entries: Vec<Entry> = acks.iter().map(entry).collect();
            let verdicts = row.apply(&entries, 0.0, now);
            row.rates = row.rates.after(0, count(verdicts.len()), now);
        }
    }
}

impl Rates {
    /// The averages at the instant `now`, after further records.
    pub(super) fn after(self, leased: i64, settled: i64, now: i64) -> Self {
        const MINUTE: f64 = 60.0;
        let kept = (-seconds(now - self.at_ms) / MINUTE).exp();
        let blend = |rate: f64, records: i64| rate * kept + float(records) / MINUTE;
        Self { leased: blend(self.leased, leased), settled: blend(self.settled, settled), at_ms: now }
    }
}

fn seconds(ms: i64) -> f64 {
    float(ms) / 1_000.0
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "a rate need not be exact")]
fn float(n: i64) -> f64 {
    n as f64
}
