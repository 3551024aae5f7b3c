//! A fake server for tests, which has the part of the API that the client uses and can inject faults.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use parking_lot::Mutex;
use tokio::net::TcpListener;

use super::client::{Client, ClientOptions};

/// Serves `router` on a free port until the test's runtime ends.
pub async fn serve(router: Router) -> Client {
    let (listener, client) = listen().await;
    tokio::spawn(async move { axum::serve(listener, router).await });
    client
}

/// A listener on a free port, and a client of it.
pub async fn listen() -> (TcpListener, Client) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    (listener, client(&url, None))
}

pub fn client(url: &str, token: Option<&str>) -> Client {
    let options = ClientOptions { url: url.to_owned(), token: token.map(str::to_owned) };
    Client::new(&options).expect("a client")
}

/// A problem answer; `extensions` are further JSON members, each with a leading comma.
pub fn problem(status: StatusCode, code: &str, retryable: bool, extensions: &str) -> Response {
    let body = format!(
        r#"{{"type":"urn:millpond:problem:{code}","title":"T","status":{},"detail":"the detail","code":"{code}","retryable":{retryable}{extensions}}}"#,
        status.as_u16()
    );
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
}

/// A fault to inject into one read.
#[derive(Debug, Clone)]
pub enum Fault {
    Problem(StatusCode, &'static str),
    /// Break the connection after this number of bytes of the body.
    CutAfter(usize),
}

/// A partition of the topic `t`, with its records as lines of the server.
#[derive(Debug, Clone, Default)]
pub struct FakePartition {
    pub log_start_offset: u64,
    pub lines: Vec<String>,
}

#[derive(Default)]
pub struct FakeLog {
    pub partitions: Mutex<Vec<FakePartition>>,
    pub faults: Mutex<VecDeque<Fault>>,
    /// The queries of all reads, in order.
    pub queries: Mutex<Vec<HashMap<String, String>>>,
    /// Largest number of records in an answer; 0 for no limit.
    pub answer_records: usize,
}

/// A record as the server writes it; `value` is empty, or a member such as `"value":1` with a leading comma.
pub fn line(partition: usize, offset: u64, value: &str) -> String {
    format!(
        r#"{{"topic":"t","partition":{partition},"offset":{offset},"timestamp":1760000000000,"key":"k{offset}"{value},"headers":{{}}}}"#
    )
}

impl FakeLog {
    /// A log with `counts[p]` records in partition `p`, with the values `{"p":PARTITION,"n":OFFSET}`.
    pub fn filled(counts: &[u64]) -> Self {
        let partition = |(at, count): (usize, &u64)| FakePartition {
            log_start_offset: 0,
            lines: (0..*count).map(|n| line(at, n, &format!(r#","value":{{"p":{at},"n":{n}}}"#))).collect(),
        };
        let partitions = counts.iter().enumerate().map(partition).collect();
        Self { partitions: Mutex::new(partitions), ..Self::default() }
    }

    pub async fn serve(self: &Arc<Self>) -> Client {
        let router = Router::new()
            .route("/v1/topics/t", get(describe))
            .route("/v1/topics/t/partitions/{partition}/records", get(read))
            .with_state(self.clone());
        serve(router).await
    }
}

impl FakePartition {
    pub fn high_watermark(&self) -> u64 {
        self.log_start_offset + u64::try_from(self.lines.len()).expect("small")
    }
}

async fn describe(State(log): State<Arc<FakeLog>>) -> String {
    let partitions: Vec<String> = log
        .partitions
        .lock()
        .iter()
        .enumerate()
        .map(|(at, partition)| {
            format!(
                r#"{{"partition":{at},"log_start_offset":{},"high_watermark":{},"bytes":2048}}"#,
                partition.log_start_offset,
                partition.high_watermark()
            )
        })
        .collect();
    format!(
        r#"{{"topic":"t","partitions":[{}],"retention_ms":604800000,"retention_bytes":null,"placement":"auto"}}"#,
        partitions.join(",")
    )
}

async fn read(
    State(log): State<Arc<FakeLog>>,
    Path(at): Path<usize>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    log.queries.lock().push(query.clone());
    let fault = log.faults.lock().pop_front();
    if let Some(Fault::Problem(status, code)) = fault {
        return problem(status, code, true, "");
    }
    let partition = log.partitions.lock().get(at).expect("a partition").clone();
    let start = partition.log_start_offset;
    let offset = query.get("offset").map_or(start, |offset| offset.parse().expect("a number"));
    if offset < start {
        let extension = format!(r#","log_start_offset":{start}"#);
        return problem(StatusCode::RANGE_NOT_SATISFIABLE, "offset_out_of_range", false, &extension);
    }
    let skipped = usize::try_from(offset - start).expect("small");
    let limit = if log.answer_records == 0 { usize::MAX } else { log.answer_records };
    let lines: Vec<&String> = partition.lines.iter().skip(skipped).take(limit).collect();
    let mut body: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
    let next = offset + u64::try_from(lines.len()).expect("small");
    if lines.is_empty() && query.get("wait_ms").is_some_and(|ms| ms != "0") {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let headers = [
        ("content-type", "application/x-ndjson".to_owned()),
        ("millpond-next-offset", next.to_string()),
        ("millpond-high-watermark", partition.high_watermark().to_string()),
        ("millpond-log-start-offset", start.to_string()),
    ];
    let Some(Fault::CutAfter(bytes)) = fault else {
        return (headers, body).into_response();
    };
    body.truncate(bytes);
    let chunks = futures::stream::unfold(Some(body), |body| async move {
        let Some(body) = body else {
            // Give the bytes before the cut time to reach the client.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            return Some((Err(std::io::Error::other("cut")), None));
        };
        Some((Ok(Bytes::from(body)), None))
    });
    (headers, Body::from_stream(chunks)).into_response()
}
