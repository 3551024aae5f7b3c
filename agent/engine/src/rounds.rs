//! Work in rounds, each of which says when the next is due, while somebody still uses what it works for.

use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A look takes at most this part of the time.
const LOOK_SPACING: u32 = 10;

pub trait Rounds: Send + Sync + 'static {
    /// One round; returns the pause before the next.
    fn round(&self) -> impl Future<Output = Duration> + Send;
}

/// Starts a task that ends when nobody else holds `rounds`.
pub fn start<T: Rounds>(rounds: &Arc<T>) {
    let weak = Arc::downgrade(rounds);
    tokio::spawn(async move {
        while let Some(rounds) = weak.upgrade() {
            let pause = rounds.round().await;
            drop(rounds);
            tokio::time::sleep(pause).await;
        }
    });
}

/// The pause after a look at the control plane that began at `start`.
#[must_use]
pub fn spaced(start: Instant, min_pause: Duration) -> Duration {
    min_pause.max(start.elapsed() * LOOK_SPACING)
}
