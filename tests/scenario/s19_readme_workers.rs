//! The workers in README, exactly as printed there: they ack what they can process, nack the rest until it is
//! dead, and end with exit code 0 on SIGTERM.

use millpond_tests::harness::child::Process;
use millpond_tests::harness::client::send;
use millpond_tests::harness::process::{Dev, Home};
use millpond_tests::harness::wait::until;
use reqwest::Method;
use serde_json::{Value, json};
use std::process::Command;

const README: &str = include_str!("../../README.md");
const RECORDS: usize = 20;
/// Number of records without an address, which no worker can process.
const BAD_RECORDS: usize = 2;

/// The only code block in this language.
fn code(language: &str) -> &'static str {
    let mut blocks =
        README.split("\n```").filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'));
    let block = blocks.next().unwrap_or_else(|| panic!("README has no code block in {language}"));
    assert!(blocks.next().is_none(), "README has two code blocks in {language}");
    block
}

/// Runs the worker with `program`, or prints why it is skipped. `probe` is code that fails if the program is
/// too old.
async fn works(language: &str, file: &str, program: &str, probe: [&str; 2]) {
    match Command::new(program).args(probe).output() {
        Ok(ran) if ran.status.success() => {}
        Ok(ran) => {
            return println!("left out: {program} is too old: {}", String::from_utf8_lossy(&ran.stderr));
        }
        Err(error) => return println!("left out: {program} cannot be run: {error}"),
    }
    let dev = Dev::ephemeral();
    let api = dev.api();
    let retry = json!({"base_ms": 20, "max_failures": 2});
    assert_eq!(api.put("/v1/queues/emails", json!({"topic": "emails", "retry": retry})).await.status, 201);
    let records: Vec<Value> = (0..RECORDS)
        .map(|n| json!({"value": if n % 10 == 5 { json!({}) } else { json!({"to": format!("{n}@example.org")}) }}))
        .collect();
    api.produce("emails", json!(records)).await.ok();

    let home = Home::open();
    let script = home.path().join(file);
    std::fs::write(&script, code(language)).expect("a file");
    let mut command = Command::new(program);
    command.arg(&script).env("MILLPOND_URL", &api.base);
    let (mut worker, lines) = Process::spawn(command, home.path());
    let counts = until(60, "all records acked or dead", async || {
        let queue = api.get("/v1/queues/emails").await.ok();
        let of = |state: &str| queue[state].as_u64().expect("a count");
        let open: u64 = ["ready", "delayed", "retrying", "in_flight"].map(of).iter().sum();
        (open == 0).then(|| of("dead"))
    })
    .await;
    assert_eq!(usize::try_from(counts).ok(), Some(BAD_RECORDS), "{}", worker.log());
    assert!(worker.end_by("TERM", 15).await.success(), "{}", worker.log());

    let mut handled: Vec<String> = lines.iter().collect();
    handled.sort();
    handled.dedup();
    assert_eq!(handled.len(), RECORDS - BAD_RECORDS, "{handled:?}");
    let dead = api.get("/v1/queues/emails/dead").await.ok();
    for record in dead["records"].as_array().expect("a list") {
        assert_eq!(record["failures"], json!(2), "{record}");
        assert_ne!(record["reason"], json!("lease expired"), "{record}");
    }
    // Nothing is in flight or ready.
    let lease = api.request(Method::POST, "/v1/queues/emails/leases").json(&json!({"max_records": 10}));
    assert_eq!(send(lease).await.ok()["records"], json!([]));
}

#[tokio::test]
async fn the_python_worker_of_readme_works() {
    works("python", "worker.py", "python3", ["-c", "import sys; assert sys.version_info >= (3, 8)"]).await;
}

#[tokio::test]
async fn the_node_worker_of_readme_works() {
    works("js", "worker.mjs", "node", ["-e", "if (typeof fetch === 'undefined') throw 'no fetch'"]).await;
}
