//! Runs CPU-bound work (compression, parsing of large bodies, encoding of large answers) outside the async
//! threads.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs `work` on a thread for blocking work. In a single-threaded runtime (a simulation, which must be
/// deterministic) it runs `work` in place. A panic in `work` continues in the caller.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return work();
    }
    #[expect(clippy::disallowed_methods, reason = "the one place that moves work to another thread")]
    let task = tokio::task::spawn_blocking(work);
    task.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
