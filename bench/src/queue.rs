//! Measures queues: workers lease and settle records, either a backlog as fast as possible or records that
//! are produced at a fixed rate.

mod load;
mod rows;
mod worker;

use super::cluster::Cluster;
use super::report::{Latencies, Report};
use super::{TargetArgs, consume, float, produce};
use crate::Outcome;
use clap::ValueEnum;
use millpond_core::RandomSource;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use worker::{Done, Worker};

#[derive(Debug, Clone, clap::Args)]
pub struct QueueArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Size of a record's value, in bytes
    #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(128..=1_000_000))]
    record_bytes: u32,
    /// Number of records that a lease call asks for
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    batch: u32,
    /// Number of workers; each leases, settles, and leases again
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    workers: u32,
    /// Content type of the answers to lease calls
    #[arg(long, value_enum, default_value_t = AnswerFormat::Json)]
    format: AnswerFormat,
    /// Settle each record by its receipt, or the whole lease
    #[arg(long, value_enum, default_value_t = Settle::Receipts)]
    settle: Settle,
    #[arg(long, value_enum, default_value_t = Kind::Shared)]
    mode: Kind,
    /// Number of different keys of the records [default: one per record]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    keys: Option<u32>,
    /// Share of the leased records that are nacked instead of acked
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    failures: f64,
    /// Number of partitions of the topic
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    partitions: u32,
    /// Without a rate: size of the backlog in MiB; the time to lease and settle all of it is measured
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    mib: u32,
    /// Produce this number of records per second, which are leased and settled as they come, instead of a
    /// backlog
    #[arg(long)]
    rate: Option<f64>,
    /// With a rate: number of records in a produce request
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    produce_batch: u32,
    /// With a rate: duration of a measurement in seconds, after a warm-up of one second
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// With a rate: make every measurement twice, the second time on a separate server where this number of
    /// records of another queue wait for a retry
    #[arg(long, requires = "rate", conflicts_with = "url")]
    beside_waiting: Option<u32>,
    /// With a rate: hold a transaction open during the measurements, in the same database or in another one
    /// of the same Postgres
    #[arg(long, value_enum, requires = "rate", conflicts_with = "url")]
    hold: Option<rows::Hold>,
    /// Wait for the statistics of Postgres, and report the rows written per acked record and the size of the
    /// queues' tables
    #[arg(long, conflicts_with = "url")]
    rows: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AnswerFormat {
    Json,
    Arrow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Settle {
    Receipts,
    Lease,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Shared,
    Keyed,
}

fn share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|s| (0.0..1.0).contains(s)).ok_or_else(|| "a share is 0 to below 1".to_owned())
}

pub async fn run(args: QueueArgs) -> Outcome<()> {
    let cluster = Arc::new(Cluster::start(&args.target).await?);
    let mut report = Report::default();
    match args.rate {
        Some(rate) => at_rate(&cluster, &args, rate, &mut report).await?,
        None => flat_out(&cluster, &args, &mut report).await?,
    }
    report.print(args.target.json);
    match Arc::into_inner(cluster) {
        Some(cluster) => cluster.stop().await,
        None => Ok(()),
    }
}

/// Makes a new queue on a topic; returns its path.
async fn fresh_queue(cluster: &Cluster, topic: &str, args: &QueueArgs) -> Outcome<String> {
    let path = format!("/v1/queues/bench-{:08x}", RandomSource::from_os().random_u32());
    let mode = if args.mode == Kind::Keyed { "keyed" } else { "shared" };
    let body = format!(
        r#"{{"topic":"{topic}","mode":"{mode}","max_in_flight":1000000,
            "retry":{{"base_ms":100,"max_failures":1000}}}}"#
    );
    // The default limit is kept, as users have it and because it is counted without a lock, unless more
    // records can be in flight.
    let body = if args.workers * args.batch <= 20_000 {
        body.replace(r#""max_in_flight":1000000,"#, "")
    } else {
        body
    };
    cluster.first().put_json(&path, body).await?.ok()?;
    Ok(path)
}

/// Works through the backlog of a topic, once per repeat, each time with a new queue.
async fn flat_out(cluster: &Arc<Cluster>, args: &QueueArgs, report: &mut Report) -> Outcome<()> {
    let topic = match args.keys {
        Some(keys) => {
            load::fill_with_keys(cluster, args.partitions, args.record_bytes, args.mib, keys).await?
        }
        None => consume::fill(cluster, args.partitions, args.record_bytes, args.mib).await?,
    };
    let total = load::records(cluster, &topic).await?;
    for _ in 0..args.target.repeats {
        let queue = fresh_queue(cluster, &topic, args).await?;
        let before = cluster.counters().await?;
        let rows = rows::written(cluster, args.rows).await?;
        let start = Instant::now();
        let done = Arc::new(Done::new(Some(total)));
        let work = workers(cluster, &queue, args, &done, None).await?;
        let seconds = work.last.saturating_duration_since(start).as_secs_f64();
        report.add("settled", "records/s", float(done.acked()) / seconds);
        report.add("lease calls", "a second", float(usize::try_from(work.leases.count())?) / seconds);
        report.add(
            "records of a lease",
            "",
            float(done.leased()) / float(usize::try_from(work.leases.count())?.max(1)),
        );
        work.report(report);
        statements(report, cluster, &before, seconds).await?;
        produce::add_counters(report, cluster, &before, seconds).await?;
        rows::report(report, cluster, rows, done.acked()).await?;
    }
    Ok(())
}

/// The measurements of all workers together.
struct Work {
    leases: Latencies,
    settles: Latencies,
    /// When the last record was settled.
    last: Instant,
}

impl Work {
    fn report(&self, report: &mut Report) {
        report.add_latencies("lease call", &self.leases);
        report.add_latencies("settlement", &self.settles);
    }
}

/// Runs the workers until all expected records are acked.
async fn workers(
    cluster: &Arc<Cluster>,
    queue: &str,
    args: &QueueArgs,
    done: &Arc<Done>,
    acked: Option<&Arc<load::Acked>>,
) -> Outcome<Work> {
    let mut tasks = JoinSet::new();
    for number in 0..args.workers {
        let worker = Worker::new(
            Arc::clone(cluster.turn(number)),
            queue,
            args,
            number,
            Arc::clone(done),
            acked.cloned(),
        );
        tasks.spawn(async move { worker.run().await.map_err(|e| e.to_string()) });
    }
    let mut work = Work { leases: Latencies::new()?, settles: Latencies::new()?, last: Instant::now() };
    while let Some(ended) = tasks.join_next().await {
        let seen = ended??;
        work.leases.add(&seen.leases);
        work.settles.add(&seen.settles);
        work.last = work.last.max(seen.last);
    }
    Ok(work)
}

/// Reports how many statements of queues there were, and how long each took on average.
async fn statements(
    report: &mut Report,
    cluster: &Cluster,
    before: &std::collections::BTreeMap<String, f64>,
    seconds: f64,
) -> Outcome<()> {
    let after = cluster.counters().await?;
    let since = |name: &str| after.get(name).unwrap_or(&0.0) - before.get(name).unwrap_or(&0.0);
    for (name, count, took) in [
        ("grants", "millpond_queue_grants_total", "millpond_control_plane_call_seconds_sum/grant"),
        (
            "settle statements",
            "millpond_queue_settles_total",
            "millpond_control_plane_call_seconds_sum/settle",
        ),
        (
            "plans",
            "millpond_control_plane_call_seconds_count/find",
            "millpond_control_plane_call_seconds_sum/find",
        ),
        (
            "admissions",
            "millpond_control_plane_call_seconds_count/admit",
            "millpond_control_plane_call_seconds_sum/admit",
        ),
    ] {
        report.add(name, "a second", since(count) / seconds);
        report.add(&format!("{name}, each"), "ms", 1_000.0 * since(took) / since(count).max(1.0));
    }
    Ok(())
}

/// Produces records at a rate while workers lease and settle them.
async fn at_rate(cluster: &Arc<Cluster>, args: &QueueArgs, rate: f64, report: &mut Report) -> Outcome<()> {
    let beside = match args.beside_waiting {
        None => None,
        Some(count) => {
            let other = Arc::new(Cluster::start(&args.target).await?);
            load::make_waiting(&other, args.record_bytes, count).await?;
            rows::vacuum(&other).await?;
            Some(other)
        }
    };
    let hold = match args.hold {
        Some(hold) => Some(rows::hold(cluster, hold).await?),
        None => None,
    };
    for _ in 0..args.target.repeats {
        let alone = one_at_rate(cluster, args, rate, report, "").await?;
        if let Some(other) = &beside {
            let slowed = one_at_rate(other, args, rate, report, " beside waiting").await?;
            report.add("lease p99 beside waiting retries, over that without", "times", slowed / alone);
        }
    }
    if let Some(hold) = hold {
        rows::report_sizes(report, cluster, " while the transaction is open").await?;
        drop(hold);
        tokio::time::sleep(Duration::from_secs(120)).await;
        rows::report_sizes(report, cluster, " two minutes after its end").await?;
    }
    if let Some(other) = beside.and_then(Arc::into_inner) {
        other.stop().await?;
    }
    Ok(())
}

/// One measurement; returns the 99th percentile of lease calls, in milliseconds.
async fn one_at_rate(
    cluster: &Arc<Cluster>,
    args: &QueueArgs,
    rate: f64,
    report: &mut Report,
    label: &str,
) -> Outcome<f64> {
    let topic = super::fresh_topic(cluster, args.partitions).await?;
    let queue = fresh_queue(cluster, &topic, args).await?;
    let acked = Arc::new(load::Acked::default());
    let done = Arc::new(Done::new(None));
    let before = cluster.counters().await?;
    let rows = rows::written(cluster, args.rows).await?;
    let start = Instant::now();
    let producing = load::produce(cluster, &topic, args, rate, start, Arc::clone(&acked));
    let working = workers(cluster, &queue, args, &done, Some(&acked));
    let ending = async {
        let sent = producing.await;
        done.expect(*sent.as_ref().unwrap_or(&0));
        sent
    };
    let (sent, work) = tokio::join!(ending, working);
    let (sent, work) = (sent?, work?);
    let seconds = start.elapsed().as_secs_f64();
    report.add(&format!("produced{label}"), "records/s", float(sent) / seconds);
    report.add_latencies(&format!("lease call{label}"), &work.leases);
    report.add_latencies(&format!("settlement{label}"), &work.settles);
    for (minute, leases) in acked.minutes().into_iter().enumerate().filter(|_| args.seconds >= 120) {
        report.add(&format!("lease call p99{label}, minute {}", minute + 1), "ms", leases.ms(0.99));
    }
    statements(report, cluster, &before, seconds).await?;
    rows::report(report, cluster, rows, done.acked()).await?;
    Ok(work.leases.ms(0.99))
}
