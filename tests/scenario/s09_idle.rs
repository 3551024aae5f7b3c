//! An idle agent sends few statements.

use millpond_tests::harness::process::{Dev, Home};
use serde_json::json;
use sqlx::{Connection, PgConnection, Row};
use std::collections::BTreeSet;
use std::time::Duration;

/// Time after which an agent has done the work that follows a start and a produce.
const START_WORK_TIME: Duration = Duration::from_secs(12);
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
const SAMPLES: usize = 200;

/// Adds the last statement of each of the agent's connections: the set grows with every statement.
async fn statements(connection: &mut PgConnection, into: &mut BTreeSet<(i32, i64, String)>) {
    let query =
        "select pid, (extract(epoch from query_start) * 1e6)::bigint as at, query from pg_stat_activity
        where application_name = 'millpond' and query_start is not null";
    for row in sqlx::query(query).fetch_all(connection).await.expect("activity") {
        into.insert((row.get("pid"), row.get("at"), row.get("query")));
    }
}

#[tokio::test]
async fn an_idle_millpond_costs_next_to_nothing() {
    let home = Home::open();
    let dev = Dev::start(&home, &[]);
    let api = dev.api();
    api.put("/v1/topics/large", json!({"partitions": 2, "placement": "object"})).await;
    api.produce("large", json!([{"value": 1}])).await.ok();
    // Work that follows a start and a produce is done by then.
    tokio::time::sleep(START_WORK_TIME).await;
    let mut connection = PgConnection::connect(&dev.database_url).await.expect("a connection");
    let mut before = BTreeSet::new();
    statements(&mut connection, &mut before).await;
    let (requests, objects) = (api.metric("millpond_store_requests_total", "").await, home.objects());
    let mut seen = before.clone();
    for _ in 0..SAMPLES {
        tokio::time::sleep(SAMPLE_INTERVAL).await;
        statements(&mut connection, &mut seen).await;
    }
    assert_eq!(api.metric("millpond_store_requests_total", "").await, requests, "requests to the store");
    assert_eq!(home.objects(), objects);
    let new: Vec<_> = seen.difference(&before).collect();
    // In somewhat more than 20 s: a statement every 5 s, three in the tick that forgets, one for the edges.
    // Of statements that follow each other on one connection, a sample shows the last, so fewer may be seen.
    assert!(new.len() <= 7, "{} statements: {new:#?}", new.len());
    connection.close().await.expect("a goodbye");
}
