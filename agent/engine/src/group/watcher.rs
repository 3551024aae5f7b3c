//! Wakes members that wait when their group has a new generation or is due for one: this agent's changes at
//! once, all else through one shared poll, made only while somebody waits.

use crate::rounds::{self, Rounds};
use millpond_core::{ControlPlane, Generation, GroupId, Scope};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Pause between two looks at the control plane while somebody watches.
const POLL_PAUSE_MIN: Duration = Duration::from_millis(100);

pub struct GroupWatcher {
    plane: Arc<dyn ControlPlane>,
    watched: Mutex<HashMap<GroupId, Watched>>,
    wanted: Notify,
    next_id: AtomicU64,
}

struct Watched {
    /// On whose behalf its generation is asked for.
    scope: Scope,
    waiters: Vec<Waiter>,
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
        rounds::start(&watcher);
        watcher
    }

    #[must_use]
    pub fn watch(self: &Arc<Self>, scope: &Scope, group: GroupId, known: Generation) -> GroupWatch {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let moved = Arc::new(Notify::new());
        let new = || Watched { scope: scope.clone(), waiters: Vec::new() };
        let waiter = Waiter { id, known, moved: Arc::clone(&moved) };
        self.watched.lock().entry(group).or_insert_with(new).waiters.push(waiter);
        self.wanted.notify_one();
        GroupWatch { watcher: Arc::clone(self), group, id, moved }
    }

    /// A group is known to have this generation.
    pub fn changed(&self, group: GroupId, generation: Generation) {
        self.wake(group, |waiter| waiter.known != generation);
    }

    fn wake(&self, group: GroupId, which: impl Fn(&Waiter) -> bool) {
        let watched = self.watched.lock();
        let waiters = watched.get(&group).map(|watched| &watched.waiters).into_iter().flatten();
        for waiter in waiters.filter(|waiter| which(waiter)) {
            waiter.moved.notify_one();
        }
    }
}

impl Rounds for GroupWatcher {
    /// Waits until somebody watches, and looks once.
    async fn round(&self) -> Duration {
        let groups: Vec<(Scope, GroupId)> =
            self.watched.lock().iter().map(|(id, watched)| (watched.scope.clone(), *id)).collect();
        if groups.is_empty() {
            tokio::time::timeout(Duration::from_secs(5), self.wanted.notified()).await.ok();
            return POLL_PAUSE_MIN;
        }
        let start = Instant::now();
        match self.plane.generations(&groups).await {
            Ok(seen) => {
                for (group, generation, stale) in &seen {
                    self.wake(*group, |waiter| *stale || waiter.known != *generation);
                }
                for (_, gone) in groups.iter().filter(|(_, g)| seen.iter().all(|(group, _, _)| group != g)) {
                    self.wake(*gone, |_| true);
                }
            }
            Err(error) => tracing::debug!(error = %crate::error_chain(&error), "watching groups failed"),
        }
        rounds::spaced(start, POLL_PAUSE_MIN)
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
        if let Some(group) = watched.get_mut(&self.group) {
            group.waiters.retain(|waiter| waiter.id != self.id);
            if group.waiters.is_empty() {
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
        let scope = Scope::unauthenticated();
        let (old, new) = (
            watcher.watch(&scope, GroupId(1), Generation(1)),
            watcher.watch(&scope, GroupId(1), Generation(2)),
        );
        watcher.changed(GroupId(1), Generation(2));
        assert!(old.moved().now_or_never().is_some(), "generation 1 is over");
        assert!(new.moved().now_or_never().is_none(), "generation 2 was known");
        drop((old, new));
        assert!(watcher.watched.lock().is_empty());
    }

    #[tokio::test]
    async fn a_group_that_needs_a_generation_is_noticed() {
        let plane: Arc<dyn ControlPlane> = Arc::new(MemoryControlPlane::new(Arc::new(SystemClock)));
        let (scope, name) = (Scope::unauthenticated(), Name::new("g").expect("a name"));
        plane.make_group(&scope, &name).await.expect("made");
        let state = plane.group(&scope, &name, &[]).await.expect("a group");
        let watcher = GroupWatcher::start(Arc::clone(&plane));
        let watch = watcher.watch(&scope, state.id, state.generation);
        plane.regroup(&state.next(&scope, None, None)).await.expect("a generation");
        tokio::time::timeout(Duration::from_secs(5), watch.moved()).await.expect("another agent's change");
    }
}
