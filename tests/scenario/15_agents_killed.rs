//! Agents die in turn, and their bucket errs, while producers are at work; the database stays.

use super::harness::agent::Cluster;
use super::harness::load::Load;
use millpond_tests::s3::{Op, Rule};
use serde_json::json;

/// Of the requests to the bucket.
const FAULTS: f64 = 0.05;

#[tokio::test]
async fn what_was_acknowledged_is_stored_once_though_agents_die_and_the_bucket_errs() {
    let cluster = Cluster::new().await;
    cluster.s3.add_fault(Rule::any_fault().chance(FAULTS));
    let (mut one, mut other) = (cluster.agent(&[]), cluster.agent(&[]));
    let addresses = [one.address.to_string(), other.address.to_string()];
    one.api().topic("small", 3).await;
    for topic in ["large", "shared"] {
        one.api().put(&format!("/v1/topics/{topic}"), json!({"partitions": 2, "placement": "object"})).await;
    }
    let loads = [Load::start(&one.api(), &["small", "large"]), Load::start(&other.api(), &["shared"])];
    for _ in 0..2 {
        loads[0].more(30).await;
        one.kill();
        loads[1].more(10).await;
        one = cluster.agent_at(&addresses[0], &[]);
        other.kill();
        loads[0].more(30).await;
        other = cluster.agent_at(&addresses[1], &[]);
        loads[1].more(10).await;
    }
    let [left, right] = loads;
    let (left, right) = (left.stop().await, right.stop().await);
    // One that has nothing in memory, with faults and then without.
    let third = cluster.agent(&[]);
    for api in [third.api(), one.api()] {
        left.check(&api).await;
        right.check(&api).await;
        cluster.s3.clear_faults();
    }
    assert!(cluster.s3.requests(Op::Put) > 20 && !cluster.s3.injected().is_empty(), "{:?}", cluster.s3.injected());
}
