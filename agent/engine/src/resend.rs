//! Sending the same call of the control plane again.

use millpond_core::Error;
use std::time::Duration;
use tokio::time::Instant;

/// When a call is sent again, and until when. Every call may arrive twice, and an outcome that is open is only
/// resolved by sending the same call again (`millpond_core::Error`).
#[derive(Debug, Clone, Copy)]
pub struct Resend {
    /// Total time after which the last failure is the answer.
    pub give_up_after: Duration,
    /// Pause before the second sending; doubled before each further one.
    pub first_pause: Duration,
    pub max_pause: Duration,
}

impl Resend {
    /// Somebody waits for the answer.
    pub const SERVING: Self = Self {
        give_up_after: Duration::from_secs(3),
        first_pause: Duration::from_millis(10),
        max_pause: Duration::from_millis(500),
    };

    /// Sends the call until it succeeds, is rejected, or the time is over.
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

    /// For loops that do more between two sendings.
    #[must_use]
    pub fn start(self) -> Attempts {
        Attempts { policy: self, started: Instant::now(), pause: self.first_pause }
    }
}

/// The sendings of one call so far.
#[derive(Debug)]
pub struct Attempts {
    policy: Resend,
    started: Instant,
    pause: Duration,
}

impl Attempts {
    /// Whether the time for another sending is over.
    #[must_use]
    pub fn are_over(&self) -> bool {
        self.started.elapsed() >= self.policy.give_up_after
    }

    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits before the next sending; `false` at once if there is to be none.
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
