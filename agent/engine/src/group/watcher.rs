//! Wakes waiting members of a group when it has a new generation or needs one.
//!
//! Changes by this agent wake them at once. Other changes are found by one shared poll of the control plane,
//! which is sent after a change, and now and then for members that are silent; only while somebody waits.

use crate::pulse::Pulse;
use crate::rounds::{self, Rounds};
use millpond_core::{ControlPlane, Generation, GroupId, Scope};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Shortest pause between two polls of the control plane.
const POLL_PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause. The end of a session needs a new generation and is no change of the control plane.
const POLL_PAUSE_MAX: Duration = Duration::from_secs(1);

/// All group watches of this agent.
pub struct GroupWatcher {
    plane: Arc<dyn ControlPlane>,
    pulse: Arc<Pulse>,
    watched: Mutex<HashMap<GroupId, Watched>>,
    /// Wakes the poll when a watch begins.
    watch_begun: Notify,
    next_id: AtomicU64,
}

/// A group with watches.
struct Watched {
    /// The scope in which its generation is queried.
    scope: Scope,
    waiters: Vec<Waiter>,
}

/// One watch of a group.
struct Waiter {
    id: u64,
    /// The generation that its member knows.
    known: Generation,
    moved: Arc<Notify>,
}

/// A watch for the generation after a known one. It ends when dropped.
pub struct GroupWatch {
    watcher: Arc<GroupWatcher>,
    group: GroupId,
    id: u64,
    moved: Arc<Notify>,
}

impl GroupWatcher {
    fn new(plane: Arc<dyn ControlPlane>, pulse: Arc<Pulse>) -> Self {
        Self {
            plane,
            pulse,
            watched: Mutex::new(HashMap::new()),
            watch_begun: Notify::new(),
            next_id: AtomicU64::new(0),
        }
    }

    /// Starts the poll task.
    #[must_use]
    pub fn start(plane: Arc<dyn ControlPlane>, pulse: Arc<Pulse>) -> Arc<Self> {
        let watcher = Arc::new(Self::new(plane, pulse));
        rounds::start(&watcher);
        watcher
    }

    /// Begins a watch for any generation other than `known`.
    #[must_use]
    pub fn watch(self: &Arc<Self>, scope: &Scope, group: GroupId, known: Generation) -> GroupWatch {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let moved = Arc::new(Notify::new());
        let new = || Watched { scope: scope.clone(), waiters: Vec::new() };
        let waiter = Waiter { id, known, moved: Arc::clone(&moved) };
        self.watched.lock().entry(group).or_insert_with(new).waiters.push(waiter);
        self.watch_begun.notify_one();
        GroupWatch { watcher: Arc::clone(self), group, id, moved }
    }

    /// Wakes the watches of a group that do not know this generation.
    pub fn changed(&self, group: GroupId, generation: Generation) {
        self.wake(group, |waiter| waiter.known != generation);
    }

    /// Wakes the watches of a group for which `which` is true.
    fn wake(&self, group: GroupId, which: impl Fn(&Waiter) -> bool) {
        let watched = self.watched.lock();
        let waiters = watched.get(&group).map(|watched| &watched.waiters).into_iter().flatten();
        for waiter in waiters.filter(|waiter| which(waiter)) {
            waiter.moved.notify_one();
        }
    }
}

impl Rounds for GroupWatcher {
    /// Waits until there is a watch, polls the control plane once, and waits for a change.
    async fn round(&self) -> Duration {
        let groups: Vec<(Scope, GroupId)> =
            self.watched.lock().iter().map(|(id, watched)| (watched.scope.clone(), *id)).collect();
        if groups.is_empty() {
            tokio::time::timeout(rounds::IDLE_WAIT_MAX, self.watch_begun.notified()).await.ok();
            return POLL_PAUSE_MIN;
        }
        let mut pulse = self.pulse.listen();
        let before = pulse.beat();
        let start = Instant::now();
        match self.plane.generations(&groups).await {
            Ok(seen) => {
                for (group, generation, stale) in &seen {
                    self.wake(*group, |waiter| *stale || waiter.known != *generation);
                }
                // A group that is missing from the answer was deleted.
                let there: HashSet<GroupId> = seen.iter().map(|(group, _, _)| *group).collect();
                for (_, gone) in groups.iter().filter(|(_, group)| !there.contains(group)) {
                    self.wake(*gone, |_| true);
                }
            }
            Err(error) => {
                tracing::debug!(error = %crate::error_chain(&error), "polling group generations failed")
            }
        }
        let next = Instant::now() + rounds::spaced(start, POLL_PAUSE_MIN);
        tokio::time::timeout(POLL_PAUSE_MAX, pulse.changed_since(before.changes)).await.ok();
        next.saturating_duration_since(Instant::now())
    }
}

impl GroupWatch {
    /// Returns when the group has, or needs, another generation than the known one.
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
        // The poll is not started: it would wake both watches, since the group does not exist.
        let plane: Arc<dyn ControlPlane> = Arc::new(MemoryControlPlane::new(Arc::new(SystemClock)));
        let watcher = Arc::new(GroupWatcher::new(Arc::clone(&plane), Pulse::start(plane)));
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
        let watcher = GroupWatcher::start(Arc::clone(&plane), Pulse::start(Arc::clone(&plane)));
        let watch = watcher.watch(&scope, state.id, state.generation);
        plane.regroup(&state.next(&scope, None, None)).await.expect("a generation");
        tokio::time::timeout(Duration::from_secs(5), watch.moved()).await.expect("another agent's change");
    }
}
