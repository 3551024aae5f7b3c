use axum::Router;
use axum::http::{HeaderMap as Headers, Uri};
use axum::routing::get;

use super::super::testing;
use super::*;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};

fn parse(status: u16, content_type: &'static str, body: &str) -> Problem {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, content_type.parse().expect("a value"));
    headers.insert(RETRY_AFTER, "7".parse().expect("a value"));
    Problem::parse(StatusCode::from_u16(status).expect("a status"), &headers, body.as_bytes())
}

#[test]
fn a_problem_keeps_its_extensions() {
    let problem = parse(
        422,
        "application/problem+json",
        r#"{"type":"urn:millpond:problem:invalid_record","title":"T","status":422,
            "detail":"line 3 is not JSON","code":"invalid_record","retryable":false,"line":3,
            "committed":{"count":2,
                "partitions":[{"partition":1,"first_offset":4,"last_offset":5,"count":2}]}}"#,
    );
    assert_eq!(problem.to_string(), "line 3 is not JSON (invalid_record)");
    assert_eq!(problem.line, Some(3));
    assert_eq!(problem.committed.expect("committed").partitions[0].last_offset, 5);
    assert_eq!(problem.retry_after, Some(Duration::from_secs(7)));
}

#[test]
fn what_is_no_problem_document_becomes_one() {
    let gateway = parse(502, "text/html", "<h1>Bad Gateway</h1>\n");
    assert_eq!(gateway.to_string(), "<h1>Bad Gateway</h1> (http_502)");
    assert!(gateway.is_transient());
    let empty = parse(404, "application/json", "{}");
    assert_eq!(empty.to_string(), "{} (http_404)");
    assert!(!empty.is_transient());
    assert_eq!(parse(404, "text/plain", "").to_string(), "Not Found (http_404)");
}

#[tokio::test]
async fn segments_are_encoded_below_the_base_and_the_token_is_shown() {
    let echo = |uri: Uri, headers: Headers| async move {
        let token = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or("none");
        format!("{uri} {token}")
    };
    let (listener, _) = testing::listen().await;
    let address = listener.local_addr().expect("an address");
    let router = Router::new().route("/{*path}", get(echo));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let client = testing::client(&format!("http://{address}/behind/"), Some("mp_1"));
    let (status, text) = client.text(client.request(Method::GET, &["v1", "a b/c"])).await.expect("an answer");
    assert_eq!(status, StatusCode::OK);
    assert_eq!(text, "/behind/v1/a%20b%2Fc Bearer mp_1");
}

#[tokio::test]
async fn all_pages_of_a_list_are_walked() {
    let names = |from: usize| (from..5).take(2).map(|n| format!(r#"{{"name":"t{n}"}}"#)).collect::<Vec<_>>();
    let list = move |uri: Uri| async move {
        let after = uri.query().map(|query| query.strip_prefix("after=t").expect("a name"));
        let from = after.map_or(0, |n| n.parse::<usize>().expect("a number") + 1);
        let next = if from + 2 < 5 { format!(r#""t{}""#, from + 1) } else { "null".to_owned() };
        format!(r#"{{"topics":[{}],"next":{next}}}"#, names(from).join(","))
    };
    let client = testing::serve(Router::new().route("/v1/topics", get(list))).await;
    assert_eq!(
        client.pages("topics").await.expect("a list"),
        r#"{"topics":[{"name":"t0"},{"name":"t1"},{"name":"t2"},{"name":"t3"},{"name":"t4"}],"next":null}"#
    );
    let one = r#"{"queues":[], "next":null}"#;
    let client = testing::serve(Router::new().route("/v1/queues", get(move || async move { one }))).await;
    assert_eq!(client.pages("queues").await.expect("a list"), one);
}

#[tokio::test]
async fn nobody_there_is_said_plainly() {
    let (listener, client) = testing::listen().await;
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let error = client.text(client.request(Method::GET, &["v1"])).await.expect_err("nobody listens");
    assert!(error.is_transient());
    let first =
        format!("error: no Millpond at http://{address}: start one with `millpond dev` or set MILLPOND_URL");
    assert_eq!(error.report().lines().next(), Some(first.as_str()));
}

#[test]
fn what_is_no_url_is_refused() {
    for url in ["localhost:8080", "8080", "ftp://x"] {
        let options = ClientOptions { url: url.to_owned(), token: None };
        assert!(matches!(Client::new(&options), Err(CliError::Url { .. })), "{url}");
    }
}
