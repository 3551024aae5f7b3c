//! The same tests of the HTTP API against an agent on a Postgres and the test S3.

mod arrow;
mod batches;
mod hostile;
mod idempotency;
mod json;
mod limits;
mod ndjson;
mod octets;
mod openapi;
mod operations;
mod queues;
mod read;
mod stale;
mod tail;
mod topics;

use millpond_tests::harness::agent::{Agent, Cluster};
use millpond_tests::harness::client::Api;
use std::sync::LazyLock;

/// Probability of a fault in each request to the store; an agent must cope with all of them.
const FAULT_PROBABILITY: f64 = 0.01;

struct Shared {
    address: std::net::SocketAddr,
    agent: Agent,
    _cluster: Cluster,
}

static DEV: LazyLock<Shared> = LazyLock::new(|| {
    let start = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let cluster = runtime.block_on(Cluster::new());
        cluster.s3.add_fault(millpond_tests::s3::Rule::any_fault().chance(FAULT_PROBABILITY));
        let agent = cluster.agent(&[]);
        Shared { address: agent.address, agent, _cluster: cluster }
    };
    // A separate thread: a runtime cannot be entered within another.
    std::thread::spawn(start).join().expect("an agent")
});

/// Process id of the shared process.
fn pid() -> u32 {
    DEV.agent.pid()
}

/// A client of the shared process. Each test has its own, since connections belong to a test's runtime.
fn api() -> Api {
    DEV.agent.api()
}
