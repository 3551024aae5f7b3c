//! The write path's hub: takes appends, lets the batcher decide, sends flushes on their way.
//!
//! Invariants: an append is answered after its commit, never before; whoever goes away cancels nothing; one
//! inline commit is in flight at a time, uploads run in parallel and commit as they finish.

use super::AppendError;
use super::append::{Append, Appended};
use super::batcher::{Batcher, BatcherConfig, Decision, Lane, Reason};
use super::committer::Committer;
use super::flush::{Flush, Origin, Pending};
use super::parts::PartPool;
use crate::health::Health;
use crate::keyed_lock::KeyedLocks;
use crate::metrics;
use crate::store::Store;
use millpond_core::{PartitionId, Placement, limits};
use millpond_format::key;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use tokio::sync::{OwnedMutexGuard, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub struct Writer {
    events: mpsc::UnboundedSender<Event>,
    path: Arc<WritePath>,
    keys: KeyedLocks<Uuid>,
}

enum Event {
    Append(Box<Pending>),
    InlineDone,
    PutDone,
    InlineFull(bool),
    Close(oneshot::Sender<()>),
}

pub struct WritePath {
    pub committer: Arc<Committer>,
    pub parts: Arc<PartPool>,
    pub store: Store,
    pub origin: Origin,
    pub health: Arc<Health>,
    pub uploads: Arc<Semaphore>,
    pub tasks: TaskTracker,
}

impl WritePath {
    #[must_use]
    pub fn new(
        committer: Arc<Committer>,
        parts: Arc<PartPool>,
        store: Store,
        origin: Origin,
        health: Arc<Health>,
    ) -> Arc<Self> {
        let uploads = Arc::new(Semaphore::new(limits::UPLOADS_IN_FLIGHT));
        Arc::new(Self { committer, parts, store, origin, health, uploads, tasks: TaskTracker::new() })
    }
}

impl Writer {
    #[must_use]
    pub fn start(path: Arc<WritePath>, config: BatcherConfig) -> Arc<Self> {
        let (events, inbox) = mpsc::unbounded_channel();
        let (ready, uploaded) = mpsc::unbounded_channel();
        let committer = tokio::spawn(Arc::clone(&path.committer).run(uploaded));
        let hub = Hub {
            batcher: Batcher::new(config, Instant::now()),
            small: VecDeque::new(),
            bulk: VecDeque::new(),
            path: Arc::clone(&path),
            events: events.clone(),
            ready,
        };
        tokio::spawn(hub.run(inbox, committer));
        Arc::new(Self { events, path, keys: KeyedLocks::new() })
    }

    /// Stores an append; its outcome does not depend on whether the caller stays.
    pub async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        if self.path.health.is_control_plane_down() {
            return Err(AppendError::OutcomeUnknown);
        }
        let key_lock = match append.key {
            Some(key) => Some(self.lock_key(key.key_hash).await?),
            None => None,
        };
        let (reply, answer) = oneshot::channel();
        let pending = Pending { append, reply: Some(reply), since: Instant::now(), key_lock };
        self.events.send(Event::Append(Box::new(pending))).map_err(|_| AppendError::ShuttingDown)?;
        tokio::select! {
            biased;
            answer = answer => answer.unwrap_or(Err(AppendError::OutcomeUnknown)),
            () = self.path.health.control_plane_lost() => Err(AppendError::OutcomeUnknown),
        }
    }

    /// One use of a key at a time: a commit may name it once, and the second sees what the first stored.
    async fn lock_key(&self, key: Uuid) -> Result<OwnedMutexGuard<()>, AppendError> {
        tokio::select! {
            biased;
            guard = self.keys.lock(key) => Ok(guard),
            () = self.path.health.control_plane_lost() => Err(AppendError::OutcomeUnknown),
        }
    }

    /// While set, small requests go to segments.
    pub fn set_inline_full(&self, full: bool) {
        self.events.send(Event::InlineFull(full)).ok();
    }

    /// Flushes what waits and returns when everything in flight has its outcome.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.events.send(Event::Close(done)).is_ok() {
            closed.await.ok();
        }
    }
}

struct Hub {
    batcher: Batcher,
    small: VecDeque<Pending>,
    bulk: VecDeque<Pending>,
    path: Arc<WritePath>,
    events: mpsc::UnboundedSender<Event>,
    ready: mpsc::UnboundedSender<Flush>,
}

impl Hub {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Event>, committer: JoinHandle<()>) {
        let mut closing: Option<oneshot::Sender<()>> = None;
        loop {
            while let Ok(event) = inbox.try_recv() {
                self.take(event, &mut closing);
            }
            let now = Instant::now();
            let decision = match self.batcher.decide(now) {
                Decision::Wait(_) if closing.is_some() => Decision::Flush(Lane::Bulk, Reason::Linger),
                decision => decision,
            };
            let event = match decision {
                Decision::Flush(lane, reason) => {
                    self.flush(lane, reason, now);
                    continue;
                }
                Decision::Wait(until) => tokio::select! {
                    biased;
                    event = inbox.recv() => event,
                    () = tokio::time::sleep_until(until) => continue,
                },
                Decision::Idle if closing.is_some() && self.batcher.is_empty() => {
                    self.path.tasks.close();
                    self.path.tasks.wait().await;
                    drop(self.ready);
                    committer.await.ok();
                    drop(closing);
                    return;
                }
                Decision::Idle => inbox.recv().await,
            };
            match event {
                Some(event) => self.take(event, &mut closing),
                None => return,
            }
        }
    }

    fn take(&mut self, event: Event, closing: &mut Option<oneshot::Sender<()>>) {
        match event {
            Event::Append(pending) => self.accept(*pending),
            Event::InlineDone => self.batcher.inline_done(),
            Event::PutDone => self.batcher.put_done(),
            Event::InlineFull(full) => self.batcher.inline_full = full,
            Event::Close(done) => *closing = Some(done),
        }
    }

    fn accept(&mut self, pending: Pending) {
        let now = Instant::now();
        let bytes = pending.append.bytes();
        let placement = pending
            .append
            .pieces
            .iter()
            .map(|p| p.topic.config.placement)
            .reduce(stricter)
            .unwrap_or_default();
        // Without records there is nothing to upload.
        let lane = if pending.append.pieces.is_empty() {
            Lane::Small
        } else {
            self.batcher.lane(bytes, placement, now)
        };
        if pending.append.expect.is_some() || pending.append.guard.is_some() {
            self.send(lane, vec![pending], true);
            return;
        }
        self.batcher.offer(lane, bytes, now);
        match lane {
            Lane::Small => self.small.push_back(pending),
            Lane::Bulk => self.bulk.push_back(pending),
        }
    }

    fn flush(&mut self, lane: Lane, reason: Reason, now: Instant) {
        let max = self.batcher.flush_bytes(lane);
        let queue = if lane == Lane::Small { &mut self.small } else { &mut self.bulk };
        let (mut bytes, mut pieces, mut taken) = (0, 0, Vec::new());
        let mut partitions: HashSet<Option<PartitionId>> = HashSet::new();
        while let Some(next) = queue.front() {
            let (size, count) = (next.append.bytes(), next.append.pieces.len());
            partitions.extend(next.append.pieces.iter().map(|p| p.topic.partition_id(p.partition)));
            let fits = bytes + size <= max
                && pieces + count <= limits::COMMIT_MAX_PIECES
                && partitions.len() <= limits::COMMIT_MAX_RUNS;
            if !taken.is_empty() && !fits {
                break;
            }
            bytes += size;
            pieces += count;
            metrics::queued(lane.label(), now.saturating_duration_since(next.since));
            taken.extend(queue.pop_front());
        }
        let left = queue.iter().map(|p| p.append.bytes()).sum();
        let since = queue.front().map(|p| p.since);
        self.batcher.flushed(lane, left, since, now);
        metrics::flushed(lane.label(), reason.label(), taken.len(), bytes);
        self.send(lane, taken, false);
    }

    /// `alone`: in a commit of its own, outside the lanes' bookkeeping.
    fn send(&self, lane: Lane, pendings: Vec<Pending>, alone: bool) {
        let (path, ready) = (Arc::clone(&self.path), self.ready.clone());
        let event = if lane == Lane::Small { Event::InlineDone } else { Event::PutDone };
        let done = Done { events: self.events.clone(), event: Some(event).filter(|_| !alone) };
        let task = async move {
            match lane {
                Lane::Small => {
                    let flush = path.inline(pendings);
                    path.committer.commit(vec![flush]).await;
                    drop(done);
                }
                Lane::Bulk => {
                    let uploaded = path.upload(pendings).await;
                    drop(done);
                    match uploaded {
                        Some(flush) if alone => path.committer.commit(vec![flush]).await,
                        Some(flush) => {
                            ready.send(flush).ok();
                        }
                        None => {}
                    }
                }
            }
        };
        self.path.tasks.spawn(task);
    }
}

/// Tells the hub that a flush is out of the way, also when its task panics: a lane must not wait for it for
/// ever.
struct Done {
    events: mpsc::UnboundedSender<Event>,
    event: Option<Event>,
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(event) = self.event.take() {
            self.events.send(event).ok();
        }
    }
}

fn stricter(a: Placement, b: Placement) -> Placement {
    match (a, b) {
        (Placement::Object, _) | (_, Placement::Object) => Placement::Object,
        (Placement::Auto, _) | (_, Placement::Auto) => Placement::Auto,
        (Placement::Inline, Placement::Inline) => Placement::Inline,
    }
}

impl WritePath {
    fn inline(&self, pendings: Vec<Pending>) -> Flush {
        let start = Instant::now();
        let flush = Flush::encode(self.parts.unregistered(), true, &self.origin, pendings);
        metrics::encoded(Lane::Small.label(), start.elapsed());
        flush
    }

    /// Encodes off the async threads and uploads; `None` when that failed and all who wait were told.
    async fn upload(&self, pendings: Vec<Pending>) -> Option<Flush> {
        let _slot = self.uploads.acquire().await.ok()?;
        let start = Instant::now();
        let part = match self.parts.take().await {
            Ok(part) => part,
            Err(error) => {
                tracing::warn!(error = %crate::error_chain(&error), "registering segment ids failed");
                refuse(pendings, || AppendError::OutcomeUnknown);
                return None;
            }
        };
        let origin = self.origin.clone();
        let flush = crate::blocking::run(move || Flush::encode(part, false, &origin, pendings)).await;
        metrics::encoded(Lane::Bulk.label(), start.elapsed());
        match self.store.put(&key::ingest(&self.origin.cluster, part), &flush.bytes).await {
            Ok(()) => Some(flush),
            Err(error) => {
                tracing::error!(error = %crate::error_chain(&error), "uploading a segment failed");
                refuse(flush.pendings, || AppendError::ObjectStore);
                None
            }
        }
    }
}

fn refuse(pendings: Vec<Pending>, error: impl Fn() -> AppendError) {
    for reply in pendings.into_iter().filter_map(|p| p.reply) {
        reply.send(Err(error())).ok();
    }
}
