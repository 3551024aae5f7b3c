//! The agent is killed again and again while producers, readers and streams are active.

use millpond_tests::harness::load::Load;
use millpond_tests::harness::process::{Dev, Home};
use serde_json::json;

#[tokio::test]
async fn what_was_acknowledged_is_stored_once_though_the_agent_dies() {
    let home = Home::open();
    let mut dev = Dev::start(&home, &[]);
    let (api, address) = (dev.api(), dev.address.to_string());
    api.topic("small", 3).await;
    api.put("/v1/topics/large", json!({"partitions": 2, "placement": "object"})).await;
    let load = Load::start(&api, &["small", "large"]);
    for _ in 0..3 {
        load.more(60).await;
        dev.kill().await;
        dev = Dev::start_at(&home, &address, &[]);
    }
    load.more(60).await;
    let outcome = load.stop().await;
    outcome.check(&api).await;
    // The records are still there when nothing is left in memory.
    dev.kill_all().await;
    let dev = Dev::start_at(&home, &address, &[]);
    outcome.check(&dev.api()).await;
}

#[tokio::test]
async fn of_requests_that_were_never_repeated_nothing_is_there_twice_or_torn() {
    let home = Home::open();
    let dev = Dev::start(&home, &[]);
    let (api, address) = (dev.api(), dev.address.to_string());
    api.topic("small", 3).await;
    let load = Load::start(&api, &["small"]);
    load.more(100).await;
    dev.kill_all().await;
    let outcome = load.abandon().await;
    let dev = Dev::start_at(&home, &address, &[]);
    outcome.check(&api).await;
    // Each request must be stored as a whole or not at all.
    let mut whole = std::collections::HashMap::<String, usize>::new();
    for record in api.topic_log("small").await {
        let name = record["value"].as_str().unwrap();
        *whole.entry(name.rsplit_once('-').unwrap().0.to_owned()).or_default() += 1;
    }
    assert!(whole.values().all(|records| *records == 3), "{whole:?}");
    drop(dev);
}
