//! How long a command goes on trying, and at what pace.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use super::error::CliError;

#[cfg(test)]
mod tests;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const MAX_DOUBLINGS: u32 = 8;

/// Counts the time that passes without progress. Time in which data flows is not counted, so that
/// an input that takes long to send again has its chance.
pub struct Patience {
    limit: Option<Duration>,
    waited: Duration,
    failures: u32,
    rng: StdRng,
}

impl Patience {
    /// Without a limit it never ends.
    pub fn new(limit: Option<Duration>, rng: StdRng) -> Self {
        Self { limit, waited: Duration::ZERO, failures: 0, rng }
    }

    /// Something got further than ever before: counts from zero again.
    pub fn progressed(&mut self) {
        self.waited = Duration::ZERO;
        self.failures = 0;
    }

    /// How long to pause before the next attempt, or `None` when patience has ended. `idle` is how
    /// long nothing moved before the attempt failed; `retry_after` is the server's wish, and the
    /// least the pause will be.
    pub fn pause(&mut self, idle: Duration, retry_after: Option<Duration>) -> Option<Duration> {
        self.waited = self.waited.saturating_add(idle);
        if self.limit.is_some_and(|limit| self.waited >= limit) {
            return None;
        }
        let doublings = self.failures.min(MAX_DOUBLINGS);
        let backoff = FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
        let pause = retry_after.unwrap_or_default() + backoff.mul_f64(self.rng.random_range(0.5..1.0));
        self.failures = self.failures.saturating_add(1);
        self.waited = self.waited.saturating_add(pause);
        Some(pause)
    }

    /// The error to end with after the last attempt failed with `error`.
    pub fn give_up(&self, error: CliError) -> CliError {
        if self.limit == Some(Duration::ZERO) {
            return error;
        }
        CliError::GaveUp { waited: self.waited, source: Box::new(error) }
    }
}
