//! Decides what a worker leases, renews and settles, and when. It is a pure state machine: it does no I/O and
//! gets the time as an argument.
//!
//! Owns the records that the worker holds. Invariants: no more records are held than there are slots (the
//! worker's concurrency); at most one lease call and one settlement call are under way, and no receipt is in
//! a settlement twice; a record whose lease was lost is not settled.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::super::leases::{LEASE_MAX_RECORDS, Settlement, Verdict};
use super::outbox::{COLLECT_WINDOW, Outbox, Outcome, Tally};

#[cfg(test)]
mod tests;

/// Shortest time between lease calls whose answers are empty, in case the server does not wait.
const EMPTY_ANSWER_INTERVAL: Duration = Duration::from_millis(200);
/// Age from which on a lease call is dropped when the worker is stopping. A call this old is waiting for
/// records, so it is unlikely that records are lost with it; if so, their leases expire.
const LEASE_GRACE: Duration = Duration::from_millis(500);
/// Longest time to send outcomes to the server after all commands have ended and the worker is stopping.
const SETTLE_WAIT_MAX: Duration = Duration::from_secs(30);
/// The same after a second signal.
const HURRIED_SETTLE_WAIT_MAX: Duration = Duration::from_secs(5);
/// A lease is renewed after its time divided by this number.
const RENEWALS_PER_LEASE: u32 = 3;
/// Shortest time between two renewals of a lease.
const RENEWAL_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// The options of the worker.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub concurrency: usize,
    /// Lease time of renewals; `None`: that of the queue.
    pub lease_ms: Option<u64>,
    /// How long a lease call waits for records.
    pub wait: Duration,
    pub idle_exit: bool,
}

/// The next steps of the worker. A call that a step asks for counts as under way until the plan is told how
/// it ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Lease up to this number of records.
    pub lease: Option<usize>,
    /// Drop the lease call that is under way.
    pub drop_lease: bool,
    /// Send this settlement.
    pub settle: Option<Settlement>,
    /// Ask for the next step at this time, if nothing happens before.
    pub wake_at: Option<Instant>,
    /// Everything is done or given up: end the worker.
    pub end: bool,
}

/// A record whose lease was lost.
#[derive(Debug, PartialEq, Eq)]
pub enum Lost {
    /// Its command is still running.
    Running { name: String },
    /// Its command has ended, but the lease was lost before the outcome was sent.
    Ended { name: String },
}

/// A record whose command is running.
struct Held {
    name: String,
    lease: Duration,
    /// When to renew the lease; `None` while a renewal is under way and after the lease was lost.
    renew_at: Option<Instant>,
    lost: bool,
}

/// A lease call under way.
struct Leasing {
    since: Instant,
    /// Whether no record was held when the call began. Then an empty answer means that there is no work.
    idle: bool,
}

/// The state of a worker.
pub struct Plan {
    settings: Settings,
    /// Records whose commands are running, by receipt.
    held: BTreeMap<String, Held>,
    outbox: Outbox,
    leasing: Option<Leasing>,
    /// Earliest time of the next lease call.
    lease_from: Option<Instant>,
    /// When the first slot became free after the last lease call.
    free_since: Option<Instant>,
    /// No more records are leased.
    stopping: bool,
    hurried: bool,
    /// When the last command had ended while the worker was stopping, so that only settling was left.
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

    /// Number of records whose commands are running.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Leases no more records; waits for the commands that are running.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Like [`Plan::stop`], but with less time for settling at the end.
    pub fn hurry(&mut self) {
        (self.stopping, self.hurried) = (true, true);
    }

    /// What to do at `now`.
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

    /// Number of records to lease. Records that have ended but are not settled count as well, with a bound of
    /// twice the slots, so that no more records are leased while the server does not accept settlements.
    fn free(&self) -> usize {
        let slots = self.settings.concurrency;
        let unsettled = self.held.len() + self.outbox.len();
        slots
            .saturating_sub(self.held.len())
            .min((2 * slots).saturating_sub(unsettled))
            .min(LEASE_MAX_RECORDS)
    }

    /// Earliest time of the next lease call. After a slot became free, it waits for a short time, so that
    /// slots that become free one after the other are filled by one call.
    fn lease_at(&self) -> Option<Instant> {
        let together = self.free_since.filter(|_| !self.held.is_empty()).map(|since| since + COLLECT_WINDOW);
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
        if self.hurried { HURRIED_SETTLE_WAIT_MAX } else { SETTLE_WAIT_MAX }
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

    /// The lease call was answered. `lease` is the lease time, `records` are receipts and names. Returns
    /// whether to start commands for the records; if not, they are given back.
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
            // With another limit there are records, which can be leased later.
            let nothing = matches!(limited_by, None | Some("paused"));
            self.stopping |= self.settings.idle_exit && leasing.idle && waited && nothing;
            self.lease_from = Some(leasing.since + EMPTY_ANSWER_INTERVAL);
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

    /// The lease call failed and is not repeated.
    pub fn lease_failed(&mut self) {
        self.leasing = None;
        self.stopping = true;
    }

    /// The command of a record has ended.
    pub fn ended(&mut self, now: Instant, receipt: &str, outcome: Outcome) {
        let Some(held) = self.held.remove(receipt) else { return };
        self.free_since.get_or_insert(now);
        if !held.lost {
            self.outbox.push(now, receipt.to_owned(), held.name, outcome);
        }
    }

    /// The settlement call was answered. Returns the records whose leases turned out to be lost.
    pub fn settled(&mut self, now: Instant, verdicts: &[Verdict]) -> Vec<Lost> {
        let answer = self.outbox.answered(verdicts);
        let mut lost: Vec<Lost> = answer.came_too_late.into_iter().map(|name| Lost::Ended { name }).collect();
        for receipt in answer.lost {
            // A record that ended while its renewal was under way is not held any more. Its settlement will
            // be answered `lost`, too.
            if let Some(held) = self.held.get_mut(&receipt) {
                held.lost = true;
                self.outbox.tally.lost += 1;
                lost.push(Lost::Running { name: held.name.clone() });
            }
        }
        for (receipt, since) in answer.renewed {
            if let Some(held) = self.held.get_mut(&receipt) {
                held.renew_at = Some((since + renewal_after(held.lease)).max(now + RENEWAL_INTERVAL_MIN));
            }
        }
        lost
    }

    /// The settlement call failed and is not repeated.
    pub fn settle_failed(&mut self) {
        self.outbox.failed();
        self.stopping = true;
    }
}

/// Time from the beginning of a lease to its renewal.
fn renewal_after(lease: Duration) -> Duration {
    (lease / RENEWALS_PER_LEASE).max(RENEWAL_INTERVAL_MIN)
}
