//! Waits with a bound.

use std::future::Future;
use std::time::Duration;

const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The future's output; panics with `what` if it takes longer than this number of seconds.
pub async fn within<T>(seconds: u64, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(seconds), future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {seconds} s"),
    }
}

/// Calls again and again until there is an answer; panics with `what` if that takes too long.
pub async fn until<T, F: Future<Output = Option<T>>>(
    seconds: u64,
    what: &str,
    mut probe: impl FnMut() -> F,
) -> T {
    let asking = async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    };
    within(seconds, what, asking).await
}
