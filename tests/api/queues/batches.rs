//! Acks and records in one atomic commit.

use crate::api;
use millpond_tests::harness::client::{Answer, send};
use millpond_tests::harness::queue::{Counts, Queue, receipts};
use millpond_tests::harness::unique;
use reqwest::Method;
use serde_json::{Value, json};

async fn batch(queue: &Queue, body: Value) -> Answer {
    send(queue.api.request(Method::POST, "/v1/batches").json(&body)).await
}

#[tokio::test]
async fn records_and_acks_are_committed_together() {
    let (queue, other, out) =
        (Queue::new(api(), json!({})).await, Queue::new(api(), json!({})).await, unique("out"));
    queue.api.topic(&out, 1).await;
    queue.fill(3).await;
    other.fill(1).await;
    let (lease, more) = (queue.lease(json!({"max_records": 2})).await, other.lease(json!({})).await);
    let acks = [receipts(&lease), receipts(&more)].concat();
    let body = json!({"topics": {out.clone(): [{"value": "done"}]}, "acks": acks});
    let first = batch(&queue, body.clone()).await.ok();
    assert_eq!(first["results"][&out][0]["offset"], json!(0));
    assert_eq!(queue.counts().await, Counts { ready: 1, ..Counts::default() });
    assert_eq!(other.counts().await, Counts::default());
    let again = batch(&queue, body.clone()).await.ok();
    assert_eq!(
        (&again["duplicate"], &again["results"][&out][0]["offset"]),
        (&json!(true), &json!(0)),
        "its receipts are its key"
    );
    assert_eq!(queue.api.topic_log(&out).await.len(), 1);
    let mut changed = body;
    changed["topics"][&out][0]["value"] = json!("something else");
    batch(&queue, changed).await.problem(409, "idempotency_conflict");
}

#[tokio::test]
async fn one_stale_receipt_and_nothing_happens() {
    let (queue, out) = (Queue::new(api(), json!({})).await, unique("out"));
    queue.api.topic(&out, 1).await;
    queue.fill(2).await;
    let lease = queue.lease(json!({"max_records": 2})).await;
    let r = receipts(&lease);
    queue.settle(json!({"ack": [r[0]]})).await;
    let body = json!({"topics": {out.clone(): [{"value": "done"}]}, "acks": [r[0], r[1]]});
    let problem = batch(&queue, body).await.problem(409, "lease_lost");
    assert_eq!(problem["receipts"], json!([r[0]]));
    assert_eq!(queue.api.topic_log(&out).await.len(), 0);
    assert_eq!(queue.counts().await, Counts { in_flight: 1, ..Counts::default() });
    let forged = batch(&queue, json!({"acks": ["mp1.forged", r[1]]})).await.problem(409, "lease_lost");
    assert_eq!(forged["receipts"], json!(["mp1.forged"]));
    batch(&queue, json!({"acks": [r[1], r[1]]})).await.problem(400, "bad_request");
    batch(&queue, json!({"topics": {}, "acks": [r[1]]})).await.ok();
    assert_eq!(queue.statuses(json!({"ack": [r[1]]})).await, ["lost"], "acked by the batch");
}
