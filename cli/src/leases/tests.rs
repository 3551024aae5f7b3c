use std::sync::Arc;

use axum::Router;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use parking_lot::Mutex;
use std::collections::HashMap;

use super::super::testing;
use super::*;

/// A server that refuses the first calls and answers later ones; returned with the requests it has received.
async fn leases(
    refusals: &'static [(StatusCode, &'static str)],
    answer: &'static str,
) -> (Leases, Arc<Mutex<Vec<Value>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let handle = move |query: Query<HashMap<String, String>>, body: String| async move {
        let mut seen = seen.lock();
        let mut body: Value = serde_json::from_str(&body).expect("JSON");
        body["query"] = json!(query.0);
        seen.push(body);
        let refusal: Option<&(StatusCode, &str)> = refusals.get(seen.len() - 1);
        refusal.map_or_else(
            || answer.into_response(),
            |(status, code)| -> Response { testing::problem(*status, code, false, "") },
        )
    };
    let client = testing::serve(Router::new().route("/v1/queues/q/{what}", post(handle))).await;
    (Leases { client, queue: "q".to_owned(), client_id: "test", retry_for: None }, asked)
}

fn without_id(body: &Value) -> Value {
    let mut body = body.clone();
    let id = body.as_object_mut().and_then(|body| body.remove("request_id"));
    assert!(id.is_some_and(|id| id.as_str().is_some_and(|id| id.len() == 36)), "{body}");
    body
}

#[tokio::test]
async fn a_call_is_repeated_as_it_was_until_it_is_answered() {
    const DOWN: [(StatusCode, &str); 2] =
        [(StatusCode::SERVICE_UNAVAILABLE, "control_plane_unavailable"), (StatusCode::BAD_GATEWAY, "x")];
    let answer =
        r#"{"lease_id":"l","now_ms":1000,"deadline_ms":31000,"records":[{"a": 1},{}],"limited_by":null}"#;
    let (leases, asked) = leases(&DOWN, answer).await;
    let ask = Ask { max_records: 7, wait: Duration::from_secs(20), lease_ms: Some(5_000) };
    let text = leases.lease(ask, true).await.expect("leased");
    let granted = Granted::parse(&text).expect("understood");
    assert_eq!(granted.length(), Duration::from_secs(30));
    assert_eq!(granted.records.iter().map(|raw| raw.get()).collect::<Vec<_>>(), [r#"{"a": 1}"#, "{}"]);
    let asked = asked.lock();
    assert_eq!(asked.len(), 3);
    assert!(asked.iter().all(|body| body == &asked[0]));
    assert_eq!(
        without_id(&asked[0]),
        json!({
            "max_records": 7, "wait_ms": 20_000, "lease_ms": 5_000, "client_id": "test",
            "query": {"encoding": "base64"}
        })
    );
}

#[tokio::test]
async fn a_settlement_says_only_what_is_to_be_said() {
    let answer = r#"{"results":[
        {"receipt":"a","status":"acked"},{"receipt":"b","status":"renewed","deadline_ms":5}]}"#;
    let (leases, asked) = leases(&[], answer).await;
    let nack = Nack { receipt: "c".to_owned(), delay_ms: None, reason: Some("no".to_owned()), counts: true };
    let renewal = Renewal { receipt: "b".to_owned(), lease_ms: None };
    let settlement = Settlement { ack: vec!["a".to_owned()], nack: vec![nack], renew: vec![renewal] };
    let verdicts = leases.settle(&settlement).await.expect("settled");
    let verdict = |receipt: &str, status| Verdict { receipt: receipt.to_owned(), status };
    assert_eq!(verdicts, [verdict("a", Status::Acked), verdict("b", Status::Renewed)]);
    leases.settle(&Settlement { ack: vec!["a".to_owned()], ..Settlement::default() }).await.expect("settled");
    let asked = asked.lock();
    let nack = json!({"receipt": "c", "reason": "no", "counts": true});
    assert_eq!(
        without_id(&asked[0]),
        json!({"ack": ["a"], "nack": [nack], "renew": [{"receipt": "b"}], "query": {}})
    );
    assert_eq!(without_id(&asked[1]), json!({"ack": ["a"], "query": {}}));
    assert_ne!(asked[0]["request_id"], asked[1]["request_id"]);
}

#[tokio::test]
async fn a_refusal_is_not_repeated() {
    let (leases, asked) = leases(&[(StatusCode::NOT_FOUND, "queue_not_found")], "").await;
    let ask = Ask { max_records: 1, wait: Duration::ZERO, lease_ms: None };
    let error = leases.lease(ask, false).await.expect_err("refused");
    assert_eq!(error.problem().expect("a problem").code, "queue_not_found");
    assert_eq!(
        without_id(&asked.lock()[0]),
        json!({"max_records": 1, "wait_ms": 0, "client_id": "test", "query": {}})
    );
    assert_eq!(asked.lock().len(), 1);
}
