//! Workers that wait on queues without records cost no grants and no transaction ids.

use millpond_tests::harness::client::list;
use millpond_tests::harness::process::{Dev, Home};
use millpond_tests::harness::queue::Queue;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

const QUEUES: usize = 20;
const CALLS_PER_QUEUE: usize = 5;
/// Time after which all calls wait, and the work that follows a start is done.
const SETTLING: Duration = Duration::from_secs(6);
const OBSERVED: Duration = Duration::from_secs(10);
/// Transaction ids of heartbeats, jobs and autovacuum in that time. Grants that are repeated four times a
/// second would need 800.
const OTHER_TRANSACTIONS_MAX: i64 = 60;

async fn next_transaction(connection: &mut PgConnection) -> i64 {
    let query = "select pg_snapshot_xmax(pg_current_snapshot())::text::int8";
    sqlx::query_scalar(query).fetch_one(connection).await.expect("a snapshot")
}

#[tokio::test]
async fn waiting_workers_cost_no_transactions_and_get_what_comes() {
    let home = Home::open();
    let dev = Dev::start(&home, &[]);
    let mut calls = JoinSet::new();
    let mut topics = Vec::new();
    for _ in 0..QUEUES {
        let queue = Arc::new(Queue::new(dev.api(), json!({})).await);
        topics.push(queue.topic.clone());
        for _ in 0..CALLS_PER_QUEUE {
            let queue = Arc::clone(&queue);
            calls.spawn(async move {
                let lease = queue.post("leases", json!({"max_records": 1, "wait_ms": 29_000})).await.ok();
                (queue.topic.clone(), list(&lease, "records").len())
            });
        }
    }
    tokio::time::sleep(SETTLING).await;
    let grants =
        async || dev.api().metric("millpond_control_plane_call_seconds_count", "call=\"grant\"").await;
    let mut connection = PgConnection::connect(&dev.database_url).await.expect("a connection");
    let before = (grants().await, next_transaction(&mut connection).await);
    tokio::time::sleep(OBSERVED).await;
    let after = (grants().await, next_transaction(&mut connection).await);
    assert!(before.0 > 0, "each queue was asked once");
    assert_eq!(before.0, after.0, "grants while nothing happened");
    let transactions = after.1 - before.1;
    assert!(transactions <= OTHER_TRANSACTIONS_MAX, "{transactions} transactions while nothing happened");

    for topic in &topics {
        dev.api().produce(topic, json!([{"value": 1}])).await.ok();
    }
    let mut got = Vec::new();
    while let Some(call) = calls.join_next().await {
        let (topic, records) = call.expect("a call");
        got.extend(vec![topic; records]);
    }
    got.sort();
    topics.sort();
    assert_eq!(got, topics, "each record reached one of the calls that waited");
    connection.close().await.expect("a goodbye");
}
