//! Short-lived cache of control plane rows by tenant and name.

use millpond_core::{Error, Name, Scope};
use moka::Entry;
use moka::future::Cache;
use moka::ops::compute::Op;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long an entry is used without loading it again. Changes by other agents become visible after this
/// time.
const ENTRY_MAX_AGE: Duration = Duration::from_secs(5);
const ENTRIES_MAX: u64 = 100_000;
/// When the cache frees the memory of an entry that nobody asks for.
const ENTRY_MEMORY_TTL: Duration = Duration::from_secs(60);

/// Tenant and name.
type Key = (Name, Name);
/// An entry with the time at which it was loaded.
type Loaded<T> = (Instant, Arc<T>);

/// Rows of the control plane by tenant and name. Callers that miss at the same time share one query.
///
/// Invariant: the age of an entry is measured by tokio's clock, which a simulation can pause, never by the
/// cache's own clock.
pub struct NamedCache<T> {
    entries: Cache<Key, Loaded<T>>,
}

impl<T: Send + Sync + 'static> Default for NamedCache<T> {
    fn default() -> Self {
        Self { entries: Cache::builder().max_capacity(ENTRIES_MAX).time_to_idle(ENTRY_MEMORY_TTL).build() }
    }
}

impl<T: Send + Sync + 'static> NamedCache<T> {
    /// Returns the entry; calls `load` if there is none or it is older than [`ENTRY_MAX_AGE`]. Callers that
    /// need it at the same time share one `load` and its outcome, those that expect the same rejections.
    pub async fn get<R, F>(&self, scope: &Scope, name: &Name, load: F) -> Result<Arc<T>, Error<R>>
    where
        F: Future<Output = Result<T, Error<R>>>,
        R: Clone + std::fmt::Debug + Send + Sync + 'static,
    {
        let key = key(scope, name);
        if let Some(loaded) = self.entries.get(&key).await {
            if is_fresh(&loaded) {
                return Ok(loaded.1);
            }
            // Callers may come here late: what another of them has loaded meanwhile stays.
            let drop_stale = async |entry: Option<Entry<Key, Loaded<T>>>| match entry {
                Some(entry) if !is_fresh(entry.value()) => Op::Remove,
                _ => Op::Nop,
            };
            self.entries.entry_by_ref(&key).and_compute_with(drop_stale).await;
        }
        let load = async { load.await.map(|loaded| (Instant::now(), Arc::new(loaded))) };
        match self.entries.try_get_with(key, load).await {
            Ok((_, entry)) => Ok(entry),
            Err(shared) => Err(match &*shared {
                Error::Rejected(rejected) => Error::Rejected(rejected.clone()),
                Error::NotApplied(_) => Error::NotApplied(format_chain(&shared).into()),
                Error::MaybeApplied(_) => Error::MaybeApplied(format_chain(&shared).into()),
            }),
        }
    }

    /// The entry, however old it is.
    pub async fn known(&self, scope: &Scope, name: &Name) -> Option<Arc<T>> {
        self.entries.get(&key(scope, name)).await.map(|(_, entry)| entry)
    }

    /// Stores a row that was just read or written.
    pub async fn remember(&self, scope: &Scope, name: &Name, entry: T) -> Arc<T> {
        let entry = Arc::new(entry);
        self.entries.insert(key(scope, name), (Instant::now(), Arc::clone(&entry))).await;
        entry
    }

    /// Drops the entry of a name because it is, or may be, out of date.
    pub async fn forget(&self, scope: &Scope, name: &Name) {
        self.entries.invalidate(&key(scope, name)).await;
    }
}

fn is_fresh<T>((loaded_at, _): &Loaded<T>) -> bool {
    loaded_at.elapsed() < ENTRY_MAX_AGE
}

fn key(scope: &Scope, name: &Name) -> Key {
    (scope.tenant.clone(), name.clone())
}

fn format_chain<R: std::fmt::Debug>(error: &Error<R>) -> String {
    match error {
        Error::NotApplied(source) | Error::MaybeApplied(source) => crate::error_chain(&**source),
        Error::Rejected(rejected) => format!("{rejected:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn name(text: &str) -> Name {
        Name::new(text).expect("a name")
    }

    #[tokio::test(start_paused = true)]
    async fn callers_that_miss_together_share_a_query_and_an_old_entry_is_loaded_again() {
        let cache = NamedCache::<u32>::default();
        let (scope, loads) = (Scope::unauthenticated(), AtomicU32::new(0));
        let load = || async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok::<u32, Error<Infallible>>(loads.fetch_add(1, Ordering::Relaxed) + 1)
        };
        let name = name("a");
        let both = tokio::join!(cache.get(&scope, &name, load()), cache.get(&scope, &name, load()));
        assert_eq!((*both.0.expect("one"), *both.1.expect("the same")), (1, 1));
        tokio::time::advance(ENTRY_MAX_AGE).await;
        assert_eq!(*cache.get(&scope, &name, load()).await.expect("two"), 2);
        cache.forget(&scope, &name).await;
        assert_eq!(*cache.get(&scope, &name, load()).await.expect("three"), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hundred_callers_share_each_query_also_when_an_entry_has_become_old() {
        let cache = NamedCache::<u32>::default();
        let (scope, loads) = (Scope::unauthenticated(), AtomicU32::new(0));
        let name = name("a");
        for round in 1..=20 {
            let call = async || {
                let load = async {
                    tokio::task::yield_now().await;
                    Ok::<u32, Error<Infallible>>(loads.fetch_add(1, Ordering::Relaxed) + 1)
                };
                *cache.get(&scope, &name, load).await.expect("an entry")
            };
            let all = futures::future::join_all((0..100).map(|_| call())).await;
            assert_eq!(all, vec![round; 100]);
            tokio::time::advance(ENTRY_MAX_AGE).await;
        }
    }

    #[tokio::test]
    async fn tenants_and_refusals_are_kept_apart() {
        let cache = NamedCache::<u32>::default();
        let (ours, name) = (Scope::unauthenticated(), name("a"));
        let theirs = Scope { tenant: Name::new("b").expect("a name"), ..ours.clone() };
        cache.remember(&ours, &name, 7).await;
        let refused = cache.get(&theirs, &name, async { Err(Error::Rejected("none")) }).await;
        assert!(matches!(refused, Err(Error::Rejected("none"))));
        let known = cache.get(&ours, &name, async { Err(Error::Rejected("none")) }).await;
        assert_eq!(*known.expect("remembered"), 7);
    }
}
