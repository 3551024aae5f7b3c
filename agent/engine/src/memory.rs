//! Memory budgets: whoever is about to allocate takes memory from one, and gives it back by dropping it.

use crate::metrics;
use millpond_core::limits;
use millpond_core::saturated;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Longest wait for memory; after it the caller is told to try again later.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// A number of bytes that may be allocated at the same time.
#[derive(Debug)]
pub struct Budget {
    /// One permit is one KiB.
    free: Arc<Semaphore>,
    total_kib: u32,
}

/// What to do if a budget has not enough left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Wait, up to a limit. Whoever waits must hold nothing of the same budget: two that wait for each other
    /// would both wait in vain.
    Wait,
    /// Give up at once.
    IfFree,
}

/// A share of a budget. It goes back to the budget when this is dropped.
#[derive(Debug, Default)]
pub struct Memory(Option<OwnedSemaphorePermit>);

fn kib_of(bytes: usize) -> u32 {
    saturated::<u32, _>(bytes.div_ceil(limits::KIB))
}

impl Budget {
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let total_kib = kib_of(bytes);
        Self { free: Arc::new(Semaphore::new(saturated::<usize, _>(total_kib))), total_kib }
    }

    /// Takes memory; the whole budget, if more is asked for. `None` if there is not enough, for
    /// [`Room::Wait`] after the longest wait.
    pub async fn take(&self, bytes: usize, room: Room) -> Option<Memory> {
        let (free, kib) = (Arc::clone(&self.free), kib_of(bytes).min(self.total_kib));
        let permit = match room {
            Room::IfFree => free.try_acquire_many_owned(kib).ok(),
            Room::Wait => {
                let taking = tokio::time::timeout(WAIT_MAX, free.acquire_many_owned(kib));
                taking.await.ok().and_then(Result::ok)
            }
        };
        if permit.is_none() && room == Room::Wait {
            metrics::throttled();
        }
        permit.map(|permit| Memory(Some(permit)))
    }

    /// Bytes that are taken at the moment.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        (saturated::<usize, _>(self.total_kib) - self.free.available_permits()) * limits::KIB
    }
}

impl Memory {
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits) * limits::KIB
    }

    /// Splits off so many bytes, or all that there are.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Self {
        let Some(permit) = &mut self.0 else { return Self(None) };
        let kib = bytes.div_ceil(limits::KIB).min(permit.num_permits());
        Self(permit.split(kib))
    }

    /// Adds a share of the same budget.
    pub fn merge(&mut self, other: Self) {
        match (&mut self.0, other.0) {
            (Some(permit), Some(more)) => permit.merge(more),
            (None, more) => self.0 = more,
            (Some(_), None) => {}
        }
    }

    /// Gives back what exceeds so many bytes, or takes what is missing, if it is free. Returns whether this
    /// has at least so many bytes now.
    #[must_use]
    pub fn fit(&mut self, bytes: usize) -> bool {
        let Some(permit) = &mut self.0 else { return bytes == 0 };
        let (wanted, held) = (bytes.div_ceil(limits::KIB), permit.num_permits());
        if wanted <= held {
            drop(permit.split(held - wanted));
            return true;
        }
        let missing = saturated::<u32, _>(wanted - held);
        match Arc::clone(permit.semaphore()).try_acquire_many_owned(missing) {
            Ok(more) => {
                permit.merge(more);
                true
            }
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn memory_is_taken_split_and_given_back() {
        let budget = Budget::new(10 * limits::KIB);
        let mut all = budget.take(usize::MAX, Room::Wait).await.expect("all of it");
        assert_eq!(all.bytes(), 10 * limits::KIB);
        assert!(budget.take(1, Room::IfFree).await.is_none());
        assert!(budget.take(1, Room::Wait).await.is_none(), "the wait is bounded");
        let part = all.split(3 * limits::KIB);
        assert!(all.fit(limits::KIB));
        assert_eq!((part.bytes(), all.bytes(), budget.used_bytes()), (3_072, 1_024, 4_096));
        assert!(all.fit(7 * limits::KIB) && !all.fit(8 * limits::KIB), "three are taken by the other");
        all.merge(part);
        assert_eq!(all.bytes(), 10 * limits::KIB);
        drop(all);
        assert_eq!(budget.used_bytes(), 0);
    }
}
