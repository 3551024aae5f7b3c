use std::collections::{BTreeMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use clap::Parser;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::super::testing;
use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: WorkArgs,
}

const LEASE_MS: i64 = 600;

/// A server with a queue that leases each of its records once, and keeps the settlements.
#[derive(Default)]
struct Fake {
    /// Records as the server's JSON, without the members that a lease adds.
    ready: Mutex<VecDeque<String>>,
    /// Answers by request id.
    leases: Mutex<BTreeMap<String, String>>,
    settlements: Mutex<Vec<Value>>,
    /// Number of settlement calls to refuse before one is answered.
    refusals: Mutex<usize>,
    /// Receipts that are no longer valid.
    lost: Mutex<HashSet<String>>,
    held: Mutex<HashSet<String>>,
    most_held: Mutex<usize>,
}

async fn lease(State(fake): State<Arc<Fake>>, body: String) -> String {
    let body: Value = serde_json::from_str(&body).expect("JSON");
    let request_id = body["request_id"].as_str().expect("an id").to_owned();
    if let Some(answer) = fake.leases.lock().get(&request_id) {
        return answer.clone();
    }
    if fake.ready.lock().is_empty() {
        sleep(Duration::from_millis(body["wait_ms"].as_u64().expect("a number"))).await;
    }
    let max = usize::try_from(body["max_records"].as_u64().expect("a number")).expect("small");
    let mut records = Vec::new();
    let mut ready = fake.ready.lock();
    while records.len() < max
        && let Some(record) = ready.pop_front()
    {
        let offset = serde_json::from_str::<Value>(&record).expect("JSON")["offset"].clone();
        let receipt = format!("r{offset}");
        fake.held.lock().insert(receipt.clone());
        records.push(format!(
            r#"{},"receipt":"{receipt}","attempt":1,"failures":0}}"#,
            record.trim_end_matches('}')
        ));
    }
    let held = fake.held.lock().len();
    let mut most_held = fake.most_held.lock();
    *most_held = held.max(*most_held);
    let records = records.join(",");
    let answer = format!(
        r#"{{"lease_id":"l","now_ms":1000,"deadline_ms":{},"records":[{records}],"limited_by":null}}"#,
        1000 + LEASE_MS
    );
    fake.leases.lock().insert(request_id, answer.clone());
    answer
}

async fn settle(State(fake): State<Arc<Fake>>, body: String) -> Response {
    let body: Value = serde_json::from_str(&body).expect("JSON");
    fake.settlements.lock().push(body.clone());
    let mut refusals = fake.refusals.lock();
    if *refusals > 0 {
        *refusals -= 1;
        return testing::problem(StatusCode::SERVICE_UNAVAILABLE, "control_plane_unavailable", true, "");
    }
    let mut results = Vec::new();
    for (what, status) in [("ack", "acked"), ("nack", "released"), ("renew", "renewed")] {
        for entry in body[what].as_array().unwrap_or(&Vec::new()) {
            let receipt = entry.as_str().or(entry["receipt"].as_str()).expect("a receipt").to_owned();
            let lost = fake.lost.lock().contains(&receipt);
            if what != "renew" {
                fake.held.lock().remove(&receipt);
            }
            results.push(json!({"receipt": receipt, "status": if lost { "lost" } else { status }}));
        }
    }
    json!({"results": results}).to_string().into_response()
}

impl Fake {
    fn of(values: impl IntoIterator<Item = &'static str>) -> Arc<Self> {
        let record = |(offset, value)| {
            format!(
                r#"{{"topic":"t","partition":0,"offset":{offset},"timestamp":1760000000000,"key_base64":"azE=","base64":"{value}"}}"#
            )
        };
        Arc::new(Self {
            ready: Mutex::new(values.into_iter().enumerate().map(record).collect()),
            ..Self::default()
        })
    }

    /// Runs `work` with `options` and the command `sh -c SCRIPT`, whose `$1` is `folder`. As soon as the
    /// script has made a file `begun` there, `signals` signals are sent.
    async fn work(
        self: &Arc<Self>,
        options: &str,
        script: &str,
        folder: &Path,
        signals: usize,
    ) -> Result<(), CliError> {
        let (sender, receiver) = mpsc::channel(1);
        let begun = folder.join("begun");
        tokio::spawn(async move {
            while !begun.exists() {
                sleep(Duration::from_millis(10)).await;
            }
            for _ in 0..signals {
                sender.send(()).await.ok();
            }
            sender.closed().await;
        });
        let folder = folder.to_str().expect("a path");
        self.run(options, &["sh", "-c", script, "sh", folder], receiver).await
    }

    async fn run(
        self: &Arc<Self>,
        options: &str,
        command: &[&str],
        signals: mpsc::Receiver<()>,
    ) -> Result<(), CliError> {
        let router = Router::new()
            .route("/v1/queues/q/leases", post(lease))
            .route("/v1/queues/q/settlements", post(settle))
            .with_state(self.clone());
        let client = testing::serve(router).await;
        let line = ["work", "q"]
            .into_iter()
            .chain(options.split_whitespace())
            .chain(["--"])
            .chain(command.iter().copied());
        let args = Cli::try_parse_from(line).expect("arguments").args;
        timeout(Duration::from_secs(20), work(&client, &args, signals)).await.expect("an end")
    }

    /// All settled entries of one kind, in order.
    fn told(&self, what: &str) -> Vec<Value> {
        let settlements = self.settlements.lock();
        settlements.iter().flat_map(|body| body[what].as_array().cloned().unwrap_or_default()).collect()
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[tokio::test]
async fn a_command_gets_the_values_bytes_and_what_is_known_of_the_record() {
    let (fake, folder) = (Fake::of(["/wD+Cg==", ""]), folder());
    let script = r#"cat > "$1/value$MILLPOND_OFFSET"
        echo "$MILLPOND_QUEUE $MILLPOND_KEY $MILLPOND_ATTEMPT" > "$1/known$MILLPOND_OFFSET""#;
    fake.work("--idle-exit --wait 50ms", script, folder.path(), 0).await.expect("worked");
    let read = |name: &str| std::fs::read(folder.path().join(name)).expect("a file");
    assert_eq!(read("value0"), b"\xff\x00\xfe\n");
    assert_eq!(read("value1"), b"");
    assert_eq!(read("known1"), b"q k1 1\n");
    assert_eq!(fake.told("ack"), ["r0", "r1"]);
    assert!(fake.told("nack").is_empty());
}

#[tokio::test]
async fn the_last_line_of_standard_error_is_the_reason() {
    let (fake, folder) = (Fake::of(["", "", "", ""]), folder());
    let script = r"case $MILLPOND_OFFSET in
        0) echo first >&2; printf 'smtp 451 \377\n' >&2; exit 3;;
        1) exit 3;;
        2) kill -9 $$;;
        3) (sleep 2 >&2) & echo left >&2; exit 1;;
    esac";
    fake.work("--idle-exit --wait 50ms --concurrency 4", script, folder.path(), 0).await.expect("worked");
    let reasons: BTreeMap<String, Value> = fake
        .told("nack")
        .into_iter()
        .map(|nack| (nack["receipt"].as_str().expect("a receipt").to_owned(), nack))
        .collect();
    let nack = |receipt: &str, reason: &str| {
        (receipt.to_owned(), json!({"receipt": receipt, "reason": reason, "counts": true}))
    };
    let expected = [
        nack("r0", "smtp 451 \u{fffd}"),
        nack("r1", "exit status 3"),
        nack("r2", "killed by signal 9"),
        nack("r3", "left"),
    ];
    assert_eq!(reasons, expected.into());
}

#[tokio::test]
async fn every_record_is_acked_once_and_few_are_held_at_a_time() {
    let (fake, folder) = (Fake::of([""; 40]), folder());
    fake.work("--idle-exit --wait 50ms --concurrency 4", "exit 0", folder.path(), 0).await.expect("worked");
    let mut acked: Vec<String> =
        fake.told("ack").iter().map(|receipt| receipt.as_str().expect("text").to_owned()).collect();
    acked.sort_by_key(|receipt| receipt[1..].parse::<u32>().expect("a number"));
    assert_eq!(acked, (0..40).map(|n| format!("r{n}")).collect::<Vec<_>>());
    assert!(*fake.most_held.lock() <= 8, "as many run as wait to be settled: {}", fake.most_held.lock());
}

#[tokio::test]
async fn leases_are_renewed_and_what_is_lost_is_not_settled() {
    let (fake, folder) = (Fake::of(["", ""]), folder());
    fake.lost.lock().insert("r1".to_owned());
    fake.work("--idle-exit --wait 50ms --concurrency 2 --lease 600ms", "sleep 0.7", folder.path(), 0)
        .await
        .expect("worked");
    let renewals =
        |receipt: &str| fake.told("renew").iter().filter(|renewal| renewal["receipt"] == receipt).count();
    assert!(renewals("r0") > 1, "{}", renewals("r0"));
    assert_eq!(renewals("r1"), 1);
    assert_eq!(fake.told("renew")[0]["lease_ms"], json!(600));
    assert_eq!(fake.told("ack"), ["r0"]);
    assert!(fake.told("nack").is_empty());
}

#[tokio::test]
async fn a_signal_lets_what_runs_end_and_takes_nothing_more() {
    let (fake, folder) = (Fake::of(["", "", ""]), folder());
    fake.work("--wait 10s", "touch $1/begun; sleep 0.4; touch $1/done", folder.path(), 1)
        .await
        .expect("worked");
    assert!(folder.path().join("done").exists());
    assert_eq!(fake.told("ack"), ["r0"]);
    assert_eq!(fake.ready.lock().len(), 2);
    // A signal also ends a worker that waits for records.
    let idle = Fake::of([]);
    idle.work("--wait 10s", "exit 0", folder.path(), 1).await.expect("worked");
}

#[tokio::test]
async fn a_second_signal_kills_what_runs_and_gives_it_back() {
    let (fake, folder) = (Fake::of([""]), folder());
    fake.work("--wait 10s", "sleep 30 & touch $1/begun; wait; touch $1/done", folder.path(), 2)
        .await
        .expect("worked");
    assert_eq!(fake.told("nack"), [json!({"receipt": "r0", "delay_ms": 0, "counts": false})]);
    assert!(fake.told("ack").is_empty() && !folder.path().join("done").exists());
}

#[tokio::test]
async fn what_cannot_be_started_is_no_fault_of_the_records() {
    let fake = Fake::of(["", "", ""]);
    let error = fake
        .run("--concurrency 2", &["/nowhere/to/be/found"], mpsc::channel(1).1)
        .await
        .expect_err("no such command");
    assert!(
        error.report().starts_with("error: cannot run /nowhere/to/be/found\n  because: "),
        "{}",
        error.report()
    );
    let back = |receipt: &str| json!({"receipt": receipt, "delay_ms": 0, "counts": false});
    assert_eq!(fake.told("nack"), [back("r0"), back("r1")]);
}

#[tokio::test]
async fn what_a_silent_server_was_not_told_is_told_later_the_same() {
    let (fake, folder) = (Fake::of(["", ""]), folder());
    *fake.refusals.lock() = 2;
    fake.work("--idle-exit --wait 50ms", "exit 0", folder.path(), 0).await.expect("worked");
    let settlements = fake.settlements.lock();
    assert_eq!(settlements.len(), 4);
    assert!(settlements[..3].iter().all(|body| *body == settlements[0]));
    assert_eq!((&settlements[0]["ack"], &settlements[3]["ack"]), (&json!(["r0"]), &json!(["r1"])));
}

#[tokio::test]
async fn a_queue_that_is_not_there_ends_the_work() {
    let refuse = || async { testing::problem(StatusCode::NOT_FOUND, "queue_not_found", false, "") };
    let client = testing::serve(Router::new().route("/v1/queues/q/leases", post(refuse))).await;
    let args = Cli::try_parse_from(["work", "q", "--", "true"]).expect("arguments").args;
    let error = work(&client, &args, mpsc::channel(1).1).await.expect_err("refused");
    assert_eq!(error.problem().expect("a problem").code, "queue_not_found");
    for wrong in ["work q", "work q true", "work q --concurrency 0 -- true"] {
        assert!(Cli::try_parse_from(wrong.split(' ')).is_err(), "{wrong}");
    }
}
