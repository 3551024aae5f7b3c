//! Parameters and results of the grant and settle statements, as one array per column.

use millpond_core::queue::{Action, Claim, Outcome, Settle, Settled, Verdict};
use millpond_core::{Offset, PartitionId};
use std::ops::Range;
use uuid::Uuid;

/// Number of integers per stored verdict; the first is `entry * OUTCOMES + outcome`.
const VERDICT: usize = 4;
const OUTCOMES: i64 = 8;

/// The entries of a settlement, as one array per column.
#[derive(Default)]
pub(super) struct Columns {
    pub leases: Vec<Uuid>,
    pub partitions: Vec<Option<i64>>,
    pub attempts: Vec<Option<i32>>,
    pub los: Vec<Option<i64>>,
    pub his: Vec<Option<i64>>,
    pub actions: Vec<String>,
    pub ms: Vec<Option<i64>>,
    pub counts: Vec<bool>,
    pub reasons: Vec<Option<String>>,
}

impl Columns {
    pub fn of(settle: &Settle) -> Self {
        let mut columns = Self::default();
        for entry in &settle.entries {
            let run = match entry.claim {
                Claim::Whole => None,
                Claim::Run { partition, attempt, lo, hi } => Some((partition.0, attempt, lo.0, hi.0)),
            };
            let (action, ms, counts, reason) = match &entry.action {
                Action::Ack => ("ack", None, false, None),
                Action::Nack { delay_ms, counts, reason } => ("nack", *delay_ms, *counts, reason.clone()),
                Action::Reject { reason } => ("reject", None, false, reason.clone()),
                Action::Renew { lease_ms } => ("renew", Some(*lease_ms), false, None),
                Action::Release => ("release", None, false, None),
                Action::Expire => ("expire", None, false, None),
            };
            columns.leases.push(entry.lease.0);
            columns.partitions.push(run.map(|r| r.0));
            columns.attempts.push(run.map(|r| r.1));
            columns.los.push(run.map(|r| r.2));
            columns.his.push(run.map(|r| r.3));
            columns.actions.push(action.to_owned());
            columns.ms.push(ms);
            columns.counts.push(counts);
            columns.reasons.push(reason);
        }
        columns
    }
}

/// The result of sending a settle statement once.
pub(in crate::postgres) struct SettleReply {
    pub settled: Settled,
    /// False if another sending of the same settlement took effect while this one waited; then this result is
    /// not the answer.
    pub current: bool,
    pub repeated: bool,
}

pub(super) fn verdicts(stored: &[i64]) -> Vec<Verdict> {
    stored.chunks_exact(VERDICT).filter_map(verdict).collect()
}

fn verdict(numbers: &[i64]) -> Option<Verdict> {
    let &[what, partition, lo, hi] = numbers else { return None };
    let outcome = match what % OUTCOMES {
        0 => Outcome::Acked,
        1 => Outcome::Released,
        2 => Outcome::Renewed,
        3 => Outcome::Dead,
        _ => Outcome::Expired,
    };
    let entry = usize::try_from(what / OUTCOMES).ok()?;
    Some(Verdict { entry, partition: PartitionId(partition), lo: Offset(lo), hi: Offset(hi), outcome })
}

/// Merges offsets into ranges that neither overlap nor touch.
pub(super) fn joined(mut ranges: Vec<Range<i64>>) -> Vec<Range<i64>> {
    ranges.sort_unstable_by_key(|r| r.start);
    let mut joined: Vec<Range<i64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => joined.push(range),
        }
    }
    joined
}
