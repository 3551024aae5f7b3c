//! Says when anything may have changed in the control plane, at the price of one small statement a beat.
//!
//! Whoever waits for changes by other agents listens here, and asks for details only after a change. While
//! nobody listens, nothing is sent.

use crate::rounds::{self, Rounds};
use millpond_core::ControlPlane;
use millpond_core::control_plane::Snapshot;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Shortest pause between two beats.
const PAUSE_MIN: Duration = Duration::from_millis(70);
/// Shortest pause between two beats that somebody asked for.
const HURRIED_PAUSE_MIN: Duration = Duration::from_millis(2);

/// One look at the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// When the look began. What was committed before is taken into account.
    pub began: Instant,
    /// Number of changes seen so far. If it is that of an earlier beat, nothing was committed in between.
    pub changes: u64,
}

/// The pulse of this agent.
pub struct Pulse {
    plane: Arc<dyn ControlPlane>,
    last: Mutex<Option<Snapshot>>,
    beats: watch::Sender<Beat>,
    listeners: AtomicUsize,
    /// Wakes the task when a listener begins.
    begun: Notify,
    /// Asks for a beat before the pause is over.
    hurried: Notify,
}

/// A listener. The pulse beats while there is one.
pub struct Listener {
    pulse: Arc<Pulse>,
    beats: watch::Receiver<Beat>,
}

impl Pulse {
    /// Starts the task.
    #[must_use]
    pub fn start(plane: Arc<dyn ControlPlane>) -> Arc<Self> {
        let pulse = Arc::new(Self {
            plane,
            last: Mutex::new(None),
            beats: watch::Sender::new(Beat { began: Instant::now(), changes: 0 }),
            listeners: AtomicUsize::new(0),
            begun: Notify::new(),
            hurried: Notify::new(),
        });
        rounds::start(&pulse);
        pulse
    }

    /// The beats, whoever makes it beat.
    #[must_use]
    pub fn beats(&self) -> watch::Receiver<Beat> {
        self.beats.subscribe()
    }

    #[must_use]
    pub fn listen(self: &Arc<Self>) -> Listener {
        self.listeners.fetch_add(1, Ordering::Relaxed);
        self.begun.notify_one();
        Listener { pulse: Arc::clone(self), beats: self.beats.subscribe() }
    }
}

impl Rounds for Pulse {
    /// Waits until somebody listens, then looks once.
    async fn round(&self) -> Duration {
        if self.listeners.load(Ordering::Relaxed) == 0 {
            tokio::time::timeout(rounds::IDLE_WAIT_MAX, self.begun.notified()).await.ok();
            return Duration::ZERO;
        }
        let began = Instant::now();
        match self.plane.snapshot().await {
            Ok(snapshot) => {
                let is_new = self.last.lock().replace(snapshot.clone()).as_ref() != Some(&snapshot);
                self.beats
                    .send_modify(|beat| *beat = Beat { began, changes: beat.changes + u64::from(is_new) });
            }
            Err(error) => {
                tracing::debug!(error = %crate::error_chain(&error), "looking for changes failed");
            }
        }
        let pause = rounds::spaced(began, PAUSE_MIN);
        let next = Instant::now() + pause;
        tokio::time::timeout_at(next, self.hurried.notified()).await.ok();
        next.saturating_duration_since(Instant::now()).min(HURRIED_PAUSE_MIN)
    }
}

impl Listener {
    /// The last beat.
    #[must_use]
    pub fn beat(&self) -> Beat {
        *self.beats.borrow()
    }

    // The sender of the beats lives as long as the pulse, which a listener holds.
    /// Returns once something may have changed since the beat with this number of changes.
    pub async fn changed_since(&mut self, changes: u64) {
        self.beats.wait_for(|beat| beat.changes != changes).await.ok();
    }

    /// Asks for a beat at once.
    pub fn hurry(&self) {
        self.pulse.hurried.notify_one();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.pulse.listeners.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millpond_core::{MemoryControlPlane, SystemClock};

    #[tokio::test(start_paused = true)]
    async fn it_beats_while_somebody_listens() {
        let pulse = Pulse::start(Arc::new(MemoryControlPlane::new(Arc::new(SystemClock))));
        tokio::time::sleep(PAUSE_MIN * 10).await;
        let mut listener = pulse.listen();
        let before = listener.beat();
        assert_eq!(before.changes, 0, "nobody listened");
        listener.changed_since(before.changes).await;
        let next = listener.beat();
        assert!(next.began > before.began);
        listener.changed_since(next.changes).await;
        drop(listener);
        tokio::time::sleep(PAUSE_MIN * 2).await;
        let last = *pulse.beats.borrow();
        tokio::time::sleep(PAUSE_MIN * 10).await;
        assert_eq!(*pulse.beats.borrow(), last, "nobody listens any more");
    }
}
