//! The `millpond` agent: HTTP, batching, segments, object store, fetch, background work, command line.
//!
//! Only `main`, `app`, `serve`, `dev`, `agent`, `doctor`, `bench` and `cli` know which control plane there
//! is; all else speaks `millpond_core::ControlPlane`.

pub mod admission;
pub mod agent;
pub mod app;
pub mod background;
pub mod bench;
pub mod blocking;
pub mod cli;
pub mod config;
pub mod dev;
pub mod doctor;
pub mod fetch;
pub mod group;
pub mod hash;
pub mod health;
pub mod http;
pub mod metrics;
pub mod plane;
pub mod produce;
pub mod queue;
pub mod segment;
pub mod serve;
pub mod store;
pub mod topics;

/// An error with everything that caused it, for one log line.
#[must_use]
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
