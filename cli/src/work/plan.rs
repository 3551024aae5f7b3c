//! What a worker leases, renews and settles, and when: `(state, now) → what to do`.
//!
//! Owns which records are in hand. Invariants: no more records are held than there are slots; at most one
//! lease call and one settlement call are under way, and no receipt is in two entries of one; a record whose
//! lease was lost is settled no more.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::super::leases::{LEASE_MAX_RECORDS, Settlement, Verdict};
use super::outbox::{Outbox, Outcome, Tally, WINDOW};

#[cfg(test)]
mod tests;

/// Empty answers come no faster than this, whatever the server does with long polls.
const EMPTY_ANSWER_PACE: Duration = Duration::from_millis(200);
/// When nothing more is taken, a lease call that began this long ago is dropped: it waits for records, so it
/// brings none just now.
const LEASE_GRACE: Duration = Duration::from_millis(500);
/// When all commands have ended and nothing more is taken, how long to go on telling the server.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);
/// The same for somebody who has no time.
const HURRIED_SETTLE_LIMIT: Duration = Duration::from_secs(5);
/// A lease is renewed when this part of it is over, and never faster than the pace.
const RENEWALS_PER_LEASE: u32 = 3;
const RENEWAL_PACE: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub concurrency: usize,
    /// For renewals; the queue's, if `None`.
    pub lease_ms: Option<u64>,
    /// How long a lease call waits for records.
    pub wait: Duration,
    pub idle_exit: bool,
}

/// What to do now. A call that is asked for counts as under way until the plan is told how it ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Lease so many records.
    pub lease: Option<usize>,
    /// The lease call under way is of no more use.
    pub drop_lease: bool,
    pub settle: Option<Settlement>,
    /// Ask again at this instant, if nothing happens before.
    pub wake_at: Option<Instant>,
    /// All is done, or given up.
    pub end: bool,
}

/// A record that is somebody else's by now.
#[derive(Debug, PartialEq, Eq)]
pub enum Lost {
    /// Its command runs on.
    Running { name: String },
    /// Its outcome came too late.
    Ended { name: String },
}

/// A record whose command runs.
struct Held {
    name: String,
    lease: Duration,
    /// `None` while a renewal is under way, and when the lease is lost.
    renew_at: Option<Instant>,
    lost: bool,
}

/// A lease call under way.
struct Leasing {
    since: Instant,
    /// Nothing was held when it began: an empty answer says that there is nothing to do.
    idle: bool,
}

pub struct Plan {
    settings: Settings,
    /// By receipt.
    held: BTreeMap<String, Held>,
    outbox: Outbox,
    leasing: Option<Leasing>,
    /// The earliest next lease call.
    lease_from: Option<Instant>,
    /// When the first slot came free since the last lease call.
    free_since: Option<Instant>,
    stopping: bool,
    hurried: bool,
    /// When nothing was left but settling.
    drained_at: Option<Instant>,
}

impl Plan {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            held: BTreeMap::new(),
            outbox: Outbox::default(),
            leasing: None,
            lease_from: None,
            free_since: None,
            stopping: false,
            hurried: false,
            drained_at: None,
        }
    }

    pub fn tally(&self) -> Tally {
        self.outbox.tally
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// How many records are in hand.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Takes nothing more; what is held is brought to its end.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// As [`Plan::stop`], for somebody who has no time.
    pub fn hurry(&mut self) {
        (self.stopping, self.hurried) = (true, true);
    }

    pub fn next(&mut self, now: Instant) -> Step {
        let mut step =
            Step { lease: self.next_lease(now), settle: self.next_settlement(now), ..Step::default() };
        if self.stopping && self.leasing.as_ref().is_some_and(|leasing| now >= leasing.since + LEASE_GRACE) {
            (self.leasing, step.drop_lease) = (None, true);
        }
        if self.stopping && self.held.is_empty() && self.leasing.is_none() {
            let drained_at = *self.drained_at.get_or_insert(now);
            if now >= drained_at + self.settle_limit() {
                self.outbox.give_up();
            }
            step.end = self.outbox.is_empty();
        }
        step.wake_at = self.wake_at();
        step
    }

    /// Slots to lease for. While what has ended cannot be settled, that is bounded, too.
    fn free(&self) -> usize {
        let slots = self.settings.concurrency;
        let unsettled = self.held.len() + self.outbox.len();
        slots
            .saturating_sub(self.held.len())
            .min((2 * slots).saturating_sub(unsettled))
            .min(LEASE_MAX_RECORDS)
    }

    /// Slots that come free one after the other are filled together.
    fn lease_at(&self) -> Option<Instant> {
        let together = self.free_since.filter(|_| !self.held.is_empty()).map(|since| since + WINDOW);
        self.lease_from.max(together)
    }

    fn next_lease(&mut self, now: Instant) -> Option<usize> {
        let free = self.free();
        if self.stopping || self.leasing.is_some() || free == 0 || self.lease_at().is_some_and(|at| now < at)
        {
            return None;
        }
        self.leasing = Some(Leasing { since: now, idle: self.held.is_empty() });
        self.free_since = None;
        Some(free)
    }

    fn next_settlement(&mut self, now: Instant) -> Option<Settlement> {
        if self.outbox.is_calling() {
            return None;
        }
        let mut renewals = Vec::new();
        for (receipt, held) in &mut self.held {
            if held.renew_at.is_some_and(|at| at <= now) {
                held.renew_at = None;
                renewals.push(receipt.clone());
            }
        }
        self.outbox.next(now, !self.held.is_empty(), renewals, self.settings.lease_ms)
    }

    fn settle_limit(&self) -> Duration {
        if self.hurried { HURRIED_SETTLE_LIMIT } else { SETTLE_LIMIT }
    }

    fn wake_at(&self) -> Option<Instant> {
        let mut at: Vec<Instant> = self.outbox.due_at(!self.held.is_empty()).into_iter().collect();
        if !self.outbox.is_calling() {
            at.extend(self.held.values().filter_map(|held| held.renew_at));
        }
        match &self.leasing {
            Some(leasing) if self.stopping => at.push(leasing.since + LEASE_GRACE),
            None if !self.stopping && self.free() > 0 => at.extend(self.lease_at()),
            _ => {}
        }
        at.extend(self.drained_at.map(|since| since + self.settle_limit()));
        at.into_iter().min()
    }

    /// The lease call was answered, with records of these receipts and names, leased for so long. Says
    /// whether to begin with them; if not, they go back.
    pub fn leased(
        &mut self,
        now: Instant,
        lease: Duration,
        records: Vec<(String, String)>,
        limited_by: Option<&str>,
    ) -> bool {
        let Some(leasing) = self.leasing.take() else { return false };
        if records.is_empty() {
            let waited = now.saturating_duration_since(leasing.since) >= self.settings.wait.mul_f64(0.9);
            // What is limited is there, and will come.
            let nothing = matches!(limited_by, None | Some("paused"));
            self.stopping |= self.settings.idle_exit && leasing.idle && waited && nothing;
            self.lease_from = Some(leasing.since + EMPTY_ANSWER_PACE);
        }
        for (receipt, name) in records {
            if self.stopping {
                self.outbox.push(now, receipt, name, Outcome::Released);
            } else {
                self.held.insert(
                    receipt,
                    Held { name, lease, renew_at: Some(now + renewal_after(lease)), lost: false },
                );
            }
        }
        !self.stopping
    }

    /// The lease call failed for good.
    pub fn lease_failed(&mut self) {
        self.leasing = None;
        self.stopping = true;
    }

    /// A record's command came to its end.
    pub fn ended(&mut self, now: Instant, receipt: &str, outcome: Outcome) {
        let Some(held) = self.held.remove(receipt) else { return };
        self.free_since.get_or_insert(now);
        if !held.lost {
            self.outbox.push(now, receipt.to_owned(), held.name, outcome);
        }
    }

    /// The settlement call was answered. Answers what turned out to be lost.
    pub fn settled(&mut self, now: Instant, verdicts: &[Verdict]) -> Vec<Lost> {
        let answer = self.outbox.answered(verdicts);
        let mut lost: Vec<Lost> = answer.came_too_late.into_iter().map(|name| Lost::Ended { name }).collect();
        for receipt in answer.lost {
            // One that ended while its renewal was under way waits to be settled: the server will say the
            // same of that.
            if let Some(held) = self.held.get_mut(&receipt) {
                held.lost = true;
                self.outbox.tally.lost += 1;
                lost.push(Lost::Running { name: held.name.clone() });
            }
        }
        for (receipt, since) in answer.renewed {
            if let Some(held) = self.held.get_mut(&receipt) {
                held.renew_at = Some((since + renewal_after(held.lease)).max(now + RENEWAL_PACE));
            }
        }
        lost
    }

    /// The settlement call failed for good.
    pub fn settle_failed(&mut self) {
        self.outbox.failed();
        self.stopping = true;
    }
}

fn renewal_after(lease: Duration) -> Duration {
    (lease / RENEWALS_PER_LEASE).max(RENEWAL_PACE)
}
