//! Measures produce requests: their latency at a given rate, or their throughput.

use super::body::Template;
use super::cluster::Cluster;
use super::report::{Latencies, Report};
use super::{LoadArgs, TargetArgs, float, fresh_topic, pace};
use crate::Outcome;
use crate::bare::BareInserts;
use millpond_core::RandomSource;
use millpond_core::saturated;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

#[derive(Debug, clap::Args)]
pub struct ProduceArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    load: LoadArgs,
    /// Requests per second; without it, each connection sends the next request as soon as it has the answer
    #[arg(long)]
    rate: Option<f64>,
    /// For comparison, before each measurement, measure single-row INSERTs of the same size into the same
    /// Postgres at the same rate
    #[arg(long, requires = "rate", conflicts_with = "url")]
    bare: bool,
}

pub async fn run(args: ProduceArgs) -> Outcome<()> {
    let cluster = Arc::new(Cluster::start(&args.target).await?);
    let mut report = Report::default();
    for _ in 0..args.target.repeats {
        if let (true, Some(rate), Some(options)) = (args.bare, args.rate, cluster.database_options()) {
            let bare = BareInserts::connect(options).await?;
            let latencies = bare_inserts(&bare, rate, &args.load).await?;
            report.add_latencies("bare INSERT", &latencies);
            bare.close().await;
        }
        let topic = fresh_topic(&cluster, args.load.partitions).await?;
        let before = cluster.counters().await?;
        let start = Instant::now();
        let measured = match args.rate {
            Some(rate) => at_rate(&cluster, &topic, rate, &args.load, start, None).await?,
            None => flat_out(&cluster, &topic, &args.load).await?,
        };
        let wall = start.elapsed().as_secs_f64();
        measured.report(&mut report, &args.load);
        add_counters(&mut report, &cluster, &before, wall).await?;
    }
    report.print(args.target.json);
    match Arc::into_inner(cluster) {
        Some(cluster) => cluster.stop().await,
        None => Ok(()),
    }
}

/// The result of one measurement, without requests of the warm-up.
pub struct Measured {
    pub acks: Latencies,
    records: f64,
    seconds: f64,
    pub failures: usize,
}

impl Measured {
    pub fn report(&self, report: &mut Report, load: &LoadArgs) {
        let records = self.records / self.seconds;
        report.add(
            "acknowledged",
            "requests/s",
            f64::from(saturated::<u32, _>(self.acks.count())) / self.seconds,
        );
        report.add("records", "records/s", records);
        report.add("bytes of values", "MiB/s", records * f64::from(load.record_bytes) / 1_048_576.0);
        report.add_latencies("ack", &self.acks);
        report.add("failed", "requests", float(self.failures));
    }
}

/// Reports what agents did since `before`: PUTs, GETs, commits, processor time and memory.
pub async fn add_counters(
    report: &mut Report,
    cluster: &Cluster,
    before: &std::collections::BTreeMap<String, f64>,
    seconds: f64,
) -> Outcome<()> {
    let after = cluster.counters().await?;
    let since = |name: &str| after.get(name).unwrap_or(&0.0) - before.get(name).unwrap_or(&0.0);
    report.add("PUTs", "a second", since("millpond_store_requests_total/put") / seconds);
    report.add("GETs", "a second", since("millpond_store_requests_total/get") / seconds);
    report.add("commits", "a second", since("millpond_produce_commits_total") / seconds);
    if after.contains_key("cpu") {
        report.add("processors that agents used", "cores", since("cpu") / seconds);
    }
    if let Some(peak) = cluster.peak_memory_mib() {
        report.add("memory of an agent, peak so far", "MiB", peak);
    }
    Ok(())
}

/// Idempotency keys, if requests are to have them: each is used once.
struct Keys {
    /// Random, so that no other run used the same keys.
    prefix: Option<Uuid>,
    used: AtomicU64,
}

impl Keys {
    fn new(load: &LoadArgs) -> Self {
        let random = RandomSource::from_os();
        Self { prefix: load.idempotent.then(|| random.uuid(0)), used: AtomicU64::new(0) }
    }

    fn next(&self) -> Option<String> {
        self.prefix.map(|prefix| format!("{prefix}/{}", self.used.fetch_add(1, Ordering::Relaxed)))
    }
}

/// Latency of each request, if it was after the warm-up, and whether it succeeded.
type Outcomes = JoinSet<(Option<Duration>, bool)>;

fn collect(outcome: (Option<Duration>, bool), acks: &mut Latencies, failures: &mut usize) {
    match outcome {
        (Some(took), true) => acks.record(took),
        (_, false) => *failures += 1,
        (None, true) => {}
    }
}

/// Sends requests at a fixed rate. With an epoch, records carry the time at which they were due.
pub async fn at_rate(
    cluster: &Arc<Cluster>,
    topic: &str,
    rate: f64,
    load: &LoadArgs,
    start: Instant,
    epoch: Option<Instant>,
) -> Outcome<Measured> {
    let template = Arc::new(Template::new(load, &RandomSource::seeded(1))?);
    let path: Arc<str> = format!("/v1/topics/{topic}/records{}", template.query).into();
    let (warm_up, total) =
        (pace::requests(rate, load.warm_up)?, pace::requests(rate, load.warm_up + load.seconds)?);
    let slots = Arc::new(Semaphore::new(usize::try_from(load.connections)?));
    let keys = Arc::new(Keys::new(load));
    let (mut acks, mut failures) = (Latencies::new()?, 0);
    let mut due_requests = pace::open_loop(start, rate, total);
    let mut tasks: Outcomes = JoinSet::new();
    while let Some((number, due)) = due_requests.recv().await {
        let (client, path, template, slots) =
            (Arc::clone(cluster.turn(number)), Arc::clone(&path), Arc::clone(&template), Arc::clone(&slots));
        let keys = Arc::clone(&keys);
        tasks.spawn(async move {
            let _slot = slots.acquire().await;
            let body = epoch.map_or_else(|| template.body(), |epoch| template.body_due(due, epoch));
            let key = keys.next();
            let sent = client.produce_once(&path, template.content_type, key.as_deref(), body).await.is_ok();
            ((number >= warm_up).then(|| due.elapsed()), sent)
        });
        while let Some(done) = tasks.try_join_next() {
            collect(done?, &mut acks, &mut failures);
        }
    }
    while let Some(done) = tasks.join_next().await {
        collect(done?, &mut acks, &mut failures);
    }
    // If the server did not keep up, answers came for longer than the load was to last.
    let seconds = (start.elapsed().as_secs_f64() - f64::from(load.warm_up)).max(f64::from(load.seconds));
    let records = float(usize::try_from(acks.count())?) * float(template.records);
    Ok(Measured { acks, records, seconds, failures })
}

/// Sends as many requests as go through: each connection sends the next one when it has the last answer.
pub async fn flat_out(cluster: &Arc<Cluster>, topic: &str, load: &LoadArgs) -> Outcome<Measured> {
    let template = Arc::new(Template::new(load, &RandomSource::seeded(1))?);
    let path: Arc<str> = format!("/v1/topics/{topic}/records{}", template.query).into();
    let begin = Instant::now() + Duration::from_secs(load.warm_up.into());
    let end = begin + Duration::from_secs(load.seconds.into());
    let mut tasks = JoinSet::new();
    let keys = Arc::new(Keys::new(load));
    for number in 0..load.connections {
        let (client, path, template, keys) =
            (Arc::clone(cluster.turn(number)), Arc::clone(&path), Arc::clone(&template), Arc::clone(&keys));
        tasks.spawn(async move {
            let mut acks = Latencies::new().map_err(|e| e.to_string())?;
            // Counts what was stored between begin and end. Of a request that overlaps one of them, only the
            // share of its time that lies between counts.
            let (mut failures, mut stored) = (0, 0.0);
            loop {
                let sent = Instant::now();
                if sent >= end {
                    return Ok::<_, String>((acks, stored, failures));
                }
                let key = keys.next();
                let body = template.body();
                match client.produce_once(&path, template.content_type, key.as_deref(), body).await {
                    Ok(_) => {
                        let (from, to) = (sent.max(begin), Instant::now().min(end));
                        let share =
                            to.saturating_duration_since(from).as_secs_f64() / sent.elapsed().as_secs_f64();
                        stored += share.min(1.0);
                        if sent >= begin {
                            acks.record(sent.elapsed());
                        }
                    }
                    Err(error) if failures == 0 => {
                        eprintln!("a request failed: {error}");
                        failures += 1;
                    }
                    Err(_) => failures += 1,
                }
            }
        });
    }
    let (mut acks, mut stored, mut failures) = (Latencies::new()?, 0.0, 0);
    while let Some(done) = tasks.join_next().await {
        let (own, requests, failed) = done??;
        acks.add(&own);
        stored += requests;
        failures += failed;
    }
    let records = stored * float(template.records);
    Ok(Measured { acks, records, seconds: f64::from(load.seconds), failures })
}

/// Inserts for comparison: one row per commit, at the same rate, on as many connections as an agent has.
async fn bare_inserts(bare: &BareInserts, rate: f64, load: &LoadArgs) -> Outcome<Latencies> {
    let row = vec![b'x'; usize::try_from(load.record_bytes)?];
    let (warm_up, total) =
        (pace::requests(rate, load.warm_up)?, pace::requests(rate, load.warm_up + load.seconds)?);
    let mut acks = Latencies::new()?;
    let mut due_requests = pace::open_loop(Instant::now(), rate, total);
    let mut tasks = JoinSet::new();
    while let Some((number, due)) = due_requests.recv().await {
        let (bare, row) = (bare.clone(), row.clone());
        tasks.spawn(async move {
            let inserted = bare.insert(&row).await.map_err(|e| e.to_string());
            inserted.map(|()| (number >= warm_up).then(|| due.elapsed()))
        });
        while let Some(done) = tasks.try_join_next() {
            done??.into_iter().for_each(|took| acks.record(took));
        }
    }
    while let Some(done) = tasks.join_next().await {
        done??.into_iter().for_each(|took| acks.record(took));
    }
    Ok(acks)
}
