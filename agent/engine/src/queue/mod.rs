//! Queues: hand out the records of a topic to workers under leases.
//!
//! Owns: the operations of [`Queues`]; for each queue that this agent serves, two tasks that combine waiting
//! lease calls into one grant statement and settlements into one settle statement at a time; reading of
//! granted records; receipts; admission. Invariants: the agent holds no state of a queue; a lease that
//! reaches no client goes back to the queue without counting as a failure; a statement whose outcome is
//! unknown is sent again unchanged.

mod admin;
mod admit;
mod call;
mod expiry;
mod fill;
mod granter;
mod look;
pub mod lookout;
pub mod plan;
pub mod receipt;
mod settler;

use crate::fetch::Fetch;
use crate::fetch::FetchError;
use crate::fetch::reader::Reader;
use crate::fetch::watcher::Watcher;
use crate::named::NamedCache;
use crate::topics::Topics;
use call::LeaseCall;
use expiry::Expiry;
use lookout::Lookout;
use millpond_core::queue::{NoSuchQueue, Queue};
use millpond_core::{AgentId, Clock, ControlPlane, Error, LeaseId, Name, QueueId, RandomSource, Scope};
use parking_lot::{Mutex, RwLock};
use plan::{Item, SettleItem, SettleStatus, Settled};
use settler::Settlement;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

pub use admin::{DeadSelection, DescribedQueue, QueueAdminError, SeekTarget, Worked};
pub use fill::{Leased, LeasedRecord};
pub use look::{ListedMemory, ListedPage, ListedRecord, PeekedRecord};

/// Capacity of the channels to the tasks of one queue: further calls are refused.
const QUEUED_CALLS_MAX: usize = 4_096;
/// Number of served queues above which those without calls are dropped.
const SERVED_QUEUES_MAX: usize = 4_096;

/// Why a lease call or a settlement failed, or why its outcome is unknown.
#[derive(Clone, Debug, thiserror::Error)]
pub enum QueueError {
    #[error("there is no such queue")]
    NoSuchQueue,
    #[error("too many calls to this queue are waiting in this agent")]
    Throttled,
    #[error("the control plane does not answer; whether the call was carried out is unknown")]
    OutcomeUnknown,
    #[error("the control plane failed")]
    ControlPlane(#[source] Arc<Error>),
    #[error(transparent)]
    Read(#[from] Arc<FetchError>),
}

impl From<Error<NoSuchQueue>> for QueueError {
    fn from(error: Error<NoSuchQueue>) -> Self {
        match error.into_rejection() {
            Ok(NoSuchQueue) => Self::NoSuchQueue,
            Err(failure) => Self::ControlPlane(Arc::new(failure)),
        }
    }
}

/// The components that the tasks of all queues share.
pub struct QueueRuntime {
    pub plane: Arc<dyn ControlPlane>,
    pub reader: Arc<Reader>,
    pub watcher: Arc<Watcher>,
    pub lookout: Arc<Lookout>,
    pub random: Arc<RandomSource>,
    pub clock: Arc<dyn Clock>,
    pub agent: AgentId,
    /// Limits the grants whose records are being read.
    pub fills: Semaphore,
}

impl QueueRuntime {
    /// A new id for a statement.
    fn operation_id(&self) -> Uuid {
        self.random.uuid(self.clock.now_ms())
    }
}

/// Queues, as doors use them.
pub struct Queues {
    runtime: Arc<QueueRuntime>,
    topics: Arc<Topics>,
    fetch: Arc<Fetch>,
    expiry: Arc<Expiry>,
    known: NamedCache<Queue>,
    served: Mutex<HashMap<QueueId, Arc<ServedQueue>>>,
}

/// A queue that this agent serves. Its tasks end when the last reference to it is dropped.
#[derive(Debug)]
struct ServedQueue {
    id: QueueId,
    /// The scope in which its tasks work: that of the queue's tenant.
    scope: Scope,
    /// The configuration as it was last read.
    queue: RwLock<Arc<Queue>>,
    calls: mpsc::Sender<LeaseCall>,
    settlements: mpsc::Sender<Settlement>,
    /// Wakes the waiting lease calls, because records may have become available.
    nudge: Notify,
    /// Number of leased records that was not reported to the control plane yet (the next settlement does so).
    leased: AtomicI64,
    /// Its granter rests: the queue had nothing when it was last looked at.
    resting: AtomicBool,
    /// Moving average of record size, in bytes; 0 before the first.
    record_bytes: AtomicUsize,
}

/// The parameters of a lease call.
#[derive(Clone, Debug)]
pub struct LeaseRequest {
    pub max_records: usize,
    /// Bytes of keys, values and headers. The first record is returned even if it is larger.
    pub max_bytes: usize,
    /// Duration of the lease; `None`: as configured for the queue.
    pub lease_ms: Option<i64>,
    /// How long to wait if there is no record yet.
    pub wait: Duration,
    /// Identifies the call. If it is sent again while its lease lives, it is answered with what is left of
    /// the lease.
    pub request_id: Option<String>,
}

impl Queues {
    #[must_use]
    pub fn new(runtime: QueueRuntime, topics: Arc<Topics>, fetch: Arc<Fetch>) -> Self {
        let runtime = Arc::new(runtime);
        let expiry = Expiry::new(Arc::clone(&runtime));
        let (known, served) = (NamedCache::default(), Mutex::new(HashMap::new()));
        Self { runtime, topics, fetch, expiry, known, served }
    }

    /// Leases records for a worker; waits for records if there are none. Also returns the name of the topic.
    /// If the cached queue was deleted, it is looked up again, once.
    pub async fn lease(
        &self,
        scope: &Scope,
        name: &Name,
        request: &LeaseRequest,
    ) -> Result<(Name, Leased), QueueError> {
        let queue = match self.resting(scope, name).await {
            Some(queue) => queue,
            None => self.get(scope, name).await?,
        };
        match self.serve(&queue).lease(&self.runtime, request.clone()).await {
            Err(QueueError::NoSuchQueue) => {
                self.known.forget(scope, name).await;
                let queue = self.get(scope, name).await?;
                let leased = self.serve(&queue).lease(&self.runtime, request.clone()).await?;
                Ok((queue.topic.clone(), leased))
            }
            outcome => Ok((queue.topic.clone(), outcome?)),
        }
    }

    /// Settles leased records; one result per item, in their order. With a request id, the call is a
    /// statement of its own, whose result is stored and returned again to a retry. If the result of some item
    /// is [`SettleStatus::Lost`], its lease may belong to another queue of the same name, created since: the
    /// queue is looked up again, once.
    pub async fn settle(
        &self,
        scope: &Scope,
        name: &Name,
        items: &[SettleItem],
        request_id: Option<&str>,
    ) -> Result<Vec<Settled>, QueueError> {
        let queue = self.get(scope, name).await?;
        let settled = self.serve(&queue).settle(items, request_id).await?;
        if settled.iter().all(|s| s.status != SettleStatus::Lost) {
            return Ok(settled);
        }
        self.known.forget(scope, name).await;
        let now = self.get(scope, name).await?;
        if now.id == queue.id { Ok(settled) } else { self.serve(&now).settle(items, request_id).await }
    }

    /// The queue, if it was found to have nothing. From then on its granter notices when it is changed or
    /// deleted, so it is not looked up.
    async fn resting(&self, scope: &Scope, name: &Name) -> Option<Arc<Queue>> {
        let known = self.known.known(scope, name).await?;
        let served = self.served.lock().get(&known.id).map(Arc::clone)?;
        served.resting.load(Ordering::Relaxed).then(|| served.queue())
    }

    /// The queue, possibly from the cache.
    async fn get(&self, scope: &Scope, name: &Name) -> Result<Arc<Queue>, Error<NoSuchQueue>> {
        let queue = self.known.get(scope, name, self.runtime.plane.queue(scope, name)).await?;
        self.update_tasks(&queue);
        Ok(queue)
    }

    /// The queue as it is now, read from the control plane.
    async fn look_up(&self, scope: &Scope, name: &Name) -> Result<Arc<Queue>, Error<NoSuchQueue>> {
        match self.runtime.plane.queue(scope, name).await {
            Ok(queue) => {
                let queue = self.known.remember(scope, name, queue).await;
                self.update_tasks(&queue);
                Ok(queue)
            }
            Err(error) => {
                self.known.forget(scope, name).await;
                Err(error)
            }
        }
    }

    /// The served queue; its tasks are started by the first call.
    fn serve(&self, queue: &Arc<Queue>) -> Arc<ServedQueue> {
        let mut served = self.served.lock();
        if served.len() > SERVED_QUEUES_MAX {
            served.retain(|_, one| Arc::strong_count(one) > 1);
        }
        let start = || ServedQueue::start(&self.runtime, &self.expiry, Arc::clone(queue));
        Arc::clone(served.entry(queue.id).or_insert_with(start))
    }

    /// Passes a new configuration to the tasks of a queue, if there are any.
    fn update_tasks(&self, queue: &Arc<Queue>) {
        let served = self.served.lock().get(&queue.id).map(Arc::clone);
        if let Some(served) = served
            && *served.queue() != **queue
        {
            *served.queue.write() = Arc::clone(queue);
            served.nudge.notify_one();
        }
    }

    /// Wakes the waiting lease calls of a queue after a change that no watch notices.
    fn nudge(&self, queue: QueueId) {
        if let Some(served) = self.served.lock().get(&queue) {
            served.nudge.notify_one();
        }
    }
}

impl ServedQueue {
    fn start(runtime: &Arc<QueueRuntime>, expiry: &Arc<Expiry>, queue: Arc<Queue>) -> Arc<Self> {
        let (calls, call_receiver) = mpsc::channel(QUEUED_CALLS_MAX);
        let (settlements, settlement_receiver) = mpsc::channel(QUEUED_CALLS_MAX);
        let served = Arc::new(Self {
            id: queue.id,
            scope: Scope::of_tenant(queue.tenant.clone()),
            queue: RwLock::new(queue),
            calls,
            settlements,
            nudge: Notify::new(),
            leased: AtomicI64::new(0),
            resting: AtomicBool::new(false),
            record_bytes: AtomicUsize::new(0),
        });
        granter::start(Arc::clone(runtime), Arc::clone(expiry), &served, call_receiver);
        settler::start(Arc::clone(runtime), &served, settlement_receiver);
        served
    }

    fn queue(&self) -> Arc<Queue> {
        Arc::clone(&self.queue.read())
    }

    /// Hands a lease call to the granter.
    async fn lease(&self, runtime: &QueueRuntime, request: LeaseRequest) -> Result<Leased, QueueError> {
        let queue = self.queue();
        let lease = match &request.request_id {
            Some(id) => LeaseId(crate::hash::of(&[queue.secret.as_bytes(), b"lease", id.as_bytes()])),
            None => LeaseId(runtime.random.secret()),
        };
        let (answer, answered) = oneshot::channel();
        let call = LeaseCall {
            lease,
            lease_ms: request.lease_ms.unwrap_or(queue.config.lease_ms),
            deadline: Instant::now() + request.wait,
            request,
            answer,
            is_retry: false,
        };
        self.calls.try_send(call).map_err(|_| QueueError::Throttled)?;
        answered.await.unwrap_or(Err(QueueError::OutcomeUnknown))
    }

    async fn settle(
        &self,
        items: &[SettleItem],
        request_id: Option<&str>,
    ) -> Result<Vec<Settled>, QueueError> {
        let items: Vec<Item> = items.iter().map(|item| item.resolve(&self.queue().config)).collect();
        self.settle_items(&items, request_id).await
    }

    async fn settle_items(
        &self,
        items: &[Item],
        request_id: Option<&str>,
    ) -> Result<Vec<Settled>, QueueError> {
        let queue = self.queue();
        // The hash includes the items: another body with the same id is another settlement.
        let op = request_id.map(|id| {
            let (secret, items) = (queue.secret.as_bytes(), format!("{items:?}"));
            crate::hash::of(&[secret, b"settle", id.as_bytes(), items.as_bytes()])
        });
        settler::settle(&self.settlements, items, op).await
    }
}
