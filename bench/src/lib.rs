//! The command `millpond bench`: measures latency and throughput as a client sees them, on servers that it
//! starts or on a running server.
//!
//! If a rate is given, the load is an open loop: the latency of a request counts from when it was due, so
//! that a stalled server is not hidden by clients that wait for it. A scenario is measured several times, and
//! the median, least and most of each figure are reported. Unless `--url` is given, client, agents and
//! Postgres share the machine.

mod age;
mod bare;
mod body;
mod cluster;
mod commit;
mod consume;
mod end_to_end;
mod http;
mod idle;
mod pace;
mod produce;
mod queue;
mod report;

use clap::{Args, Subcommand, ValueEnum};
use cluster::Cluster;
use millpond_core::RandomSource;

pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Measure produce requests: latency at a given rate, or throughput
    Produce(produce::ProduceArgs),
    /// Measure the time from when a record was due to be sent until a tailing consumer has received it
    EndToEnd(end_to_end::EndToEndArgs),
    /// Measure reading a topic from its beginning
    Consume(consume::ConsumeArgs),
    /// Measure how workers of a queue lease and settle records
    Queue(queue::QueueArgs),
    /// Measure produce requests beside background jobs that have much to delete, and these jobs
    Age(age::AgeArgs),
    /// Measure what waiting workers cost, and how soon a record reaches one of them
    Idle(idle::IdleArgs),
    /// Measure the commit statement of the control plane alone, and single-row inserts for comparison
    Commit(commit::CommitArgs),
}

/// The servers that are measured, and how often a scenario is repeated.
#[derive(Debug, Clone, Args)]
struct TargetArgs {
    /// URL of a running server; without it, Postgres and agents are started on a temporary folder
    #[arg(long)]
    url: Option<String>,
    /// Number of agents to start; requests go to them in turn, consumers to the last one
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    agents: u32,
    /// Object store of the agents that are started, as for `millpond agent --store` [default: a temporary
    /// folder]
    #[arg(long)]
    store: Option<String>,
    /// Latency added to the store of the agents that are started, such as p50=100ms,p99=300ms
    #[arg(long)]
    store_latency: Option<String>,
    /// Further argument for the agents that are started, such as --agent-arg=--no-inline; can be repeated
    #[arg(long, allow_hyphen_values = true)]
    agent_arg: Vec<String>,
    /// Number of measurements, of which the median is reported
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    repeats: u32,
    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
}

/// Size and form of records and requests.
#[derive(Debug, Clone, Args)]
struct LoadArgs {
    /// Size of a record's value, in bytes
    #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(128..=1_000_000))]
    record_bytes: u32,
    /// Number of records in a request
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    batch: u32,
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
    /// Give every record a key of its own, which spreads the records of a request over the partitions
    #[arg(long)]
    keyed: bool,
    /// Give every request an idempotency key of its own
    #[arg(long)]
    idempotent: bool,
    /// Number of partitions of the topic
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    partitions: u32,
    /// Duration of a measurement, in seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Duration of the same load before the measurement, in seconds
    #[arg(long, default_value_t = 1)]
    warm_up: u32,
    /// Number of connections, and thus of requests in flight
    #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    connections: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Json,
    Ndjson,
    Arrow,
}

impl Format {
    fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::Arrow => "application/vnd.apache.arrow.stream",
        }
    }
}

pub async fn run(args: BenchArgs) -> Outcome<()> {
    match args.scenario {
        Scenario::Produce(args) => produce::run(args).await,
        Scenario::EndToEnd(args) => end_to_end::run(args).await,
        Scenario::Consume(args) => consume::run(args).await,
        Scenario::Queue(args) => queue::run(args).await,
        Scenario::Age(args) => age::run(args).await,
        Scenario::Idle(args) => idle::run(args).await,
        Scenario::Commit(args) => commit::run(args).await,
    }
}

/// Makes a new topic; returns its name.
async fn fresh_topic(cluster: &Cluster, partitions: u32) -> Outcome<String> {
    let topic = format!("bench-{:08x}", RandomSource::from_os().random_u32());
    let made = cluster
        .first()
        .put_json(&format!("/v1/topics/{topic}"), format!("{{\"partitions\":{partitions}}}"))
        .await?;
    made.ok()?;
    Ok(topic)
}

/// A count as a floating-point number; exact below 2^32, which bounds everything that is counted here.
fn float(n: usize) -> f64 {
    u32::try_from(n).map_or(f64::INFINITY, f64::from)
}
