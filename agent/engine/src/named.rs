//! Short-lived cache of control plane rows by tenant and name.

use millpond_core::{Error, Name, Scope};
use moka::future::Cache;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long an entry is used without loading it again. Changes by other agents become visible after this
/// time.
const ENTRY_MAX_AGE: Duration = Duration::from_secs(5);
const ENTRIES_MAX: u64 = 100_000;
/// When the cache frees the memory of an entry that was not loaded again.
const ENTRY_MEMORY_TTL: Duration = Duration::from_secs(60);

/// Tenant and name.
type Key = (Name, Name);

/// Rows of the control plane by tenant and name. Callers that miss at the same time share one query.
///
/// Invariant: the age of an entry is measured by tokio's clock, which a simulation can pause, never by the
/// cache's own clock.
pub struct NamedCache<T> {
    /// Each with the time at which it was loaded.
    entries: Cache<Key, (Instant, Arc<T>)>,
}

impl<T: Send + Sync + 'static> Default for NamedCache<T> {
    fn default() -> Self {
        Self { entries: Cache::builder().max_capacity(ENTRIES_MAX).time_to_live(ENTRY_MEMORY_TTL).build() }
    }
}

impl<T: Send + Sync + 'static> NamedCache<T> {
    /// Returns the entry; calls `load` if there is none or it is older than [`ENTRY_MAX_AGE`].
    pub async fn get<R, F>(&self, scope: &Scope, name: &Name, load: F) -> Result<Arc<T>, Error<R>>
    where
        F: Future<Output = Result<T, Error<R>>>,
        R: Clone + std::fmt::Debug + Send + Sync + 'static,
    {
        let key = key(scope, name);
        if let Some((loaded_at, entry)) = self.entries.get(&key).await {
            if loaded_at.elapsed() < ENTRY_MAX_AGE {
                return Ok(entry);
            }
            self.entries.invalidate(&key).await;
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
