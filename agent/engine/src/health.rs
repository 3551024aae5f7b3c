//! Whether the control plane is reachable, as seen by this agent.

use millpond_core::ControlPlane;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long commits must have failed before the control plane counts as down: new produce requests are then
/// refused, and waiting ones are answered "outcome unknown".
const DOWN_AFTER: Duration = Duration::from_secs(2);

/// Pause between two probes of a control plane whose calls fail.
const PROBE_PAUSE: Duration = Duration::from_millis(500);

/// Tracks since when calls to the control plane have failed.
pub struct Health {
    /// `None` while calls succeed.
    control_plane_down_since: watch::Sender<Option<Instant>>,
    /// The cluster's epoch, once it is another than that in which the agent began.
    later_epoch: watch::Sender<Option<i64>>,
}

impl Health {
    /// Starts the task that probes the control plane while its calls fail. Without the probe, no request
    /// would be accepted any more, and thus no call would notice that the control plane is back.
    #[must_use]
    pub fn start(plane: Arc<dyn ControlPlane>) -> Arc<Self> {
        let health = Arc::new(Self {
            control_plane_down_since: watch::Sender::new(None),
            later_epoch: watch::Sender::new(None),
        });
        let weak = Arc::downgrade(&health);
        let mut since = health.control_plane_down_since.subscribe();
        tokio::spawn(async move {
            while since.wait_for(Option::is_some).await.is_ok() {
                tokio::time::sleep(PROBE_PAUSE).await;
                let answered = plane.ping().await.is_ok();
                match weak.upgrade() {
                    Some(health) if answered => health.control_plane_up(),
                    Some(_) => {}
                    None => return,
                }
            }
        });
        health
    }

    /// The cluster is in another epoch than that in which the agent began.
    pub fn epoch_ended(&self, now: i64) {
        self.later_epoch.send_replace(Some(now));
    }

    /// Returns the cluster's epoch once it is another than that in which the agent began.
    pub async fn later_epoch(&self) -> i64 {
        let mut epoch = self.later_epoch.subscribe();
        match epoch.wait_for(Option::is_some).await.map(|epoch| *epoch) {
            Ok(Some(epoch)) => epoch,
            _ => std::future::pending().await,
        }
    }

    /// A call succeeded.
    pub fn control_plane_up(&self) {
        self.control_plane_down_since.send_if_modified(|since| since.take().is_some());
    }

    /// A call failed, or got no answer in time.
    pub fn control_plane_down(&self) {
        self.control_plane_down_since
            .send_if_modified(|since| since.replace(since.unwrap_or_else(Instant::now)).is_none());
    }

    /// Whether calls have failed for at least [`DOWN_AFTER`].
    #[must_use]
    pub fn is_control_plane_down(&self) -> bool {
        self.control_plane_down_since.borrow().is_some_and(|since| since.elapsed() >= DOWN_AFTER)
    }

    /// Returns once calls have failed for [`DOWN_AFTER`].
    pub async fn control_plane_lost(&self) {
        let mut since = self.control_plane_down_since.subscribe();
        loop {
            let down = *since.borrow_and_update();
            let changed = match down {
                Some(at) => tokio::time::timeout_at(at + DOWN_AFTER, since.changed()).await,
                None => Ok(since.changed().await),
            };
            match changed {
                Err(_) => return,
                Ok(Ok(())) => {}
                Ok(Err(_)) => std::future::pending().await,
            }
        }
    }
}
