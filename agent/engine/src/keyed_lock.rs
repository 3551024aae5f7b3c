//! One lock for each key that somebody uses.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};
use tokio::sync::OwnedMutexGuard;

/// Entries after which those that nobody holds are dropped.
const SWEEP_AT: usize = 1_024;

/// Lets one task at a time work on a key. A key costs memory only while somebody holds or waits for its lock.
#[derive(Debug)]
pub struct KeyedLocks<K> {
    locks: Mutex<HashMap<K, Weak<tokio::sync::Mutex<()>>>>,
}

impl<K: Eq + Hash> KeyedLocks<K> {
    #[must_use]
    pub fn new() -> Self {
        Self { locks: Mutex::new(HashMap::new()) }
    }

    /// Waits until nobody else holds the key's lock; first come, first served.
    pub async fn lock(&self, key: K) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock();
            if locks.len() > SWEEP_AT {
                locks.retain(|_, lock| lock.strong_count() > 0);
            }
            let known = locks.get(&key).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let lock = Arc::new(tokio::sync::Mutex::new(()));
                locks.insert(key, Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn a_key_has_one_holder_and_others_do_not_wait_for_it() {
        let locks = KeyedLocks::new();
        let held = locks.lock(1).await;
        assert!(locks.lock(1).now_or_never().is_none(), "held");
        assert!(locks.lock(2).now_or_never().is_some(), "another key");
        drop(held);
        assert!(locks.lock(1).now_or_never().is_some(), "free again");
    }
}
