use std::collections::{HashMap, VecDeque};
use std::io::Write as _;
use std::path::Path;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use clap::Parser;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;

use super::super::testing;
use super::*;

const STORED: &str = r#"{"count":2000,"partitions":[
    {"partition":0,"first_offset":0,"last_offset":1998,"count":1999},
    {"partition":5,"first_offset":7,"last_offset":7,"count":1}]}"#;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: ProduceArgs,
}

/// A server that keeps its requests and gives these answers in order, and then always `STORED`.
#[derive(Default)]
struct Server {
    answers: Mutex<VecDeque<Response>>,
    keys: Mutex<Vec<String>>,
    bodies: Mutex<Vec<Bytes>>,
    queries: Mutex<Vec<HashMap<String, String>>>,
}

async fn take(
    State(server): State<Arc<Server>>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    assert_eq!(headers["content-type"], "application/x-ndjson");
    server.keys.lock().push(headers["idempotency-key"].to_str().expect("text").to_owned());
    server.queries.lock().push(query);
    server.bodies.lock().push(body);
    server.answers.lock().pop_front().unwrap_or_else(|| STORED.into_response())
}

fn router(server: &Arc<Server>) -> Router {
    let limit = axum::extract::DefaultBodyLimit::disable();
    Router::new().route("/v1/topics/t/records", post(take)).layer(limit).with_state(server.clone())
}

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(bytes).expect("room");
    file
}

fn lines() -> Vec<u8> {
    (0..2_000).flat_map(|n| format!("{{\"n\":{n},\"pad\":\"{:>1000}\"}}\n", n).into_bytes()).collect()
}

fn args(path: &Path, more: &[&str]) -> ProduceArgs {
    let path = path.to_str().expect("text");
    Cli::try_parse_from(["produce", "t", "--file", path].iter().chain(more)).expect("arguments").args
}

async fn produce(client: &Client, args: &ProduceArgs) -> Result<String, CliError> {
    let mut out = Vec::new();
    run(client, args, &mut out).await?;
    Ok(String::from_utf8(out).expect("text"))
}

#[tokio::test]
async fn one_request_and_one_closing_line() {
    let server = Arc::new(Server::default());
    let client = testing::serve(router(&server)).await;
    let stored = file(&zstd::encode_all(lines().as_slice(), 1).expect("memory"));
    let out = produce(&client, &args(stored.path(), &["--key", "/a~1b/c d"])).await.expect("stored");
    assert!(out.starts_with("2,000 records to t in 0."), "{out}");
    assert!(out.ends_with(" MiB/s; partitions 0: 0–1998, 5: 7\n"), "{out}");
    assert_eq!(out.lines().count(), 1);
    assert!(server.bodies.lock()[0] == lines());
    assert_eq!(server.queries.lock()[0], HashMap::from([("key".to_owned(), "/a~1b/c d".to_owned())]));
    assert_eq!(server.keys.lock()[0].len(), 36);
}

#[tokio::test]
async fn the_same_body_goes_again_under_the_same_key_after_a_cut() {
    let server = Arc::new(Server::default());
    let again = [("retry-after", "0"), ("content-type", "application/problem+json")];
    let problem = r#"{"code":"control_plane_unavailable","status":503,"detail":"d","retryable":true,
        "committed":{"count":5,"partitions":[]}}"#;
    server.answers.lock().push_back((StatusCode::SERVICE_UNAVAILABLE, again, problem).into_response());
    let (listener, client) = testing::listen().await;
    let router = router(&server);
    tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.expect("a connection");
        let mut some = vec![0; 100_000];
        first.read_exact(&mut some).await.expect("part of a body");
        drop(first);
        axum::serve(listener, router).await
    });
    let stored = file(&lines());
    let out = produce(&client, &args(stored.path(), &["--records"])).await.expect("stored");
    assert!(out.starts_with("2,000 records"), "{out}");
    let (keys, bodies) = (server.keys.lock(), server.bodies.lock());
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[0], keys[1]);
    assert!(bodies.iter().all(|body| *body == lines()));
    assert_eq!(server.queries.lock()[1]["records"], "true");
}

#[tokio::test]
async fn a_refused_line_is_final() {
    let server = Arc::new(Server::default());
    let extensions = r#","line":3,"committed":{"count":2,
        "partitions":[{"partition":1,"first_offset":4,"last_offset":5,"count":2}]}"#;
    let refusal = testing::problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid_record", false, extensions);
    server.answers.lock().push_back(refusal);
    let client = testing::serve(router(&server)).await;
    let stored = file(b"1\n2\nx\n");
    let error = produce(&client, &args(stored.path(), &[])).await.expect_err("refused");
    assert_eq!(
        error.report(),
        "error: the detail (invalid_record)\n  at line 3 of the input\n  \
         stored from its beginning: 2 records (partition 1: 4–5)"
    );
    assert_eq!(server.keys.lock().len(), 1);
}

/// A server may refuse a request before it has read the whole body.
#[tokio::test]
async fn an_answer_before_the_end_of_the_body_is_heard() {
    let refuse = async |request: axum::extract::Request| {
        let mut body = request.into_body().into_data_stream();
        body.next().await.expect("some").expect("of the body");
        testing::problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid_record", false, "")
    };
    let client = testing::serve(Router::new().route("/v1/topics/t/records", post(refuse))).await;
    let stored = file(&lines().repeat(20));
    for _ in 0..20 {
        let error = produce(&client, &args(stored.path(), &["--retry-for", "0"])).await;
        assert!(matches!(error, Err(CliError::Problem(_))), "{error:?}");
    }
}

#[tokio::test]
async fn patience_ends() {
    let (listener, client) = testing::listen().await;
    drop(listener);
    let stored = file(b"1\n");
    let error =
        produce(&client, &args(stored.path(), &["--retry-for", "300"])).await.expect_err("nobody there");
    assert!(
        matches!(&error, CliError::GaveUp { source, .. } if matches!(**source, CliError::Unreachable { .. }))
    );
    let error =
        produce(&client, &args(stored.path(), &["--retry-for", "0"])).await.expect_err("nobody there");
    assert!(matches!(error, CliError::Unreachable { .. }));
}

#[tokio::test]
async fn what_cannot_be_read_twice_is_not_sent_twice() {
    let server = Arc::new(Server::default());
    let extensions = r#","committed":{"count":1,
        "partitions":[{"partition":1,"first_offset":4,"last_offset":4,"count":1}]}"#;
    let refusal =
        testing::problem(StatusCode::SERVICE_UNAVAILABLE, "object_store_unavailable", true, extensions);
    server.answers.lock().push_back(refusal);
    let client = testing::serve(router(&server)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success());
    let write_end = pipe.clone();
    let writer = std::thread::spawn(move || std::fs::write(write_end, b"1\n2\n"));
    let error = produce(&client, &args(&pipe, &["--idempotency-key", "mine"])).await.expect_err("refused");
    writer.join().expect("no panic").expect("written");
    assert_eq!(
        error.report(),
        format!(
            "error: only part of {} may have been stored\n  \
             because: the detail (object_store_unavailable)\n  \
             stored from its beginning: 1 record (partition 1: 4)\n\
             hint: send the same input again with `--idempotency-key mine`: \
             the server stores only what is missing",
            pipe.display()
        )
    );
    assert_eq!(*server.keys.lock(), ["mine"]);
}

#[tokio::test]
async fn a_damaged_file_is_told_as_such_and_not_retried() {
    let server = Arc::new(Server::default());
    let client = testing::serve(router(&server)).await;
    let mut damaged = zstd::encode_all(lines().as_slice(), 1).expect("memory");
    damaged.truncate(damaged.len() - 3);
    let stored = file(&damaged);
    let error = produce(&client, &args(stored.path(), &[])).await.expect_err("damaged");
    let report = error.report();
    assert!(report.contains(&format!("cannot read {}", stored.path().display())), "{report}");
    assert!(server.keys.lock().is_empty());
}

#[test]
fn a_repeated_input_is_told() {
    let stored = Committed { count: 1, partitions: Vec::new(), duplicate: true };
    let line = summary("t", &stored, 1 << 20, Duration::from_secs(2));
    assert_eq!(line, "1 record to t in 2.00 s, 0.5 MiB/s; stored before, nothing added\n");
}
