//! `Idempotency-Key`.

use super::api;
use bytes::Bytes;
use millpond_tests::harness::client::{Answer, list, send, try_send};
use millpond_tests::harness::raw::Raw;
use millpond_tests::harness::unique;
use millpond_tests::harness::wait::until;
use serde_json::{Value, json};

#[tokio::test]
async fn a_retry_gets_the_first_answer() {
    let (api, topic) = (api(), unique("once"));
    api.topic(&topic, 4).await;
    let records = json!([{"value": 1}, {"value": 2, "partition": 3}, {"key": "k", "value": 3}]);
    let first = api.produce_once(&topic, "k1", records.clone()).await.ok();
    assert!(first.get("duplicate").is_none());
    assert!(list(&first, "results").iter().all(|r| r["duplicate"] == json!(false)));
    let mut expected = first.clone();
    expected["duplicate"] = json!(true);
    expected["results"].as_array_mut().unwrap().iter_mut().for_each(|r| r["duplicate"] = json!(true));
    for _ in 0..3 {
        // Records of other requests in between do not change the answer.
        api.produce(&topic, json!([{"value": "other"}])).await.ok();
        assert_eq!(api.produce_once(&topic, "k1", records.clone()).await.ok(), expected);
    }
    assert_eq!(api.topic_log(&topic).await.len(), 6);
}

#[tokio::test]
async fn the_same_key_with_another_request_is_a_conflict() {
    let (api, topic) = (api(), unique("once"));
    api.topic(&topic, 1).await;
    api.produce_once(&topic, "k", json!([{"value": 1}])).await.ok();
    api.produce_once(&topic, "k", json!([{"value": 2}])).await.problem(409, "idempotency_conflict");
    api.produce_once(&topic, "k", json!([{"value": 1}, {"value": 1}]))
        .await
        .problem(409, "idempotency_conflict");
    // The content type is part of the request's identity.
    for content_type in
        ["application/x-ndjson", "application/octet-stream", "application/json; charset=utf-8"]
    {
        let body = json!({"records": [{"value": 1}]}).to_string();
        let request = api.post(&topic, content_type).header("idempotency-key", "k").body(body);
        send(request).await.problem(409, "idempotency_conflict");
    }
    assert_eq!(api.topic_log(&topic).await.len(), 1);
}

#[tokio::test]
async fn a_key_holds_for_one_topic() {
    let (api, one, other) = (api(), unique("once"), unique("once"));
    let records = json!([{"value": 1, "partition": 0}]);
    api.produce_once(&one, "k", records.clone()).await.ok();
    let answer = api.produce_once(&other, "k", records).await.ok();
    assert!(answer.get("duplicate").is_none());
    assert_eq!(api.log(&other, 0).await.len(), 1);
}

#[tokio::test]
async fn a_key_outlives_growth_of_the_topic() {
    let (api, topic) = (api(), unique("once"));
    api.topic(&topic, 2).await;
    let records: Vec<Value> = (0..40).map(|n| json!({"key": format!("k{n}"), "value": n})).collect();
    let first = api.produce_once(&topic, "k", json!(records)).await.ok();
    api.topic(&topic, 16).await;
    let again = api.produce_once(&topic, "k", json!(records)).await.ok();
    assert_eq!(again["duplicate"], json!(true));
    for (one, other) in list(&first, "results").iter().zip(list(&again, "results")) {
        assert_eq!((&one["partition"], &one["offset"]), (&other["partition"], &other["offset"]));
    }
    assert_eq!(api.topic_log(&topic).await.len(), 40);
}

#[tokio::test]
async fn a_refused_request_is_not_remembered() {
    let (api, topic) = (api(), unique("once"));
    api.topic(&topic, 1).await;
    api.produce_once(&topic, "k", json!([{"value": 1, "partition": 1}]))
        .await
        .problem(404, "partition_not_found");
    let answer = api.produce_once(&topic, "k", json!([{"value": 1, "partition": 0}])).await.ok();
    assert!(answer.get("duplicate").is_none());
}

#[tokio::test]
async fn a_key_is_looked_at_before_if_match() {
    let (api, topic) = (api(), unique("once"));
    api.topic(&topic, 1).await;
    let body = json!({"records": [{"value": 1, "partition": 0}]}).to_string();
    let post = |key: &'static str| {
        send(
            api.post(&topic, "application/json")
                .header("if-match", "0")
                .header("idempotency-key", key)
                .body(body.clone()),
        )
    };
    post("a").await.ok();
    assert_eq!(post("a").await.ok()["duplicate"], json!(true));
    post("b").await.problem(409, "offset_mismatch");
    post("b").await.problem(409, "offset_mismatch");
}

#[tokio::test]
async fn a_request_with_key_and_dedup_ids_answers_the_same_again() {
    let (api, topic) = (api(), unique("once"));
    api.put(&format!("/v1/topics/{topic}"), json!({"partitions": 2, "dedup_window_ms": 60_000})).await;
    api.produce(&topic, json!([{"value": 0, "partition": 1, "dedup_id": "a"}])).await.ok();
    let records = json!([{"value": 1, "partition": 0}, {"value": 2, "partition": 0, "dedup_id": "a"}, {"value": 3, "partition": 0, "dedup_id": "b"}]);
    let first = api.produce_once(&topic, "k", records.clone()).await.ok();
    let again = api.produce_once(&topic, "k", records).await.ok();
    let places = |answer: &Value| {
        list(answer, "results")
            .iter()
            .map(|r| (r["partition"].clone(), r["offset"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(places(&first), [(json!(0), json!(0)), (json!(1), json!(0)), (json!(0), json!(1))]);
    assert_eq!(places(&again), places(&first));
    assert_eq!(api.topic_log(&topic).await.len(), 3);
}

#[tokio::test]
async fn of_many_retries_at_once_one_is_stored() {
    let (api, topic) = (api(), unique("once"));
    api.topic(&topic, 4).await;
    let records = json!([{"value": 1}, {"value": 2}]);
    let tries = (0..16).map(|_| api.produce_once(&topic, "k", records.clone())).collect::<Vec<_>>();
    let answers: Vec<Value> = futures::future::join_all(tries).await.iter().map(Answer::ok).collect();
    assert_eq!(answers.iter().filter(|a| a.get("duplicate").is_none()).count(), 1);
    let offsets = |a: &Value| {
        list(a, "results").iter().map(|r| (r["partition"].clone(), r["offset"].clone())).collect::<Vec<_>>()
    };
    assert!(answers.iter().all(|a| offsets(a) == offsets(&answers[0])), "{answers:?}");
    assert_eq!(api.topic_log(&topic).await.len(), 2);
}

#[tokio::test]
async fn a_stream_is_remembered_chunk_by_chunk() {
    let (api, topic) = (api(), unique("once"));
    api.topic(&topic, 1).await;
    let lines: String = (0..70_000).map(|n| format!("{n}\n")).collect();
    // The first attempt breaks off after its first chunk.
    let mut raw = Raw::connect(api.address).await;
    let head = format!(
        "POST /v1/topics/{topic}/records HTTP/1.1\r\nhost: localhost\r\nidempotency-key: k\r\ncontent-type: application/x-ndjson\r\ncontent-length: {}\r\n\r\n",
        lines.len()
    );
    raw.write(head).await;
    raw.write(&lines.as_bytes()[..lines.len() - 10]).await;
    until(30, "the first chunk", async || {
        let description = api.get(&format!("/v1/topics/{topic}")).await.ok();
        (description["partitions"][0]["high_watermark"] == json!(65_536)).then_some(())
    })
    .await;
    drop(raw);
    let post = |body: String| {
        send(api.post(&topic, "application/x-ndjson").header("idempotency-key", "k").body(body))
    };
    let answer = post(lines.clone()).await.ok();
    let range = json!([{"partition": 0, "first_offset": 0, "last_offset": 69_999, "count": 70_000}]);
    assert_eq!(answer, json!({"count": 70_000, "partitions": range, "duplicate": true}));
    assert_eq!(post(lines.clone()).await.ok(), answer);
    let high = api.get(&format!("/v1/topics/{topic}")).await.ok()["partitions"][0]["high_watermark"].clone();
    assert_eq!(high, json!(70_000));
    let boundary = api.partition(&topic, 0, "?offset=65530&max_records=10").await.ok();
    let values: Vec<Value> = list(&boundary, "records").iter().map(|r| r["value"].clone()).collect();
    assert_eq!(values, (65_530..65_540).map(|n| json!(n)).collect::<Vec<_>>());
    // A body that differs in its second chunk only conflicts in that chunk.
    let problem = post(lines.replace("69999\n", "0\n")).await.problem(409, "idempotency_conflict");
    assert_eq!(problem["committed"]["count"], json!(65_536));
    let problem = post("0\n".to_owned()).await.problem(409, "idempotency_conflict");
    assert_eq!(problem["committed"]["count"], json!(0));
}

#[tokio::test]
async fn the_query_is_part_of_a_stream_request() {
    let (api, topic) = (api(), unique("once"));
    let post = |query: &'static [(&str, &str)]| {
        send(
            api.post(&topic, "application/x-ndjson")
                .query(query)
                .header("idempotency-key", "k")
                .body("{\"a\":1}\n"),
        )
    };
    post(&[("key", "/a")]).await.ok();
    assert_eq!(post(&[("key", "/a")]).await.ok()["duplicate"], json!(true));
    post(&[]).await.problem(409, "idempotency_conflict");
}

#[tokio::test]
async fn a_key_has_1_to_128_bytes() {
    let (api, topic) = (api(), unique("once"));
    let records = json!([{"value": 1}]);
    api.produce_once(&topic, &"k".repeat(128), records.clone()).await.ok();
    api.produce_once(&topic, "a key with spaces, and \"quotes\"", records.clone()).await.ok();
    for bad in [String::new(), "k".repeat(129)] {
        api.produce_once(&topic, &bad, records.clone()).await.problem(400, "bad_request");
    }
    let body = json!({"records": records}).to_string();
    let bytes = reqwest::header::HeaderValue::from_bytes(b"\xff\xfe").unwrap();
    send(api.post(&topic, "application/json").header("idempotency-key", bytes).body(body))
        .await
        .problem(400, "bad_request");
}

#[tokio::test]
async fn an_atomic_request_that_breaks_off_stores_nothing() {
    let (api, topic) = (api(), unique("once"));
    api.topic(&topic, 1).await;
    let body = json!({"records": [{"value": 1}, {"value": 2}]}).to_string();
    for cut in [1, body.len() / 2, body.len() - 1] {
        let mut raw = Raw::connect(api.address).await;
        let head = format!(
            "POST /v1/topics/{topic}/records HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        raw.write(head).await;
        raw.write(&body[..cut]).await;
        drop(raw);
    }
    let broken = futures::stream::iter([Ok(Bytes::from(body.clone())), Err(std::io::Error::other("gone"))]);
    let request = api.post(&topic, "application/json").body(reqwest::Body::wrap_stream(broken));
    assert!(try_send(request).await.is_err());
    api.produce(&topic, json!([{"value": "after"}])).await.ok();
    assert_eq!(api.topic_log(&topic).await.len(), 1);
}

/// A client that disconnects after a complete request does not cancel it.
#[tokio::test]
async fn a_client_that_leaves_before_the_answer_finds_its_records_stored_once() {
    let (api, topic) = (api(), unique("once"));
    api.topic(&topic, 1).await;
    let body = json!({"records": [{"value": 1, "partition": 0}]}).to_string();
    for n in 0..20 {
        let mut raw = Raw::connect(api.address).await;
        let request = format!(
            "POST /v1/topics/{topic}/records HTTP/1.1\r\nhost: localhost\r\nidempotency-key: k{n}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        raw.write(request).await;
        drop(raw);
    }
    for n in 0..20 {
        api.produce_once(&topic, &format!("k{n}"), json!([{"value": 1, "partition": 0}])).await.ok();
    }
    assert_eq!(api.log(&topic, 0).await.len(), 20);
}
