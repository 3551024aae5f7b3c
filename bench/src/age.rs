//! Measures produce requests beside a control plane full of rows that background jobs have to delete, and how
//! fast these jobs do so.

use super::cluster::Cluster;
use super::produce::at_rate;
use super::report::Report;
use super::{LoadArgs, TargetArgs, float, fresh_topic};
use crate::Outcome;
use crate::bare::Age;
use millpond_control_plane::DatabaseOptions;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Pause between two looks at the tables.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Maximum time for the jobs to delete what is due, after the measurement.
const DONE_MAX: Duration = Duration::from_secs(1_800);

#[derive(Debug, clap::Args)]
pub struct AgeArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    load: LoadArgs,
    /// Requests per second
    #[arg(long, default_value_t = 1_000.0)]
    rate: f64,
    /// Number of batch rows that are older than their topic's retention, spread over 288 partitions
    #[arg(long, default_value_t = 1_000_000)]
    batches: i64,
    /// Number of expired idempotency keys, of as many answers and of as many dedup ids
    #[arg(long, default_value_t = 500_000)]
    keys: i64,
}

pub async fn run(args: AgeArgs) -> Outcome<()> {
    if args.target.url.is_some() {
        return Err("only a cluster that this command starts can be filled".into());
    }
    let mut report = Report::default();
    for _ in 0..args.target.repeats {
        let cluster = Arc::new(Cluster::start(&args.target).await?);
        let options = cluster.database_options().ok_or("no database")?;
        let topic = fresh_topic(&cluster, args.load.partitions).await?;
        let fresh = at_rate(&cluster, &topic, args.rate, &args.load, Instant::now(), None).await?;
        report.add_latencies("ack, fresh", &fresh.acks);
        Age::fill(options.clone(), args.batches, args.keys).await?;
        let watch = tokio::spawn(watch(Arc::clone(&cluster), options));
        let aged = at_rate(&cluster, &topic, args.rate, &args.load, Instant::now(), None).await?;
        report.add_latencies("ack, beside the jobs", &aged.acks);
        report.add("p99 beside the jobs", "times fresh", aged.acks.ms(0.99) / fresh.acks.ms(0.99));
        report.add("failed", "requests", float(fresh.failures + aged.failures));
        for (kind, rate) in watch.await?? {
            report.add(&format!("{kind} deleted"), "rows/s", rate);
        }
        if let Some(cluster) = Arc::into_inner(cluster) {
            cluster.stop().await?;
        }
    }
    report.print(args.target.json);
    Ok(())
}

/// How late jobs are, of those that are.
async fn lags(cluster: &Cluster) -> Outcome<String> {
    let late = cluster.counters().await?.into_iter().filter_map(|(name, seconds)| {
        let job = name.strip_prefix("millpond_job_lag_seconds/")?;
        (seconds > 0.0).then(|| format!(", {job} {seconds:.0} s late"))
    });
    Ok(late.collect())
}

/// Looks at the tables until nothing is due any more. Returns the rate at which each kind of row was deleted,
/// from the last look that found all of them to the first that found none.
async fn watch(cluster: Arc<Cluster>, options: DatabaseOptions) -> Outcome<Vec<(&'static str, f64)>> {
    let start = Instant::now();
    let first = Age::of(options.clone()).await?.due;
    let mut began = vec![0.0; first.len()];
    let mut done: Vec<Option<f64>> = vec![None; first.len()];
    while start.elapsed() < DONE_MAX {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let now = Age::of(options.clone()).await?;
        let at = start.elapsed().as_secs_f64();
        eprintln!("{at:6.0} s  {now}{}", lags(&cluster).await?);
        for (n, (_, left)) in now.due.iter().enumerate() {
            if *left == first[n].1 {
                began[n] = at;
            }
            if *left == 0 && done[n].is_none() {
                done[n] = Some(at);
            }
        }
        if done.iter().all(Option::is_some) {
            let rate = |n: usize| {
                let rows = float(usize::try_from(first[n].1).unwrap_or(0));
                (first[n].0, rows / (done[n].unwrap_or(f64::INFINITY) - began[n]))
            };
            return Ok((0..first.len()).map(rate).collect());
        }
    }
    Err("the jobs did not delete what was due".into())
}
