//! The agent is ended by Ctrl-C, or by a service manager's SIGTERM.

use millpond_tests::harness::client::Api;
use millpond_tests::harness::load::Load;
use millpond_tests::harness::process::{Dev, Home};
use reqwest::Method;
use serde_json::json;

/// Opens a tail, a long poll and a half-sent request, which are open when the agent is told to end.
async fn open_requests(api: &Api) -> Vec<tokio::task::JoinHandle<()>> {
    let (tail, poll) = (api.clone(), api.clone());
    let mut response = tail
        .request(Method::GET, "/v1/topics/small/records")
        .header("accept", "text/event-stream")
        .send()
        .await
        .expect("an answer");
    vec![
        tokio::spawn(async move { while let Ok(Some(_)) = response.chunk().await {} }),
        tokio::spawn(async move {
            let request = poll.request(Method::GET, "/v1/topics/quiet/partitions/0/records?wait_ms=30000");
            drop(request.send().await);
        }),
    ]
}

async fn stopped_by(name: &str) {
    let home = Home::open();
    let dev = Dev::start(&home, &[]);
    let (api, address) = (dev.api(), dev.address.to_string());
    for topic in ["small", "quiet"] {
        api.topic(topic, 2).await;
    }
    api.put("/v1/topics/large", json!({"partitions": 2, "placement": "object"})).await;
    let open = open_requests(&api).await;
    let load = Load::start(&api, &["small", "large"]);
    load.more(100).await;
    let status = dev.end_by(name, 20).await;
    assert!(status.success(), "{status}");
    for request in open {
        request.abort();
    }
    let outcome = load.abandon().await;
    let dev = Dev::start_at(&home, &address, &[]);
    outcome.check(&dev.api()).await;
    assert!(dev.end_by(name, 20).await.success());
}

#[tokio::test]
async fn sigterm_loses_nothing_and_ends_well() {
    stopped_by("TERM").await;
}

#[tokio::test]
async fn sigint_loses_nothing_and_ends_well() {
    stopped_by("INT").await;
}

#[tokio::test]
async fn an_ephemeral_millpond_leaves_nothing_behind() {
    let dev = Dev::ephemeral();
    let (api, bucket, database) = (dev.api(), dev.bucket.clone(), dev.database.clone());
    api.produce("t", json!([{"value": 1}])).await.ok();
    assert!(bucket.is_dir() && database.is_dir());
    let status = dev.end_by("TERM", 20).await;
    assert!(status.success(), "{status}");
    for folder in [&bucket, &database] {
        assert!(!folder.exists(), "{} is still there", folder.display());
        assert!(!folder.parent().unwrap().exists(), "{} is still there", folder.parent().unwrap().display());
    }
}
