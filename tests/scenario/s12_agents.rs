//! Several agents on one Postgres and one bucket.

use super::s01_round_trip::{FILE, check};
use millpond_tests::harness::FLIGHTS;
use millpond_tests::harness::agent::Cluster;
use millpond_tests::harness::cli::cli_at;
use millpond_tests::harness::client::{Api, list};
use millpond_tests::harness::load::Load;
use millpond_tests::harness::wait::{until, within};
use millpond_tests::s3::{Fault, Op, Rule};
use serde_json::{Value, json};

/// Injects each fault once, in turn, then a random one in every hundredth request.
fn every_fault(cluster: &Cluster) {
    for fault in Fault::ALL {
        for op in [Op::Put, Op::Get] {
            if fault.suits(op) {
                cluster.s3.add_fault(Rule::new(fault).on(op).first(1));
            }
        }
    }
    cluster.s3.add_fault(Rule::any_fault().chance(0.01));
}

async fn flights_cross(more: &[&str]) {
    let cluster = Cluster::new().await;
    let (one, other) = (cluster.agent(more), cluster.agent(more));
    every_fault(&cluster);
    for topic in ["flights", "again", "named"] {
        cli_at(&one.api().base, &["produce", topic, "--key", "/tailnum", "--file", FILE], "").await.ok();
    }
    // Small requests too, alternating between both agents.
    for (n, line) in FLIGHTS.lines().take(60).enumerate() {
        let api = if n % 2 == 0 { one.api() } else { other.api() };
        let flight: Value = serde_json::from_str(line).expect("JSON");
        api.produce("small", json!([{"key": "k", "value": flight}])).await.ok();
    }
    for topic in ["flights", "again", "named"] {
        check(&cli_at(&other.api().base, &["consume", topic], "").await.ok());
    }
    for reader in [one.api(), other.api()] {
        let read: Vec<Value> =
            reader.topic_log("small").await.iter().map(|record| record["value"].clone()).collect();
        let sent: Vec<Value> =
            FLIGHTS.lines().take(60).map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert!(read == sent, "small requests in their order");
    }
    for fault in Fault::ALL {
        assert!(cluster.injected(fault) > 0, "{fault:?} did not happen: {:?}", cluster.s3.injected());
    }
    assert!(!one.log().contains("ERROR") && !other.log().contains("ERROR"), "{}{}", one.log(), other.log());
}

#[tokio::test]
async fn flights_go_in_here_and_come_out_there() {
    flights_cross(&[]).await;
}

#[tokio::test]
async fn flights_cross_through_the_bucket_alone() {
    flights_cross(&["--no-inline"]).await;
}

#[tokio::test]
async fn a_database_is_migrated_before_agents_work_on_it() {
    let cluster = Cluster::unmigrated().await;
    let refused = cluster.run(&["agent", "--listen", "127.0.0.1:0"]).await;
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("run `millpond migrate`"), "{told}");
    for _ in 0..2 {
        let migrated = cluster.migrate().await;
        assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    }
    let agent = cluster.agent(&[]);
    let api = agent.api();
    api.produce("t", json!([{"value": 1}])).await.ok();
    // A second migration, while an agent is running.
    assert!(cluster.migrate().await.status.success());
    assert_eq!(api.topic_log("t").await.len(), 1);
    assert!(agent.end_by("TERM", 20).await.success());
}

async fn drained(api: &Api) -> u64 {
    api.metric("millpond_job_done_total", "job=\"drain\"").await
}

#[tokio::test]
async fn what_one_agent_drained_another_reads() {
    let cluster = Cluster::new().await;
    let (one, other) = (cluster.agent(&[]), cluster.agent(&[]));
    for n in 0..40 {
        let records =
            json!([{"key": format!("k{}", n % 7), "value": {"n": n}}, {"partition": n % 3, "value": "x"}]);
        one.api().produce("t", records).await.ok();
    }
    let before = one.api().topic_log("t").await;
    let all_drained =
        async || Some(drained(&one.api()).await + drained(&other.api()).await).filter(|batches| *batches > 0);
    until(60, "a drain", all_drained).await;
    one.kill();
    assert_eq!(other.api().topic_log("t").await, before);
    // A third agent has nothing in memory.
    let third = cluster.agent(&[]);
    assert_eq!(third.api().topic_log("t").await, before);
    assert!(cluster.s3.requests(Op::Get) > 0, "from the bucket");
    assert!(other.end_by("TERM", 20).await.success());
}

#[tokio::test]
async fn background_work_of_two_agents_disturbs_nobody() {
    let cluster = Cluster::new().await;
    let (one, other) = (cluster.agent(&[]), cluster.agent(&[]));
    one.api().put("/v1/topics/doomed", json!({"partitions": 1, "placement": "object"})).await;
    one.api().produce("doomed", json!([{"value": "soon gone"}])).await.ok();
    let doomed = cluster.segments();
    assert_eq!(doomed.len(), 1);
    let loads = [Load::start(&one.api(), &["left"]), Load::start(&other.api(), &["right"])];
    other.api().delete("/v1/topics/doomed").await;
    let two_drains =
        async || Some(drained(&one.api()).await + drained(&other.api()).await).filter(|batches| *batches > 1);
    until(90, "drains under load", two_drains).await;
    let is_gone = |keys: &[String]| !keys.contains(&doomed[0]);
    until(120, "the object of a deleted topic goes", async || {
        // Skip the waiting times of deletion; leases and heartbeats are not changed.
        cluster
            .database
            .run("update segment set delete_at = delete_at - interval '1 hour' where delete_at is not null")
            .await;
        cluster
            .database
            .run("update topic set deleted_at = deleted_at - interval '1 hour' where deleted_at is not null")
            .await;
        is_gone(&cluster.segments()).then_some(())
    })
    .await;
    let [left, right] = loads;
    let (left, right) = (left.stop().await, right.stop().await);
    for api in [one.api(), other.api()] {
        left.check(&api).await;
        right.check(&api).await;
    }
    assert!(!one.log().contains("ERROR") && !other.log().contains("ERROR"), "{}{}", one.log(), other.log());
}

/// Reads a partition as it grows, up to `count` records.
async fn follow(api: Api, count: usize) -> Vec<Value> {
    let mut read: Vec<Value> = Vec::new();
    while read.len() < count {
        let page = api.partition("t", 0, &format!("?offset={}&wait_ms=5000", read.len())).await.ok();
        read.extend(list(&page, "records").iter().map(|record| record["value"].clone()));
    }
    read
}

#[tokio::test]
async fn ten_consumers_elsewhere_cost_one_get_a_segment() {
    let cluster = Cluster::new().await;
    let (one, other) = (cluster.agent(&["--no-inline"]), cluster.agent(&["--no-inline"]));
    one.api().topic("t", 1).await;
    let readers: Vec<_> = (0..10).map(|_| tokio::spawn(follow(other.api(), 30))).collect();
    for n in 0..30 {
        one.api().produce("t", json!([{"value": n}])).await.ok();
    }
    let expected: Vec<Value> = (0..30).map(Value::from).collect();
    for reader in readers {
        assert_eq!(within(60, "what a consumer read", reader).await.unwrap(), expected);
    }
    assert!(cluster.segments().len() > 1, "several segments");
    assert_eq!(cluster.most_gets(), 1);
}

#[tokio::test]
async fn a_store_in_memory_ends_with_its_agent() {
    let cluster = Cluster::new().await;
    let agent = cluster.agent(&["--store", "memory:", "--no-inline"]);
    agent.api().topic("t", 1).await;
    agent.api().produce("t", json!([{"value": 1}])).await.ok();
    assert_eq!(agent.api().topic_log("t").await.len(), 1);
    agent.kill();
    let next = cluster.agent(&["--store", "memory:"]);
    next.api().partition("t", 0, "").await.problem(500, "corrupt");
    assert!(cluster.segments().is_empty());
}
