//! Web pages: those of another origin are refused on every route, unless the server was told to allow them.

use super::api;
use millpond_tests::harness::client::{Answer, Api, send};
use millpond_tests::harness::process::{Dev, Home};
use millpond_tests::harness::unique;
use reqwest::Method;
use serde_json::json;

const PAGE: &str = "https://page.example";

async fn from_page(api: &Api, method: Method, path: &str, origin: &str) -> Answer {
    // As a browser sends it without asking first.
    let request = api.request(method, path).header("origin", origin).header("content-type", "text/plain");
    send(request.header("sec-fetch-site", "cross-site").body("{}")).await
}

#[tokio::test]
async fn a_foreign_page_changes_and_reads_nothing() {
    let (api, queue) = (api(), unique("guarded"));
    assert_eq!(api.put(&format!("/v1/queues/{queue}"), json!({})).await.status, 201);
    api.produce(&queue, json!([{"value": 1}])).await.ok();
    for (method, path) in [
        (Method::POST, format!("/v1/queues/{queue}/purge")),
        (Method::POST, format!("/v1/topics/{queue}/records")),
        (Method::PUT, format!("/v1/topics/{queue}")),
        (Method::DELETE, format!("/v1/queues/{queue}")),
        (Method::GET, "/v1/topics".to_owned()),
        (Method::GET, "/metrics".to_owned()),
        (Method::OPTIONS, "/v1/topics".to_owned()),
    ] {
        for origin in [PAGE, "null"] {
            let answer = from_page(&api, method.clone(), &path, origin).await;
            answer.problem(403, "forbidden");
            assert_eq!(answer.header("access-control-allow-origin"), "");
        }
    }
    let described = api.get(&format!("/v1/queues/{queue}")).await.ok();
    assert_eq!(described["ready"], json!(1), "nothing was purged");
}

#[tokio::test]
async fn an_allowed_page_is_answered_as_browsers_want_it() {
    let home = Home::open();
    let dev = Dev::start(&home, &["--allow-origin", PAGE]);
    let (api, topic) = (dev.api(), unique("page"));
    let asked = api.request(Method::OPTIONS, &format!("/v1/topics/{topic}/records"));
    let asked = asked.header("origin", PAGE).header("access-control-request-method", "POST");
    let asked = send(asked.header("access-control-request-headers", "content-type,idempotency-key")).await;
    assert_eq!((asked.status, asked.header("access-control-allow-origin")), (200, PAGE));
    let records = api.post(&topic, "application/json").header("origin", PAGE);
    let stored = send(records.body(r#"{"records":[{"value":1}]}"#)).await;
    assert_eq!((stored.status, stored.header("access-control-allow-origin")), (200, PAGE));
    from_page(&api, Method::GET, "/v1/topics", "https://other.example").await.problem(403, "forbidden");
}
