//! Small records are stored in Postgres first, and move to the bucket once they are old enough.

use millpond_tests::harness::process::{Dev, Home};
use millpond_tests::harness::wait::until;
use serde_json::{Value, json};

#[tokio::test]
async fn records_stay_the_same_when_they_move_to_the_bucket() {
    let home = Home::open();
    let dev = Dev::start(&home, &[]);
    let api = dev.api();
    api.put("/v1/topics/t", json!({"partitions": 3, "dedup_window_ms": 3_600_000})).await;
    for n in 0..40 {
        let records = json!([
            {"key": format!("k{}", n % 7), "value": {"n": n}, "headers": {"h": ["a", {"base64": "/w=="}]}},
            {"base64": "AP8=", "partition": n % 3, "dedup_id": format!("d{}", n / 2)},
            {"partition": 1, "timestamp": n}
        ]);
        api.produce("t", records).await.ok();
    }
    let before = api.topic_log("t").await;
    assert_eq!(before.len(), 40 * 3 - 20);
    assert_eq!(home.objects(), Vec::<std::path::PathBuf>::new());
    let drained = until(60, "a drain", async || {
        Some(api.metric("millpond_job_done_total", "job=\"drain\"").await).filter(|n| *n > 0)
    })
    .await;
    assert!(drained > 0);
    assert!(!home.objects().is_empty());
    assert_eq!(api.topic_log("t").await, before);
    // With a cold cache they are read from the bucket.
    dev.kill_all().await;
    let dev = Dev::start(&home, &[]);
    let api = dev.api();
    assert_eq!(api.topic_log("t").await, before);
    assert!(api.metric("millpond_store_requests_total", "operation=\"get\"").await > 0);
    // The log continues at its next offset.
    let answer = api.produce("t", json!([{"value": "next", "partition": 1}])).await.ok();
    let count = before.iter().filter(|r| r["partition"] == json!(1)).count();
    assert_eq!(answer["results"][0]["offset"], json!(count));
    let mut after: Vec<Value> = api.log("t", 1).await;
    assert_eq!(after.pop().map(|r| r["value"].clone()), Some(json!("next")));
}
