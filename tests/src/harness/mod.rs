//! A real Millpond for tests: the binary, its Postgres, and clients for it.
//!
//! Every wait is bounded and says what it waited for. Nothing that is started here outlives the test process,
//! however that ends. The binary is the one that `CARGO_BIN_EXE_millpond` names, which cargo sets for
//! integration tests of package `millpond`.

pub mod agent;
pub mod child;
pub mod cli;
pub mod client;
pub mod consumers;
pub mod floor;
pub mod load;
pub mod member;
pub mod process;
pub mod queue;
pub mod raw;
pub mod second;
pub mod wait;
pub mod wire;
pub mod workers;

use std::sync::atomic::{AtomicU32, Ordering};

/// 2,000 flights, one JSON object a line; `tailnum` is the usual key.
pub const FLIGHTS: &str = include_str!("../../data/flights-2000.ndjson");

/// A name that no other test of the process uses.
pub fn unique(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{what}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
