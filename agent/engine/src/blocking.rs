//! Work that would hold up an async thread: compression, parsing of large bodies, rendering of large answers.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs it on a thread for blocking work. In a runtime of one thread, which is a simulation and has to repeat
/// itself, it runs at once. A panic of the work goes on in the caller.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return work();
    }
    #[expect(clippy::disallowed_methods, reason = "the one place that moves work to another thread")]
    let task = tokio::task::spawn_blocking(work);
    task.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
