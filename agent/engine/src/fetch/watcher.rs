//! Wakes long polls when a high watermark advances.
//!
//! Commits of this agent wake them at once. Commits of other agents are found by one shared poll of the
//! control plane, which runs only while somebody waits.

use crate::rounds::{self, Rounds};
use millpond_core::{ControlPlane, Offset, PartitionId, Scope};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Shortest pause between two polls of the control plane.
const POLL_PAUSE_MIN: Duration = Duration::from_millis(50);

/// All watches of this agent.
pub struct Watcher {
    plane: Arc<dyn ControlPlane>,
    watched: Mutex<BTreeMap<PartitionId, Watched>>,
    /// Wakes the poll when a watch begins.
    watch_begun: Notify,
    next_id: AtomicU64,
    stopping: CancellationToken,
}

/// A partition with watches.
struct Watched {
    /// The scope in which its high watermark is queried.
    scope: Scope,
    /// Highest high watermark seen since the first watch began.
    known: Offset,
    /// The watches, by id.
    waiters: Vec<(u64, Arc<Notify>)>,
}

/// A watch of some partitions. It ends when dropped.
pub struct Watch {
    watcher: Arc<Watcher>,
    partitions: Vec<PartitionId>,
    id: u64,
    moved: Arc<Notify>,
}

impl Watcher {
    /// Starts the poll task.
    #[must_use]
    pub fn start(plane: Arc<dyn ControlPlane>) -> Arc<Self> {
        let watcher = Arc::new(Self {
            plane,
            watched: Mutex::new(BTreeMap::new()),
            watch_begun: Notify::new(),
            next_id: AtomicU64::new(0),
            stopping: CancellationToken::new(),
        });
        rounds::start(&watcher);
        watcher
    }

    /// Begins a watch. To miss no commit, begin it before the first read.
    #[must_use]
    pub fn watch(self: &Arc<Self>, scope: &Scope, partitions: Vec<PartitionId>) -> Watch {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let moved = Arc::new(Notify::new());
        {
            let mut watched = self.watched.lock();
            for partition in &partitions {
                let entry = watched.entry(*partition).or_insert_with(|| Watched {
                    scope: scope.clone(),
                    known: Offset::ZERO,
                    waiters: Vec::new(),
                });
                entry.waiters.push((id, Arc::clone(&moved)));
            }
        }
        self.watch_begun.notify_one();
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

    /// Wakes the watches of a partition, if its high watermark has advanced to this offset.
    pub fn advance(&self, partition: PartitionId, high_watermark: Offset) {
        if let Some(entry) = self.watched.lock().get_mut(&partition)
            && entry.known < high_watermark
        {
            entry.known = high_watermark;
            for (_, waiter) in &entry.waiters {
                waiter.notify_one();
            }
        }
    }
}

impl Rounds for Watcher {
    /// Waits until there is a watch, then polls the control plane once.
    async fn round(&self) -> Duration {
        let partitions: Vec<(Scope, PartitionId)> =
            self.watched.lock().iter().map(|(id, watched)| (watched.scope.clone(), *id)).collect();
        if partitions.is_empty() {
            tokio::time::timeout(rounds::IDLE_WAIT_MAX, self.watch_begun.notified()).await.ok();
            return POLL_PAUSE_MIN;
        }
        let start = Instant::now();
        match self.plane.high_watermarks(&partitions).await {
            Ok(seen) => {
                for (partition, high_watermark) in seen {
                    self.advance(partition, high_watermark);
                }
            }
            Err(error) => {
                tracing::debug!(error = %crate::error_chain(&error), "polling high watermarks failed")
            }
        }
        rounds::spaced(start, POLL_PAUSE_MIN)
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
            for (_, waiter) in entry.waiters.iter().filter(|(id, _)| *id != self.id) {
                waiter.notify_one();
            }
        }
    }

    /// Returns when the high watermark of a watched partition has advanced, or when the agent shuts down.
    pub async fn moved(&self) {
        tokio::select! {
            biased;
            () = self.moved.notified() => {}
            () = self.watcher.stopping.cancelled() => {}
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = self.watcher.watched.lock();
        for partition in &self.partitions {
            if let Some(entry) = watched.get_mut(partition) {
                entry.waiters.retain(|(id, _)| *id != self.id);
                if entry.waiters.is_empty() {
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

    #[tokio::test]
    async fn what_one_watch_saw_wakes_the_others() {
        let watcher = Watcher::start(Arc::new(MemoryControlPlane::new(Arc::new(SystemClock))));
        let (partition, all) = (PartitionId(1), vec![PartitionId(1)]);
        let scope = Scope::unauthenticated();
        let (first, second) = (watcher.watch(&scope, all.clone()), watcher.watch(&scope, all));
        first.saw(partition, Offset(9));
        second.saw(partition, Offset(10));
        watcher.advance(partition, Offset(10));
        tokio::time::timeout(Duration::from_secs(5), first.moved()).await.expect("it has not seen offset 10");
    }
}
