//! A small load generator, open-loop where a rate is given: a request's latency counts from when it was due, so that a stalled server
//! is not hidden by clients that wait for it.
//!
//! `cargo build --release && cargo run --release --example load -- all` starts a throw-away `millpond dev` of its own per scenario;
//! `--url` uses a running one. Client, agent and Postgres share the machine.

use bytes::Bytes;
use clap::{Parser, ValueEnum};
use futures::stream::{self, StreamExt};
use hdrhistogram::Histogram;
use millpond_core::{Clock, Ids, SystemClock};
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

#[derive(Parser)]
struct Args {
    scenario: Scenario,
    /// A running server; without it one is started for each scenario
    #[arg(long)]
    url: Option<String>,
    #[arg(long, default_value_t = 1_024)]
    record_bytes: usize,
    /// Requests a second
    #[arg(long, default_value_t = 1_000)]
    rate: u32,
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Clients of the closed loop
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Records of the bulk scenarios
    #[arg(long, default_value_t = 400_000)]
    records: usize,
    #[arg(long, default_value_t = 8)]
    partitions: u32,
    /// Concurrent streams of the bulk scenarios
    #[arg(long, default_value_t = 2)]
    streams: usize,
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Further arguments for the server, as --server-arg=--no-inline
    #[arg(long)]
    server_arg: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum, PartialEq)]
enum Scenario {
    /// One record a request at a fixed rate
    Latency,
    /// One record a request, as fast as the clients get answers
    Flood,
    /// NDJSON in, then out
    Bulk,
    All,
}

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Also holds the server's output open.
struct Server(Child, Option<BufReader<ChildStdout>>);

impl Drop for Server {
    fn drop(&mut self) {
        Command::new("kill").arg(self.0.id().to_string()).status().ok();
        self.0.wait().ok();
    }
}

fn start(extra: &[String]) -> Outcome<(Server, String)> {
    let exe = std::env::current_exe()?;
    let binary = exe.parent().and_then(|p| p.parent()).ok_or("no target folder")?.join("millpond");
    let mut command = Command::new(&binary);
    command.args(["dev", "--ephemeral", "--listen", "127.0.0.1:0"]).args(extra);
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|e| format!("{}: {e}: build it first", binary.display()))?;
    let stdout = child.stdout.take().ok_or("no stdout")?;
    let mut server = Server(child, None);
    let mut stdout = BufReader::new(stdout);
    let mut line = String::new();
    while stdout.read_line(&mut line)? > 0 {
        if let Some(url) = line.trim().strip_prefix("Millpond is ready on ") {
            server.1 = Some(stdout);
            return Ok((server, url.to_owned()));
        }
        line.clear();
    }
    Err("the server did not start".into())
}

#[tokio::main]
async fn main() -> Outcome<()> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let args = Args::parse();
    let scenarios = match args.scenario {
        Scenario::All => vec![Scenario::Latency, Scenario::Flood, Scenario::Bulk],
        one => vec![one],
    };
    for scenario in scenarios {
        let (server, url) = match &args.url {
            Some(url) => (None, url.clone()),
            None => start(&args.server_arg).map(|(s, url)| (Some(s), url))?,
        };
        let client = reqwest::Client::builder().pool_max_idle_per_host(1_000).tcp_nodelay(true).build()?;
        for repeat in 0..args.repeats {
            let topic = format!("load-{repeat}-{}", Ids::from_os().random_u32());
            let records = format!("{url}/v1/topics/{topic}/records");
            client
                .put(format!("{url}/v1/topics/{topic}"))
                .body(format!("{{\"partitions\":{}}}", args.partitions))
                .send()
                .await?
                .error_for_status()?;
            match scenario {
                Scenario::Latency => latency(&client, &records, &args).await?,
                Scenario::Flood => flood(&client, &records, &args).await?,
                _ => {
                    bulk_in(&client, &records, &args).await?;
                    bulk_out(&client, &url, &topic, &args).await?;
                }
            }
            memory(server.as_ref());
        }
    }
    Ok(())
}

fn memory(server: Option<&Server>) {
    let Some(server) = server else { return };
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.0.id())).unwrap_or_default();
    for line in status.lines().filter(|l| l.starts_with("VmHWM") || l.starts_with("VmRSS")) {
        println!("    agent {}", line.split_whitespace().collect::<Vec<_>>().join(" "));
    }
}

/// A JSON value of about the size asked, half of it incompressible.
fn value(number: usize, bytes: usize, ids: &Ids) -> String {
    let mut noise = String::with_capacity(bytes);
    while noise.len() < bytes.saturating_sub(60) / 2 {
        noise.push_str(&format!("{:08x}", ids.random_u32()));
    }
    let padding = "abcdefgh ".repeat(bytes / 9);
    let room = bytes.saturating_sub(noise.len() + 60);
    format!("{{\"number\":{number},\"noise\":\"{noise}\",\"padding\":\"{}\"}}", &padding[..room])
}

fn show(name: &str, histogram: &Histogram<u64>) {
    let ms = |q: f64| f64::from(u32::try_from(histogram.value_at_quantile(q)).unwrap_or(u32::MAX)) / 1_000.0;
    println!("{name}: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.2} ms", ms(0.5), ms(0.99), ms(0.999), ms(1.0));
}

async fn send(client: &reqwest::Client, url: &str, body: String) -> Result<(), reqwest::Error> {
    let response = client.post(url).header("content-type", "application/json").body(body).send().await?.error_for_status()?;
    response.bytes().await?;
    Ok(())
}

/// When each request is due, handed over when it is. The runtime's timers count whole milliseconds, so a thread of its own waits.
#[expect(clippy::disallowed_methods, reason = "finer than the runtime's timers")]
fn schedule(rate: u32, total: u32) -> mpsc::UnboundedReceiver<(u32, Instant)> {
    let (hand_over, due_requests) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let start = Instant::now();
        for number in 0..total {
            let due = start + Duration::from_secs_f64(f64::from(number) / f64::from(rate));
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if hand_over.send((number, due)).is_err() {
                return;
            }
        }
    });
    due_requests
}

async fn latency(client: &reqwest::Client, url: &str, args: &Args) -> Outcome<()> {
    let ids = Ids::seeded(1);
    let body = format!("{{\"records\":[{{\"value\":{}}}]}}", value(1, args.record_bytes, &ids));
    let histogram = Arc::new(Mutex::new(Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?));
    let warm_up = args.rate;
    let total = args.rate * args.seconds + warm_up;
    let mut due_requests = schedule(args.rate, total);
    let mut tasks = tokio::task::JoinSet::new();
    while let Some((number, due)) = due_requests.recv().await {
        let (client, url, body, histogram) = (client.clone(), url.to_owned(), body.clone(), Arc::clone(&histogram));
        tasks.spawn(async move {
            let outcome = send(&client, &url, body).await;
            let took = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
            if number >= warm_up {
                histogram.lock().await.saturating_record(took);
            }
            outcome
        });
        while let Some(done) = tasks.try_join_next() {
            done??;
        }
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    show(&format!("latency, {}/s of {} B", args.rate, args.record_bytes), &*histogram.lock().await);
    Ok(())
}

async fn flood(client: &reqwest::Client, url: &str, args: &Args) -> Outcome<()> {
    let ids = Ids::seeded(1);
    let body = format!("{{\"records\":[{{\"value\":{}}}]}}", value(1, args.record_bytes, &ids));
    let start = Instant::now();
    let end = start + Duration::from_secs(args.seconds.into());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..args.clients {
        let (client, url, body) = (client.clone(), url.to_owned(), body.clone());
        tasks.spawn(async move {
            let mut histogram = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).map_err(|e| e.to_string())?;
            while Instant::now() < end {
                let sent = Instant::now();
                send(&client, &url, body.clone()).await.map_err(|e| e.to_string())?;
                histogram.saturating_record(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
            }
            Ok::<_, String>(histogram)
        });
    }
    let mut all = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?;
    while let Some(done) = tasks.join_next().await {
        all.add(done??)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let rate = f64::from(u32::try_from(all.len())?) / seconds;
    show(&format!("flood, {} clients of {} B: {rate:.0} requests/s", args.clients, args.record_bytes), &all);
    Ok(())
}

fn mib_per_s(bytes: usize, since: Instant) -> f64 {
    f64::from(u32::try_from(bytes >> 10).unwrap_or(u32::MAX)) / 1_024.0 / since.elapsed().as_secs_f64()
}

async fn bulk_in(client: &reqwest::Client, url: &str, args: &Args) -> Outcome<()> {
    let ids = Ids::seeded(u64::try_from(SystemClock.now_ms())?);
    let mut block = String::new();
    let mut lines = 0;
    while block.len() < 4 << 20 {
        block.push_str(&value(lines, args.record_bytes, &ids));
        block.push('\n');
        lines += 1;
    }
    let block = Bytes::from(block);
    let blocks = args.records / args.streams / lines;
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..args.streams {
        let (client, url, block) = (client.clone(), format!("{url}?key=/number"), block.clone());
        tasks.spawn(async move {
            let pieces = (0..blocks).flat_map(move |_| {
                let block = block.clone();
                (0..block.len())
                    .step_by(256 << 10)
                    .map(move |at| Ok::<_, std::io::Error>(block.slice(at..(at + (256 << 10)).min(block.len()))))
            });
            let body = reqwest::Body::wrap_stream(stream::iter(pieces));
            client.post(url).header("content-type", "application/x-ndjson").body(body).send().await?.error_for_status()?.bytes().await
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    println!("ndjson in, {} streams: {:.0} MiB/s", args.streams, mib_per_s(block.len() * blocks * args.streams, start));
    Ok(())
}

async fn bulk_out(client: &reqwest::Client, url: &str, topic: &str, args: &Args) -> Outcome<()> {
    for (accept, name) in [("application/x-ndjson", "ndjson"), ("application/vnd.apache.arrow.stream", "arrow")] {
        let start = Instant::now();
        let read = |partition: u32| async move {
            let (mut offset, mut bytes) = (0_i64, 0);
            loop {
                let page =
                    format!("{url}/v1/topics/{topic}/partitions/{partition}/records?offset={offset}&max_records=100000&max_bytes=8388608");
                let response = client
                    .get(page)
                    .header("accept", accept)
                    .send()
                    .await
                    .and_then(reqwest::Response::error_for_status)
                    .map_err(|e| e.to_string())?;
                let header = |name: &str| {
                    response.headers().get(name).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<i64>().ok()).unwrap_or(0)
                };
                let (next, end) = (header("millpond-next-offset"), header("millpond-high-watermark"));
                bytes += response.bytes().await.map_err(|e| e.to_string())?.len();
                offset = next;
                if offset >= end {
                    return Ok::<_, String>(bytes);
                }
            }
        };
        let sizes: Vec<Result<usize, String>> = stream::iter(0..args.partitions).map(read).buffer_unordered(args.streams).collect().await;
        let total = sizes.into_iter().collect::<Result<Vec<_>, _>>()?.iter().sum();
        println!("{name} out, {} readers: {:.0} MiB/s", args.streams, mib_per_s(total, start));
    }
    Ok(())
}
