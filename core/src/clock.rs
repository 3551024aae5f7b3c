//! Time and identity as inputs. Instants that decide anything come from Postgres; an agent's clock stamps
//! records and serves time-outs.

use crate::number::saturated;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::time::SystemTime;
use uuid::Uuid;

pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;
}

#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        saturated::<i64, _>(since.as_millis())
    }
}

/// Source of uuids and random numbers; seeded, so that a simulation repeats.
#[derive(Debug)]
pub struct Ids {
    rng: Mutex<StdRng>,
}

impl Ids {
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self { rng: Mutex::new(StdRng::seed_from_u64(seed)) }
    }

    #[must_use]
    pub fn from_os() -> Self {
        Self { rng: Mutex::new(StdRng::from_os_rng()) }
    }

    /// uuidv7 (RFC 9562): 48 bits of time, the rest random.
    #[must_use]
    pub fn uuid(&self, now_ms: i64) -> Uuid {
        let random: [u8; 10] = self.rng.lock().random();
        uuid::Builder::from_unix_timestamp_millis(saturated::<u64, _>(now_ms), &random).into_uuid()
    }

    /// 122 random bits (RFC 9562, version 4): nobody guesses them.
    #[must_use]
    pub fn secret(&self) -> Uuid {
        let random: [u8; 16] = self.rng.lock().random();
        uuid::Builder::from_random_bytes(random).into_uuid()
    }

    /// From 0 to below 1.
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
