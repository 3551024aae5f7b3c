//! Collects outcomes and lease renewals of records, and turns them into settlement calls, one at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::super::leases::{Nack, Renewal, Settlement, Status, Verdict};

/// Time for which an outcome is held back while other commands run, to settle it together with others.
pub const COLLECT_WINDOW: Duration = Duration::from_millis(5);
/// Outcomes in one settlement call.
const SETTLE_MAX_OUTCOMES: usize = 1_000;

/// The outcome of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// The command failed, with this reason.
    Failed(String),
    /// The command was not run, or not to its end. This does not count as a failure of the record.
    Released,
}

/// Number of records with each outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub acked: u64,
    pub nacked: u64,
    /// Records whose lease had ended before they were settled.
    pub lost: u64,
    /// Records whose outcome could not be sent to the server.
    pub untold: u64,
}

/// A record whose outcome has not been sent yet.
struct Ended {
    receipt: String,
    name: String,
    outcome: Outcome,
}

/// A settlement call under way.
struct OutgoingCall {
    since: Instant,
    /// Records whose outcomes are in the call: names by receipt.
    ended: BTreeMap<String, String>,
    /// Receipts whose leases are renewed by the call.
    renewed: BTreeSet<String>,
}

/// The results of a settlement call that are not only counted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Names of records whose lease was lost before their outcome was sent.
    pub came_too_late: Vec<String>,
    /// Receipts whose leases could not be renewed because they are lost.
    pub lost: Vec<String>,
    /// Receipts whose leases were renewed, and when the call began.
    pub renewed: Vec<(String, Instant)>,
}

/// Outcomes that are to be sent, and the settlement call that is under way.

#[derive(Default)]
pub struct Outbox {
    ended: Vec<Ended>,
    /// When the first of `ended` was added.
    since: Option<Instant>,
    call: Option<OutgoingCall>,
    pub tally: Tally,
}

impl Outbox {
    pub fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.call.is_none()
    }

    /// Number of records whose command has ended and that are not settled yet.
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

    /// When to send the outcomes. With `company`, other commands are running and may end soon.
    pub fn due_at(&self, company: bool) -> Option<Instant> {
        let since = self.since.filter(|_| self.call.is_none())?;
        Some(if company && self.ended.len() < SETTLE_MAX_OUTCOMES { since + COLLECT_WINDOW } else { since })
    }

    /// The settlement to send now, if one is due. It counts as under way until [`Outbox::answered`] or
    /// [`Outbox::failed`] is called. `renewals` are receipts whose leases are to be renewed for `lease_ms`.
    pub fn next(
        &mut self,
        now: Instant,
        company: bool,
        renewals: Vec<String>,
        lease_ms: Option<u64>,
    ) -> Option<Settlement> {
        // If leases are to be renewed, outcomes that would still be held back are sent in the same call.
        let due = self.due_at(company).is_some_and(|at| at <= now || !renewals.is_empty());
        if self.call.is_some() || (!due && renewals.is_empty()) {
            return None;
        }
        let mut call =
            OutgoingCall { since: now, ended: BTreeMap::new(), renewed: renewals.iter().cloned().collect() };
        let mut settlement = Settlement::default();
        settlement.renew.extend(renewals.into_iter().map(|receipt| Renewal { receipt, lease_ms }));
        let count = self.ended.len().min(SETTLE_MAX_OUTCOMES);
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

    /// The call was answered.
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

    /// The call failed and is not repeated.
    pub fn failed(&mut self) {
        self.tally.untold += count(self.call.take().map_or(0, |call| call.ended.len()));
    }

    /// Gives up on all outcomes.
    pub fn give_up(&mut self) {
        self.failed();
        self.tally.untold += count(self.ended.drain(..).len());
        self.since = None;
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
