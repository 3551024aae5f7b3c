//! The control plane as the agent uses it: every call bounded in time and counted.
//!
//! A database that is silent, not broken, would otherwise hold its callers for ever. A mutation that ran out
//! of time may have been applied.

use crate::metrics;
use millpond_core::control_plane::around::{Around, CallInfo, Class, Wrapped};
use millpond_core::{ControlPlane, Error};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Callers wait for these: they are told within seconds.
const SERVING: Duration = Duration::from_secs(6);
/// Beyond the server's own time limit of a statement: what is still silent then is a connection that is dead
/// without saying so.
const HEAVY: Duration = Duration::from_secs(35);

pub struct TimeLimits;

impl TimeLimits {
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
            Class::Serving => SERVING,
            Class::Heavy => HEAVY,
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
