//! Retry policy of queues: when a failed record is given out again. Pure functions.

use crate::number::saturated;

/// Retry policy of a queue: `delay = min(cap, base × factor^(failures − 1))`, changed by a random share of up
/// to `jitter`. A record with `max_failures` failures is dead.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    pub base_ms: i64,
    pub factor: f64,
    pub cap_ms: i64,
    /// Largest share, from 0 to 1, by which a delay is made longer or shorter.
    pub jitter: f64,
    pub max_failures: i32,
}

/// Maximum number of steps of a ladder. Later failures wait as long as the last step.
const LADDER_MAX_STEPS: usize = 64;
/// Fractional part of the golden ratio. Its multiples, taken modulo 1, spread evenly over 0 to 1, so that
/// records with neighbouring offsets are not retried at the same time.
const GOLDEN_RATIO_FRACTION: f64 = 0.618_033_988_749_894_9;

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { base_ms: 1_000, factor: 2.0, cap_ms: 3_600_000, jitter: 0.2, max_failures: 20 }
    }
}

impl RetryPolicy {
    /// Delays in milliseconds after 1, 2, … failures, without jitter. The last one applies to all later
    /// failures. Never empty.
    #[must_use]
    pub fn ladder(&self) -> Vec<i64> {
        let mut ladder = Vec::new();
        let mut delay = f64_of(self.base_ms);
        let steps = usize::try_from(self.max_failures).unwrap_or(1).clamp(1, LADDER_MAX_STEPS);
        while ladder.len() < steps {
            let capped = whole(delay).min(self.cap_ms);
            ladder.push(capped);
            if capped == self.cap_ms || self.factor <= 1.0 {
                break;
            }
            delay *= self.factor;
        }
        ladder
    }

    /// Whether a record with this number of failures is dead.
    #[must_use]
    pub fn is_dead(&self, failures: i32) -> bool {
        failures >= self.max_failures
    }
}

/// Delay in milliseconds after the given number of failures. `ladder` comes from [`RetryPolicy::ladder`].
/// `random`, a random number from 0 to 1, and the offset of the record choose the place within the jitter.
///
/// `queries/queue/settle.sql` and `expire.sql` contain the same arithmetic, in double precision and in this
/// order.
#[must_use]
pub fn delay_ms(ladder: &[i64], jitter: f64, failures: i32, offset: i64, random: f64) -> i64 {
    let step = saturated::<usize, _>(failures - 1).min(ladder.len().saturating_sub(1));
    let delay = ladder.get(step).copied().unwrap_or(0);
    let place = random + f64_of(offset % 1_000_000) * GOLDEN_RATIO_FRACTION;
    let unit = place - place.floor();
    whole((f64_of(delay) * (1.0 - jitter + 2.0 * jitter * unit)).floor())
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "milliseconds of this era and offsets below a million fit exactly"
)]
fn f64_of(n: i64) -> f64 {
    n as f64
}

#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "saturates")]
fn whole(n: f64) -> i64 {
    n as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap() {
        let policy =
            RetryPolicy { base_ms: 1_000, factor: 2.0, cap_ms: 10_000, jitter: 0.0, max_failures: 20 };
        assert_eq!(policy.ladder(), [1_000, 2_000, 4_000, 8_000, 10_000]);
        assert_eq!(
            (1..=7).map(|n| delay_ms(&policy.ladder(), 0.0, n, 5, 0.3)).collect::<Vec<_>>(),
            [1_000, 2_000, 4_000, 8_000, 10_000, 10_000, 10_000]
        );
    }

    #[test]
    fn a_ladder_ends_with_the_policy() {
        let short = RetryPolicy { max_failures: 2, ..RetryPolicy::default() };
        assert_eq!(short.ladder(), [1_000, 2_000]);
        let constant = RetryPolicy { factor: 1.0, ..RetryPolicy::default() };
        assert_eq!(constant.ladder(), [1_000]);
        let endless = RetryPolicy { factor: 1.000_001, max_failures: 1_000, ..RetryPolicy::default() };
        assert_eq!(endless.ladder().len(), LADDER_MAX_STEPS);
        let huge = RetryPolicy { factor: 1e300, cap_ms: 86_400_000, ..RetryPolicy::default() };
        assert_eq!(huge.ladder(), [1_000, 86_400_000]);
    }

    #[test]
    fn jitter_spreads_neighbours_within_its_share() {
        let policy = RetryPolicy { jitter: 0.2, ..RetryPolicy::default() };
        let delays: Vec<i64> = (0..1_000).map(|o| delay_ms(&policy.ladder(), 0.2, 1, o, 0.7)).collect();
        assert!(delays.iter().all(|d| (800..1_200).contains(d)));
        let low = delays.iter().filter(|d| **d < 1_000).count();
        assert!((450..=550).contains(&low), "{low} of 1000 are early");
    }
}
