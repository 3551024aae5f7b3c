//! The schedule of an open-loop load: when each request is due.

use crate::Outcome;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Sends the number and due time of each request when it is due: `rate` per second, from `start` on. The
/// waiting is done by a separate thread, since the runtime's timers have a resolution of one millisecond.
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

/// Number of requests that are due within `seconds`.
pub fn requests(rate: f64, seconds: u32) -> Outcome<u32> {
    let count = (rate * f64::from(seconds)).ceil();
    if rate > 0.0 && (0.0..=4e9).contains(&count) {
        return Ok(format!("{count:.0}").parse()?);
    }
    Err("the rate is out of range".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_and_impossible_rates_refused() {
        assert_eq!(requests(0.5, 3).expect("a count"), 2);
        assert_eq!(requests(1_000.0, 4).expect("a count"), 4_000);
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e12] {
            assert!(requests(rate, 1).is_err(), "{rate}");
        }
    }
}
