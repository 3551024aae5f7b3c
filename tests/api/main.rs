//! Tests of the HTTP API, endpoint by endpoint, with good and bad input, against one real process that all
//! tests share.

mod arrow;
mod batches;
mod groups;
mod hostile;
mod hostile_memory;
mod idempotency;
mod json;
mod limits;
mod ndjson;
mod octets;
mod offsets;
mod openapi;
mod operations;
mod origins;
mod queues;
mod read;
mod stale;
mod tail;
mod topics;

use millpond_tests::harness::client::Api;
use millpond_tests::harness::process::Dev;
use std::sync::LazyLock;

static DEV: LazyLock<Dev> = LazyLock::new(Dev::ephemeral);

/// Process id of the shared process.
fn pid() -> u32 {
    DEV.pid()
}

/// A client of the shared process. Each test has its own, since connections belong to a test's runtime.
fn api() -> Api {
    DEV.api()
}
