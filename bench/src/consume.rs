//! Measures reading a topic from its beginning.

use super::cluster::Cluster;
use super::http::Client;
use super::report::Report;
use super::{Format, LoadArgs, TargetArgs, float, fresh_topic, produce};
use crate::Outcome;
use crate::body::Template;
use futures::stream::{self, StreamExt, TryStreamExt};
use millpond_core::RandomSource;
use std::sync::Arc;
use tokio::time::Instant;

#[derive(Debug, clap::Args)]
pub struct ConsumeArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Size of a record's value, in bytes
    #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(128..=1_000_000))]
    record_bytes: u32,
    /// Size of the records that are stored and then read, in MiB
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    mib: u32,
    #[arg(long, value_enum, default_value_t = Format::Ndjson)]
    format: Format,
    /// Number of partitions of the topic
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    partitions: u32,
    /// Number of partitions that are read at the same time
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    readers: u32,
    /// Bytes that each request asks for
    #[arg(long, default_value_t = 8 << 20)]
    page_bytes: u32,
}

pub async fn run(args: ConsumeArgs) -> Outcome<()> {
    let cluster = Arc::new(Cluster::start(&args.target).await?);
    let topic = fill(&cluster, args.partitions, args.record_bytes, args.mib).await?;
    let mut report = Report::default();
    for _ in 0..args.target.repeats {
        let before = cluster.counters().await?;
        let start = Instant::now();
        let records =
            read(cluster.last(), &topic, args.partitions, args.format, args.readers, args.page_bytes).await?;
        let seconds = start.elapsed().as_secs_f64();
        report.add("records", "records/s", float(records) / seconds);
        report.add(
            "bytes of values",
            "MiB/s",
            float(records) * f64::from(args.record_bytes) / 1_048_576.0 / seconds,
        );
        produce::add_counters(&mut report, &cluster, &before, seconds).await?;
    }
    report.print(args.target.json);
    match Arc::into_inner(cluster) {
        Some(cluster) => cluster.stop().await,
        None => Ok(()),
    }
}

/// Stores `mib` MiB of records in a new topic; returns its name.
pub async fn fill(cluster: &Cluster, partitions: u32, record_bytes: u32, mib: u32) -> Outcome<String> {
    let topic = fresh_topic(cluster, partitions).await?;
    let batch = u32::try_from((u64::from(mib) << 20) / u64::from(record_bytes))?;
    let load = LoadArgs {
        record_bytes,
        batch,
        format: Format::Ndjson,
        keyed: true,
        idempotent: false,
        partitions,
        seconds: 1,
        warm_up: 0,
        connections: 1,
    };
    let template = Template::new(&load, &RandomSource::seeded(7))?;
    let path = format!("/v1/topics/{topic}/records{}", template.query);
    cluster.first().produce(&path, template.content_type, template.body()).await?;
    Ok(topic)
}

/// Reads every partition from its beginning to its end once; returns the number of records.
pub async fn read(
    client: &Arc<Client>,
    topic: &str,
    partitions: u32,
    format: Format,
    readers: u32,
    page_bytes: u32,
) -> Outcome<usize> {
    let of_partition = |partition: u32| async move {
        let (mut offset, mut records) = (0, 0);
        loop {
            let path = format!(
                "/v1/topics/{topic}/partitions/{partition}/records\
                 ?offset={offset}&max_records=100000&max_bytes={page_bytes}"
            );
            let answer = client.get(&path, format.content_type()).await?.ok()?;
            let next = answer.number("millpond-next-offset");
            records += usize::try_from(next - offset)?;
            offset = next;
            if offset >= answer.number("millpond-high-watermark") {
                return Ok::<usize, Box<dyn std::error::Error + Send + Sync>>(records);
            }
        }
    };
    let counts: Vec<usize> = stream::iter(0..partitions)
        .map(of_partition)
        .buffer_unordered(usize::try_from(readers)?)
        .try_collect()
        .await?;
    Ok(counts.into_iter().sum())
}
