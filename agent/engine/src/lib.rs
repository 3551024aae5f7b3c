//! The engine: every operation of the product (produce, fetch, consumer groups, queues, background work).
//!
//! It uses two interfaces: the control plane and the object store. A *door* is a protocol front end,
//! such as the HTTP server: it decodes a request, calls one method of the engine and encodes the result, and
//! does nothing else. Must not: depend on HTTP or on a particular control plane.

pub mod admission;
pub mod background;
pub mod blocking;
pub mod config;
pub mod engine;
pub mod fetch;
pub mod group;
pub mod hash;
pub mod health;
pub mod keyed_lock;
pub mod marker;
pub mod memory;
pub mod metrics;
pub mod named;
pub mod plane;
pub mod produce;
pub mod pulse;
pub mod queue;
pub mod resend;
pub mod rounds;
pub mod store;
pub mod topics;

pub use engine::{Engine, Parts};

/// Formats an error and all its sources, separated by colons, for one log line.
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
