//! Retry policy for calls of the control plane.

use millpond_core::Error;
use std::time::Duration;
use tokio::time::Instant;

/// When, and for how long, a failed call is sent again. Every call is idempotent, and an unknown outcome can
/// only be resolved by sending the same call again (see `millpond_core::Error`).
#[derive(Debug, Clone, Copy)]
pub struct Resend {
    /// Total time of all attempts, after which the last failure is returned.
    pub give_up_after: Duration,
    /// Pause before the second attempt; doubled before each further attempt.
    pub first_pause: Duration,
    /// Upper bound of the pause.
    pub max_pause: Duration,
}

impl Resend {
    /// Policy of calls that a client waits for.
    pub const SERVING: Self = Self {
        give_up_after: Duration::from_secs(3),
        first_pause: Duration::from_millis(10),
        max_pause: Duration::from_millis(500),
    };

    /// Sends the call until it succeeds, is rejected, or the time is used up.
    pub async fn run<T, R, F>(self, mut call: impl FnMut() -> F) -> Result<T, Error<R>>
    where
        F: Future<Output = Result<T, Error<R>>>,
    {
        let mut attempts = self.start();
        loop {
            match call().await {
                Err(error @ (Error::NotApplied(_) | Error::MaybeApplied(_))) => {
                    if !attempts.pause().await {
                        return Err(error);
                    }
                }
                outcome => return outcome,
            }
        }
    }

    /// Starts counting attempts, for callers that do more than resend between two attempts.
    #[must_use]
    pub fn start(self) -> Attempts {
        Attempts { policy: self, started: Instant::now(), pause: self.first_pause }
    }
}

/// The attempts of one call so far.
#[derive(Debug)]
pub struct Attempts {
    policy: Resend,
    started: Instant,
    pause: Duration,
}

impl Attempts {
    /// Whether the time for further attempts is used up.
    #[must_use]
    pub fn are_over(&self) -> bool {
        self.started.elapsed() >= self.policy.give_up_after
    }

    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits before the next attempt; returns `false` at once if the time is used up.
    pub async fn pause(&mut self) -> bool {
        if self.are_over() {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(self.policy.max_pause);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_is_sent_again_until_it_is_answered_or_the_time_is_over() {
        let mut sent = 0;
        let outcome: Result<(), Error<&str>> = Resend::SERVING
            .run(|| {
                sent += 1;
                async move {
                    if sent < 3 {
                        Err(Error::MaybeApplied("lost".into()))
                    } else {
                        Err(Error::Rejected("no"))
                    }
                }
            })
            .await;
        assert!(matches!(outcome, Err(Error::Rejected("no"))));
        assert_eq!(sent, 3);
        let start = Instant::now();
        let outcome: Result<(), Error> =
            Resend::SERVING.run(|| async { Err(Error::NotApplied("down".into())) }).await;
        assert!(matches!(outcome, Err(Error::NotApplied(_))));
        assert!(start.elapsed() >= Resend::SERVING.give_up_after);
        assert!(start.elapsed() < Resend::SERVING.give_up_after * 2);
    }
}
