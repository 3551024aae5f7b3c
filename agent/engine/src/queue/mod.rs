//! Queues on the agent's side: lease calls and settlements of a queue, each coalesced into one statement at a
//! time.
//!
//! Owns: who waits for records, reading what was granted, receipts, admission. Invariants: no state of a
//! queue lives here; what is granted and reaches no client goes back uncounted; a statement whose outcome is
//! unknown is sent again, the same.

mod admit;
mod expiry;
mod fill;
mod granter;
pub mod plan;
pub mod receipt;
mod settler;

use crate::fetch::reader::{FetchError, Reader};
use crate::fetch::watcher::Watcher;
use expiry::Expiry;
pub use fill::{Leased, LeasedRecord};
use granter::Call;
use millpond_core::queue::{NoSuchQueue, PutQueueRejected, Queue, QueueChange};
use millpond_core::{AgentId, Clock, ControlPlane, Error, Ids, LeaseId, Name, QueueId};
use moka::future::Cache;
use parking_lot::{Mutex, RwLock};
use plan::{Item, Told};
use settler::Settlement;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

const REMEMBERED: Duration = Duration::from_secs(5);
const QUEUES_REMEMBERED: u64 = 100_000;
/// After which the memory of what nobody asked for is given back.
const KEPT: Duration = Duration::from_secs(60);
/// Calls of one queue on their way to its tasks.
const CALLS: usize = 4_096;
/// Queues whose tasks stay though nobody calls.
const HUBS_KEPT: usize = 4_096;

/// Why a lease call or a settlement was not carried out, or not known to be.
#[derive(Clone, Debug, thiserror::Error)]
pub enum QueueError {
    #[error("there is no such queue")]
    NoSuchQueue,
    #[error("too many calls of this queue wait in this agent")]
    Throttled,
    #[error("the control plane does not answer")]
    ControlPlane,
    #[error(transparent)]
    Read(#[from] Arc<FetchError>),
}

/// What the tasks of all queues use.
pub struct Shared {
    pub plane: Arc<dyn ControlPlane>,
    pub reader: Arc<Reader>,
    pub watcher: Arc<Watcher>,
    pub ids: Arc<Ids>,
    pub clock: Arc<dyn Clock>,
    pub agent: AgentId,
    /// Grants that are being read.
    pub fills: Semaphore,
}

pub struct Queues {
    shared: Arc<Shared>,
    expiry: Arc<Expiry>,
    known: Cache<(Name, Name), (Instant, Arc<Queue>)>,
    hubs: Mutex<HashMap<QueueId, Arc<Hub>>>,
}

/// One queue in this agent. Its tasks end when nobody can reach it any more.
#[derive(Debug)]
pub struct Hub {
    pub id: QueueId,
    /// As it was read last.
    queue: RwLock<Arc<Queue>>,
    calls: mpsc::Sender<Call>,
    settlements: mpsc::Sender<Settlement>,
    /// Something may have become due, or free.
    nudge: Notify,
    /// Records leased out that no settlement has told the control plane of.
    leased: AtomicI64,
    /// Of a record, on the average of late.
    record_bytes: AtomicUsize,
}

/// A lease call.
#[derive(Clone, Debug)]
pub struct LeaseRequest {
    pub max_records: usize,
    pub max_bytes: usize,
    pub lease_ms: i64,
    pub wait: Duration,
    pub request_id: Option<String>,
}

impl Hub {
    fn start(shared: &Arc<Shared>, expiry: &Arc<Expiry>, queue: Arc<Queue>) -> Arc<Self> {
        let (calls, called) = mpsc::channel(CALLS);
        let (settlements, asked) = mpsc::channel(CALLS);
        let hub = Arc::new(Self {
            id: queue.id,
            queue: RwLock::new(queue),
            calls,
            settlements,
            nudge: Notify::new(),
            leased: AtomicI64::new(0),
            record_bytes: AtomicUsize::new(0),
        });
        granter::start(Arc::clone(shared), Arc::clone(expiry), &hub, called);
        settler::start(Arc::clone(shared), &hub, asked);
        hub
    }

    #[must_use]
    pub fn queue(&self) -> Arc<Queue> {
        Arc::clone(&self.queue.read())
    }

    /// Records for a worker, at the latest when its wait is over.
    pub async fn lease(&self, shared: &Shared, request: LeaseRequest) -> Result<Leased, QueueError> {
        let lease = match &request.request_id {
            Some(id) => LeaseId(crate::hash::of(&[self.queue().secret.as_bytes(), b"lease", id.as_bytes()])),
            None => LeaseId(shared.ids.secret()),
        };
        let (answer, answered) = oneshot::channel();
        let call = Call { lease, deadline: Instant::now() + request.wait, request, answer, returned: false };
        self.calls.try_send(call).map_err(|_| QueueError::Throttled)?;
        answered.await.unwrap_or(Err(QueueError::ControlPlane))
    }

    /// One answer an item. With a request id the call is a statement of its own, whose answer is kept.
    pub async fn settle(&self, items: &[Item], request_id: Option<&str>) -> Result<Settlements, QueueError> {
        // Of these items: another body under the same id is another settlement.
        let op = request_id.map(|id| {
            crate::hash::of(&[
                self.queue().secret.as_bytes(),
                b"settle",
                id.as_bytes(),
                format!("{items:?}").as_bytes(),
            ])
        });
        settler::settle(&self.settlements, items, op).await
    }
}

/// The answers to a settlement call, in the order of its items.
#[derive(Debug, Clone)]
pub struct Settlements {
    pub told: Vec<Told>,
}

impl Queues {
    #[must_use]
    pub fn new(shared: Shared) -> Self {
        let shared = Arc::new(shared);
        let expiry = Expiry::new(Arc::clone(&shared));
        let known = Cache::builder().max_capacity(QUEUES_REMEMBERED).time_to_live(KEPT).build();
        Self { shared, expiry, known, hubs: Mutex::new(HashMap::new()) }
    }

    #[must_use]
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    pub async fn get(&self, tenant: &Name, name: &Name) -> Result<Arc<Queue>, Error<NoSuchQueue>> {
        let key = (tenant.clone(), name.clone());
        if let Some((since, queue)) = self.known.get(&key).await
            && since.elapsed() < REMEMBERED
        {
            return Ok(queue);
        }
        let queue = Arc::new(self.shared.plane.queue(tenant, name).await?);
        self.remember(key, &queue).await;
        Ok(queue)
    }

    async fn remember(&self, key: (Name, Name), queue: &Arc<Queue>) {
        self.known.insert(key, (Instant::now(), Arc::clone(queue))).await;
        if let Some(hub) = self.hubs.lock().get(&queue.id) {
            *hub.queue.write() = Arc::clone(queue);
            hub.nudge.notify_one();
        }
    }

    pub async fn put(
        &self,
        tenant: &Name,
        name: &Name,
        change: &QueueChange,
    ) -> Result<(Arc<Queue>, bool), Error<PutQueueRejected>> {
        let (queue, made) = self.shared.plane.put_queue(tenant, name, change).await?;
        let queue = Arc::new(queue);
        self.remember((tenant.clone(), name.clone()), &queue).await;
        Ok((queue, made))
    }

    /// What is remembered of a name may be old.
    pub async fn forget(&self, tenant: &Name, name: &Name) {
        self.known.invalidate(&(tenant.clone(), name.clone())).await;
    }

    /// The queue's tasks, which are started for its first call.
    #[must_use]
    pub fn hub(&self, queue: &Arc<Queue>) -> Arc<Hub> {
        let mut hubs = self.hubs.lock();
        if hubs.len() > HUBS_KEPT {
            hubs.retain(|_, hub| Arc::strong_count(hub) > 1);
        }
        let hub =
            hubs.entry(queue.id).or_insert_with(|| Hub::start(&self.shared, &self.expiry, Arc::clone(queue)));
        Arc::clone(hub)
    }

    /// Wakes the calls that wait: something has changed that no watch tells.
    pub fn nudge(&self, queue: QueueId) {
        if let Some(hub) = self.hubs.lock().get(&queue) {
            hub.nudge.notify_one();
        }
    }
}

/// For what is sent once, an identity of its own.
fn operation(shared: &Shared) -> Uuid {
    shared.ids.uuid(shared.clock.now_ms())
}
