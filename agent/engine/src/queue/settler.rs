//! The settler of a queue: combines all waiting settlements into one statement, one statement at a time.
//!
//! A settlement with a request id gets a statement of its own, whose result the control plane stores.

use super::plan::{Item, Plan, SettleStatus, Settled, Target};
use super::{QueueError, QueueRuntime, ServedQueue};
use crate::metrics;
use crate::resend::Resend;
use millpond_core::queue::{Settle, Settled as Verdicts};
use millpond_core::saturated;
use millpond_core::{LeaseId, Scope};
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

/// Retry policy of a settlement. Its caller is answered "outcome unknown" earlier (see [`ANSWER_WAIT_MAX`]).
const SETTLE_RESEND: Resend = Resend {
    give_up_after: Duration::from_secs(30),
    first_pause: Duration::from_millis(5),
    max_pause: Duration::from_millis(500),
};
/// How long a caller waits for the outcome.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);
/// Entries of one statement, unless a single settlement has more.
const STATEMENT_MAX_ENTRIES: usize = 4_096;
/// Statements with a request id in flight.
const NAMED_IN_FLIGHT_MAX: usize = 4;

/// A settlement call on its way to the settler.
#[derive(Debug)]
pub(super) struct Settlement {
    plan: Plan,
    /// Id derived from the request id, if there is one.
    op: Option<Uuid>,
    answer: oneshot::Sender<Result<Vec<Settled>, QueueError>>,
}

/// Settles items by way of the queue's settler. Items that seem lost are tried once more: a concurrent
/// renewal elsewhere may have hidden them.
pub async fn settle(
    to: &mpsc::Sender<Settlement>,
    items: &[Item],
    op: Option<Uuid>,
) -> Result<Vec<Settled>, QueueError> {
    let mut settled = submit(to, Plan::of(items), op).await?;
    let mut seen = HashSet::new();
    let mut first = |item: &Item| item.target != Target::Nothing && seen.insert(item.target);
    let retried: Vec<usize> = items
        .iter()
        .map(&mut first)
        .enumerate()
        .filter(|(n, first)| *first && settled[*n].status == SettleStatus::Lost)
        .map(|(n, _)| n)
        .collect();
    if !retried.is_empty() {
        let rest: Vec<Item> = retried.iter().map(|n| items[*n].clone()).collect();
        let op = op.map(|op| crate::hash::of(&[op.as_bytes(), b"again"]));
        for (n, second) in retried.into_iter().zip(submit(to, Plan::of(&rest), op).await?) {
            settled[n] = second;
        }
    }
    for (outcome, records) in count_by_outcome(&settled) {
        metrics::settled(outcome, records);
    }
    Ok(settled)
}

/// The number of records by outcome.
fn count_by_outcome(settled: &[Settled]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for one in settled {
        let records = saturated::<usize, _>(one.records).max(1);
        *counts.entry(one.status.as_str()).or_default() += records;
    }
    counts
}

/// Sends a plan to the settler and waits for the results.
async fn submit(
    to: &mpsc::Sender<Settlement>,
    plan: Plan,
    op: Option<Uuid>,
) -> Result<Vec<Settled>, QueueError> {
    if plan.entries.is_empty() {
        return Ok(plan.results(&Verdicts::default(), 0));
    }
    let (answer, answered) = oneshot::channel();
    to.try_send(Settlement { plan, op, answer }).map_err(|_| QueueError::Throttled)?;
    let answered = tokio::time::timeout(ANSWER_WAIT_MAX, answered).await;
    answered.ok().and_then(Result::ok).unwrap_or(Err(QueueError::OutcomeUnknown))
}

/// Starts the settler of a queue.
pub fn start(runtime: Arc<QueueRuntime>, served: &Arc<ServedQueue>, settlements: mpsc::Receiver<Settlement>) {
    let settler = Settler {
        runtime,
        served: Arc::downgrade(served),
        id: served.id,
        scope: served.scope.clone(),
        named_slots: Arc::new(Semaphore::new(NAMED_IN_FLIGHT_MAX)),
    };
    tokio::spawn(settler.run(settlements));
}

/// The settler task.
#[derive(Clone)]
struct Settler {
    runtime: Arc<QueueRuntime>,
    served: Weak<ServedQueue>,
    id: millpond_core::QueueId,
    scope: Scope,
    /// Limits the statements with a request id.
    named_slots: Arc<Semaphore>,
}

impl Settler {
    async fn run(self, mut settlements: mpsc::Receiver<Settlement>) {
        // A settlement that did not fit into the last statement.
        let mut deferred: Option<Settlement> = None;
        loop {
            let first = match deferred.take() {
                Some(one) => one,
                None => match settlements.recv().await {
                    Some(one) => one,
                    None => return,
                },
            };
            let mut fold = Vec::new();
            let mut leases: HashSet<LeaseId> = HashSet::new();
            let mut entries = 0;
            let mut next = Some(first);
            while let Some(one) = next {
                if one.op.is_some() {
                    let permit = Arc::clone(&self.named_slots).try_acquire_owned().ok();
                    if permit.is_none() && !fold.is_empty() {
                        deferred = Some(one);
                        break;
                    }
                    self.send_named(one, permit).await;
                } else if entries + one.plan.entries.len() > STATEMENT_MAX_ENTRIES && entries > 0
                    || one.plan.leases().any(|l| leases.contains(&l))
                {
                    deferred = Some(one);
                    break;
                } else {
                    entries += one.plan.entries.len();
                    leases.extend(one.plan.leases());
                    fold.push(one);
                }
                next = settlements.try_recv().ok();
            }
            if !fold.is_empty() {
                self.send(fold, self.runtime.operation_id(), false).await;
            }
        }
    }

    /// Sends a settlement with a request id, in a task of its own, as soon as there is a slot.
    async fn send_named(&self, one: Settlement, permit: Option<OwnedSemaphorePermit>) {
        let permit = match permit {
            Some(permit) => Some(permit),
            None => Arc::clone(&self.named_slots).acquire_owned().await.ok(),
        };
        let own = self.clone();
        let op = one.op.unwrap_or_else(|| self.runtime.operation_id());
        tokio::spawn(async move {
            own.send(vec![one], op, true).await;
            drop(permit);
        });
    }

    /// Sends one statement and answers its settlements. `keep`: the control plane stores the result.
    async fn send(&self, fold: Vec<Settlement>, op: Uuid, keep: bool) {
        let served = self.served.upgrade();
        let leased = served.as_ref().map_or(0, |h| h.leased.swap(0, Ordering::Relaxed));
        let entries = fold.iter().flat_map(|s| s.plan.entries.iter().cloned()).collect();
        let settle = Settle {
            scope: self.scope.clone(),
            queue: self.id,
            agent: self.runtime.agent,
            op,
            keep,
            entries,
            random: self.runtime.random.unit(),
            leased,
        };
        let start = Instant::now();
        let outcome = SETTLE_RESEND.run(|| self.runtime.plane.settle(&settle)).await;
        metrics::settle_statement(start.elapsed(), fold.len());
        if let Some(served) = served {
            served.nudge.notify_one();
        }
        let mut first = 0;
        for one in fold {
            let answer = match &outcome {
                Ok(settled) => Ok(one.plan.results(settled, first)),
                Err(error) => {
                    let error = crate::error_chain(error);
                    tracing::warn!(%error, "the outcome of a settlement is unknown");
                    Err(QueueError::OutcomeUnknown)
                }
            };
            first += one.plan.entries.len();
            one.answer.send(answer).ok();
        }
    }
}
