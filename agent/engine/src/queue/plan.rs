//! What a settlement call asks for, as entries for the control plane, and their verdicts as answers; pure.

use super::receipt::Receipt;
use millpond_core::queue::{Action, Claim, Entry, Outcome, QueueConfig, Settled as Verdicts, Verdict};
use millpond_core::{LeaseId, Offset};
use std::collections::HashSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    Record(Receipt),
    Lease(LeaseId),
    /// No receipt or lease of ours.
    Nothing,
}

/// What a client wants done with a leased record, or with what is left of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettleItem {
    pub target: Target,
    pub wish: Wish,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// It is done.
    Ack,
    /// It goes back to the queue: after `delay_ms`, else by the retry policy, or at once if it does not count.
    Nack { delay_ms: Option<i64>, counts: bool, reason: Option<String> },
    /// The lease goes on for `lease_ms` from now; `None`: the queue's.
    Renew { lease_ms: Option<i64> },
    /// It is dead, whatever its failures.
    Reject { reason: Option<String> },
}

impl SettleItem {
    /// With the queue's own settings where the client left them out.
    pub(super) fn resolve(&self, config: &QueueConfig) -> Item {
        let action = match self.wish.clone() {
            Wish::Ack => Action::Ack,
            Wish::Nack { delay_ms, counts, reason } => Action::Nack { delay_ms, counts, reason },
            Wish::Renew { lease_ms } => Action::Renew { lease_ms: lease_ms.unwrap_or(config.lease_ms) },
            Wish::Reject { reason } => Action::Reject { reason },
        };
        Item { target: self.target, action }
    }
}

/// A [`SettleItem`], or what the agent itself does with records that it does not hand on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub target: Target,
    pub action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleStatus {
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

/// What became of one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    pub status: SettleStatus,
    pub deadline_ms: Option<i64>,
    /// Of a whole lease: how many.
    pub records: i64,
}

impl Settled {
    pub const LOST: Self = Self { status: SettleStatus::Lost, deadline_ms: None, records: 0 };
}

/// Where the verdict on an item will stand.
#[derive(Clone, Copy, Debug)]
enum VerdictPlace {
    Nowhere,
    Record(usize, Receipt),
    Lease(usize),
}

/// The entries of one call, neighbours joined, and where each item has gone.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub entries: Vec<Entry>,
    places: Vec<VerdictPlace>,
    renewals: Vec<Option<i64>>,
}

impl Plan {
    /// The first item that names a record, or a lease, is the one that counts; the others are lost.
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

    fn push(&mut self, lease: LeaseId, claim: Claim, action: &Action) -> usize {
        self.entries.push(Entry { lease, claim, action: action.clone() });
        self.renewals.push(if let Action::Renew { lease_ms } = action { Some(*lease_ms) } else { None });
        self.entries.len() - 1
    }

    pub fn leases(&self) -> impl Iterator<Item = LeaseId> {
        self.entries.iter().map(|e| e.lease)
    }

    /// The answers to the items; `first` is the number of the first entry among those that were sent.
    #[must_use]
    pub fn tell(&self, settled: &Verdicts, first: usize) -> Vec<Settled> {
        let verdicts = &settled.verdicts;
        let of_entry = |entry: usize| -> &[Verdict] {
            let from = verdicts.partition_point(|v| v.entry < first + entry);
            let to = verdicts.partition_point(|v| v.entry <= first + entry);
            &verdicts[from..to]
        };
        let deadline = |entry: usize| self.renewals[entry].map(|ms| settled.at_ms + ms);
        let told = |place: &VerdictPlace| match place {
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
        self.places.iter().map(told).collect()
    }
}

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
