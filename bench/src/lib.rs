//! `millpond bench`: measures what a user would feel, on servers of its own or on a running one.
//!
//! Load is open loop where a rate is given: a request's latency counts from when it was due, so that a
//! stalled server is not hidden by clients that wait for it. A scenario is measured several times; reported
//! are median, least and most. Client, agents and Postgres share the machine unless `--url` says otherwise.

mod bare;
mod body;
mod cluster;
mod commit;
mod consume;
mod end_to_end;
mod http;
mod pace;
mod produce;
mod queue;
mod report;

use clap::{Args, Subcommand, ValueEnum};
use cluster::Cluster;
use millpond_core::Ids;

pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Requests that store records: how long until they are acknowledged, or how many go through
    Produce(produce::ProduceArgs),
    /// From the instant a record was due to be sent until a consumer that tails the topic has it
    EndToEnd(end_to_end::EndToEndArgs),
    /// Reading a topic from its beginning
    Consume(consume::ConsumeArgs),
    /// Records leased and settled by the workers of a queue
    Queue(queue::QueueArgs),
    /// The commit statement of the control plane alone, beside bare inserts
    Commit(commit::CommitArgs),
}

/// Where the load goes, and how a scenario is repeated.
#[derive(Debug, Clone, Args)]
struct TargetArgs {
    /// A running server; without it Postgres and agents are started for the scenario, on a temporary folder
    #[arg(long)]
    url: Option<String>,
    /// Agents to start; requests go to them in turn, consumers to the last
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    agents: u32,
    /// Bucket of the agents that are started, as `millpond agent --store` takes it [default: a temporary
    /// folder]
    #[arg(long)]
    store: Option<String>,
    /// A latency in front of the store of the agents that are started, as p50=100ms,p99=300ms
    #[arg(long)]
    store_latency: Option<String>,
    /// Further arguments for the agents that are started, as --agent-arg=--no-inline
    #[arg(long, allow_hyphen_values = true)]
    agent_arg: Vec<String>,
    /// Measurements; medians are reported
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    repeats: u32,
    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
}

/// What the records look like and how they lie in requests.
#[derive(Debug, Clone, Args)]
struct LoadArgs {
    /// Bytes of a record's value
    #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(128..=1_000_000))]
    record_bytes: u32,
    /// Records of a request
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    batch: u32,
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
    /// Give every record a key of its own, which spreads the records of a request over the partitions
    #[arg(long)]
    keyed: bool,
    /// Partitions of the topic
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    partitions: u32,
    /// Seconds that are measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Seconds of the same load before
    #[arg(long, default_value_t = 1)]
    warm_up: u32,
    /// Connections, and with them requests in flight
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
        Scenario::Commit(args) => commit::run(args).await,
    }
}

/// Makes a topic that no other measurement uses; returns its name.
async fn fresh_topic(cluster: &Cluster, partitions: u32) -> Outcome<String> {
    let topic = format!("bench-{:08x}", Ids::from_os().random_u32());
    let made = cluster
        .first()
        .put_json(&format!("/v1/topics/{topic}"), format!("{{\"partitions\":{partitions}}}"))
        .await?;
    made.ok()?;
    Ok(topic)
}

/// A count as a number to calculate with; exact below 2^32, which bounds everything counted here.
fn float(n: usize) -> f64 {
    u32::try_from(n).map_or(f64::INFINITY, f64::from)
}
