//! Agents are killed in turn, and their bucket has faults, while producers are active; the database stays.

use millpond_tests::harness::agent::Cluster;
use millpond_tests::harness::load::Load;
use millpond_tests::harness::wait::{until, within};
use millpond_tests::s3::{Fault, Op, Rule};
use serde_json::json;
use std::time::Duration;

/// Probability of a fault in a request to the bucket.
const FAULT_PROBABILITY: f64 = 0.05;

#[tokio::test]
async fn what_was_acknowledged_is_stored_once_though_agents_die_and_the_bucket_errs() {
    let cluster = Cluster::new().await;
    cluster.s3.add_fault(Rule::any_fault().chance(FAULT_PROBABILITY));
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
    // A third agent has nothing in memory: it reads with faults, then without.
    let third = cluster.agent(&[]);
    for api in [third.api(), one.api()] {
        left.check(&api).await;
        right.check(&api).await;
        cluster.s3.clear_faults();
    }
    assert!(
        cluster.s3.requests(Op::Put) > 20 && !cluster.s3.injected().is_empty(),
        "{:?}",
        cluster.s3.injected()
    );
}

#[tokio::test]
async fn what_a_killed_agent_left_in_the_bucket_is_swept() {
    let cluster = Cluster::new().await;
    let agent = cluster.agent(&["--no-inline"]);
    cluster.s3.add_fault(Rule::new(Fault::Delay).on(Op::Put).first(1).lasting(Duration::from_secs(2)));
    let puts = cluster.s3.requests(Op::Put);
    let api = agent.api();
    api.topic("t", 1).await;
    let id = api.get("/v1/cluster").await.ok()["agent"].as_str().unwrap().to_owned();
    let request = api.post("t", "application/json").body(json!({"records": [{"value": "lost"}]}).to_string());
    let unanswered = tokio::spawn(request.send());
    until(30, "a PUT on its way", async || (cluster.s3.requests(Op::Put) > puts).then_some(())).await;
    agent.kill();
    within(30, "the end of a connection", unanswered).await.unwrap().unwrap_err();
    let orphan = until(30, "the PUT lands", async || cluster.segments().pop()).await;
    let agent = cluster.agent(&["--no-inline"]);
    agent.api().produce("t", json!([{"value": "kept"}])).await.ok();
    // An hour passes, after which the segment is given up.
    let aged = format!(
        "update segment set registered_at = registered_at - interval '2 hours' where agent_id = '{id}'"
    );
    cluster.database.run(&aged).await;
    let is_gone = async || {
        cluster
            .database
            .run("update segment set delete_at = delete_at - interval '1 hour' where state = 'u'")
            .await;
        (!cluster.segments().contains(&orphan)).then_some(())
    };
    until(60, "an orphan is swept", is_gone).await;
    let log = agent.api().topic_log("t").await;
    assert_eq!(log.iter().map(|record| &record["value"]).collect::<Vec<_>>(), [&json!("kept")]);
    agent.api().produce("t", json!([{"value": "next"}])).await.ok();
    assert_eq!(agent.api().topic_log("t").await.len(), 2);
}
