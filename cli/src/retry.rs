//! Retries: how long a command repeats a failed request, and how long it pauses in between.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use super::error::CliError;

#[cfg(test)]
mod tests;

/// Upper bound of the first pause; it doubles with every failure.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
/// Upper bound of all pauses.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Limit of the exponent, against overflow.
const DOUBLINGS_MAX: u32 = 8;

/// The state of retries. Only time without progress counts against the limit, so that an input that takes
/// long to send can be sent again.
pub struct Patience {
    /// `None`: retry for ever.
    limit: Option<Duration>,
    /// Time since the last progress.
    waited: Duration,
    /// Failures since the last progress.
    failures: u32,
    rng: StdRng,
}

impl Patience {
    /// `limit`: how long to retry without progress; `None`: for ever.
    pub fn new(limit: Option<Duration>, rng: StdRng) -> Self {
        Self { limit, waited: Duration::ZERO, failures: 0, rng }
    }

    /// There was progress: time and failures count from zero again.
    pub fn progressed(&mut self) {
        self.waited = Duration::ZERO;
        self.failures = 0;
    }

    /// How long to pause before the next attempt, or `None` if the limit is reached. `idle` is the time
    /// without progress before the attempt failed; the pause is at least `retry_after`, which the server has
    /// asked for.
    pub fn pause(&mut self, idle: Duration, retry_after: Option<Duration>) -> Option<Duration> {
        self.waited = self.waited.saturating_add(idle);
        if self.limit.is_some_and(|limit| self.waited >= limit) {
            return None;
        }
        let doublings = self.failures.min(DOUBLINGS_MAX);
        let backoff = PAUSE_FIRST.saturating_mul(1 << doublings).min(PAUSE_MAX);
        let pause = retry_after.unwrap_or_default() + backoff.mul_f64(self.rng.random_range(0.5..1.0));
        self.failures = self.failures.saturating_add(1);
        self.waited = self.waited.saturating_add(pause);
        Some(pause)
    }

    /// The error to return after the last attempt has failed with `error`.
    pub fn give_up(&self, error: CliError) -> CliError {
        if self.limit == Some(Duration::ZERO) {
            return error;
        }
        CliError::GaveUp { waited: self.waited, source: Box::new(error) }
    }
}
