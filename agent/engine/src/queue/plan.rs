//! Translates settlement calls into entries for the control plane, and its verdicts into results. Pure.

use super::receipt::Receipt;
use millpond_core::queue::{Action, Claim, Entry, Outcome, QueueConfig, Settled as Verdicts, Verdict};
use millpond_core::{LeaseId, Offset};
use std::collections::HashSet;

/// The records that an item settles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    Record(Receipt),
    /// All records that are left of a lease.
    Lease(LeaseId),
    /// The client sent no valid receipt or lease id: the item is lost.
    Nothing,
}

/// One settlement as the client sent it: a leased record, or all unsettled records of a lease, and an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettleItem {
    pub target: Target,
    pub action: SettleAction,
}

/// The action that a client chooses for a leased record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettleAction {
    /// The record is done.
    Ack,
    /// The record is to be tried again: after `delay_ms`, else after the delay of the retry policy, or at
    /// once if it does not count as a failure.
    Nack { delay_ms: Option<i64>, counts: bool, reason: Option<String> },
    /// The lease is extended to `lease_ms` from now; `None`: as configured for the queue.
    Renew { lease_ms: Option<i64> },
    /// The record becomes dead, however often it has failed.
    Reject { reason: Option<String> },
}

impl SettleItem {
    /// Replaces settings that the client left out by those of the queue.
    pub(super) fn resolve(&self, config: &QueueConfig) -> Item {
        let action = match self.action.clone() {
            SettleAction::Ack => Action::Ack,
            SettleAction::Nack { delay_ms, counts, reason } => Action::Nack { delay_ms, counts, reason },
            SettleAction::Renew { lease_ms } => {
                Action::Renew { lease_ms: lease_ms.unwrap_or(config.lease_ms) }
            }
            SettleAction::Reject { reason } => Action::Reject { reason },
        };
        Item { target: self.target, action }
    }
}

/// A resolved [`SettleItem`], or what the agent itself does with records that it does not deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub target: Target,
    pub action: Action,
}

/// The outcome of one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleStatus {
    /// The record is not, or no longer, leased under this receipt.
    Lost,
    Done(Outcome),
}

impl SettleStatus {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Done(Outcome::Acked) => "acked",
            Self::Done(Outcome::Released) => "released",
            Self::Done(Outcome::Renewed) => "renewed",
            Self::Done(Outcome::Dead) => "dead",
            Self::Done(Outcome::Expired) => "expired",
        }
    }
}

/// The result of one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    pub status: SettleStatus,
    /// New deadline, for a renewal.
    pub deadline_ms: Option<i64>,
    /// Number of records that were settled: 1, or more for a whole lease.
    pub records: i64,
}

impl Settled {
    pub const LOST: Self = Self { status: SettleStatus::Lost, deadline_ms: None, records: 0 };
}

/// The place of the verdict on an item in the control plane's answer: `usize` is the index of its entry.
#[derive(Clone, Copy, Debug)]
enum VerdictPlace {
    Nowhere,
    Record(usize, Receipt),
    Lease(usize),
}

/// The entries of one call, adjacent records joined, and the entry of each item.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub entries: Vec<Entry>,
    /// By item.
    places: Vec<VerdictPlace>,
    /// By entry: the new duration of the lease, if it is a renewal.
    renewals: Vec<Option<i64>>,
}

impl Plan {
    /// Builds the plan. If several items name the same record, or the same lease, only the first one counts;
    /// the others are lost.
    #[must_use]
    pub(super) fn of(items: &[Item]) -> Self {
        let mut plan = Self { places: vec![VerdictPlace::Nowhere; items.len()], ..Self::default() };
        let record = |n: usize| match items[n].target {
            Target::Record(receipt) => Some((receipt, n)),
            _ => None,
        };
        let mut records: Vec<(Receipt, usize)> = (0..items.len()).filter_map(record).collect();
        records.sort_unstable();
        records.dedup_by_key(|(receipt, _)| *receipt);
        for (receipt, number) in records {
            let action = &items[number].action;
            let entry = match plan.entries.last_mut() {
                Some(last) if continues(last, &receipt, action) => {
                    if let Claim::Run { hi, .. } = &mut last.claim {
                        *hi = receipt.offset.plus(1);
                    }
                    plan.entries.len() - 1
                }
                _ => {
                    let (lo, hi) = (receipt.offset, Offset(receipt.offset.0.saturating_add(1)));
                    let claim = Claim::Run { partition: receipt.partition, attempt: receipt.attempt, lo, hi };
                    plan.push(receipt.lease, claim, action)
                }
            };
            plan.places[number] = VerdictPlace::Record(entry, receipt);
        }
        let mut whole = HashSet::new();
        for (number, item) in items.iter().enumerate() {
            if let Target::Lease(lease) = item.target
                && whole.insert(lease)
            {
                plan.places[number] = VerdictPlace::Lease(plan.push(lease, Claim::Whole, &item.action));
            }
        }
        plan
    }

    /// Adds an entry and returns its index.
    fn push(&mut self, lease: LeaseId, claim: Claim, action: &Action) -> usize {
        self.entries.push(Entry { lease, claim, action: action.clone() });
        self.renewals.push(if let Action::Renew { lease_ms } = action { Some(*lease_ms) } else { None });
        self.entries.len() - 1
    }

    /// The lease of every entry.
    pub fn leases(&self) -> impl Iterator<Item = LeaseId> {
        self.entries.iter().map(|e| e.lease)
    }

    /// The results of the items. `first` is the index of the first entry of this plan among all entries of
    /// the statement.
    #[must_use]
    pub fn results(&self, settled: &Verdicts, first: usize) -> Vec<Settled> {
        let verdicts = &settled.verdicts;
        let of_entry = |entry: usize| -> &[Verdict] {
            let from = verdicts.partition_point(|v| v.entry < first + entry);
            let to = verdicts.partition_point(|v| v.entry <= first + entry);
            &verdicts[from..to]
        };
        let deadline = |entry: usize| self.renewals[entry].map(|ms| settled.at_ms + ms);
        let result = |place: &VerdictPlace| match place {
            VerdictPlace::Nowhere => Settled::LOST,
            VerdictPlace::Record(entry, receipt) => {
                let own = of_entry(*entry);
                let at = own.partition_point(|v| v.hi <= receipt.offset);
                let found = own.get(at).filter(|v| v.lo <= receipt.offset);
                found.map_or(Settled::LOST, |v| Settled {
                    status: SettleStatus::Done(v.outcome),
                    deadline_ms: deadline(*entry),
                    records: 1,
                })
            }
            VerdictPlace::Lease(entry) => {
                let own = of_entry(*entry);
                let records = own.iter().map(|v| v.hi.0 - v.lo.0).sum();
                own.first().map_or(Settled::LOST, |v| Settled {
                    status: SettleStatus::Done(v.outcome),
                    deadline_ms: deadline(*entry),
                    records,
                })
            }
        };
        self.places.iter().map(result).collect()
    }
}

/// Whether a record can be joined to an entry: it is the next record of the same lease part, with the same
/// action.
fn continues(last: &Entry, receipt: &Receipt, action: &Action) -> bool {
    let next = Claim::Run {
        partition: receipt.partition,
        attempt: receipt.attempt,
        lo: Offset(0),
        hi: receipt.offset,
    };
    let Claim::Run { partition, attempt, hi, .. } = last.claim else { return false };
    let same = Claim::Run { partition, attempt, lo: Offset(0), hi };
    last.lease == receipt.lease && same == next && receipt.offset.0 < i64::MAX && last.action == *action
}

#[cfg(test)]
mod tests;
