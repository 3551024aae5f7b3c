//! `/healthz`, `/readyz`, `/metrics`, `/v1/cluster`, and what every answer must have.

use super::{DEV, api};
use millpond_tests::harness::client::send;
use millpond_tests::harness::unique;
use reqwest::Method;
use serde_json::json;

#[tokio::test]
async fn the_process_is_up_and_ready() {
    let api = api();
    let health = api.get("/healthz").await;
    assert_eq!((health.status, health.text().as_str()), (200, "ok\n"));
    assert_eq!(api.get("/readyz").await.ok(), json!({"ready": true, "database": "ok", "object_store": "ok"}));
}

#[tokio::test]
async fn metrics_are_in_prometheus_form_and_count() {
    let (api, topic) = (api(), unique("metrics"));
    let before = api.metric("millpond_produce_records_total", "").await;
    api.produce(&topic, json!([{"value": 1}, {"value": 2}])).await.ok();
    assert!(api.metric("millpond_produce_records_total", "").await >= before + 2);
    let answer = api.get("/metrics").await;
    assert!(answer.header("content-type").starts_with("text/plain"));
    let text = answer.text();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("millpond_"), "{line}");
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    for name in [
        "millpond_http_requests_total",
        "millpond_produce_commit_seconds",
        "millpond_job_last_success_timestamp_seconds",
    ] {
        assert!(text.contains(name), "{name}");
    }
    // Metrics are labelled by route, not by path: topic names are private.
    assert!(!text.contains(&topic));
}

#[tokio::test]
async fn the_cluster_says_who_answers() {
    let cluster = api().get("/v1/cluster").await.ok();
    assert!(
        !cluster["cluster"].as_str().unwrap().is_empty() && !cluster["agent"].as_str().unwrap().is_empty()
    );
    assert!(cluster["epoch"].as_i64().unwrap() >= 0);
    assert_eq!(cluster["version"], json!(env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn a_request_id_is_given_or_kept() {
    let api = api();
    let (one, other) = (api.get("/healthz").await, api.get("/healthz").await);
    assert_ne!(one.header("x-request-id"), other.header("x-request-id"));
    for path in ["/healthz", "/v1/topics/no-such-topic", "/nowhere"] {
        let answer = send(api.request(Method::GET, path).header("x-request-id", "mine-1")).await;
        assert_eq!(answer.header("x-request-id"), "mine-1");
    }
    let long = "x".repeat(129);
    let answer = send(api.request(Method::GET, "/healthz").header("x-request-id", &long)).await;
    assert_ne!(answer.header("x-request-id"), long);
}

#[tokio::test]
async fn unknown_paths_and_methods() {
    let api = api();
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v2/topics",
        "/v1/topics/",
        "/v1/topics/a/b",
        "/v1/topics/a/records/",
        "/healthz/",
        "//healthz",
        "/v1/topics/a/partitions/0",
    ] {
        api.get(path).await.problem(404, "not_found");
    }
    for (method, path) in [
        (Method::POST, "/v1/topics"),
        (Method::DELETE, "/v1/topics"),
        (Method::POST, "/v1/topics/a"),
        (Method::PATCH, "/v1/topics/a"),
        (Method::PUT, "/v1/topics/a/records"),
        (Method::DELETE, "/v1/topics/a/records"),
        (Method::POST, "/v1/topics/a/partitions/0/records"),
        (Method::GET, "/v1/batches"),
        (Method::POST, "/v1/topics/a/offsets"),
        (Method::POST, "/healthz"),
        (Method::DELETE, "/openapi.json"),
        (Method::OPTIONS, "/v1/cluster"),
        (Method::TRACE, "/metrics"),
    ] {
        let answer = send(api.request(method.clone(), path)).await;
        answer.problem(405, "method_not_allowed");
        // RFC 9110, 15.5.6: the answer names the allowed methods.
        assert!(!answer.header("allow").is_empty(), "{method} {path}");
    }
}

#[tokio::test]
async fn media_types_that_carry_no_records_are_refused() {
    let (api, topic) = (api(), unique("media"));
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/xml",
        "json",
        "application/json2",
        "multipart/form-data",
    ] {
        send(api.post(&topic, content_type).body("{}")).await.problem(415, "unsupported_media_type");
    }
    let path = format!("/v1/topics/{topic}/records");
    send(api.request(Method::POST, &path).body("{}")).await.problem(415, "unsupported_media_type");
    let packed = api.post(&topic, "application/json").header("content-encoding", "gzip").body("{}");
    send(packed).await.problem(415, "unsupported_media_type");
    let plain =
        api.post(&topic, "application/json").header("content-encoding", "identity").body("{\"records\":[]}");
    send(plain).await.ok();
}

#[tokio::test]
async fn only_loopback_names_are_answered() {
    let api = api();
    let port = DEV.address.port();
    for host in [
        "localhost",
        "LOCALHOST",
        "127.0.0.1",
        "[::1]",
        &format!("localhost:{port}"),
        &format!("[::1]:{port}"),
        "localhost:1",
    ] {
        assert_eq!(
            send(api.request(Method::GET, "/healthz").header("host", host)).await.status,
            200,
            "{host}"
        );
    }
    for host in [
        "example.org",
        "example.org:80",
        "localhost.example.org",
        "127.0.0.1.nip.io",
        "localhost:x",
        "localhost@example.org",
        "0.0.0.0",
        "::1",
        "",
        "192.168.0.1",
    ] {
        for path in ["/healthz", "/v1/topics", "/metrics", "/nowhere"] {
            send(api.request(Method::GET, path).header("host", host)).await.problem(403, "forbidden");
        }
    }
}
