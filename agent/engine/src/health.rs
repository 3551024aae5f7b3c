//! What an agent knows of the things it depends on.

use millpond_core::ControlPlane;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Requests are refused, and waiting ones answered "unknown", once the control plane has been silent for so
/// long.
pub const FAIL_AFTER: Duration = Duration::from_secs(2);

const PROBE_EVERY: Duration = Duration::from_millis(500);

pub struct Health {
    control_plane_down_since: watch::Sender<Option<Instant>>,
}

impl Health {
    /// While the control plane is down it is asked every now and then, so that requests are taken again
    /// though none got through.
    #[must_use]
    pub fn start(plane: Arc<dyn ControlPlane>) -> Arc<Self> {
        let health = Arc::new(Self { control_plane_down_since: watch::Sender::new(None) });
        let weak = Arc::downgrade(&health);
        let mut since = health.control_plane_down_since.subscribe();
        tokio::spawn(async move {
            while since.wait_for(Option::is_some).await.is_ok() {
                tokio::time::sleep(PROBE_EVERY).await;
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

    pub fn control_plane_up(&self) {
        self.control_plane_down_since.send_if_modified(|since| since.take().is_some());
    }

    pub fn control_plane_down(&self) {
        self.control_plane_down_since
            .send_if_modified(|since| since.replace(since.unwrap_or_else(Instant::now)).is_none());
    }

    /// True while calls fail for longer than [`FAIL_AFTER`].
    #[must_use]
    pub fn is_control_plane_down(&self) -> bool {
        self.control_plane_down_since.borrow().is_some_and(|since| since.elapsed() >= FAIL_AFTER)
    }

    /// Returns once calls have failed for [`FAIL_AFTER`].
    pub async fn control_plane_lost(&self) {
        let mut since = self.control_plane_down_since.subscribe();
        loop {
            let down = *since.borrow_and_update();
            let changed = match down {
                Some(at) => tokio::time::timeout_at(at + FAIL_AFTER, since.changed()).await,
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
