//! `POST …/records` with `application/octet-stream`.

use super::api;
use millpond_tests::harness::client::send;
use millpond_tests::harness::unique;
use serde_json::{Value, json};

const OCTETS: &str = "application/octet-stream";

#[tokio::test]
async fn the_body_is_one_record_byte_for_byte() {
    let (api, topic) = (api(), unique("octets"));
    api.topic(&topic, 1).await;
    let all: Vec<u8> = (0..=255).collect();
    let bodies: [&[u8]; 4] = [&all, b"", b"{\"a\":1}", b"plain\r\n"];
    for (n, body) in bodies.iter().enumerate() {
        let answer = send(api.post(&topic, OCTETS).body(body.to_vec())).await.ok();
        let result = &answer["results"][0];
        assert_eq!(
            (&result["partition"], &result["offset"], &result["duplicate"]),
            (&json!(0), &json!(n), &json!(false))
        );
    }
    let pinned = api.partition(&topic, 0, "?encoding=base64").await.ok();
    for (record, body) in pinned["records"].as_array().unwrap().iter().zip(bodies) {
        use base64::Engine;
        assert_eq!(record["base64"], json!(base64::engine::general_purpose::STANDARD.encode(body)));
    }
    let log = api.log(&topic, 0).await;
    assert!(log[0].get("base64").is_some());
    assert_eq!(
        (&log[1]["text"], &log[2]["value"], &log[3]["text"]),
        (&json!(""), &json!({"a": 1}), &json!("plain\r\n"))
    );
}

#[tokio::test]
async fn key_and_headers_come_as_headers() {
    let (api, topic) = (api(), unique("octets"));
    api.topic(&topic, 3).await;
    let request = api
        .post(&topic, OCTETS)
        .query(&[("partition", "2")])
        .header("Millpond-Key", "c7")
        .header("Millpond-Header-Trace", "a")
        .header("Millpond-Header-Trace", "b")
        .header("millpond-header-x", "")
        .header("millpond-headers", "not one");
    send(request.body("v")).await.ok();
    let record = api.log(&topic, 2).await.remove(0);
    assert_eq!(record["key"], json!("c7"));
    assert_eq!(record["headers"], json!({"trace": ["a", "b"], "x": ""}));
    let reserved = api.post(&topic, OCTETS).header("millpond-header-millpond.x", "1").body("v");
    send(reserved).await.problem(422, "invalid_record");
    for (partition, status, code) in
        [("3", 404, "partition_not_found"), ("-1", 422, "invalid_record"), ("x", 400, "bad_request")]
    {
        send(api.post(&topic, OCTETS).query(&[("partition", partition)]).body("v"))
            .await
            .problem(status, code);
    }
}

#[tokio::test]
async fn if_match_holds_for_one_record_too() {
    let (api, topic) = (api(), unique("octets"));
    api.topic(&topic, 1).await;
    let append = |at: &'static str| {
        send(api.post(&topic, OCTETS).query(&[("partition", "0")]).header("if-match", at).body("v"))
    };
    append("0").await.ok();
    append("0").await.problem(409, "offset_mismatch");
    append("1").await.ok();
}

#[tokio::test]
async fn a_retry_brings_the_same_key_headers_and_body() {
    let (api, topic) = (api(), unique("octets"));
    api.topic(&topic, 1).await;
    let post = |key: &'static str, header: &'static str, body: &'static str| {
        send(
            api.post(&topic, OCTETS)
                .header("idempotency-key", "k")
                .header("millpond-key", key)
                .header("millpond-header-h", header)
                .body(body),
        )
    };
    let first = post("a", "1", "v").await.ok();
    let again = post("a", "1", "v").await.ok();
    assert_eq!(
        (&again["duplicate"], &again["results"][0]["offset"]),
        (&json!(true), &first["results"][0]["offset"])
    );
    post("b", "1", "v").await.problem(409, "idempotency_conflict");
    post("a", "2", "v").await.problem(409, "idempotency_conflict");
    post("a", "1", "w").await.problem(409, "idempotency_conflict");
    assert_eq!(api.log(&topic, 0).await.len(), 1);
}

#[tokio::test]
async fn headers_of_a_record_have_the_same_limits_in_every_form() {
    let (api, topic) = (api(), unique("octets"));
    api.topic(&topic, 1).await;
    let large = "x".repeat(33_000);
    let two =
        api.post(&topic, OCTETS).header("millpond-header-a", &large).header("millpond-header-b", &large);
    send(two.body("v")).await.problem(431, "headers_too_large");
    assert_eq!(api.log(&topic, 0).await, Vec::<Value>::new());
}
