//! Clients that would take an agent's memory, each against a process of its own, whose peak is looked at in
//! the end.

use bytes::Bytes;
use futures::future::join_all;
use millpond_tests::harness::client::{Api, send};
use millpond_tests::harness::process::{Dev, Home};
use millpond_tests::harness::raw::{Raw, status};
use millpond_tests::harness::wait::{until, within};
use rand::{RngCore, SeedableRng};
use serde_json::json;
use std::net::SocketAddr;

/// The most memory that an agent may have resident.
const PEAK_MAX_BYTES: u64 = 512 << 20;
const MIB: usize = 1 << 20;

/// An agent that closes connections of slow readers after a short time.
struct Server {
    dev: Dev,
    api: Api,
    _home: Home,
}

impl Server {
    fn start() -> Self {
        let home = Home::open();
        let dev = Dev::start(&home, &["--min-read-window-ms", "2000"]);
        Self { api: dev.api(), dev, _home: home }
    }

    #[track_caller]
    fn check_memory(&self) {
        let peak = self.dev.peak_memory_bytes();
        println!("peak memory {} MiB", peak >> 20);
        assert!(peak <= PEAK_MAX_BYTES, "the agent took {} MiB", peak >> 20);
    }

    /// Fills partition 0 of a new topic with records of 1 MiB that do not compress.
    async fn large_records(&self, topic: &str, records: u64) {
        self.api.topic(topic, 1).await;
        for seed in 0..records {
            let mut value = vec![0; MIB - 1_024];
            rand::rngs::SmallRng::seed_from_u64(seed).fill_bytes(&mut value);
            let request = self.api.post(topic, "application/octet-stream").body(value);
            send(request).await.ok();
        }
    }

    /// Waits until no read and no answer takes memory.
    async fn reads_are_over(&self) {
        let over = async || (self.api.metric("millpond_agent_read_bytes", "").await == 0).then_some(());
        until(60, "the end of all answers", over).await;
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")
}

const WHOLE: &str = "/v1/topics/large/partitions/0/records?offset=0&max_bytes=16777216";

#[tokio::test]
async fn slow_readers_of_large_answers() {
    let server = Server::start();
    server.large_records("large", 20).await;
    let address = server.dev.address;
    let reader = async || {
        let mut raw = Raw::connect_narrow(address).await;
        raw.write(get(WHOLE)).await;
        // It begins, and then takes nothing for longer than the server has patience.
        let mut answer = String::new();
        while let Some(byte) = raw.read_byte().await {
            answer.push(char::from(byte));
            let pause = if answer.ends_with("\r\n\r\n") { 4_000 } else { 0 };
            tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
            if answer.len() > 2_000 {
                break;
            }
        }
        (status(&answer), raw)
    };
    let answers = join_all((0..200).map(|_| reader())).await;
    let count = |code: u16| answers.iter().filter(|(status, _)| *status == code).count();
    assert_eq!(count(200) + count(429), 200, "each is answered or told to try again");
    assert!(count(200) > 0 && count(429) > 0, "{} answered", count(200));
    // Connections that are still open, but whose clients do not read.
    server.reads_are_over().await;
    drop(answers);
    server.check_memory();
    let whole = server.api.get(WHOLE).await;
    assert!(whole.status == 200 && whole.body.len() > 16 * MIB, "others are answered as ever");
    server.check_memory();
}

#[tokio::test]
async fn an_answer_that_nobody_takes_is_dropped() {
    let server = Server::start();
    server.large_records("large", 16).await;
    let mut raw = Raw::connect_narrow(server.dev.address).await;
    raw.write(get(WHOLE)).await;
    assert!(raw.read_until("\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    assert!(raw.read_byte().await.is_some());
    server.reads_are_over().await;
    let rest = raw.read_to_end().await;
    assert!(rest.len() < 16 * MIB, "the connection was closed within the answer");
}

#[tokio::test]
async fn an_answer_over_http2_that_nobody_takes_is_dropped() {
    let server = Server::start();
    server.large_records("large", 16).await;
    let http = reqwest::Client::builder()
        .http2_prior_knowledge()
        .http2_initial_stream_window_size(20_000)
        .http2_initial_connection_window_size(70_000)
        .no_proxy()
        .build()
        .expect("a client");
    let mut taken = http.get(format!("{}{WHOLE}", server.api.base)).send().await.expect("an answer");
    assert_eq!(taken.status(), 200);
    // The connection itself is alive: pings are answered.
    server.reads_are_over().await;
    let mut read = 0;
    while let Ok(Some(bytes)) = taken.chunk().await {
        read += bytes.len();
    }
    assert!(read < 16 * MIB, "the connection was closed within the answer");
}

#[tokio::test]
async fn large_settlements() {
    let server = Server::start();
    server.api.topic("jobs", 1).await;
    server.api.put("/v1/queues/jobs", json!({ "topic": "jobs" })).await.json();
    let long: Vec<String> = (0..7_000).map(|n| format!("{n:01100}")).collect();
    let bodies: [Bytes; 4] = [
        json!({ "ack": long }).to_string().into(),
        format!("{{\"ack\":[{}\"\"]}}", "\"\",".repeat(2_700_000)).into(),
        format!("{{\"renew_leases\":[[{}0]]}}", "0,".repeat(4_100_000)).into(),
        format!("{{\"nack\":[{{\"receipt\":\"\",\"reason\":\"{}\"}}]}}", "\\u0000".repeat(1_300_000)).into(),
    ];
    let path = "/v1/queues/jobs/settlements";
    let settle = async |n: usize| {
        let request = server.api.request(reqwest::Method::POST, path).body(bodies[n % 4].clone());
        send(request).await
    };
    let answers = join_all((0..64).map(settle)).await;
    for answer in &answers {
        assert!(matches!(answer.status, 200 | 400 | 429), "{}", answer.status);
    }
    assert!(answers.iter().any(|a| a.status == 429), "not all fit at once");
    server.check_memory();
    // One after the other, each is answered.
    for (n, expected) in [200, 400, 400, 200].into_iter().enumerate() {
        assert_eq!(settle(n).await.status, expected, "body {n}");
    }
    server.check_memory();
}

#[tokio::test]
async fn small_bodies_that_do_not_end() {
    let server = Server::start();
    server.api.topic("lines", 1).await;
    server.api.put("/v1/queues/lines", json!({ "topic": "lines" })).await.json();
    let line = format!("\"{}\"\n", "x".repeat(60_000));
    let lines = "POST /v1/topics/lines/records HTTP/1.1\r\nhost: localhost\r\n\
        content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n";
    let lines = format!("{lines}{:x}\r\n{line}\r\n", line.len());
    let lease = "POST /v1/queues/lines/leases HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n";
    let lease = format!("{lease}{}", " ".repeat(990_000));
    let open = async |n: usize| {
        let mut raw = Raw::connect(server.dev.address).await;
        raw.write(if n.is_multiple_of(2) { &lines } else { &lease }).await;
        raw
    };
    let mut all = Vec::new();
    for begin in (0..2_000).step_by(100) {
        all.extend(join_all((begin..begin + 100).map(open)).await);
    }
    assert_eq!(server.api.get("/healthz").await.status, 200);
    drop(all);
    let answer = async || {
        let answer = server.api.lines("lines", "", "1\n").await;
        (answer.status == 200).then_some(())
    };
    until(60, "a line that is stored", answer).await;
    server.check_memory();
}

#[tokio::test]
async fn a_stream_into_ten_thousand_named_partitions() {
    let server = Server::start();
    server.api.topic("wide", 10_000).await;
    let line = |n: usize| format!("{{\"value\":\"{:030}\",\"partition\":{}}}\n", n, n % 10_000);
    let body: String = (0..10_000).map(line).collect();
    let answer = server.api.lines("wide", "?records=true", body).await.ok();
    assert_eq!(
        (answer["count"].as_u64(), answer["partitions"].as_array().map(Vec::len)),
        (Some(10_000), Some(10_000))
    );
    server.check_memory();
    // With keys, and many more partitions than records.
    let body: String = (0..2_000).map(|n| format!("{{\"value\":{n},\"key\":\"k{n}\"}}\n")).collect();
    server.api.lines("wide", "?records=true", body).await.ok();
    server.check_memory();
}

#[tokio::test]
async fn many_tiny_records() {
    let server = Server::start();
    server.api.topic("tiny", 1).await;
    let body = |records: usize| format!("{{\"records\":[{}{{}}]}}", "{},".repeat(records - 1));
    let all = join_all((0..16).map(|_| {
        let request = server.api.post("tiny", "application/json").body(body(2_700_000));
        send(request)
    }));
    for answer in all.await {
        assert!(matches!(answer.status, 413 | 429), "{}", answer.status);
    }
    let most = join_all((0..8).map(|_| send(server.api.post("tiny", "application/json").body(body(65_536)))));
    for answer in most.await {
        assert!(matches!(answer.status, 200 | 429), "{}", answer.status);
    }
    server.check_memory();
    let answer = send(server.api.post("tiny", "application/json").body(body(65_537))).await;
    answer.problem(413, "body_too_large");
    let answer = send(server.api.post("tiny", "application/json").body(body(65_536))).await.ok();
    assert_eq!(answer["results"].as_array().map(Vec::len), Some(65_536));
}

/// Polls of reads and of queues in equal parts.
const POLLS: usize = 10_000;
/// Queues that they are spread over, since the calls that wait for one queue are limited.
const QUEUES: usize = 10;

async fn open_poll(address: SocketAddr, n: usize) -> Raw {
    let mut raw = Raw::connect(address).await;
    let queue = n / 2 % QUEUES;
    if n.is_multiple_of(2) {
        raw.write(get(&format!("/v1/topics/t{queue}/partitions/0/records?offset=0&wait_ms=30000"))).await;
    } else {
        let body = "{\"wait_ms\":30000}";
        raw.write(format!(
            "POST /v1/queues/q{queue}/leases HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
    }
    raw
}

#[tokio::test]
async fn ten_thousand_open_polls() {
    let server = Server::start();
    for n in 0..QUEUES {
        server.api.topic(&format!("t{n}"), 1).await;
        let queue = format!("/v1/queues/q{n}");
        server.api.put(&queue, json!({ "topic": format!("t{n}") })).await.json();
    }
    // This process and the agent each need a file descriptor for every connection.
    let open: usize = std::fs::read_to_string("/proc/self/limits")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("Max open files"))?.to_owned();
            line.split_whitespace().nth(3)?.parse().ok()
        })
        .unwrap_or(1_024);
    let polls = POLLS.min(open.saturating_sub(200));
    if polls < POLLS {
        println!("only {polls} of {POLLS} polls: at most {open} files may be open (ulimit -n)");
    }
    let mut all = Vec::new();
    for begin in (0..polls).step_by(250) {
        all.extend(join_all((begin..polls.min(begin + 250)).map(|n| open_poll(server.dev.address, n))).await);
    }
    println!("{polls} polls are open");
    server.check_memory();
    let answers = within(90, "the answers", join_all(all.iter_mut().map(|raw| raw.read_until("}")))).await;
    for answer in answers {
        assert_eq!(status(&answer), 200, "{answer}");
        assert!(answer.contains("\"records\":[]"), "{answer}");
    }
    server.check_memory();
}
