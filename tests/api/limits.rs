//! Requests exactly at a limit, and one unit over it.

use super::api;
use bytes::Bytes;
use millpond_tests::harness::client::send;
use millpond_tests::harness::raw::{Raw, status};
use millpond_tests::harness::unique;
use serde_json::{Value, json};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn a_record_has_at_most_what_its_topic_allows() {
    let (api, topic) = (api(), unique("limit"));
    api.put(&format!("/v1/topics/{topic}"), json!({"partitions": 1, "max_record_bytes": 1000})).await;
    // The limit applies to the stored record, which has some bytes beside the value. Find the largest
    // accepted value by decreasing its size.
    let fits = async |bytes: usize| {
        let text = "x".repeat(bytes);
        let json = api.produce(&topic, json!([{"text": text}])).await.status;
        let lines =
            api.lines(&topic, "", format!("\"{}\"\n", "x".repeat(bytes.saturating_sub(2)))).await.status;
        let octets = send(api.post(&topic, "application/octet-stream").body(text)).await.status;
        assert_eq!((json, lines), (octets, octets), "{bytes}");
        assert!(matches!(json, 200 | 413), "{bytes}: {json}");
        json == 200
    };
    assert!(fits(900).await);
    assert!(!fits(1001).await);
    let mut largest = 1000;
    while !fits(largest).await {
        largest -= 1;
    }
    assert!(largest >= 950, "{largest}");
    let problem = api
        .produce(&topic, json!([{"value": 1}, {"text": "x".repeat(1001)}]))
        .await
        .problem(413, "record_too_large");
    assert_eq!(problem["record"], json!(1));
    let problem = api
        .lines(&topic, "", format!("1\n2\n\"{}\"\n", "x".repeat(1001)))
        .await
        .problem(413, "record_too_large");
    assert_eq!((&problem["line"], &problem["committed"]["count"]), (&json!(3), &json!(0)));
    // A line without an end is refused as well.
    let problem =
        api.lines(&topic, "", format!("1\n\"{}", "x".repeat(MIB))).await.problem(413, "record_too_large");
    assert_eq!(problem["line"], json!(2));
}

#[tokio::test]
async fn a_record_of_8_mib_goes_through_a_stream() {
    let (api, topic) = (api(), unique("limit"));
    api.put(&format!("/v1/topics/{topic}"), json!({"partitions": 1, "max_record_bytes": 8 * MIB})).await;
    let line = format!("\"{}\"\n", "x".repeat(8 * MIB - 200));
    assert_eq!(api.lines(&topic, "", line.repeat(2)).await.ok()["count"], json!(2));
    let page = api.partition(&topic, 0, "?max_bytes=1").await.ok();
    assert_eq!(page["records"][0]["value"].as_str().unwrap().len(), 8 * MIB - 200);
    assert_eq!(page["next_offset"], json!(1));
}

fn body_of(bytes: usize) -> String {
    let empty = r#"{"records":[]}"#.len();
    format!("{{\"records\":[{}]}}", " ".repeat(bytes - empty))
}

#[tokio::test]
async fn an_atomic_request_has_at_most_8_mib() {
    let (api, topic) = (api(), unique("limit"));
    let post = |body: String| send(api.post(&topic, "application/json").body(body));
    post(body_of(8 * MIB)).await.ok();
    post(body_of(8 * MIB + 1)).await.problem(413, "body_too_large");
    // Without a content length, the limit is noticed while the body arrives.
    let pieces = |bytes: usize| {
        let text = Bytes::from(body_of(bytes));
        let pieces: Vec<_> = (0..text.len())
            .step_by(100_000)
            .map(|at| Ok::<_, std::io::Error>(text.slice(at..text.len().min(at + 100_000))))
            .collect();
        reqwest::Body::wrap_stream(futures::stream::iter(pieces))
    };
    send(api.post(&topic, "application/json").body(pieces(8 * MIB))).await.ok();
    send(api.post(&topic, "application/octet-stream").body(vec![b'x'; 8 * MIB + 1]))
        .await
        .problem(413, "body_too_large");
    let huge = format!(
        "POST /v1/topics/{topic}/records HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 18446744073709551615\r\n\r\n"
    );
    let mut raw = Raw::connect(api.address).await;
    raw.write(huge).await;
    raw.half_close().await;
    let answer = raw.read_to_end().await;
    assert!(matches!(status(&answer), 400 | 413 | 431), "{answer}");
}

/// The refusal is sent while the body is still arriving; the client must receive it nevertheless.
#[tokio::test]
async fn a_large_upload_that_is_refused_is_told_why() {
    let (api, topic) = (api(), unique("limit"));
    let large = "1\n".repeat(10 << 20);
    for round in 0..5 {
        let problem = api.lines(&topic, "", format!("oops\n{large}")).await.problem(400, "bad_request");
        assert_eq!(problem["line"], json!(1), "{round}");
        send(api.post(&topic, "text/plain").body(large.clone())).await.problem(415, "unsupported_media_type");
        send(api.post(&topic, "application/json").body(large.clone())).await.problem(413, "body_too_large");
        send(api.post("a b", "application/json").body(large.clone())).await.problem(400, "bad_request");
    }
}

#[tokio::test]
async fn an_endless_atomic_body_is_cut_off() {
    let (api, topic) = (api(), unique("limit"));
    let mut raw = Raw::connect(api.address).await;
    raw.write(format!("POST /v1/topics/{topic}/records HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")).await;
    let piece = format!("{:x}\r\n{}\r\n", 500_000, " ".repeat(500_000));
    for _ in 0..17 {
        raw.write(&piece).await;
    }
    let answer = raw.read_until("body_too_large").await;
    assert!(status(&answer) == 413 && answer.contains("body_too_large"), "{answer}");
}

#[tokio::test]
async fn an_atomic_request_has_at_most_65536_records() {
    let (api, topic) = (api(), unique("limit"));
    api.topic(&topic, 1).await;
    let records = |count: usize| format!("{{\"records\":[{}]}}", vec!["{}"; count].join(","));
    let answer = send(api.post(&topic, "application/json").body(records(65_536))).await.ok();
    assert_eq!(answer["results"].as_array().unwrap().len(), 65_536);
    let problem =
        send(api.post(&topic, "application/json").body(records(65_537))).await.problem(413, "body_too_large");
    assert!(problem["detail"].as_str().unwrap().contains("65536"), "{problem}");
    assert_eq!(api.partition(&topic, 0, "?from=latest").await.ok()["high_watermark"], json!(65_536));
}

#[tokio::test]
async fn a_record_has_at_most_128_headers_of_64_kib() {
    let (api, topic) = (api(), unique("limit"));
    api.topic(&topic, 1).await;
    let many =
        |count: usize| (0..count).map(|n| (format!("h{n}"), json!(""))).collect::<serde_json::Map<_, _>>();
    api.produce(&topic, json!([{"value": 1, "headers": many(128)}])).await.ok();
    let answer = api.produce(&topic, json!([{"value": 1, "headers": many(129)}])).await;
    assert!(matches!(answer.status, 422 | 431), "{answer:?}");
    let listed = api.produce(&topic, json!([{"value": 1, "headers": {"h": vec![""; 129]}}])).await;
    assert!(matches!(listed.status, 422 | 431), "{listed:?}");
    let answer = api.produce(&topic, json!([{"value": 1, "headers": many(100_000)}])).await;
    assert!(matches!(answer.status, 422 | 431), "{answer:?}");
    let large = |bytes: usize| json!([{"value": 1, "headers": {"h": "x".repeat(bytes - 1)}}]);
    api.produce(&topic, large(65_536)).await.ok();
    api.produce(&topic, large(65_537)).await.problem(431, "headers_too_large");
    let log = api.log(&topic, 0).await;
    assert_eq!(log[0]["headers"].as_object().unwrap().len(), 128);
    assert_eq!(log[1]["headers"]["h"].as_str().unwrap().len(), 65_535);
    assert_eq!(log.len(), 2);
}

#[tokio::test]
async fn a_dedup_id_has_at_most_256_bytes() {
    let (api, topic) = (api(), unique("limit"));
    api.put(&format!("/v1/topics/{topic}"), json!({"partitions": 1, "dedup_window_ms": 1000})).await;
    api.produce(&topic, json!([{"value": 1, "dedup_id": "é".repeat(128)}])).await.ok();
    api.produce(&topic, json!([{"value": 1, "dedup_id": format!("{}x", "é".repeat(128))}]))
        .await
        .problem(422, "invalid_record");
}

#[tokio::test]
async fn ten_thousand_partitions_are_a_topic() {
    let (api, topic) = (api(), unique("limit"));
    api.topic(&topic, 10_000).await;
    let answer = api
        .produce(&topic, json!([{"value": 1, "partition": 9_999}, {"value": 2, "partition": 0}]))
        .await
        .ok();
    assert_eq!(answer["results"][0]["offset"], json!(0));
    let page = api.get(&format!("/v1/topics/{topic}/records")).await.ok();
    assert_eq!(page["records"].as_array().unwrap().len(), 2);
    let next = page["next"].as_str().unwrap();
    let rest = api.get(&format!("/v1/topics/{topic}/records?after={next}")).await;
    assert_eq!(rest.ok()["records"], json!([]));
    assert_eq!(api.delete(&format!("/v1/topics/{topic}")).await.status, 204);
}

#[tokio::test]
async fn nothing_of_a_refused_request_is_stored() {
    let (api, topic) = (api(), unique("limit"));
    api.topic(&topic, 1).await;
    api.produce(&topic, json!([{"value": 1}, {"text": "x".repeat(MIB + 1)}]))
        .await
        .problem(413, "record_too_large");
    assert_eq!(api.log(&topic, 0).await, Vec::<Value>::new());
}
