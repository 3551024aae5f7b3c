//! Readers and a bucket with temporary or permanent errors.

use millpond_tests::harness::agent::{Agent, BUCKET, Cluster};
use millpond_tests::s3::{Fault, Op, Rule};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

const RECORDS: usize = 50;

/// Stores records in one segment, and starts an agent that has nothing of it in memory.
async fn filled() -> (Cluster, Agent) {
    let cluster = Cluster::new().await;
    let writer = cluster.agent(&["--no-inline"]);
    writer.api().topic("t", 1).await;
    // Hard to compress, so that almost every byte of the segment belongs to a batch.
    let mut random = StdRng::seed_from_u64(1);
    let mut text = || (0..250).map(|_| format!("{:08x}", random.random::<u32>())).collect::<String>();
    let records: Vec<Value> = (0..RECORDS).map(|_| json!({"value": text()})).collect();
    writer.api().produce("t", json!(records)).await.ok();
    assert_eq!(cluster.segments().len(), 1);
    assert!(writer.end_by("TERM", 20).await.success());
    let reader = cluster.agent(&["--no-inline"]);
    (cluster, reader)
}

#[tokio::test]
async fn what_passes_is_not_seen() {
    for fault in [Fault::Flip, Fault::Missing, Fault::Forbidden, Fault::Truncate, Fault::Internal] {
        let (cluster, agent) = filled().await;
        cluster.s3.add_fault(Rule::new(fault).on(Op::Get).first(2));
        assert_eq!(agent.api().log("t", 0).await.len(), RECORDS, "{fault:?}");
        assert_eq!(cluster.injected(fault), 2, "{fault:?}");
        assert!(!agent.log().contains("ERROR"), "{fault:?}: {}", agent.log());
        assert_eq!(agent.api().metric("millpond_fetch_corrupt_total", "").await, 0);
    }
}

#[tokio::test]
async fn what_stays_is_an_error_and_an_alarm_and_no_offset_is_passed_over() {
    let (cluster, agent) = filled().await;
    let (key, api) = (cluster.segments().remove(0), agent.api());
    let sound = cluster.s3.get(BUCKET, &key).unwrap();
    cluster.s3.corrupt(BUCKET, &key);
    api.partition("t", 0, "").await.problem(500, "corrupt");
    cluster.s3.delete(BUCKET, &key);
    api.partition("t", 0, "?offset=49").await.problem(500, "corrupt");
    assert_eq!(api.metric("millpond_fetch_corrupt_total", "").await, 2);
    agent.logged("ERROR").await;
    cluster.s3.put(BUCKET, &key, sound);
    assert_eq!(api.log("t", 0).await.len(), RECORDS);
}

#[tokio::test]
async fn a_bucket_that_refuses_has_lost_nothing() {
    let (cluster, agent) = filled().await;
    let api = agent.api();
    cluster.s3.add_fault(Rule::new(Fault::Forbidden).on(Op::Get));
    api.partition("t", 0, "").await.problem(503, "object_store_unavailable");
    agent.logged("the store refuses a read").await;
    assert_eq!(api.metric("millpond_fetch_corrupt_total", "").await, 0);
    cluster.s3.clear_faults();
    assert_eq!(api.log("t", 0).await.len(), RECORDS);
}
