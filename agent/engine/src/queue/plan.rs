//! What a settlement call asks for, as entries for the control plane, and their verdicts as answers; pure.

use super::receipt::Receipt;
use millpond_core::queue::{Action, Claim, Entry, Outcome, Settled, Verdict};
use millpond_core::{LeaseId, Offset};
use std::collections::HashSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    Record(Receipt),
    Lease(LeaseId),
    /// No receipt or lease of ours.
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub target: Target,
    pub action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Lost,
    Done(Outcome),
}

impl Status {
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

/// The answer to one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub status: Status,
    pub deadline_ms: Option<i64>,
    /// Of a whole lease: how many.
    pub records: i64,
}

impl Told {
    pub const LOST: Self = Self { status: Status::Lost, deadline_ms: None, records: 0 };
}

/// Where the verdict on an item will stand.
#[derive(Clone, Copy, Debug)]
enum Place {
    Nowhere,
    Record(usize, Receipt),
    Lease(usize),
}

/// The entries of one call, neighbours joined, and where each item has gone.
#[derive(Debug, Default)]
pub struct Plan {
    pub entries: Vec<Entry>,
    places: Vec<Place>,
    renewals: Vec<Option<i64>>,
}

impl Plan {
    /// The first item that names a record, or a lease, is the one that counts; the others are lost.
    #[must_use]
    pub fn of(items: &[Item]) -> Self {
        let mut plan = Self { places: vec![Place::Nowhere; items.len()], ..Self::default() };
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
            plan.places[number] = Place::Record(entry, receipt);
        }
        let mut whole = HashSet::new();
        for (number, item) in items.iter().enumerate() {
            if let Target::Lease(lease) = item.target
                && whole.insert(lease)
            {
                plan.places[number] = Place::Lease(plan.push(lease, Claim::Whole, &item.action));
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
    pub fn tell(&self, settled: &Settled, first: usize) -> Vec<Told> {
        let verdicts = &settled.verdicts;
        let of_entry = |entry: usize| -> &[Verdict] {
            let from = verdicts.partition_point(|v| v.entry < first + entry);
            let to = verdicts.partition_point(|v| v.entry <= first + entry);
            &verdicts[from..to]
        };
        let deadline = |entry: usize| self.renewals[entry].map(|ms| settled.at_ms + ms);
        let told = |place: &Place| match place {
            Place::Nowhere => Told::LOST,
            Place::Record(entry, receipt) => {
                let own = of_entry(*entry);
                let at = own.partition_point(|v| v.hi <= receipt.offset);
                let found = own.get(at).filter(|v| v.lo <= receipt.offset);
                found.map_or(Told::LOST, |v| Told {
                    status: Status::Done(v.outcome),
                    deadline_ms: deadline(*entry),
                    records: 1,
                })
            }
            Place::Lease(entry) => {
                let own = of_entry(*entry);
                let records = own.iter().map(|v| v.hi.0 - v.lo.0).sum();
                own.first().map_or(Told::LOST, |v| Told {
                    status: Status::Done(v.outcome),
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
