//! Artificial latency of an object store, so that a benchmark on one machine behaves as with a remote bucket.

use millpond_core::RandomSource;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A log-normal distribution of request latency, given by its median and 99th percentile.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StoreLatency {
    median_s: f64,
    sigma: f64,
}

/// The 99th percentile of the standard normal distribution.
const NORMAL_P99: f64 = 2.326_347_874;

/// A text that is not a latency.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a latency has the form p50=100ms,p99=300ms, with p99 at least p50")]
pub struct InvalidLatency;

impl FromStr for StoreLatency {
    type Err = InvalidLatency;

    fn from_str(text: &str) -> Result<Self, InvalidLatency> {
        let (p50, p99) = text.split_once(',').ok_or(InvalidLatency)?;
        let seconds = |part: &str, name: &str| -> Result<f64, InvalidLatency> {
            let number = part.strip_prefix(name).and_then(|n| n.strip_suffix("ms")).ok_or(InvalidLatency)?;
            let ms: f64 = number.parse().map_err(|_| InvalidLatency)?;
            if ms.is_finite() && ms > 0.0 && ms <= 600_000.0 { Ok(ms / 1_000.0) } else { Err(InvalidLatency) }
        };
        let (median_s, high_s) = (seconds(p50, "p50=")?, seconds(p99, "p99=")?);
        if high_s < median_s {
            return Err(InvalidLatency);
        }
        Ok(Self { median_s, sigma: (high_s / median_s).ln() / NORMAL_P99 })
    }
}

impl StoreLatency {
    /// Draws one latency, by the Box–Muller transform of two uniform random numbers.
    fn draw(self, random: &RandomSource) -> Duration {
        let uniform = || (f64::from(random.random_u32()) + 0.5) / 4_294_967_296.0;
        let normal = (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
        Duration::from_secs_f64(self.median_s * (self.sigma * normal).exp())
    }
}

/// Delays requests so that each takes at least a latency drawn from the distribution.
#[derive(Debug, Clone)]
pub struct Pace {
    pub latency: StoreLatency,
    pub random: Arc<RandomSource>,
}

impl Pace {
    /// Runs `work` and returns its result not before the drawn latency is over.
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let until = Instant::now() + self.latency.draw(&self.random);
        let outcome = work.await;
        tokio::time::sleep_until(until).await;
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_median_and_the_tail_that_were_asked_for() {
        let latency: StoreLatency = "p50=100ms,p99=300ms".parse().expect("a latency");
        let random = RandomSource::seeded(1);
        let mut ms: Vec<u128> = (0..20_000).map(|_| latency.draw(&random).as_millis()).collect();
        ms.sort_unstable();
        assert!((95..=105).contains(&ms[10_000]), "median {}", ms[10_000]);
        assert!((280..=320).contains(&ms[19_800]), "p99 {}", ms[19_800]);
    }

    #[test]
    fn what_is_no_latency_is_refused() {
        for text in [
            "",
            "p50=100ms",
            "p50=100,p99=300",
            "p50=300ms,p99=100ms",
            "p50=0ms,p99=1ms",
            "p50=NaNms,p99=1ms",
        ] {
            assert_eq!(text.parse::<StoreLatency>(), Err(InvalidLatency), "{text}");
        }
    }
}
