//! The granter of a queue: combines all waiting lease calls into one grant statement, one statement at a
//! time.
//!
//! A call that gets no records waits for commits and settlements of this agent, which wake it at once, for
//! due times, and for changes by other agents, which the [`Lookout`](super::lookout::Lookout) finds: the
//! granter *rests*, and sends nothing. Where limits of the queue are the reason, the grant is repeated every
//! [`RECHECK_PAUSE`].

mod rest;

use super::call::{GRACE_AFTER_DEADLINE, LeaseCall};
use super::expiry::Expiry;
use super::fill;
use super::lookout::LookoutWatch;
use super::{Leased, QueueError, QueueRuntime, ServedQueue, admit};
use crate::fetch::watcher::Watch;
use crate::metrics;
use crate::resend::Resend;
use millpond_core::queue::{Grant, Granted, LeasePart, LimitedBy, Mode, NoSuchQueue, Queue, Want};
use millpond_core::saturated;
use millpond_core::{Error, LeaseId, PartitionId, Scope, limits};
use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Longest pause between two grants while a limit of the queue holds records back, and pause after a grant
/// that found nothing although the queue looked ready.
const RECHECK_PAUSE: Duration = Duration::from_millis(250);
/// Pause before the next grant if other agents had locked the available records.
const CONTENDED_PAUSE: Duration = Duration::from_millis(2);
/// Assumed record size of a queue until its first records were read.
const RECORD_BYTES_GUESS: usize = 256;
/// Records that one grant asks for.
const GRANT_MAX_RECORDS: usize = 10_000;
/// Estimated bytes of records that one grant asks for. Less than [`limits::LOOKUP_MAX_BYTES`], since reading
/// the records means reading whole batches.
const GRANT_MAX_BYTES: usize = 8 * limits::MIB;
/// Calls of one queue that may wait in this agent: further ones are refused.
const WAITING_CALLS_MAX: usize = 10_000;
/// Retry policy of a grant.
const GRANT_RESEND: Resend = Resend {
    give_up_after: Duration::from_secs(3),
    first_pause: Duration::from_millis(5),
    max_pause: Duration::from_millis(250),
};
/// Admissions between two grants, each for the cursor of one partition.
const ROUND_MAX_ADMISSIONS: usize = 4;

/// Starts the granter of a queue.
pub fn start(
    runtime: Arc<QueueRuntime>,
    expiry: Arc<Expiry>,
    served: &Arc<ServedQueue>,
    calls: mpsc::Receiver<LeaseCall>,
) {
    let (retry_sender, retries) = mpsc::unbounded_channel();
    let ended = expiry.watch();
    let lookout = runtime.lookout.watch(&served.scope, served.id);
    let granter = Granter {
        runtime,
        expiry,
        served: Arc::downgrade(served),
        lookout,
        version: None,
        looked_ready: false,
        distrusted_until: None,
        rested_at: None,
        waiting: Vec::new(),
        retry_sender,
        ended,
        watch: None,
        turn: 0,
    };
    tokio::spawn(granter.run(calls, retries));
}

/// The granter task.
struct Granter {
    runtime: Arc<QueueRuntime>,
    expiry: Arc<Expiry>,
    served: Weak<ServedQueue>,
    lookout: LookoutWatch,
    /// Of the queue's configuration, at the last look.
    version: Option<i64>,
    /// The last grant was sent because the queue looked ready.
    looked_ready: bool,
    /// It gave nothing nevertheless: until then the look of the queue is no reason for a grant.
    distrusted_until: Option<Instant>,
    /// Commits of this agent when the granter began to rest, if it rested until no call was left.
    rested_at: Option<u64>,
    /// Calls that were not granted yet.
    waiting: Vec<LeaseCall>,
    /// For fills, to return calls.
    retry_sender: mpsc::UnboundedSender<LeaseCall>,
    /// Notified when leases were ended.
    ended: watch::Receiver<u64>,
    /// Watch for commits of this agent, while calls wait for new records.
    watch: Option<Watch>,
    /// Index of the partition that the last grant began with.
    turn: usize,
}

/// When to send the next grant, if calls are left.
#[derive(Clone, Copy)]
enum Next {
    Again,
    Wait(Duration),
    /// When there is something.
    Rest,
}

impl Granter {
    async fn run(
        mut self,
        mut calls: mpsc::Receiver<LeaseCall>,
        mut retries: mpsc::UnboundedReceiver<LeaseCall>,
    ) {
        let mut next = Next::Again;
        loop {
            if self.waiting.is_empty() {
                self.watch = None;
                let call = tokio::select! {
                    biased;
                    Some(call) = retries.recv() => call,
                    call = calls.recv() => match call {
                        Some(call) => call,
                        None => return,
                    },
                };
                self.waiting.push(call);
                next = self.rested_at.map_or(Next::Again, |_| Next::Rest);
            }
            if let Next::Wait(pause) = next {
                let Some(served) = self.served.upgrade() else { return };
                let first = self.waiting.iter().map(|c| c.deadline).min().unwrap_or_else(Instant::now);
                let until = first.min(Instant::now() + pause);
                tokio::select! {
                    biased;
                    call = calls.recv() => self.waiting.extend(call),
                    Some(call) = retries.recv() => self.waiting.push(call),
                    () = rest::moved(self.watch.as_ref()) => {}
                    _ = self.ended.changed() => {}
                    () = served.nudge.notified() => {}
                    () = tokio::time::sleep_until(until) => {}
                }
            }
            if let Next::Rest = next
                && self.rest(&mut calls, &mut retries).await.is_none()
            {
                return;
            }
            self.waiting.splice(0..0, std::iter::from_fn(|| retries.try_recv().ok()));
            self.waiting.extend(std::iter::from_fn(|| calls.try_recv().ok()));
            self.drop_calls();
            next = Next::Again;
            if self.waiting.is_empty() {
                continue;
            }
            let Some(served) = self.served.upgrade() else { return };
            self.rested_at = None;
            served.resting.store(false, Ordering::Relaxed);
            next = self.round(&served).await;
            served.resting.store(matches!(next, Next::Rest), Ordering::Relaxed);
        }
    }

    /// Drops the calls whose client has gone, and refuses those that are too many.
    fn drop_calls(&mut self) {
        self.waiting.retain(|c| !c.answer.is_closed());
        for call in self.waiting.split_off(self.waiting.len().min(WAITING_CALLS_MAX)) {
            call.answer.send(Err(QueueError::Throttled)).ok();
        }
    }

    /// Sends one grant and processes its result.
    async fn round(&mut self, served: &Arc<ServedQueue>) -> Next {
        self.expiry.serve();
        let queue = served.queue();
        let average = Some(served.record_bytes.load(Ordering::Relaxed))
            .filter(|bytes| *bytes > 0)
            .unwrap_or(RECORD_BYTES_GUESS);
        let selected = self.select_calls(average);
        let wants: Vec<Want> = selected.iter().map(|n| want(&self.waiting[*n], average)).collect();
        let start = Instant::now();
        let granted = match self.grant(&served.scope, &queue, wants).await {
            Ok(granted) => granted,
            Err(error) => {
                let failed = match error {
                    Error::Rejected(NoSuchQueue) => QueueError::NoSuchQueue,
                    other => {
                        tracing::warn!(error = %crate::error_chain(&other), "grant failed");
                        QueueError::OutcomeUnknown
                    }
                };
                self.release_possible_leases(served, &selected);
                for call in self.waiting.drain(..) {
                    call.answer.send(Err(failed.clone())).ok();
                }
                return Next::Again;
            }
        };
        let records = granted.parts.iter().flat_map(|p| &p.ranges).map(|r| r.end - r.start).sum::<i64>();
        metrics::grant_statement(start.elapsed(), selected.len(), records);
        served.leased.fetch_add(records, Ordering::Relaxed);
        let now = Instant::now();
        let queue = self.with_all_partitions(served, queue, &granted).await;
        let mut asked_leases: HashSet<LeaseId> = selected.iter().map(|n| self.waiting[*n].lease).collect();
        // A second call for a lease that was just granted to the first one is not counted as asked: the next
        // grant is for it.
        for part in &granted.parts {
            asked_leases.remove(&part.lease);
        }
        let all_served = self.start_fill(served, &queue, &granted);
        self.answer_overdue(&asked_leases, &granted, now);
        if !granted.unadmitted.is_empty() && (!all_served || queue.mode == Mode::Keyed) {
            let admitted = self.admit(&served.scope, &queue, &granted).await;
            if admitted && !self.waiting.is_empty() {
                return Next::Again;
            }
        }
        let has_unasked = self.waiting.iter().any(|c| !asked_leases.contains(&c.lease));
        let is_surprising = std::mem::take(&mut self.looked_ready) && records == 0;
        self.distrusted_until = is_surprising.then(|| now + RECHECK_PAUSE);
        if self.waiting.is_empty() || records > 0 && (has_unasked || selected.len() > self.waiting.len()) {
            return Next::Again;
        }
        if let Some(limited_by) = granted.limited_by {
            // New records would not help, so there is no need to watch for them.
            self.watch = None;
            return if limited_by == LimitedBy::Paused { Next::Rest } else { self.wait(&queue, &granted) };
        }
        if self.watch.is_none() {
            // Another grant follows at once, so that no commit before the watch began is missed.
            self.begin_watch(served);
            return Next::Again;
        }
        if granted.contended || !granted.unadmitted.is_empty() {
            return self.wait(&queue, &granted);
        }
        Next::Rest
    }

    /// Gives back the leases of a grant whose outcome is unknown, in case that it was applied.
    fn release_possible_leases(&self, served: &Arc<ServedQueue>, selected: &[usize]) {
        let unnamed =
            selected.iter().filter_map(|n| self.waiting.get(*n)).filter(|c| c.request.request_id.is_none());
        let items: Vec<_> = unnamed.map(|call| fill::release_lease(call.lease)).collect();
        if !items.is_empty() {
            let served = Arc::clone(served);
            tokio::spawn(async move { fill::settle_unanswered(&served, items).await });
        }
    }

    /// Selects the waiting calls (by index) for the next grant: each lease once, within the limits of a
    /// grant.
    fn select_calls(&self, average: usize) -> Vec<usize> {
        let mut leases = HashSet::new();
        let mut records = 0;
        let mut selected = Vec::new();
        for (n, call) in self.waiting.iter().enumerate() {
            if records >= GRANT_MAX_RECORDS || records.saturating_mul(average) >= GRANT_MAX_BYTES {
                break;
            }
            if leases.insert(call.lease) {
                records += records_to_ask(call, average);
                selected.push(n);
            }
        }
        selected
    }

    /// Sends a grant, and resends it according to [`GRANT_RESEND`].
    async fn grant(
        &mut self,
        scope: &Scope,
        queue: &Queue,
        wants: Vec<Want>,
    ) -> Result<Granted, Error<NoSuchQueue>> {
        self.turn = (self.turn + 1) % queue.partitions.len().max(1);
        let from = queue.partitions.get(self.turn).copied().unwrap_or(PartitionId(0));
        let (random, agent) = (&self.runtime.random, self.runtime.agent);
        let grant = Grant {
            scope: scope.clone(),
            queue: queue.id,
            agent,
            wants,
            from,
            from_key: random.random_i64(),
            random: random.unit(),
        };
        GRANT_RESEND.run(|| self.runtime.plane.grant(&grant)).await
    }

    /// The queue, read again if the grant names a partition that was added since the queue was read.
    async fn with_all_partitions(
        &self,
        served: &ServedQueue,
        queue: Arc<Queue>,
        granted: &Granted,
    ) -> Arc<Queue> {
        if granted.parts.iter().all(|p| queue.partitions.contains(&p.partition)) {
            return queue;
        }
        self.read_again(served).await;
        served.queue()
    }

    /// Starts the fill for all calls that were granted records. Returns whether no call is left.
    fn start_fill(&mut self, served: &Arc<ServedQueue>, queue: &Arc<Queue>, granted: &Granted) -> bool {
        let mut by_lease: std::collections::HashMap<LeaseId, Vec<LeasePart>> =
            std::collections::HashMap::new();
        for part in &granted.parts {
            by_lease.entry(part.lease).or_default().push(part.clone());
        }
        if by_lease.is_empty() {
            return self.waiting.is_empty();
        }
        let mut given = Vec::with_capacity(by_lease.len());
        let mut left = Vec::with_capacity(self.waiting.len());
        for call in self.waiting.drain(..) {
            match by_lease.remove(&call.lease) {
                Some(parts) => given.push((call, parts)),
                None => left.push(call),
            }
        }
        self.waiting = left;
        let fill = fill::Fill {
            runtime: Arc::clone(&self.runtime),
            served: Arc::clone(served),
            queue: Arc::clone(queue),
            at_ms: granted.at_ms,
            retry_calls: self.retry_sender.clone(),
        };
        tokio::spawn(fill.run(given));
        self.waiting.is_empty()
    }

    /// Answers the calls whose wait is over, with no records and the reason.
    fn answer_overdue(&mut self, asked_leases: &HashSet<LeaseId>, granted: &Granted, now: Instant) {
        let stopping = self.runtime.watcher.is_stopping();
        let late = |c: &LeaseCall| stopping || now >= c.ends_at();
        let contended = granted.contended && granted.limited_by.is_none();
        let mut left = Vec::with_capacity(self.waiting.len());
        for call in self.waiting.drain(..) {
            let just_contended = contended && now < call.deadline + CONTENDED_PAUSE * 5;
            let admits = !granted.unadmitted.is_empty() && now < call.deadline + GRACE_AFTER_DEADLINE;
            // If a grant returns nothing, there is nothing for the calls that were not part of it either.
            let is_answered_by_grant =
                asked_leases.contains(&call.lease) || granted.parts.is_empty() || stopping;
            if is_answered_by_grant && late(&call) && !just_contended && !admits {
                call.answer.send(Ok(Leased::nothing(granted.at_ms, granted.limited_by))).ok();
            } else {
                left.push(call);
            }
        }
        self.waiting = left;
    }

    /// Admits records at the cursors that the grant named. Returns whether a cursor has moved.
    async fn admit(&self, scope: &Scope, queue: &Arc<Queue>, granted: &Granted) -> bool {
        let mut admitted = false;
        for unadmitted in granted.unadmitted.iter().take(ROUND_MAX_ADMISSIONS) {
            match admit::admit(&self.runtime, scope, queue, *unadmitted, granted.at_ms).await {
                Ok(done) => admitted |= done,
                Err(error) => {
                    let error = crate::error_chain(&*error);
                    tracing::warn!(%error, queue = %queue.name, "admission failed");
                }
            }
        }
        admitted
    }

    /// How long to wait before the next grant, if nothing wakes the granter earlier.
    fn wait(&self, queue: &Queue, granted: &Granted) -> Next {
        if granted.contended {
            return Next::Wait(CONTENDED_PAUSE);
        }
        let due = granted
            .next_due_ms
            .and_then(|due| u64::try_from(due - granted.at_ms).ok())
            .map(|ms| Duration::from_millis(ms + 1));
        let limit = match granted.limited_by {
            // About the time until the rate limit allows another record.
            Some(LimitedBy::Rate) => {
                let token = queue.config.rate.map_or(20, |rate| rate.per_ms / i64::from(rate.limit.max(1)));
                Duration::from_millis(u64::try_from(token).unwrap_or(20))
                    .clamp(Duration::from_millis(20), Duration::from_secs(1))
            }
            _ => RECHECK_PAUSE,
        };
        Next::Wait(due.unwrap_or(limit).min(limit).max(Duration::from_millis(1)))
    }
}

/// The number of records to ask for, so that their size is about `max_bytes`.
fn records_to_ask(call: &LeaseCall, average: usize) -> usize {
    let fit = call.request.max_bytes.checked_div(average).unwrap_or(usize::MAX);
    call.request.max_records.min(fit.max(1))
}

/// The entry of a call in the grant.
fn want(call: &LeaseCall, average: usize) -> Want {
    let records = saturated::<i32, _>(records_to_ask(call, average));
    Want { lease: call.lease, records, lease_ms: call.lease_ms }
}
