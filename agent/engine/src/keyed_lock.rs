//! Locks by key.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};
use tokio::sync::OwnedMutexGuard;

/// Number of entries above which a call to `lock` drops those that nobody uses.
const SWEEP_ABOVE_ENTRIES: usize = 1_024;

/// Lets one task at a time work on a key. Entries of keys that nobody holds or waits for are dropped now and
/// then (see [`SWEEP_ABOVE_ENTRIES`]).
#[derive(Debug)]
pub struct KeyedLocks<K> {
    locks: Mutex<HashMap<K, Weak<tokio::sync::Mutex<()>>>>,
}

impl<K> Default for KeyedLocks<K> {
    fn default() -> Self {
        Self { locks: Mutex::new(HashMap::new()) }
    }
}

impl<K: Eq + Hash> KeyedLocks<K> {
    /// Acquires the lock of a key. Waiters get it in the order in which they came.
    pub async fn lock(&self, key: K) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock();
            if locks.len() > SWEEP_ABOVE_ENTRIES {
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
        let locks = KeyedLocks::default();
        let held = locks.lock(1).await;
        assert!(locks.lock(1).now_or_never().is_none(), "held");
        assert!(locks.lock(2).now_or_never().is_some(), "another key");
        drop(held);
        assert!(locks.lock(1).now_or_never().is_some(), "free again");
    }
}
