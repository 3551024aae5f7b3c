//! The writer: queues appends in lanes, flushes them as the batcher decides, uploads and commits them.
//!
//! Invariants: an append is answered after its commit, never before; a caller that goes away cancels nothing;
//! at most one inline commit of the small lane is in flight, besides those that are overdue; uploads run in
//! parallel and are committed as they finish.

use super::AppendError;
use super::append::{Append, Appended};
use super::batcher::{Batcher, BatcherConfig, Decision, Lane, Reason};
use super::committer::{ANSWER_WAIT_MAX, Committer};
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

/// Handle of the writer task.
pub struct Writer {
    events: mpsc::UnboundedSender<Event>,
    path: Arc<WritePath>,
    /// Locks of idempotency keys, by key hash.
    keys: KeyedLocks<Uuid>,
}

/// Input of the writer task.
enum Event {
    Append(Box<Pending>),
    InlineDone,
    PutDone,
    InlineFull(bool),
    /// Flush everything, and drop the sender when all outcomes are known.
    Close(oneshot::Sender<()>),
}

/// The components that the flush tasks share.
pub struct WritePath {
    pub committer: Arc<Committer>,
    pub parts: Arc<PartPool>,
    pub store: Store,
    pub origin: Origin,
    pub health: Arc<Health>,
    /// Limits the uploads in flight.
    pub uploads: Arc<Semaphore>,
    /// All flush tasks.
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
    /// Starts the writer task and the task of the committer.
    #[must_use]
    pub fn start(path: Arc<WritePath>, config: BatcherConfig) -> Arc<Self> {
        let (events, inbox) = mpsc::unbounded_channel();
        let (ready, uploaded) = mpsc::unbounded_channel();
        let committer = tokio::spawn(Arc::clone(&path.committer).run(uploaded));
        let task = WriterTask {
            batcher: Batcher::new(config, Instant::now()),
            small: VecDeque::new(),
            bulk: VecDeque::new(),
            path: Arc::clone(&path),
            events: events.clone(),
            ready,
        };
        tokio::spawn(task.run(inbox, committer));
        Arc::new(Self { events, path, keys: KeyedLocks::default() })
    }

    /// Stores an append. It goes on even if the caller drops the future.
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

    /// Locks an idempotency key. A commit may contain a key only once, and a second request with the same key
    /// must see what the first one stored.
    async fn lock_key(&self, key: Uuid) -> Result<OwnedMutexGuard<()>, AppendError> {
        tokio::select! {
            biased;
            guard = self.keys.lock(key) => Ok(guard),
            () = self.path.health.control_plane_lost() => Err(AppendError::OutcomeUnknown),
        }
    }

    /// While set, small requests go to segments, too.
    pub fn set_inline_full(&self, full: bool) {
        self.events.send(Event::InlineFull(full)).ok();
    }

    /// Flushes all waiting appends and returns when the outcome of everything in flight is known.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.events.send(Event::Close(done)).is_ok() {
            closed.await.ok();
        }
    }
}

/// The writer task.
struct WriterTask {
    batcher: Batcher,
    small: VecDeque<Pending>,
    bulk: VecDeque<Pending>,
    path: Arc<WritePath>,
    events: mpsc::UnboundedSender<Event>,
    /// Uploaded flushes, for the committer.
    ready: mpsc::UnboundedSender<Flush>,
}

impl WriterTask {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Event>, committer: JoinHandle<()>) {
        let mut closing: Option<oneshot::Sender<()>> = None;
        loop {
            while let Ok(event) = inbox.try_recv() {
                self.handle(event, &mut closing);
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
                Some(event) => self.handle(event, &mut closing),
                None => return,
            }
        }
    }

    fn handle(&mut self, event: Event, closing: &mut Option<oneshot::Sender<()>>) {
        match event {
            Event::Append(pending) => self.accept(*pending),
            Event::InlineDone => self.batcher.inline_done(),
            Event::PutDone => self.batcher.put_done(),
            Event::InlineFull(full) => self.batcher.inline_full = full,
            Event::Close(done) => *closing = Some(done),
        }
    }

    /// Puts an append into a lane, or sends it at once if it must have a commit of its own.
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
        // An append without records needs no upload.
        let lane = if pending.append.pieces.is_empty() {
            Lane::Small
        } else {
            self.batcher.lane(bytes, placement, now)
        };
        if pending.append.expect.is_some() || pending.append.guard.is_some() {
            // Without records there is nothing to pay for.
            let begin = if pending.append.pieces.is_empty() {
                now
            } else {
                self.batcher.offer_alone(lane, bytes, now)
            };
            self.send(lane, vec![pending], Some(begin));
            return;
        }
        self.batcher.offer(lane, bytes, now);
        match lane {
            Lane::Small => self.small.push_back(pending),
            Lane::Bulk => self.bulk.push_back(pending),
        }
    }

    /// Takes as many appends from a lane as fit into one part, and sends them.
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
        let since = queue.front().map(|p| p.since);
        self.batcher.flushed(lane, bytes, since, now);
        metrics::flushed(lane.label(), reason.label(), taken.len(), bytes);
        self.send(lane, taken, None);
    }

    /// Starts the task that encodes, uploads and commits appends. With `alone` they get a commit of their
    /// own, which begins at that time and does not count as a flush of the lane.
    fn send(&self, lane: Lane, pendings: Vec<Pending>, alone: Option<Instant>) {
        let (path, ready) = (Arc::clone(&self.path), self.ready.clone());
        let event = if lane == Lane::Small { Event::InlineDone } else { Event::PutDone };
        let done = FlushDone { events: self.events.clone(), event: Some(event).filter(|_| alone.is_none()) };
        let task = async move {
            if let Some(begin) = alone {
                tokio::time::sleep_until(begin).await;
            }
            match lane {
                Lane::Small => {
                    let flush = path.inline(pendings);
                    let commit = path.committer.commit(vec![flush]);
                    tokio::pin!(commit);
                    let in_time = tokio::time::timeout(ANSWER_WAIT_MAX, &mut commit).await;
                    drop(done);
                    if in_time.is_err() {
                        commit.await;
                    }
                }
                Lane::Bulk => {
                    let uploaded = path.upload(pendings).await;
                    drop(done);
                    match uploaded {
                        Some(flush) if alone.is_some() => path.committer.commit(vec![flush]).await,
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

/// Sends an event to the writer task when dropped. It reports the end of a flush even if the flush task
/// panics: otherwise the lane would wait for it for ever.
struct FlushDone {
    events: mpsc::UnboundedSender<Event>,
    event: Option<Event>,
}

impl Drop for FlushDone {
    fn drop(&mut self) {
        if let Some(event) = self.event.take() {
            self.events.send(event).ok();
        }
    }
}

/// The placement of an append with pieces of both placements.
fn stricter(a: Placement, b: Placement) -> Placement {
    match (a, b) {
        (Placement::Object, _) | (_, Placement::Object) => Placement::Object,
        (Placement::Auto, _) | (_, Placement::Auto) => Placement::Auto,
        (Placement::Inline, Placement::Inline) => Placement::Inline,
    }
}

impl WritePath {
    /// Encodes appends into an inline payload.
    fn inline(&self, pendings: Vec<Pending>) -> Flush {
        let start = Instant::now();
        let flush = Flush::encode(self.parts.unregistered(), true, &self.origin, pendings);
        metrics::encoded(Lane::Small.label(), start.elapsed());
        flush
    }

    /// Encodes appends into a segment, on a blocking thread, and uploads it. On failure it answers the
    /// appends and returns `None`.
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

/// Answers appends with an error.
fn refuse(pendings: Vec<Pending>, error: impl Fn() -> AppendError) {
    for reply in pendings.into_iter().filter_map(|p| p.reply) {
        reply.send(Err(error())).ok();
    }
}
