//! Postgres dies or hangs under load; the agent stays.

use millpond_tests::harness::child::signal;
use millpond_tests::harness::load::Load;
use millpond_tests::harness::process::{Dev, Home};
use millpond_tests::harness::wait::{until, within};
use serde_json::json;

/// Longest wait for the answer to a request that cannot succeed, in seconds.
const ANSWER_WAIT_MAX_S: u64 = 10;

#[tokio::test]
async fn the_agent_recovers_from_crashes_of_postgres_by_itself() {
    let home = Home::open();
    let dev = Dev::start(&home, &[]);
    let api = dev.api();
    api.topic("small", 3).await;
    api.put("/v1/topics/large", json!({"partitions": 2, "placement": "object"})).await;
    let load = Load::start(&api, &["small", "large"]);
    for _ in 0..3 {
        load.more(60).await;
        assert!(dev.kill_postgres());
    }
    load.more(60).await;
    let outcome = load.stop().await;
    outcome.check(&api).await;
}

#[tokio::test]
async fn while_postgres_cannot_run_requests_are_refused_promptly() {
    let home = Home::open();
    let dev = Dev::start(&home, &[]);
    let api = dev.api();
    api.topic("t", 1).await;
    api.produce("t", json!([{"value": 0}])).await.ok();
    // The database never comes back, as far as the agent can tell: each new postmaster is killed.
    let refused = {
        let killing = async {
            loop {
                dev.kill_postgres();
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        let asking = async {
            let produce = until(40, "a refusal of a produce", async || {
                let answer = within(
                    ANSWER_WAIT_MAX_S,
                    "an answer without a database",
                    api.produce("t", json!([{"value": 1}])),
                )
                .await;
                (answer.status != 200).then_some(answer)
            })
            .await;
            produce.problem(503, "control_plane_unavailable");
            let read =
                within(ANSWER_WAIT_MAX_S, "an answer without a database", api.partition("t", 0, "?offset=0"))
                    .await;
            read.problem(503, "control_plane_unavailable");
            within(ANSWER_WAIT_MAX_S, "an answer without a database", api.get("/v1/topics"))
                .await
                .problem(503, "control_plane_unavailable");
            assert_eq!(within(ANSWER_WAIT_MAX_S, "health", api.get("/healthz")).await.status, 200);
            let ready = within(ANSWER_WAIT_MAX_S, "readiness", api.get("/readyz")).await;
            assert_eq!((ready.status, &ready.json()["ready"]), (503, &json!(false)));
        };
        tokio::select! {
            () = killing => false,
            () = asking => true,
        }
    };
    assert!(refused);
    until(40, "recovery", async || (api.get("/readyz").await.status == 200).then_some(())).await;
    until(20, "a produce after recovery", async || {
        (api.produce("t", json!([{"value": 2}])).await.status == 200).then_some(())
    })
    .await;
    let values: Vec<_> = api.log("t", 0).await.iter().map(|r| r["value"].clone()).collect();
    assert_eq!((values.first(), values.last()), (Some(&json!(0)), Some(&json!(2))));
}

/// No connection breaks and no statement fails: statements only take for ever.
#[tokio::test]
async fn while_postgres_hangs_requests_are_refused_promptly() {
    let home = Home::open();
    let dev = Dev::start(&home, &[]);
    let api = dev.api();
    api.topic("t", 1).await;
    api.produce("t", json!([{"value": "before"}])).await.ok();
    let stopped = dev.postgres_processes();
    signal("STOP", &stopped);
    let first = tokio::time::timeout(
        std::time::Duration::from_secs(ANSWER_WAIT_MAX_S),
        api.produce_once("t", "k", json!([{"value": "hung"}])),
    )
    .await;
    let second = tokio::time::timeout(
        std::time::Duration::from_secs(ANSWER_WAIT_MAX_S),
        api.produce("t", json!([{"value": "late"}])),
    )
    .await;
    let read = tokio::time::timeout(
        std::time::Duration::from_secs(ANSWER_WAIT_MAX_S),
        api.partition("t", 0, "?offset=0"),
    )
    .await;
    signal("CONT", &stopped);
    for (what, answer) in [("first", first), ("second", second), ("read", read)] {
        answer
            .unwrap_or_else(|_| {
                panic!("{what} request while Postgres hangs: no answer within {ANSWER_WAIT_MAX_S} s")
            })
            .problem(503, "control_plane_unavailable");
    }
    let kept = async || {
        let answer = api.produce_once("t", "k", json!([{"value": "hung"}])).await;
        (answer.status == 200).then_some(())
    };
    until(20, "the retry after the hang", kept).await;
    let values: Vec<_> = api.log("t", 0).await.iter().map(|r| r["value"].clone()).collect();
    assert_eq!(values.iter().filter(|v| **v == json!("hung")).count(), 1, "{values:?}");
}
