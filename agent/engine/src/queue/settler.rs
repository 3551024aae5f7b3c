//! Settlements of one queue: all that are there go into one statement, one statement at a time; those with a
//! request id each into its own.

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

/// When a settlement whose outcome is unknown is sent again; whoever waits for it is told "unknown" earlier.
const RESEND: Resend = Resend {
    give_up_after: Duration::from_secs(30),
    first_pause: Duration::from_millis(5),
    max_pause: Duration::from_millis(500),
};
/// How long a caller waits for the outcome.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Entries of one statement.
const STATEMENT_MAX_ENTRIES: usize = 4_096;
/// Statements with a request id under way at once.
const ALONE_IN_FLIGHT_MAX: usize = 4;

#[derive(Debug)]
pub(super) struct Settlement {
    plan: Plan,
    op: Option<Uuid>,
    answer: oneshot::Sender<Result<Vec<Settled>, QueueError>>,
}

/// Hands a call to the queue's task, and looks a second time for what seems lost: a renewal under way
/// elsewhere may have hidden it.
pub async fn settle(
    to: &mpsc::Sender<Settlement>,
    items: &[Item],
    op: Option<Uuid>,
) -> Result<Vec<Settled>, QueueError> {
    let mut told = ask(to, Plan::of(items), op).await?;
    let mut seen = HashSet::new();
    let mut first = |item: &Item| item.target != Target::Nothing && seen.insert(item.target);
    let again: Vec<usize> = items
        .iter()
        .map(&mut first)
        .enumerate()
        .filter(|(n, first)| *first && told[*n].status == SettleStatus::Lost)
        .map(|(n, _)| n)
        .collect();
    if !again.is_empty() {
        let rest: Vec<Item> = again.iter().map(|n| items[*n].clone()).collect();
        let op = op.map(|op| crate::hash::of(&[op.as_bytes(), b"again"]));
        for (n, second) in again.into_iter().zip(ask(to, Plan::of(&rest), op).await?) {
            told[n] = second;
        }
    }
    for (outcome, records) in counted(&told) {
        metrics::settled(outcome, records);
    }
    Ok(told)
}

/// How many records came to which end.
fn counted(told: &[Settled]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for one in told {
        let records = saturated::<usize, _>(one.records).max(1);
        *counts.entry(one.status.as_str()).or_default() += records;
    }
    counts
}

async fn ask(
    to: &mpsc::Sender<Settlement>,
    plan: Plan,
    op: Option<Uuid>,
) -> Result<Vec<Settled>, QueueError> {
    if plan.entries.is_empty() {
        return Ok(plan.tell(&Verdicts::default(), 0));
    }
    let (answer, answered) = oneshot::channel();
    to.try_send(Settlement { plan, op, answer }).map_err(|_| QueueError::Throttled)?;
    let answered = tokio::time::timeout(ANSWER_WITHIN, answered).await;
    answered.ok().and_then(Result::ok).unwrap_or(Err(QueueError::OutcomeUnknown))
}

pub fn start(runtime: Arc<QueueRuntime>, served: &Arc<ServedQueue>, asked: mpsc::Receiver<Settlement>) {
    let settler = Settler {
        runtime,
        served: Arc::downgrade(served),
        id: served.id,
        scope: served.scope.clone(),
        alone: Arc::new(Semaphore::new(ALONE_IN_FLIGHT_MAX)),
    };
    tokio::spawn(settler.run(asked));
}

#[derive(Clone)]
struct Settler {
    runtime: Arc<QueueRuntime>,
    served: Weak<ServedQueue>,
    id: millpond_core::QueueId,
    scope: Scope,
    alone: Arc<Semaphore>,
}

impl Settler {
    async fn run(self, mut asked: mpsc::Receiver<Settlement>) {
        let mut left: Option<Settlement> = None;
        loop {
            let first = match left.take() {
                Some(one) => one,
                None => match asked.recv().await {
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
                    let permit = Arc::clone(&self.alone).try_acquire_owned().ok();
                    if permit.is_none() && !fold.is_empty() {
                        left = Some(one);
                        break;
                    }
                    self.send_alone(one, permit).await;
                } else if entries + one.plan.entries.len() > STATEMENT_MAX_ENTRIES && entries > 0
                    || one.plan.leases().any(|l| leases.contains(&l))
                {
                    left = Some(one);
                    break;
                } else {
                    entries += one.plan.entries.len();
                    leases.extend(one.plan.leases());
                    fold.push(one);
                }
                next = asked.try_recv().ok();
            }
            if !fold.is_empty() {
                self.send(fold, self.runtime.operation(), false).await;
            }
        }
    }

    async fn send_alone(&self, one: Settlement, permit: Option<OwnedSemaphorePermit>) {
        let permit = match permit {
            Some(permit) => Some(permit),
            None => Arc::clone(&self.alone).acquire_owned().await.ok(),
        };
        let own = self.clone();
        let op = one.op.unwrap_or_else(|| self.runtime.operation());
        tokio::spawn(async move {
            own.send(vec![one], op, true).await;
            drop(permit);
        });
    }

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
            dice: self.runtime.ids.unit(),
            leased,
        };
        let start = Instant::now();
        let outcome = RESEND.run(|| self.runtime.plane.settle(&settle)).await;
        metrics::settle_statement(start.elapsed(), fold.len());
        if let Some(served) = served {
            served.nudge.notify_one();
        }
        let mut first = 0;
        for one in fold {
            let answer = match &outcome {
                Ok(settled) => Ok(one.plan.tell(settled, first)),
                Err(error) => {
                    tracing::warn!(error = %crate::error_chain(error), "what became of a settlement is not known");
                    Err(QueueError::OutcomeUnknown)
                }
            };
            first += one.plan.entries.len();
            one.answer.send(answer).ok();
        }
    }
}
