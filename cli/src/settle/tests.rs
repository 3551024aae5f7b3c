use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use clap::Parser;
use parking_lot::Mutex;
use serde_json::Value;

use super::super::testing;
use super::*;

#[derive(Parser)]
enum Cli {
    Lease {
        #[command(flatten)]
        args: LeaseArgs,
    },
    Ack {
        #[command(flatten)]
        args: AckArgs,
    },
    Nack {
        #[command(flatten)]
        args: NackArgs,
    },
}

/// A server with a queue of two records. Receipts in `unknown` are answered `lost`.
#[derive(Default)]
struct Fake {
    asked: Mutex<Vec<Value>>,
    unknown: HashSet<&'static str>,
    refusals: Mutex<usize>,
}

async fn leases_route(State(fake): State<Arc<Fake>>, body: String) -> String {
    fake.asked.lock().push(serde_json::from_str(&body).expect("JSON"));
    let record = |n: u64| {
        testing::line(
            0,
            n,
            &format!(",\"value\":{{\"n\":\n{n}}},\"receipt\":\"mp1.{n}\",\"attempt\":1,\"failures\":0"),
        )
    };
    format!(
        r#"{{"lease_id":"l","now_ms":0,"deadline_ms":30000,"records":[{},{}],"limited_by":null}}"#,
        record(0),
        record(1)
    )
}

async fn settle_route(State(fake): State<Arc<Fake>>, body: String) -> Response {
    let body: Value = serde_json::from_str(&body).expect("JSON");
    fake.asked.lock().push(body.clone());
    let mut refusals = fake.refusals.lock();
    if *refusals > 0 {
        *refusals -= 1;
        return testing::problem(StatusCode::SERVICE_UNAVAILABLE, "control_plane_unavailable", true, "");
    }
    let mut results = Vec::new();
    for (what, status) in [("ack", "acked"), ("nack", "released")] {
        for entry in body[what].as_array().unwrap_or(&Vec::new()) {
            let receipt = entry.as_str().or(entry["receipt"].as_str()).expect("a receipt");
            let status = if fake.unknown.contains(receipt) { "lost" } else { status };
            results.push(json!({"receipt": receipt, "status": status}));
        }
    }
    json!({"results": results}).to_string().into_response()
}

impl Fake {
    async fn serve(self: &Arc<Self>) -> Client {
        let router = Router::new()
            .route("/v1/queues/q/leases", post(leases_route))
            .route("/v1/queues/q/settlements", post(settle_route))
            .with_state(self.clone());
        testing::serve(router).await
    }

    async fn run(self: &Arc<Self>, line: &str, out: &mut impl Write) -> Result<(), CliError> {
        let client = self.serve().await;
        match Cli::try_parse_from(["millpond"].into_iter().chain(line.split_whitespace())).expect("a command")
        {
            Cli::Lease { args } => lease(&client, &args, out).await,
            Cli::Ack { args } => ack(&client, &args, out).await,
            Cli::Nack { args } => nack(&client, &args, out).await,
        }
    }

    async fn printed(self: &Arc<Self>, line: &str) -> String {
        let mut out = Vec::new();
        self.run(line, &mut out).await.expect("done");
        String::from_utf8(out).expect("text")
    }

    fn asked(&self) -> Vec<Value> {
        let mut asked = self.asked.lock().clone();
        for body in &mut asked {
            body.as_object_mut().and_then(|body| body.remove("request_id")).expect("a request id");
        }
        asked
    }
}

#[tokio::test]
async fn what_is_leased_is_a_line_each() {
    let fake = Arc::new(Fake::default());
    let printed = fake.printed("lease q -n 5 --wait 1s --lease 1m").await;
    let values: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&values[0]["receipt"], &values[1]["value"]), (&json!("mp1.0"), &json!({"n": 1})));
    fake.printed("lease q").await;
    let asked = [
        json!({"max_records": 5, "wait_ms": 1_000, "lease_ms": 60_000, "client_id": "millpond lease"}),
        json!({"max_records": 1, "wait_ms": 20_000, "client_id": "millpond lease"}),
    ];
    assert_eq!(fake.asked(), asked);
}

struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn what_nobody_learns_of_goes_back() {
    let fake = Arc::new(Fake::default());
    assert!(matches!(fake.run("lease q -n 2", &mut Closed).await, Err(CliError::Output(_))));
    let back = |receipt: &str| json!({"receipt": receipt, "delay_ms": 0, "counts": false});
    assert_eq!(fake.asked()[1], json!({"nack": [back("mp1.0"), back("mp1.1")]}));
}

#[tokio::test]
async fn receipts_are_settled_and_repeated_until_answered() {
    let fake = Arc::new(Fake { refusals: Mutex::new(1), ..Fake::default() });
    assert_eq!(fake.printed("ack q mp1.0 mp1.1 mp1.0").await, "acked: 2 records\n");
    let first = std::mem::take(&mut *fake.asked.lock());
    assert_eq!((first.len(), &first[0]), (2, &first[1]), "with the same request id");
    assert_eq!(first[0]["ack"], json!(["mp1.0", "mp1.1"]));
    assert_eq!(
        fake.printed("nack q mp1.0 --json").await,
        "{\"receipt\":\"mp1.0\",\"status\":\"released\"}\n"
    );
    fake.printed("nack q mp1.0 --delay 5s --reason no --no-count").await;
    let asked = fake.asked();
    assert_eq!(asked[0], json!({"nack": [{"receipt": "mp1.0", "counts": true}]}));
    assert_eq!(
        asked[1],
        json!({"nack": [{"receipt": "mp1.0", "delay_ms": 5_000, "reason": "no", "counts": false}]})
    );
}

#[tokio::test]
async fn what_is_lost_is_named() {
    let fake = Arc::new(Fake { unknown: ["mp1.1", "mp1.2"].into(), ..Fake::default() });
    let mut out = Vec::new();
    let error = fake.run("ack q mp1.0 mp1.1 mp1.2", &mut out).await.expect_err("lost");
    assert_eq!(error.report().lines().next(), Some("error: receipts are lost: mp1.1 mp1.2"));
    assert_eq!(out, b"acked: 1 record\n");
    let error = fake.run("nack q mp1.1", &mut Vec::new()).await.expect_err("lost");
    assert!(error.report().starts_with("error: a receipt is lost: mp1.1\nhint: "), "{}", error.report());
}

#[tokio::test]
async fn receipts_are_read_from_lines() {
    let fake = Arc::new(Fake::default());
    let client = fake.serve().await;
    let Cli::Ack { args } = Cli::try_parse_from(["millpond", "ack", "q"]).expect("a command") else {
        panic!("another command")
    };
    let run = |input: &'static str| {
        let (client, args) = (client.clone(), args.clone());
        async move {
            let (sender, source) = mpsc::channel(1);
            std::thread::spawn(move || read(input.as_bytes(), &sender));
            let mut out = Vec::new();
            let ack = |ack| Settlement { ack, ..Settlement::default() };
            let outcome = settle(&client, "test", &args.receipts, source, ack, &mut out).await;
            (outcome, String::from_utf8(out).expect("text"))
        }
    };
    let (outcome, printed) = run("mp1.a\n\n {\"value\":1,\"receipt\":\"mp1.b\"} \nmp1.c").await;
    outcome.expect("settled");
    assert_eq!(printed, "acked: 3 records\n");
    // The lines before a wrong line are settled.
    for wrong in ["mp1.a\n{\"value\":1}\nmp1.b\n", "mp1.a\ntwo words\n"] {
        let (outcome, printed) = run(wrong).await;
        assert!(matches!(outcome, Err(CliError::NoReceipt { line: 2 })), "{wrong}");
        assert_eq!(printed, "acked: 1 record\n");
    }
    let acked: Vec<Value> =
        fake.asked().iter().flat_map(|body| body["ack"].as_array().expect("acks").clone()).collect();
    assert_eq!(acked, ["mp1.a", "mp1.b", "mp1.c", "mp1.a", "mp1.a"]);
}
