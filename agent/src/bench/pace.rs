//! When each request of an open loop is due.

use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Hands over each request's number and due time when it is due, `rate` a second from `start` on. The runtime's timers count whole
/// milliseconds, so a thread of its own waits.
#[expect(clippy::disallowed_methods, reason = "finer than the runtime's timers")]
pub fn open_loop(start: Instant, rate: f64, total: u32) -> mpsc::UnboundedReceiver<(u32, Instant)> {
    let (hand_over, due_requests) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for number in 0..total {
            let due = start + Duration::from_secs_f64(f64::from(number) / rate);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if hand_over.send((number, due)).is_err() {
                return;
            }
        }
    });
    due_requests
}
