//! Periodic tasks that live as long as the object they work for.

use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The pause after a poll of the control plane is this many times the duration of the poll, so that polling
/// takes at most a tenth of the time.
const PAUSE_PER_POLL: u32 = 10;
/// How long an idle round waits for work before it returns. The task can end only between rounds.
pub const IDLE_WAIT_MAX: Duration = Duration::from_secs(5);

/// An object with periodic work.
pub trait Rounds: Send + Sync + 'static {
    /// Does one round of work and returns the pause before the next.
    fn round(&self) -> impl Future<Output = Duration> + Send;
}

/// Starts the task of an object. It ends when nobody else holds a reference to the object.
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

/// The pause after a poll of the control plane that began at `start` and has just ended.
#[must_use]
pub fn spaced(start: Instant, min_pause: Duration) -> Duration {
    min_pause.max(start.elapsed() * PAUSE_PER_POLL)
}
