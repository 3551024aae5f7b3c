//! Wakes members that wait when their group has a new generation or is due for one: this agent's changes at
//! once, all else through one shared poll, made only while somebody waits.

use millpond_core::{ControlPlane, Generation, GroupId};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

const POLL_MIN: Duration = Duration::from_millis(100);
/// The poll takes at most a tenth of the time.
const POLL_SPACING: u32 = 10;

pub struct GroupWatcher {
    plane: Arc<dyn ControlPlane>,
    watched: Mutex<HashMap<GroupId, Vec<Waiter>>>,
    wanted: Notify,
    next_id: AtomicU64,
}

struct Waiter {
    id: u64,
    known: Generation,
    moved: Arc<Notify>,
}

/// An interest in whatever follows a generation, until dropped.
pub struct GroupWatch {
    watcher: Arc<GroupWatcher>,
    group: GroupId,
    id: u64,
    moved: Arc<Notify>,
}

impl GroupWatcher {
    fn new(plane: Arc<dyn ControlPlane>) -> Self {
        Self { plane, watched: Mutex::new(HashMap::new()), wanted: Notify::new(), next_id: AtomicU64::new(0) }
    }

    #[must_use]
    pub fn start(plane: Arc<dyn ControlPlane>) -> Arc<Self> {
        let watcher = Arc::new(Self::new(plane));
        let weak = Arc::downgrade(&watcher);
        tokio::spawn(async move {
            while let Some(watcher) = weak.upgrade() {
                let took = watcher.poll().await;
                drop(watcher);
                tokio::time::sleep(POLL_MIN.max(took * POLL_SPACING)).await;
            }
        });
        watcher
    }

    #[must_use]
    pub fn watch(self: &Arc<Self>, group: GroupId, known: Generation) -> GroupWatch {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let moved = Arc::new(Notify::new());
        self.watched.lock().entry(group).or_default().push(Waiter { id, known, moved: Arc::clone(&moved) });
        self.wanted.notify_one();
        GroupWatch { watcher: Arc::clone(self), group, id, moved }
    }

    /// A group is known to have this generation.
    pub fn changed(&self, group: GroupId, generation: Generation) {
        self.wake(group, |waiter| waiter.known != generation);
    }

    fn wake(&self, group: GroupId, which: impl Fn(&Waiter) -> bool) {
        for waiter in self.watched.lock().get(&group).into_iter().flatten().filter(|w| which(w)) {
            waiter.moved.notify_one();
        }
    }

    /// Waits until somebody watches, looks once, returns how long the look took.
    async fn poll(&self) -> Duration {
        let groups: Vec<GroupId> = self.watched.lock().keys().copied().collect();
        if groups.is_empty() {
            tokio::time::timeout(Duration::from_secs(5), self.wanted.notified()).await.ok();
            return Duration::ZERO;
        }
        let start = Instant::now();
        match self.plane.generations(&groups).await {
            Ok(seen) => {
                for (group, generation, stale) in &seen {
                    self.wake(*group, |waiter| *stale || waiter.known != *generation);
                }
                for gone in groups.iter().filter(|g| seen.iter().all(|(group, _, _)| group != *g)) {
                    self.wake(*gone, |_| true);
                }
            }
            Err(error) => tracing::debug!(error = %crate::error_chain(&error), "watching groups failed"),
        }
        start.elapsed()
    }
}

impl GroupWatch {
    /// Returns once the group has, or needs, another generation than the one known.
    pub async fn moved(&self) {
        self.moved.notified().await;
    }
}

impl Drop for GroupWatch {
    fn drop(&mut self) {
        let mut watched = self.watcher.watched.lock();
        if let Some(waiters) = watched.get_mut(&self.group) {
            waiters.retain(|waiter| waiter.id != self.id);
            if waiters.is_empty() {
                watched.remove(&self.group);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use millpond_core::{MemoryControlPlane, Name, SystemClock};

    #[tokio::test]
    async fn a_change_wakes_those_who_know_another_generation_and_no_others() {
        // Without its poll, which would wake both: there is no such group.
        let watcher = Arc::new(GroupWatcher::new(Arc::new(MemoryControlPlane::new(Arc::new(SystemClock)))));
        let (old, new) = (watcher.watch(GroupId(1), Generation(1)), watcher.watch(GroupId(1), Generation(2)));
        watcher.changed(GroupId(1), Generation(2));
        assert!(old.moved().now_or_never().is_some(), "generation 1 is over");
        assert!(new.moved().now_or_never().is_none(), "generation 2 was known");
        drop((old, new));
        assert!(watcher.watched.lock().is_empty());
    }

    #[tokio::test]
    async fn a_group_that_needs_a_generation_is_noticed() {
        let plane: Arc<dyn ControlPlane> = Arc::new(MemoryControlPlane::new(Arc::new(SystemClock)));
        let (tenant, name) = (Name::default_tenant(), Name::new("g").expect("a name"));
        plane.make_group(&tenant, &name).await.expect("made");
        let state = plane.group(&tenant, &name, &[]).await.expect("a group");
        let watcher = GroupWatcher::start(Arc::clone(&plane));
        let watch = watcher.watch(state.id, state.generation);
        plane.regroup(&state.next(None, None)).await.expect("a generation");
        tokio::time::timeout(Duration::from_secs(5), watch.moved()).await.expect("another agent's change");
    }
}
