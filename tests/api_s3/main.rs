//! The HTTP API again, the same tests, against an agent on a Postgres and the test S3.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

#[path = "../api/arrow.rs"]
mod arrow;
#[path = "../api/batches.rs"]
mod batches;
#[path = "../api/hostile.rs"]
mod hostile;
#[path = "../api/idempotency.rs"]
mod idempotency;
#[path = "../api/json.rs"]
mod json;
#[path = "../api/limits.rs"]
mod limits;
#[path = "../api/ndjson.rs"]
mod ndjson;
#[path = "../api/octets.rs"]
mod octets;
#[path = "../api/openapi.rs"]
mod openapi;
#[path = "../api/operations.rs"]
mod operations;
#[path = "../api/queues/mod.rs"]
mod queues;
#[path = "../api/read.rs"]
mod read;
#[path = "../api/stale.rs"]
mod stale;
#[path = "../api/tail.rs"]
mod tail;
#[path = "../api/topics.rs"]
mod topics;

use millpond_tests::harness::agent::{Agent, Cluster};
use millpond_tests::harness::client::Api;
use std::sync::LazyLock;

/// Faults that an agent copes with befall every hundredth request.
const FAULTS: f64 = 0.01;

struct Shared {
    address: std::net::SocketAddr,
    agent: Agent,
    _cluster: Cluster,
}

static DEV: LazyLock<Shared> = LazyLock::new(|| {
    let start = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let cluster = runtime.block_on(Cluster::new());
        cluster.s3.add_fault(millpond_tests::s3::Rule::any_fault().chance(FAULTS));
        let agent = cluster.agent(&[]);
        Shared { address: agent.address, agent, _cluster: cluster }
    };
    // A runtime cannot be entered within another.
    std::thread::spawn(start).join().expect("an agent")
});

/// A client of the shared process. Each test has its own, since connections belong to a test's runtime.
fn api() -> Api {
    DEV.agent.api()
}
