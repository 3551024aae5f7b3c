//! Wakes long polls when a high watermark advances.
//!
//! Commits of this agent wake them at once. Commits of other agents are found by one shared poll of the
//! control plane, which is sent after a change, and only while somebody waits.

use crate::pulse::Pulse;
use crate::rounds::{self, Rounds};
use millpond_core::{ControlPlane, Offset, PartitionId, Scope};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Shortest pause between two polls of the control plane.
const POLL_PAUSE_MIN: Duration = Duration::from_millis(50);

/// All watches of this agent.
pub struct Watcher {
    plane: Arc<dyn ControlPlane>,
    pulse: Arc<Pulse>,
    /// Commits of this agent.
    commits: AtomicU64,
    watched: Mutex<BTreeMap<PartitionId, Watched>>,
    /// Wakes the poll when a watch begins.
    watch_begun: Notify,
    next_id: AtomicU64,
    asks: Mutex<Asks>,
    stopping: CancellationToken,
}

/// Questions for high watermarks that wait for the query that runs.
#[derive(Default)]
struct Asks {
    is_running: bool,
    waiting: Vec<Ask>,
}

struct Ask {
    scope: Scope,
    partitions: Vec<PartitionId>,
    answer: oneshot::Sender<Arc<Ends>>,
}

/// High watermarks; partitions that are gone have none.
pub type Ends = BTreeMap<PartitionId, Offset>;

/// A partition with watches.
struct Watched {
    /// The scope in which its high watermark is queried.
    scope: Scope,
    /// Highest high watermark seen since the first watch began.
    known: Offset,
    /// The watches, by id.
    waiters: BTreeMap<u64, Arc<Moved>>,
    /// Those that only commits of this agent wake.
    own_waiters: BTreeMap<u64, Arc<Moved>>,
}

/// Partitions that have moved since the holder of a watch last asked.
#[derive(Default)]
struct Moved {
    partitions: Mutex<BTreeSet<PartitionId>>,
    notify: Notify,
}

impl Moved {
    fn tell(&self, partition: PartitionId) {
        self.partitions.lock().insert(partition);
        self.notify.notify_one();
    }
}

/// A watch of some partitions. It ends when dropped.
pub struct Watch {
    watcher: Arc<Watcher>,
    partitions: Vec<PartitionId>,
    id: u64,
    moved: Arc<Moved>,
}

impl Watcher {
    /// Starts the poll task.
    #[must_use]
    pub fn start(plane: Arc<dyn ControlPlane>, pulse: Arc<Pulse>) -> Arc<Self> {
        let watcher = Arc::new(Self {
            plane,
            pulse,
            commits: AtomicU64::new(0),
            watched: Mutex::new(BTreeMap::new()),
            watch_begun: Notify::new(),
            next_id: AtomicU64::new(0),
            asks: Mutex::default(),
            stopping: CancellationToken::new(),
        });
        rounds::start(&watcher);
        watcher
    }

    /// Begins a watch. To miss no commit, begin it before the first read.
    #[must_use]
    pub fn watch(self: &Arc<Self>, scope: &Scope, partitions: Vec<PartitionId>) -> Watch {
        let watch = self.begin(scope, partitions, |entry| &mut entry.waiters);
        self.watch_begun.notify_one();
        watch
    }

    /// Begins a watch that only commits of this agent wake. It costs no poll.
    #[must_use]
    pub fn watch_own_commits(self: &Arc<Self>, scope: &Scope, partitions: Vec<PartitionId>) -> Watch {
        self.begin(scope, partitions, |entry| &mut entry.own_waiters)
    }

    fn begin(
        self: &Arc<Self>,
        scope: &Scope,
        partitions: Vec<PartitionId>,
        waiters: impl Fn(&mut Watched) -> &mut BTreeMap<u64, Arc<Moved>>,
    ) -> Watch {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let moved = Arc::new(Moved::default());
        {
            let mut watched = self.watched.lock();
            for partition in &partitions {
                let entry = watched.entry(*partition).or_insert_with(|| Watched {
                    scope: scope.clone(),
                    known: Offset::ZERO,
                    waiters: BTreeMap::new(),
                    own_waiters: BTreeMap::new(),
                });
                waiters(entry).insert(id, Arc::clone(&moved));
            }
        }
        Watch { watcher: Arc::clone(self), partitions, id, moved }
    }

    /// Ends all waits, because the agent is shutting down.
    pub fn stop(&self) {
        self.stopping.cancel();
    }

    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// High watermarks as a query finds them that begins after this was called. Queries are shared: whoever
    /// asks while one runs waits for the next. `None` if the query failed.
    pub async fn ends(self: &Arc<Self>, scope: &Scope, partitions: Vec<PartitionId>) -> Option<Arc<Ends>> {
        let (answer, answered) = oneshot::channel();
        let must_run = {
            let mut asks = self.asks.lock();
            asks.waiting.push(Ask { scope: scope.clone(), partitions, answer });
            !std::mem::replace(&mut asks.is_running, true)
        };
        if must_run {
            let watcher = Arc::clone(self);
            tokio::spawn(async move { watcher.answer_asks().await });
        }
        answered.await.ok()
    }

    async fn answer_asks(&self) {
        loop {
            let asks = {
                let mut asks = self.asks.lock();
                asks.is_running = !asks.waiting.is_empty();
                std::mem::take(&mut asks.waiting)
            };
            if asks.is_empty() {
                return;
            }
            let scopes: BTreeMap<PartitionId, &Scope> =
                asks.iter().flat_map(|ask| ask.partitions.iter().map(|id| (*id, &ask.scope))).collect();
            let all: Vec<(Scope, PartitionId)> =
                scopes.into_iter().map(|(id, scope)| (scope.clone(), id)).collect();
            match self.plane.high_watermarks(&all).await {
                Ok(ends) => {
                    let ends = Arc::new(ends.into_iter().collect::<Ends>());
                    asks.into_iter().for_each(|ask| drop(ask.answer.send(Arc::clone(&ends))));
                }
                // Dropping the asks tells them.
                Err(error) => {
                    tracing::debug!(error = %crate::error_chain(&error), "reading high watermarks failed");
                }
            }
        }
    }

    /// This agent has committed records: counts it.
    pub fn count_commit(&self) {
        self.commits.fetch_add(1, Ordering::Relaxed);
    }

    /// Number of commits of this agent so far.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// A commit of this agent has advanced the high watermark of a partition to this offset: wakes its
    /// watches.
    pub fn advance(&self, partition: PartitionId, high_watermark: Offset) {
        self.note(partition, high_watermark);
        if let Some(entry) = self.watched.lock().get(&partition) {
            for waiter in entry.own_waiters.values() {
                waiter.tell(partition);
            }
        }
    }

    /// Wakes the watches of a partition that wait for commits of any agent, if its high watermark was lower
    /// so far.
    fn note(&self, partition: PartitionId, high_watermark: Offset) {
        if let Some(entry) = self.watched.lock().get_mut(&partition)
            && entry.known < high_watermark
        {
            entry.known = high_watermark;
            for waiter in entry.waiters.values() {
                waiter.tell(partition);
            }
        }
    }
}

impl Rounds for Watcher {
    /// Waits until there is a watch, polls the control plane once, and waits for a change.
    async fn round(&self) -> Duration {
        let polled = |(id, watched): (&PartitionId, &Watched)| {
            (!watched.waiters.is_empty()).then(|| (watched.scope.clone(), *id))
        };
        let partitions: Vec<_> = self.watched.lock().iter().filter_map(polled).collect();
        if partitions.is_empty() {
            tokio::time::timeout(rounds::IDLE_WAIT_MAX, self.watch_begun.notified()).await.ok();
            return POLL_PAUSE_MIN;
        }
        let mut pulse = self.pulse.listen();
        let before = pulse.beat();
        let start = Instant::now();
        match self.plane.high_watermarks(&partitions).await {
            Ok(seen) => {
                for (partition, high_watermark) in seen {
                    self.note(partition, high_watermark);
                }
            }
            Err(error) => {
                tracing::debug!(error = %crate::error_chain(&error), "polling high watermarks failed")
            }
        }
        let next = Instant::now() + rounds::spaced(start, POLL_PAUSE_MIN);
        tokio::time::timeout(rounds::IDLE_WAIT_MAX, pulse.changed_since(before.changes)).await.ok();
        next.saturating_duration_since(Instant::now())
    }
}

impl Watch {
    /// Reports the high watermark that a read has found: only a higher one wakes this watch.
    pub fn saw(&self, partition: PartitionId, high_watermark: Offset) {
        if let Some(entry) = self.watcher.watched.lock().get_mut(&partition)
            && entry.known < high_watermark
        {
            entry.known = high_watermark;
            // Other watches may not have seen it. They are woken here, since `advance` does nothing for a
            // high watermark that is known already.
            for (_, waiter) in entry.waiters.iter().filter(|(id, _)| **id != self.id) {
                waiter.tell(partition);
            }
        }
    }

    /// Returns when the high watermark of a watched partition has advanced, or when the agent shuts down:
    /// the partitions that have moved since this was called before.
    pub async fn moved(&self) -> BTreeSet<PartitionId> {
        tokio::select! {
            biased;
            () = self.moved.notify.notified() => {}
            () = self.watcher.stopping.cancelled() => {}
        }
        std::mem::take(&mut *self.moved.partitions.lock())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = self.watcher.watched.lock();
        for partition in &self.partitions {
            if let Some(entry) = watched.get_mut(partition) {
                entry.waiters.remove(&self.id);
                entry.own_waiters.remove(&self.id);
                if entry.waiters.is_empty() && entry.own_waiters.is_empty() {
                    watched.remove(partition);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millpond_core::{MemoryControlPlane, SystemClock};

    fn watcher() -> Arc<Watcher> {
        let plane: Arc<dyn ControlPlane> = Arc::new(MemoryControlPlane::new(Arc::new(SystemClock)));
        Watcher::start(Arc::clone(&plane), Pulse::start(plane))
    }

    #[tokio::test]
    async fn a_watch_for_own_commits_is_woken_by_each_of_them_and_by_no_others() {
        let watcher = watcher();
        let partition = PartitionId(1);
        let own = watcher.watch_own_commits(&Scope::unauthenticated(), vec![partition]);
        watcher.note(partition, Offset(9));
        assert_eq!(futures::FutureExt::now_or_never(own.moved()), None);
        watcher.advance(partition, Offset(5));
        assert_eq!(own.moved().await, BTreeSet::from([partition]));
    }

    #[tokio::test]
    async fn what_one_watch_saw_wakes_the_others() {
        let watcher = watcher();
        let (partition, all) = (PartitionId(1), vec![PartitionId(1)]);
        let scope = Scope::unauthenticated();
        let (first, second) = (watcher.watch(&scope, all.clone()), watcher.watch(&scope, all));
        first.saw(partition, Offset(9));
        second.saw(partition, Offset(10));
        watcher.advance(partition, Offset(10));
        let moved = tokio::time::timeout(Duration::from_secs(5), first.moved()).await;
        assert_eq!(moved.expect("it has not seen offset 10"), BTreeSet::from([partition]));
    }

    #[tokio::test]
    async fn a_watch_is_told_which_partitions_moved() {
        let watcher = watcher();
        let all: Vec<PartitionId> = (0..9).map(PartitionId).collect();
        let watch = watcher.watch(&Scope::unauthenticated(), all);
        for partition in [3, 5, 3, 77] {
            watcher.advance(PartitionId(partition), Offset(1 + partition));
        }
        assert_eq!(watch.moved().await, BTreeSet::from([PartitionId(3), PartitionId(5)]));
        watcher.advance(PartitionId(5), Offset(60));
        assert_eq!(watch.moved().await, BTreeSet::from([PartitionId(5)]));
    }

    #[tokio::test]
    async fn those_who_ask_at_the_same_time_share_a_query() {
        let watcher = watcher();
        let scope = Scope::unauthenticated();
        let ask = || watcher.ends(&scope, vec![PartitionId(7)]);
        let (first, second, third) = tokio::join!(ask(), ask(), ask());
        let (first, second) = (first.expect("an answer"), second.expect("an answer"));
        assert!(Arc::ptr_eq(&first, &second) && Arc::ptr_eq(&second, &third.expect("an answer")));
        assert!(first.is_empty(), "the partition does not exist");
        assert!(
            !Arc::ptr_eq(&first, &ask().await.expect("an answer")),
            "a later question has a query of its own"
        );
    }
}
