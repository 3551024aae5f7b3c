//! Wrapper around the control plane that limits the time of every call and measures it.
//!
//! Without the limit, a database that hangs without closing its connections would block callers for ever. A
//! mutation that timed out may have been applied.

use crate::metrics;
use millpond_core::control_plane::around::{Around, CallInfo, Class, Wrapped};
use millpond_core::{ControlPlane, Error};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Timeout of calls that a client waits for.
const SERVING_TIMEOUT: Duration = Duration::from_secs(6);
/// Timeout of calls of background work. It is longer than the server's own statement timeout, so that only a
/// dead connection can reach it.
const HEAVY_TIMEOUT: Duration = Duration::from_secs(35);

/// Gives every call of a control plane a timeout and records its duration.
pub struct TimeLimits;

impl TimeLimits {
    /// Wraps a control plane.
    pub fn around(inner: Arc<dyn ControlPlane>) -> Arc<dyn ControlPlane> {
        Arc::new(Wrapped::new(inner, Arc::new(Self)))
    }
}

impl Around for TimeLimits {
    async fn around<T, R, F, G>(
        &self,
        call: CallInfo,
        send: impl Fn() -> F + Send + Sync,
        _: impl Fn() -> G + Send + Sync,
    ) -> Result<T, Error<R>>
    where
        T: Send + 'static,
        R: Send + 'static,
        F: Future<Output = Result<T, Error<R>>> + Send,
        G: Future<Output = Result<T, Error<R>>> + Send + 'static,
    {
        let limit = match call.class {
            Class::Serving => SERVING_TIMEOUT,
            Class::Heavy => HEAVY_TIMEOUT,
        };
        let start = Instant::now();
        let outcome = match tokio::time::timeout(limit, send()).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let late = format!("{}: no answer within {} s", call.name, limit.as_secs());
                Err(Error::MaybeApplied(late.into()))
            }
        };
        let failed = matches!(outcome, Err(Error::NotApplied(_) | Error::MaybeApplied(_)));
        metrics::control_plane_call(call.name, start.elapsed(), failed);
        outcome
    }
}
