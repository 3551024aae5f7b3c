//! Requests that no client library would send.

use super::{api, pid};
use millpond_tests::harness::process::peak_memory_bytes;
use millpond_tests::harness::raw::{Raw, exchange, status};
use millpond_tests::harness::unique;
use millpond_tests::harness::wait::within;
use serde_json::json;

/// Whatever was sent to it so far, the agent has stayed within its memory.
#[track_caller]
fn check_memory() {
    let peak = peak_memory_bytes(pid());
    assert!(peak <= 512 << 20, "the agent took {} MiB", peak >> 20);
}

#[tokio::test]
async fn malformed_requests_are_answered_or_cut_and_harm_nobody() {
    let api = api();
    let requests: Vec<Vec<u8>> = vec![
        b"\r\n\r\n\r\n".to_vec(),
        b"GARBAGE\r\n\r\n".to_vec(),
        b"GET /healthz\r\n\r\n".to_vec(),
        b"GET /healthz HTTP/9.9\r\nhost: localhost\r\n\r\n".to_vec(),
        b"GET /\x00 HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(),
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nbad header\r\n\r\n".to_vec(),
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: \x00\r\n\r\n".to_vec(),
        b"POST /v1/topics/t/records HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n".to_vec(),
        b"POST /v1/topics/t/records HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab".to_vec(),
        b"POST /v1/topics/t/records HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip\r\n\r\nab".to_vec(),
        b"POST /v1/batches HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_vec(),
        b"POST /v1/batches HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
        vec![0xff; 5000],
    ];
    for request in requests {
        let mut raw = Raw::connect(api.address).await;
        raw.write(&request).await;
        raw.half_close().await;
        let answer = raw.read_to_end().await;
        assert!(
            !answer.starts_with("HTTP/1.1 5") && !answer.starts_with("HTTP/1.1 2"),
            "{request:?}: {answer}"
        );
    }
    assert_eq!(api.get("/healthz").await.status, 200);
    check_memory();
}

#[tokio::test]
async fn huge_heads_are_refused() {
    let api = api();
    let long_value = format!(
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx: {}\r\n\r\n",
        "x".repeat(1 << 20)
    );
    let many_names: String = (0..100_000).map(|n| format!("x{n}: 1\r\n")).collect();
    let many_names =
        format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{many_names}\r\n");
    let long_path =
        format!("GET /{} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", "x".repeat(1 << 20));
    for request in [long_value, many_names, long_path] {
        let answer = exchange(api.address, request).await;
        // A server that closes while bytes are unread may lose its own answer.
        assert!(answer.is_empty() || matches!(status(&answer), 400 | 414 | 431), "{answer}");
    }
    let some = format!(
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx: {}\r\n\r\n",
        "x".repeat(30_000)
    );
    assert_eq!(status(&exchange(api.address, some).await), 200);
    check_memory();
}

#[tokio::test]
async fn an_idle_or_slow_client_holds_nobody_up() {
    let (api, topic) = (api(), unique("slow"));
    api.topic(&topic, 1).await;
    let mut slow = Vec::new();
    for n in 0..50 {
        let mut raw = Raw::connect(api.address).await;
        match n % 3 {
            0 => {}
            1 => raw.write("POST /v1/topics/x/rec").await,
            _ => raw.write(format!("POST /v1/topics/{topic}/records HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 4000\r\n\r\n{{")).await,
        }
        slow.push(raw);
    }
    for n in 0..20 {
        within(20, "an answer beside slow clients", api.produce(&topic, json!([{"value": n}]))).await.ok();
    }
    drop(slow);
    assert_eq!(api.log(&topic, 0).await.len(), 20);
    check_memory();
}

#[tokio::test]
async fn requests_in_a_row_on_one_connection_are_answered_in_order() {
    let (api, topic) = (api(), unique("pipe"));
    api.topic(&topic, 1).await;
    let mut requests = String::new();
    for n in 0..10 {
        let body = json!({"records": [{"value": n}]}).to_string();
        let close = if n == 9 { "connection: close\r\n" } else { "" };
        requests.push_str(&format!("POST /v1/topics/{topic}/records HTTP/1.1\r\nhost: localhost\r\n{close}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
    }
    let answers = exchange(api.address, requests).await;
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 10, "{answers}");
    let values: Vec<_> = api.log(&topic, 0).await.iter().map(|r| r["value"].clone()).collect();
    assert_eq!(values, (0..10).map(|n| json!(n)).collect::<Vec<_>>());
    check_memory();
}

#[tokio::test]
async fn a_client_that_waits_to_be_told_to_go_on_is_told() {
    let (api, topic) = (api(), unique("expect"));
    api.topic(&topic, 1).await;
    let mut raw = Raw::connect(api.address).await;
    raw.write(format!("POST /v1/topics/{topic}/records HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-type: application/x-ndjson\r\ncontent-length: 2\r\n\r\n")).await;
    let told = raw.read_until("\r\n\r\n").await;
    assert_eq!(status(&told), 100, "{told}");
    raw.write("1\n").await;
    assert!(raw.read_to_end().await.contains("\"count\":1"));
    check_memory();
}
