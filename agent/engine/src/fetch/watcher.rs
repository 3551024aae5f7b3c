//! Wakes long polls: this agent's commits at once, other agents' through one shared poll, made only while
//! somebody waits.

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

/// Pause between two looks at the control plane while somebody watches.
const POLL_PAUSE_MIN: Duration = Duration::from_millis(50);

pub struct Watcher {
    plane: Arc<dyn ControlPlane>,
    watched: Mutex<BTreeMap<PartitionId, Watched>>,
    wanted: Notify,
    next_id: AtomicU64,
    stopping: CancellationToken,
}

struct Watched {
    /// On whose behalf its high watermark is asked for.
    scope: Scope,
    known: Offset,
    waiters: Vec<(u64, Arc<Notify>)>,
}

/// An interest in some partitions, until dropped.
pub struct Watch {
    watcher: Arc<Watcher>,
    partitions: Vec<PartitionId>,
    id: u64,
    moved: Arc<Notify>,
}

impl Watcher {
    #[must_use]
    pub fn start(plane: Arc<dyn ControlPlane>) -> Arc<Self> {
        let watcher = Arc::new(Self {
            plane,
            watched: Mutex::new(BTreeMap::new()),
            wanted: Notify::new(),
            next_id: AtomicU64::new(0),
            stopping: CancellationToken::new(),
        });
        rounds::start(&watcher);
        watcher
    }

    /// Subscribe first, look second: what is committed after the look wakes the watch.
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
        self.wanted.notify_one();
        Watch { watcher: Arc::clone(self), partitions, id, moved }
    }

    /// Nobody is to wait any more: the agent stops.
    pub fn stop(&self) {
        self.stopping.cancel();
    }

    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// A partition's high watermark is known to be at least this.
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
    /// Waits until somebody watches, and looks once.
    async fn round(&self) -> Duration {
        let partitions: Vec<(Scope, PartitionId)> =
            self.watched.lock().iter().map(|(id, watched)| (watched.scope.clone(), *id)).collect();
        if partitions.is_empty() {
            tokio::time::timeout(Duration::from_secs(5), self.wanted.notified()).await.ok();
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
                tracing::debug!(error = %crate::error_chain(&error), "watching high watermarks failed")
            }
        }
        rounds::spaced(start, POLL_PAUSE_MIN)
    }
}

impl Watch {
    /// What a look found; only more than this wakes.
    pub fn saw(&self, partition: PartitionId, high_watermark: Offset) {
        if let Some(entry) = self.watcher.watched.lock().get_mut(&partition)
            && entry.known < high_watermark
        {
            entry.known = high_watermark;
            // Others may not have looked since: what one has seen by itself, nobody else would tell them.
            for (_, waiter) in entry.waiters.iter().filter(|(id, _)| *id != self.id) {
                waiter.notify_one();
            }
        }
    }

    /// Returns once some watched partition has more than was known, or the agent stops.
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
