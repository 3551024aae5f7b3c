//! Clock, random numbers and UUIDs as inputs, so that tests and simulations can replace them.
//!
//! Instants on which the control plane decides come from Postgres. The clock of an agent only stamps records
//! and serves time-outs.

use crate::number::saturated;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::time::SystemTime;
use uuid::Uuid;

/// A wall clock.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;
}

/// The clock of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        saturated::<i64, _>(since.as_millis())
    }
}

/// Generator of UUIDs and random numbers. A fixed seed makes a simulation repeatable.
#[derive(Debug)]
pub struct RandomSource {
    rng: Mutex<StdRng>,
}

impl RandomSource {
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self { rng: Mutex::new(StdRng::seed_from_u64(seed)) }
    }

    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the system for randomness")]
    pub fn from_os() -> Self {
        Self { rng: Mutex::new(StdRng::from_os_rng()) }
    }

    /// A UUIDv7 (RFC 9562): 48 bits of time in milliseconds, the rest random.
    #[must_use]
    pub fn uuid(&self, now_ms: i64) -> Uuid {
        let random: [u8; 10] = self.rng.lock().random();
        uuid::Builder::from_unix_timestamp_millis(saturated::<u64, _>(now_ms), &random).into_uuid()
    }

    /// A UUIDv4 (RFC 9562): 122 random bits, so that it cannot be guessed.
    #[must_use]
    pub fn secret(&self) -> Uuid {
        let random: [u8; 16] = self.rng.lock().random();
        uuid::Builder::from_random_bytes(random).into_uuid()
    }

    /// A random number, at least 0 and below 1.
    #[must_use]
    pub fn unit(&self) -> f64 {
        self.rng.lock().random()
    }

    #[must_use]
    pub fn random_i64(&self) -> i64 {
        self.rng.lock().random()
    }

    #[must_use]
    pub fn random_u32(&self) -> u32 {
        self.rng.lock().random()
    }
}
