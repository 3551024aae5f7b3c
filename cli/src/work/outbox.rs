//! What the server is to be told of leased records, in one settlement call at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::super::leases::{Nack, Renewal, Settlement, Status, Verdict};

/// While other commands run, what ended is told this much later, together with what ends meanwhile.
pub const WINDOW: Duration = Duration::from_millis(5);
/// Entries of one settlement call.
const ENTRIES: usize = 1_000;

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// With the reason.
    Failed(String),
    /// Not tried, or not to its end, which is no fault of the record.
    Released,
}

/// Records by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub acked: u64,
    pub nacked: u64,
    /// Became somebody else's before they were settled.
    pub lost: u64,
    /// Of which the server could not be told.
    pub untold: u64,
}

struct Ended {
    receipt: String,
    name: String,
    outcome: Outcome,
}

/// A settlement call under way.
struct OutgoingCall {
    since: Instant,
    /// Names by receipt.
    ended: BTreeMap<String, String>,
    /// Receipts.
    renewed: BTreeSet<String>,
}

/// What a settlement call's answer says, but for the tally.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Names of records that had ended, but were somebody else's by then.
    pub came_too_late: Vec<String>,
    /// Receipts of leases that could not be renewed, for they are lost.
    pub lost: Vec<String>,
    /// Receipts of the other leases that were to be renewed, and when the call began.
    pub renewed: Vec<(String, Instant)>,
}

#[derive(Default)]
pub struct Outbox {
    ended: Vec<Ended>,
    /// When the first of `ended` ended.
    since: Option<Instant>,
    call: Option<OutgoingCall>,
    pub tally: Tally,
}

impl Outbox {
    pub fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.call.is_none()
    }

    /// Records that have ended and are not settled.
    pub fn len(&self) -> usize {
        self.ended.len() + self.call.as_ref().map_or(0, |call| call.ended.len())
    }

    pub fn is_calling(&self) -> bool {
        self.call.is_some()
    }

    pub fn push(&mut self, now: Instant, receipt: String, name: String, outcome: Outcome) {
        self.since.get_or_insert(now);
        self.ended.push(Ended { receipt, name, outcome });
    }

    /// When to tell what has ended. With `company`, other records may end soon.
    pub fn due_at(&self, company: bool) -> Option<Instant> {
        let since = self.since.filter(|_| self.call.is_none())?;
        Some(if company && self.ended.len() < ENTRIES { since + WINDOW } else { since })
    }

    /// The settlement to send now, if one is due; it counts as under way until it is [`Outbox::answered`] or
    /// has [`Outbox::failed`]. `renewals` are receipts whose leases are to be renewed, for `lease_ms`.
    pub fn next(
        &mut self,
        now: Instant,
        company: bool,
        renewals: Vec<String>,
        lease_ms: Option<u64>,
    ) -> Option<Settlement> {
        // Renewals take with them what would wait for company.
        let due = self.due_at(company).is_some_and(|at| at <= now || !renewals.is_empty());
        if self.call.is_some() || (!due && renewals.is_empty()) {
            return None;
        }
        let mut call =
            OutgoingCall { since: now, ended: BTreeMap::new(), renewed: renewals.iter().cloned().collect() };
        let mut settlement = Settlement::default();
        settlement.renew.extend(renewals.into_iter().map(|receipt| Renewal { receipt, lease_ms }));
        let count = self.ended.len().min(ENTRIES);
        for Ended { receipt, name, outcome } in self.ended.drain(..count) {
            call.ended.insert(receipt.clone(), name);
            match outcome {
                Outcome::Done => settlement.ack.push(receipt),
                Outcome::Failed(reason) => {
                    settlement.nack.push(Nack {
                        receipt,
                        delay_ms: None,
                        reason: Some(reason),
                        counts: true,
                    });
                }
                Outcome::Released => {
                    settlement.nack.push(Nack { receipt, delay_ms: Some(0), reason: None, counts: false })
                }
            }
        }
        self.since = (!self.ended.is_empty()).then_some(now);
        self.call = Some(call);
        Some(settlement)
    }

    pub fn answered(&mut self, verdicts: &[Verdict]) -> Answer {
        let mut answer = Answer::default();
        let Some(mut call) = self.call.take() else { return answer };
        for Verdict { receipt, status } in verdicts {
            if let Some(name) = call.ended.remove(receipt) {
                match status {
                    Status::Acked => self.tally.acked += 1,
                    Status::Released | Status::Dead | Status::Renewed | Status::Expired => {
                        self.tally.nacked += 1
                    }
                    Status::Lost => answer.came_too_late.push(name),
                }
            } else if *status == Status::Lost && call.renewed.remove(receipt) {
                answer.lost.push(receipt.clone());
            }
        }
        answer.renewed.extend(call.renewed.into_iter().map(|receipt| (receipt, call.since)));
        self.tally.lost += count(answer.came_too_late.len());
        self.tally.untold += count(call.ended.len());
        answer
    }

    /// The call failed for good.
    pub fn failed(&mut self) {
        self.tally.untold += count(self.call.take().map_or(0, |call| call.ended.len()));
    }

    pub fn give_up(&mut self) {
        self.failed();
        self.tally.untold += count(self.ended.drain(..).len());
        self.since = None;
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
