//! `POST /v1/batches`.

use super::api;
use millpond_tests::harness::client::{Answer, Api, send};
use millpond_tests::harness::unique;
use reqwest::Method;
use serde_json::{Value, json};

async fn batch(api: &Api, key: Option<&str>, body: Value) -> Answer {
    let request = api.request(Method::POST, "/v1/batches").json(&body);
    send(match key {
        Some(key) => request.header("idempotency-key", key),
        None => request,
    })
    .await
}

#[tokio::test]
async fn records_of_several_topics_are_stored_in_one_commit() {
    let (api, orders, audit) = (api(), unique("orders"), unique("audit"));
    api.topic(&orders, 2).await;
    api.topic(&audit, 1).await;
    let body = json!({"topics": {
        orders.clone(): [{"value": 1, "partition": 0}, {"value": 2, "partition": 1}, {"value": 3, "partition": 0}],
        audit.clone(): [{"value": "a", "timestamp": 5}]
    }});
    let answer = batch(&api, None, body).await.ok();
    let places: Vec<(i64, i64)> = answer["results"][&orders]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["partition"].as_i64().unwrap(), r["offset"].as_i64().unwrap()))
        .collect();
    assert_eq!(places, [(0, 0), (1, 0), (0, 1)]);
    assert_eq!(
        answer["results"][&audit],
        json!([{"partition": 0, "offset": 0, "timestamp": 5, "duplicate": false}])
    );
    assert_eq!(api.topic_log(&orders).await.len(), 3);
    assert_eq!(api.topic_log(&audit).await.len(), 1);
}

#[tokio::test]
async fn one_bad_record_keeps_every_topic_empty() {
    let (api, good, bad) = (api(), unique("good"), unique("bad"));
    api.topic(&good, 1).await;
    api.topic(&bad, 1).await;
    for (record, status, code) in [
        (json!({"value": 1, "partition": 1}), 404, "partition_not_found"),
        (json!({"value": 1, "text": ""}), 422, "invalid_record"),
        (json!({"text": "x".repeat(1_100_000)}), 413, "record_too_large"),
    ] {
        let body = json!({"topics": {good.clone(): [{"value": 1}], bad.clone(): [{"value": 1}, record]}});
        batch(&api, None, body).await.problem(status, code);
    }
    assert_eq!(api.topic_log(&good).await.len(), 0);
    assert_eq!(api.topic_log(&bad).await.len(), 0);
}

#[tokio::test]
async fn a_repeated_batch_is_stored_once() {
    let (api, a, b, key) = (api(), unique("a"), unique("b"), unique("key"));
    let body = json!({"topics": {a.clone(): [{"value": 1}, {"value": 2}], b.clone(): [{"value": 3}]}});
    let first = batch(&api, Some(&key), body.clone()).await.ok();
    assert!(first.get("duplicate").is_none());
    for _ in 0..3 {
        let again = batch(&api, Some(&key), body.clone()).await.ok();
        assert_eq!(again["duplicate"], json!(true));
        for topic in [&a, &b] {
            for (one, other) in first["results"][topic]
                .as_array()
                .unwrap()
                .iter()
                .zip(again["results"][topic].as_array().unwrap())
            {
                let mut expected = one.clone();
                expected["duplicate"] = json!(true);
                assert_eq!(*other, expected);
            }
        }
    }
    assert_eq!(api.topic_log(&a).await.len(), 2);
    assert_eq!(api.topic_log(&b).await.len(), 1);
    let other = json!({"topics": {a.clone(): [{"value": 9}]}});
    batch(&api, Some(&key), other).await.problem(409, "idempotency_conflict");
}

#[tokio::test]
async fn wrong_batches_are_refused() {
    let api = api();
    let topic = unique("t");
    for body in [
        json!([]),
        json!({"topics": []}),
        json!({"topics": {topic.clone(): {}}}),
        json!({"topic": {}}),
        json!({"topics": {"a b": [{"value": 1}]}}),
        json!({"topics": {"": [{"value": 1}]}}),
        json!({"topics": {topic.clone(): [{"value": 1}]}, "acks": "x"}),
        json!({"topics": (0..65).map(|n| (format!("{topic}-{n}"), json!([{"value": 1}]))).collect::<serde_json::Map<_, _>>()}),
    ] {
        let answer = batch(&api, None, body.clone()).await;
        assert!(matches!(answer.status, 400 | 422), "{body}: {answer:?}");
    }
    let twice = format!("{{\"topics\":{{\"{topic}\":[{{\"value\":1}}],\"{topic}\":[{{\"value\":2}}]}}}}");
    let request = api.request(Method::POST, "/v1/batches").header("content-type", "application/json");
    send(request.body(twice)).await.problem(400, "bad_request");
    let request = api.request(Method::POST, "/v1/batches").header("content-type", "application/x-ndjson");
    send(request.body("1\n")).await.problem(415, "unsupported_media_type");
    let request =
        api.request(Method::POST, "/v1/batches").header("if-match", "0").json(&json!({"topics": {}}));
    send(request).await.problem(400, "bad_request");
}

#[tokio::test]
async fn an_empty_batch_is_no_problem() {
    let api = api();
    assert_eq!(batch(&api, None, json!({"topics": {}})).await.ok(), json!({"results": {}}));
    assert_eq!(batch(&api, None, json!({})).await.ok(), json!({"results": {}}));
    let topic = unique("t");
    assert_eq!(
        batch(&api, None, json!({"topics": {topic.clone(): []}})).await.ok(),
        json!({"results": {topic: []}})
    );
}
