//! Lease calls of one queue: all that wait go into one grant, one grant at a time.
//!
//! A call that found nothing waits: for this agent's commits and settlements, which wake it at once, for due
//! times, and for what others do, by asking again.

use super::call::LeaseCall;
use super::expiry::Expiry;
use super::fill;
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

/// How often a queue is asked again while calls wait: other agents' nacks, redrives and changes are seen
/// then.
const RECHECK_EVERY: Duration = Duration::from_millis(250);
/// Others held what was there.
const CONTENDED_PAUSE: Duration = Duration::from_millis(2);
/// Taken for the size of records of which none was seen yet.
const RECORD_BYTES_GUESS: usize = 256;
/// Records that one grant asks for at most.
const GRANT_MAX_RECORDS: usize = 10_000;
/// About as many bytes of records: a part of what is read for one grant, since whole batches are read.
const GRANT_MAX_BYTES: usize = 8 * limits::MIB;
/// Calls that wait in this agent, of one queue.
const WAITING_CALLS_MAX: usize = 10_000;
/// When a grant that failed is sent again.
const RESEND: Resend = Resend {
    give_up_after: Duration::from_secs(3),
    first_pause: Duration::from_millis(5),
    max_pause: Duration::from_millis(250),
};
/// A call that was given nothing but expired records goes on beyond its wait for so long.
const GRACE: Duration = Duration::from_secs(1);
/// Cursors that are admitted between two grants.
const ADMISSIONS_PER_ROUND: usize = 4;

pub fn start(
    runtime: Arc<QueueRuntime>,
    expiry: Arc<Expiry>,
    served: &Arc<ServedQueue>,
    calls: mpsc::Receiver<LeaseCall>,
) {
    let (back, returned) = mpsc::unbounded_channel();
    let ended = expiry.watch();
    let granter = Granter {
        runtime,
        expiry,
        served: Arc::downgrade(served),
        waiting: Vec::new(),
        back,
        ended,
        watch: None,
        turn: 0,
    };
    tokio::spawn(granter.run(calls, returned));
}

struct Granter {
    runtime: Arc<QueueRuntime>,
    expiry: Arc<Expiry>,
    served: Weak<ServedQueue>,
    waiting: Vec<LeaseCall>,
    back: mpsc::UnboundedSender<LeaseCall>,
    ended: watch::Receiver<u64>,
    /// While calls wait in vain.
    watch: Option<Watch>,
    turn: usize,
}

/// What to do after a grant, if calls are left.
enum Next {
    Again,
    Wait(Duration),
}

impl Granter {
    async fn run(
        mut self,
        mut calls: mpsc::Receiver<LeaseCall>,
        mut returned: mpsc::UnboundedReceiver<LeaseCall>,
    ) {
        let mut pause = Duration::ZERO;
        loop {
            if self.waiting.is_empty() {
                self.watch = None;
                let call = tokio::select! {
                    biased;
                    Some(call) = returned.recv() => call,
                    call = calls.recv() => match call {
                        Some(call) => call,
                        None => return,
                    },
                };
                self.waiting.push(call);
            } else if !pause.is_zero() {
                let Some(served) = self.served.upgrade() else { return };
                let first = self.waiting.iter().map(|c| c.deadline).min().unwrap_or_else(Instant::now);
                let until = first.min(Instant::now() + pause);
                tokio::select! {
                    biased;
                    call = calls.recv() => self.waiting.extend(call),
                    Some(call) = returned.recv() => self.waiting.push(call),
                    () = async { match &self.watch { Some(watch) => watch.moved().await, None => std::future::pending().await } } => {}
                    _ = self.ended.changed() => {}
                    () = served.nudge.notified() => {}
                    () = tokio::time::sleep_until(until) => {}
                }
            }
            self.waiting.splice(0..0, std::iter::from_fn(|| returned.try_recv().ok()));
            self.waiting.extend(std::iter::from_fn(|| calls.try_recv().ok()));
            self.waiting.retain(|c| !c.answer.is_closed());
            for call in self.waiting.split_off(self.waiting.len().min(WAITING_CALLS_MAX)) {
                call.answer.send(Err(QueueError::Throttled)).ok();
            }
            if self.waiting.is_empty() {
                continue;
            }
            let Some(served) = self.served.upgrade() else { return };
            pause = match self.round(&served).await {
                Next::Again => Duration::ZERO,
                Next::Wait(pause) => pause,
            };
        }
    }

    async fn round(&mut self, served: &Arc<ServedQueue>) -> Next {
        self.expiry.serve();
        let queue = served.queue();
        let average = Some(served.record_bytes.load(Ordering::Relaxed))
            .filter(|bytes| *bytes > 0)
            .unwrap_or(RECORD_BYTES_GUESS);
        let asking = self.asking(average);
        let wants: Vec<Want> = asking.iter().map(|n| want(&self.waiting[*n], average)).collect();
        let start = Instant::now();
        let granted = match self.grant(&served.scope, &queue, wants).await {
            Ok(granted) => granted,
            Err(error) => {
                let failed = match error {
                    Error::Rejected(NoSuchQueue) => QueueError::NoSuchQueue,
                    other => {
                        tracing::warn!(error = %crate::error_chain(&other), "a grant failed");
                        QueueError::OutcomeUnknown
                    }
                };
                self.take_back(served, &asking);
                for call in self.waiting.drain(..) {
                    call.answer.send(Err(failed.clone())).ok();
                }
                return Next::Again;
            }
        };
        let records = granted.parts.iter().flat_map(|p| &p.ranges).map(|r| r.end - r.start).sum::<i64>();
        metrics::grant_statement(start.elapsed(), asking.len(), records);
        served.leased.fetch_add(records, Ordering::Relaxed);
        let now = Instant::now();
        let queue = self.with_all_partitions(served, queue, &granted).await;
        let mut asked: HashSet<LeaseId> = asking.iter().map(|n| self.waiting[*n].lease).collect();
        // A second call for a lease that the first was just given has its turn next.
        for part in &granted.parts {
            asked.remove(&part.lease);
        }
        let all_served = self.hand_on(served, &queue, &granted);
        self.answer_late(&asked, &granted, now);
        if !granted.unadmitted.is_empty() && (!all_served || queue.mode == Mode::Keyed) {
            let admitted = self.admit(&served.scope, &queue, &granted).await;
            if admitted && !self.waiting.is_empty() {
                return Next::Again;
            }
        }
        let not_asked = self.waiting.iter().any(|c| !asked.contains(&c.lease));
        if self.waiting.is_empty() || records > 0 && (not_asked || asking.len() > self.waiting.len()) {
            return Next::Again;
        }
        if granted.limited_by.is_some() {
            // More records would change nothing.
            self.watch = None;
            return self.wait(&queue, &granted);
        }
        if self.watch.is_none() {
            // Looked at once more after the watch has begun: nothing falls between.
            self.watch = Some(self.runtime.watcher.watch(&served.scope, queue.partitions.clone()));
            return Next::Again;
        }
        self.wait(&queue, &granted)
    }

    /// Leases of a grant whose outcome nobody knows, should they have been made.
    fn take_back(&self, served: &Arc<ServedQueue>, asking: &[usize]) {
        let unnamed =
            asking.iter().filter_map(|n| self.waiting.get(*n)).filter(|c| c.request.request_id.is_none());
        let items: Vec<_> = unnamed.map(|call| fill::whole(call.lease)).collect();
        if !items.is_empty() {
            let served = Arc::clone(served);
            tokio::spawn(async move { fill::release(&served, items).await });
        }
    }

    /// The calls of this grant: each lease once, and not more records than one grant takes.
    fn asking(&self, average: usize) -> Vec<usize> {
        let mut leases = HashSet::new();
        let mut records = 0;
        let mut asking = Vec::new();
        for (n, call) in self.waiting.iter().enumerate() {
            if records >= GRANT_MAX_RECORDS || records.saturating_mul(average) >= GRANT_MAX_BYTES {
                break;
            }
            if leases.insert(call.lease) {
                records += wanted(call, average);
                asking.push(n);
            }
        }
        asking
    }

    /// The same grant until its outcome is known.
    async fn grant(
        &mut self,
        scope: &Scope,
        queue: &Queue,
        wants: Vec<Want>,
    ) -> Result<Granted, Error<NoSuchQueue>> {
        self.turn = (self.turn + 1) % queue.partitions.len().max(1);
        let from = queue.partitions.get(self.turn).copied().unwrap_or(PartitionId(0));
        let (ids, agent) = (&self.runtime.ids, self.runtime.agent);
        let grant = Grant {
            scope: scope.clone(),
            queue: queue.id,
            agent,
            wants,
            from,
            from_key: ids.random_i64(),
            dice: ids.unit(),
        };
        RESEND.run(|| self.runtime.plane.grant(&grant)).await
    }

    /// A topic may have grown since the queue was read.
    async fn with_all_partitions(
        &self,
        served: &ServedQueue,
        queue: Arc<Queue>,
        granted: &Granted,
    ) -> Arc<Queue> {
        if granted.parts.iter().all(|p| queue.partitions.contains(&p.partition)) {
            return queue;
        }
        match self.runtime.plane.queue(&served.scope, &queue.name).await {
            Ok(now) if now.id == served.id => {
                let now = Arc::new(now);
                *served.queue.write() = Arc::clone(&now);
                now
            }
            _ => queue,
        }
    }

    /// Sends what was granted to be read and answered; whether every call got something.
    fn hand_on(&mut self, served: &Arc<ServedQueue>, queue: &Arc<Queue>, granted: &Granted) -> bool {
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
        let filling = fill::Filling {
            runtime: Arc::clone(&self.runtime),
            served: Arc::clone(served),
            queue: Arc::clone(queue),
            at_ms: granted.at_ms,
            back: self.back.clone(),
        };
        tokio::spawn(filling.run(given));
        self.waiting.is_empty()
    }

    /// Answers the calls whose wait is over: with nothing, and why.
    fn answer_late(&mut self, asked: &HashSet<LeaseId>, granted: &Granted, now: Instant) {
        let stopping = self.runtime.watcher.is_stopping();
        let late =
            |c: &LeaseCall| stopping || now >= if c.returned { c.deadline + GRACE } else { c.deadline };
        let contended = granted.contended && granted.limited_by.is_none();
        let mut left = Vec::with_capacity(self.waiting.len());
        for call in self.waiting.drain(..) {
            let just_contended = contended && now < call.deadline + CONTENDED_PAUSE * 5;
            let admits = !granted.unadmitted.is_empty() && now < call.deadline + GRACE;
            // Where those who were asked for got nothing, nothing is there for the others.
            let was_asked = asked.contains(&call.lease) || granted.parts.is_empty() || stopping;
            if was_asked && late(&call) && !just_contended && !admits {
                call.answer.send(Ok(Leased::nothing(granted.at_ms, granted.limited_by))).ok();
            } else {
                left.push(call);
            }
        }
        self.waiting = left;
    }

    async fn admit(&self, scope: &Scope, queue: &Arc<Queue>, granted: &Granted) -> bool {
        let mut admitted = false;
        for unadmitted in granted.unadmitted.iter().take(ADMISSIONS_PER_ROUND) {
            match admit::admit(&self.runtime, scope, queue, *unadmitted, granted.at_ms).await {
                Ok(done) => admitted |= done,
                Err(error) => {
                    tracing::warn!(error = %crate::error_chain(&*error), queue = %queue.name, "admission failed")
                }
            }
        }
        admitted
    }

    fn wait(&self, queue: &Queue, granted: &Granted) -> Next {
        if granted.contended {
            return Next::Wait(CONTENDED_PAUSE);
        }
        let due = granted
            .next_due_ms
            .and_then(|due| u64::try_from(due - granted.at_ms).ok())
            .map(|ms| Duration::from_millis(ms + 1));
        let limit = match granted.limited_by {
            // When the next token comes.
            Some(LimitedBy::Rate) => {
                let token = queue.config.rate.map_or(20, |rate| rate.per_ms / i64::from(rate.limit.max(1)));
                Duration::from_millis(u64::try_from(token).unwrap_or(20))
                    .clamp(Duration::from_millis(20), Duration::from_secs(1))
            }
            _ => RECHECK_EVERY,
        };
        Next::Wait(due.unwrap_or(limit).min(limit).max(Duration::from_millis(1)))
    }
}

/// Records to ask for, so that about `max_bytes` come.
fn wanted(call: &LeaseCall, average: usize) -> usize {
    let fit = call.request.max_bytes.checked_div(average).unwrap_or(usize::MAX);
    call.request.max_records.min(fit.max(1))
}

fn want(call: &LeaseCall, average: usize) -> Want {
    let records = saturated::<i32, _>(wanted(call, average));
    Want { lease: call.lease, records, lease_ms: call.lease_ms }
}
