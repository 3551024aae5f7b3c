//! What happens to leased records when they are settled or when their lease expires, as pure functions.
//!
//! `queries/queue/settle.sql` and `expire.sql` contain the same arithmetic.

use super::{Action, Outcome};
use crate::retry::{self, RetryPolicy};
use std::ops::Range;

/// Reason that records of an expired lease carry while they wait and when they are dead.
pub const LEASE_EXPIRED: &str = "lease expired";

/// A run of leased records with the same attempt and failures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub range: Range<i64>,
    pub attempt: i32,
    pub failures: i32,
}

/// The effect of a settlement, or of the expiry of a lease, on a run of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    Acked,
    Expired,
    Renewed { deadline_ms: i64 },
    Dead { failures: i32, reason: Option<String> },
    Waits { due_ms: i64, attempt: i32, failures: i32, alone: bool, reason: Option<String> },
}

impl Fate {
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Acked => Outcome::Acked,
            Self::Expired => Outcome::Expired,
            Self::Renewed { .. } => Outcome::Renewed,
            Self::Dead { .. } => Outcome::Dead,
            Self::Waits { .. } => Outcome::Released,
        }
    }
}

/// Applies the retry policy of a queue at one instant, with one random number.
#[derive(Clone, Debug)]
pub struct Judge {
    pub now_ms: i64,
    pub retry: RetryPolicy,
    pub ladder: Vec<i64>,
    pub random: f64,
}

impl Judge {
    #[must_use]
    pub fn new(retry: RetryPolicy, now_ms: i64, random: f64) -> Self {
        Self { now_ms, retry, ladder: retry.ladder(), random }
    }

    fn backoff_ms(&self, failures: i32, lo: i64) -> i64 {
        retry::delay_ms(&self.ladder, self.retry.jitter, failures, lo, self.random)
    }

    /// What an action of a settlement does to a run.
    #[must_use]
    pub fn settle(&self, action: &Action, run: &Run) -> Fate {
        match action {
            Action::Ack => Fate::Acked,
            Action::Expire => Fate::Expired,
            Action::Renew { lease_ms } => Fate::Renewed { deadline_ms: self.now_ms + lease_ms },
            Action::Reject { reason } => Fate::Dead { failures: run.failures, reason: reason.clone() },
            Action::Release => Fate::Waits {
                due_ms: self.now_ms,
                attempt: run.attempt - 1,
                failures: run.failures,
                alone: false,
                reason: None,
            },
            Action::Nack { delay_ms, counts, reason } => {
                let failures = run.failures + i32::from(*counts);
                if *counts && self.retry.is_dead(failures) {
                    return Fate::Dead { failures, reason: reason.clone() };
                }
                let delay_ms = delay_ms
                    .unwrap_or_else(|| if *counts { self.backoff_ms(failures, run.range.start) } else { 0 });
                Fate::Waits {
                    due_ms: self.now_ms + delay_ms,
                    attempt: run.attempt,
                    failures,
                    alone: false,
                    reason: reason.clone(),
                }
            }
        }
    }

    /// What the expiry of a lease does to a run. One of its records may have crashed the worker that held it,
    /// so the run comes back in two halves, and record by record before the last failure.
    #[must_use]
    pub fn expire(&self, run: &Run) -> Vec<(Range<i64>, Fate)> {
        let failures = run.failures + 1;
        let reason = Some(LEASE_EXPIRED.to_owned());
        if self.retry.is_dead(failures) {
            return vec![(run.range.clone(), Fate::Dead { failures, reason })];
        }
        let length = run.range.end - run.range.start;
        let step = if self.retry.is_dead(failures + 1) { 1 } else { (length + 1) / 2 };
        let starts = std::iter::successors(Some(run.range.start), |lo| Some(lo + step))
            .take_while(|lo| *lo < run.range.end);
        let part = |lo: i64| {
            let due_ms = self.now_ms + self.backoff_ms(failures, lo);
            let fate =
                Fate::Waits { due_ms, attempt: run.attempt, failures, alone: true, reason: reason.clone() };
            (lo..run.range.end.min(lo + step), fate)
        };
        starts.map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(max_failures: i32) -> Judge {
        Judge::new(RetryPolicy { jitter: 0.0, max_failures, ..RetryPolicy::default() }, 1_000_000, 0.5)
    }

    fn run(length: i64, failures: i32) -> Run {
        Run { range: 10..10 + length, attempt: 3, failures }
    }

    fn nack(delay_ms: Option<i64>, counts: bool) -> Action {
        Action::Nack { delay_ms, counts, reason: None }
    }

    fn waits(due_ms: i64, attempt: i32, failures: i32) -> Fate {
        Fate::Waits { due_ms, attempt, failures, alone: false, reason: None }
    }

    #[test]
    fn a_nack_waits_by_the_policy_or_as_it_says() {
        let judge = judge(20);
        assert_eq!(judge.settle(&nack(None, true), &run(1, 0)), waits(1_001_000, 3, 1));
        assert_eq!(judge.settle(&nack(None, true), &run(1, 2)), waits(1_004_000, 3, 3));
        assert_eq!(judge.settle(&nack(Some(7), true), &run(1, 2)), waits(1_000_007, 3, 3));
        assert_eq!(judge.settle(&nack(Some(7), false), &run(1, 2)), waits(1_000_007, 3, 2));
        assert_eq!(judge.settle(&nack(None, false), &run(1, 2)), waits(1_000_000, 3, 2));
        assert_eq!(judge.settle(&Action::Release, &run(1, 2)), waits(1_000_000, 2, 2));
    }

    #[test]
    fn a_record_is_dead_exactly_at_the_limit() {
        let judge = judge(3);
        assert_eq!(judge.settle(&nack(Some(9), true), &run(1, 1)), waits(1_000_009, 3, 2));
        assert_eq!(judge.settle(&nack(Some(9), true), &run(1, 2)), Fate::Dead { failures: 3, reason: None });
        assert_eq!(judge.settle(&nack(Some(9), false), &run(1, 2)), waits(1_000_009, 3, 2));
        assert_eq!(
            judge.settle(&Action::Reject { reason: None }, &run(1, 0)),
            Fate::Dead { failures: 0, reason: None }
        );
    }

    #[test]
    fn what_expired_comes_back_in_halves_then_one_by_one_then_dead() {
        let lengths = |max, length, failures| -> Vec<i64> {
            let parts = judge(max).expire(&run(length, failures));
            parts
                .iter()
                .filter(|(_, fate)| matches!(fate, Fate::Waits { alone: true, .. }))
                .map(|(r, _)| r.end - r.start)
                .collect()
        };
        assert_eq!(lengths(8, 7, 0), [4, 3]);
        assert_eq!(lengths(8, 1, 0), [1]);
        assert_eq!(lengths(8, 4, 5), [2, 2]);
        assert_eq!(lengths(8, 4, 6), [1, 1, 1, 1]);
        assert_eq!(lengths(8, 4, 7), []);
        let dead = Fate::Dead { failures: 8, reason: Some(LEASE_EXPIRED.to_owned()) };
        assert_eq!(judge(8).expire(&run(4, 7)), [(10..14, dead)]);
        assert_eq!(judge(1).expire(&run(1, 0)).len(), 1);
    }
}
