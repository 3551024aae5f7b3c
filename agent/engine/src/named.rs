//! What is known under a tenant's names, remembered for some seconds.

use millpond_core::{Error, Name, Scope};
use moka::future::Cache;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long an entry is believed: another agent's change is seen after it.
const BELIEVED: Duration = Duration::from_secs(5);
const ENTRIES_MAX: u64 = 100_000;
/// After which the memory of an entry that nobody asks for is given back.
const IDLE_KEPT: Duration = Duration::from_secs(60);

type Key = (Name, Name);

/// Rows of the control plane by tenant and name. Callers that miss at the same time share one query.
///
/// Invariant: whether an entry is still believed is decided by tokio's clock, which a simulation can pause, never
/// by the cache's own.
pub struct NamedCache<T> {
    known: Cache<Key, (Instant, Arc<T>)>,
}

impl<T: Send + Sync + 'static> NamedCache<T> {
    #[must_use]
    pub fn new() -> Self {
        Self { known: Cache::builder().max_capacity(ENTRIES_MAX).time_to_live(IDLE_KEPT).build() }
    }

    /// The entry, loaded if it is not known or not believed any more.
    pub async fn get<R, F>(&self, scope: &Scope, name: &Name, load: F) -> Result<Arc<T>, Error<R>>
    where
        F: Future<Output = Result<T, Error<R>>>,
        R: Clone + std::fmt::Debug + Send + Sync + 'static,
    {
        let key = key(scope, name);
        if let Some((since, entry)) = self.known.get(&key).await {
            if since.elapsed() < BELIEVED {
                return Ok(entry);
            }
            self.known.invalidate(&key).await;
        }
        let load = async { load.await.map(|loaded| (Instant::now(), Arc::new(loaded))) };
        match self.known.try_get_with(key, load).await {
            Ok((_, entry)) => Ok(entry),
            Err(shared) => Err(match &*shared {
                Error::Rejected(rejected) => Error::Rejected(rejected.clone()),
                Error::NotApplied(_) => Error::NotApplied(format_chain(&shared).into()),
                Error::MaybeApplied(_) => Error::MaybeApplied(format_chain(&shared).into()),
            }),
        }
    }

    pub async fn remember(&self, scope: &Scope, name: &Name, entry: T) -> Arc<T> {
        let entry = Arc::new(entry);
        self.known.insert(key(scope, name), (Instant::now(), Arc::clone(&entry))).await;
        entry
    }

    /// What is remembered of a name turned out to be old, or may be.
    pub async fn forget(&self, scope: &Scope, name: &Name) {
        self.known.invalidate(&key(scope, name)).await;
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
        let cache = NamedCache::<u32>::new();
        let (scope, loads) = (Scope::unauthenticated(), AtomicU32::new(0));
        let load = || async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok::<u32, Error<Infallible>>(loads.fetch_add(1, Ordering::Relaxed) + 1)
        };
        let name = name("a");
        let both = tokio::join!(cache.get(&scope, &name, load()), cache.get(&scope, &name, load()));
        assert_eq!((*both.0.expect("one"), *both.1.expect("the same")), (1, 1));
        tokio::time::advance(BELIEVED).await;
        assert_eq!(*cache.get(&scope, &name, load()).await.expect("two"), 2);
        cache.forget(&scope, &name).await;
        assert_eq!(*cache.get(&scope, &name, load()).await.expect("three"), 3);
    }

    #[tokio::test]
    async fn tenants_and_refusals_are_kept_apart() {
        let cache = NamedCache::<u32>::new();
        let (ours, name) = (Scope::unauthenticated(), name("a"));
        let theirs = Scope { tenant: Name::new("b").expect("a name"), ..ours.clone() };
        cache.remember(&ours, &name, 7).await;
        let refused = cache.get(&theirs, &name, async { Err(Error::Rejected("none")) }).await;
        assert!(matches!(refused, Err(Error::Rejected("none"))));
        let known = cache.get(&ours, &name, async { Err(Error::Rejected("none")) }).await;
        assert_eq!(*known.expect("remembered"), 7);
    }
}
