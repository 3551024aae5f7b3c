//! What the product does, as verbs over two seams: the control plane and the object store.
//!
//! A door (HTTP and others) turns wire into a verb's input and its output into wire, and does nothing else.
//! Must not: know HTTP, or which control plane there is.

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
pub mod metrics;
pub mod named;
pub mod plane;
pub mod produce;
pub mod queue;
pub mod resend;
pub mod rounds;
pub mod store;
pub mod topics;

pub use engine::{Engine, Parts};

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
