//! Measures what waiting workers cost: many lease calls on many queues that have nothing, and how long a
//! record that comes through another agent takes to reach its worker.

use super::TargetArgs;
use super::cluster::Cluster;
use super::http::{Client, whole};
use super::report::{Latencies, Report};
use crate::Outcome;
use http::{Method, header};
use parking_lot::Mutex;
use serde::Deserialize;
use sqlx::{Connection, PgConnection};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Queues that are made at the same time.
const MAKING: usize = 16;
/// Time for all calls to arrive and for the work that follows a start.
const SETTLING: Duration = Duration::from_secs(15);
/// Pause between two records whose way is measured.
const RECORD_PAUSE: Duration = Duration::from_millis(150);

#[derive(Debug, Clone, clap::Args)]
pub struct IdleArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Number of queues, each on a topic of one partition
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    queues: u32,
    /// Number of lease calls that wait on them, all on the first agent
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    polls: u32,
    /// How long a call waits, in milliseconds
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=30_000))]
    wait_ms: u32,
    /// How long nothing happens, and then how long records are sent through the last agent, in seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
}

pub async fn run(mut args: IdleArgs) -> Outcome<()> {
    if args.target.url.is_some() {
        return Err("idle needs a cluster of its own: leave --url out".into());
    }
    args.target.agents = args.target.agents.max(2);
    let mut report = Report::default();
    for _ in 0..args.target.repeats {
        let cluster = Cluster::start(&args.target).await?;
        measure(&cluster, &args, &mut report).await?;
        cluster.stop().await?;
    }
    report.print(args.target.json);
    Ok(())
}

async fn measure(cluster: &Cluster, args: &IdleArgs, report: &mut Report) -> Outcome<()> {
    make_queues(cluster, args.queues).await?;
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let failures = Arc::new(Mutex::new(0_u32));
    let mut workers = JoinSet::new();
    for number in 0..args.polls {
        let worker = Worker {
            client: Arc::clone(cluster.first()),
            queue: format!("/v1/queues/bench-{}", number % args.queues),
            body: format!(r#"{{"max_records":1,"wait_ms":{}}}"#, args.wait_ms),
            arrived: arrived.clone(),
        };
        let failures = Arc::clone(&failures);
        workers.spawn(async move {
            loop {
                if worker.turn().await.is_err() {
                    *failures.lock() += 1;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        });
    }
    tokio::time::sleep(SETTLING).await;

    let mut database = PgConnection::connect_with(&cluster.database_options().ok_or("no database")?).await?;
    let before = Usage::of(cluster, &mut database).await?;
    tokio::time::sleep(Duration::from_secs(args.seconds.into())).await;
    let used = Usage::of(cluster, &mut database).await?.since(&before);
    let seconds = f64::from(args.seconds);
    report.add("transaction ids while nothing happens", "a second", used.transactions / seconds);
    let all: f64 = used.statements.values().sum();
    report.add("statements while nothing happens", "a second", all / seconds);
    for (name, calls) in used.statements.iter().filter(|(_, calls)| **calls > 0.0) {
        report.add(&format!("of them {name}"), "a second", calls / seconds);
    }
    report.add("processors, all agents", "cores", used.agents / seconds);
    report.add("processors, Postgres", "cores", used.postgres / seconds);

    let mut latencies = Latencies::new()?;
    let end = Instant::now() + Duration::from_secs(args.seconds.into());
    let mut number = 0;
    while Instant::now() < end {
        let path = format!("/v1/topics/bench-{}/records", number % args.queues);
        number += 7;
        let body = whole(r#"{"records":[{"value":1}]}"#);
        cluster.last().produce(&path, "application/json", body).await?;
        let stored = Instant::now();
        let arrival = tokio::time::timeout(Duration::from_secs(10), arrivals.recv()).await;
        let arrival = arrival.map_err(|_| "a record did not arrive within 10 s")?.ok_or("no worker")?;
        latencies.record(arrival.saturating_duration_since(stored));
        tokio::time::sleep(RECORD_PAUSE).await;
    }
    report.add_latencies("from the answer to the producer to the worker", &latencies);
    report.add("failed calls", "calls", f64::from(*failures.lock()));
    if let Some(peak) = cluster.peak_memory_mib() {
        report.add("memory of an agent, peak", "MiB", peak);
    }
    workers.shutdown().await;
    database.close().await?;
    Ok(())
}

async fn make_queues(cluster: &Cluster, queues: u32) -> Outcome<()> {
    let mut making = JoinSet::new();
    for number in 0..queues {
        while making.len() >= MAKING {
            making.join_next().await.ok_or("nothing is being made")???;
        }
        let client = Arc::clone(cluster.first());
        making.spawn(async move {
            let path = format!("/v1/topics/bench-{number}");
            client.put_json(&path, r#"{"partitions":1}"#.into()).await?.ok()?;
            let body = format!(r#"{{"topic":"bench-{number}"}}"#);
            client.put_json(&format!("/v1/queues/bench-{number}"), body).await?.ok()?;
            Outcome::Ok(())
        });
    }
    while let Some(made) = making.join_next().await {
        made??;
    }
    Ok(())
}

struct Worker {
    client: Arc<Client>,
    queue: String,
    body: String,
    arrived: mpsc::UnboundedSender<Instant>,
}

#[derive(Deserialize)]
struct Lease {
    records: Vec<Leased>,
}

#[derive(Deserialize)]
struct Leased {
    receipt: String,
}

impl Worker {
    /// One lease call, and an ack of what it got.
    async fn turn(&self) -> Outcome<()> {
        let headers = [(header::CONTENT_TYPE, "application/json")];
        let path = format!("{}/leases", self.queue);
        let answer = self.client.call(Method::POST, &path, &headers, whole(self.body.clone())).await?.ok()?;
        let lease: Lease = serde_json::from_slice(&answer.bytes)?;
        for record in lease.records {
            self.arrived.send(Instant::now()).ok();
            let body = format!(r#"{{"ack":["{}"]}}"#, record.receipt);
            let path = format!("{}/settlements", self.queue);
            self.client.call(Method::POST, &path, &headers, whole(body)).await?.ok()?;
        }
        Ok(())
    }
}

/// What agents and Postgres have used so far.
struct Usage {
    /// Transaction ids of the whole server.
    transactions: f64,
    /// Calls of the control plane by all agents, by name.
    statements: BTreeMap<String, f64>,
    /// Processor time in seconds.
    agents: f64,
    postgres: f64,
}

impl Usage {
    async fn of(cluster: &Cluster, database: &mut PgConnection) -> Outcome<Self> {
        let next: i64 = sqlx::query_scalar("select pg_snapshot_xmax(pg_current_snapshot())::text::int8")
            .fetch_one(database)
            .await?;
        let counters = cluster.counters().await?;
        let calls = counters.into_iter().filter_map(|(name, n)| {
            Some((name.strip_prefix("millpond_control_plane_call_seconds_count/")?.to_owned(), n))
        });
        Ok(Self {
            transactions: f64::from(u32::try_from(next)?),
            statements: calls.collect(),
            agents: cluster.cpu_seconds().unwrap_or(0.0),
            postgres: cluster.postgres_cpu_seconds().unwrap_or(0.0),
        })
    }

    fn since(self, before: &Self) -> Self {
        Self {
            transactions: self.transactions - before.transactions,
            statements: self
                .statements
                .into_iter()
                .map(|(name, n)| (name.clone(), n - before.statements.get(&name).unwrap_or(&0.0)))
                .collect(),
            agents: self.agents - before.agents,
            postgres: self.postgres - before.postgres,
        }
    }
}
