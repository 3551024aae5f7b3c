//! What an agent knows of the things it depends on.

use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Requests are refused, and waiting ones answered "unknown", once the control plane has been silent for so long.
pub const FAIL_AFTER: Duration = Duration::from_secs(2);

pub struct Health {
    control_plane_down_since: watch::Sender<Option<Instant>>,
}

impl Default for Health {
    fn default() -> Self {
        Self { control_plane_down_since: watch::Sender::new(None) }
    }
}

impl Health {
    pub fn control_plane_up(&self) {
        self.control_plane_down_since.send_if_modified(|since| since.take().is_some());
    }

    pub fn control_plane_down(&self) {
        self.control_plane_down_since.send_if_modified(|since| since.replace(since.unwrap_or_else(Instant::now)).is_none());
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
