//! Measures end-to-end latency: the time from when a record was due to be sent until consumers that tail the
//! topic have received it.

use super::body::{DUE_DIGITS, DUE_MARK, Template};
use super::cluster::Cluster;
use super::http::Client;
use super::report::{Latencies, Report};
use super::{Format, LoadArgs, TargetArgs, consume, fresh_topic, pace, produce};
use crate::Outcome;
use bytes::Bytes;
use http_body_util::BodyExt;
use millpond_core::RandomSource;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Longest wait for the last records after the load ends; then they count as lost, and the run fails.
const ARRIVAL_WAIT_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub struct EndToEndArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    load: LoadArgs,
    /// Requests per second
    #[arg(long, default_value_t = 1_000.0)]
    rate: f64,
    /// Number of consumers that tail the whole topic, on the last agent
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    consumers: u32,
    /// Measure once more while a consumer on the last agent reads old records of this size, in MiB, over and
    /// over
    #[arg(long)]
    backlog_mib: Option<u32>,
}

pub async fn run(args: EndToEndArgs) -> Outcome<()> {
    let template = Template::new(&args.load, &RandomSource::seeded(1))?;
    if !template.takes_due() {
        return Err(
            "requests carry the time at which they were due: use JSON or NDJSON of at most 4 MiB".into()
        );
    }
    let expected = template.records
        * usize::try_from(pace::requests(args.rate, args.load.warm_up + args.load.seconds)?)?;
    let cluster = Arc::new(Cluster::start(&args.target).await?);
    let mut report = Report::default();
    let backlog = match args.backlog_mib {
        Some(mib) => Some(consume::fill(&cluster, 8, args.load.record_bytes, mib).await?),
        None => None,
    };
    for _ in 0..args.target.repeats {
        measure(&cluster, &args, expected, "", &mut report).await?;
        if let Some(backlog) = &backlog {
            let (client, topic) = (Arc::clone(cluster.last()), backlog.clone());
            let reading: JoinHandle<Outcome<Infallible>> = tokio::spawn(async move {
                loop {
                    consume::read(&client, &topic, 8, Format::Ndjson, 1, 1 << 20).await?;
                }
            });
            measure(&cluster, &args, expected, " beside a cold reader", &mut report).await?;
            if reading.is_finished() {
                match reading.await?? {}
            }
            reading.abort();
        }
    }
    report.print(args.target.json);
    match Arc::into_inner(cluster) {
        Some(cluster) => cluster.stop().await,
        None => Ok(()),
    }
}

async fn measure(
    cluster: &Arc<Cluster>,
    args: &EndToEndArgs,
    expected: usize,
    beside: &str,
    report: &mut Report,
) -> Outcome<()> {
    let load = &args.load;
    let topic = fresh_topic(cluster, load.partitions).await?;
    let epoch = Instant::now();
    let begin = epoch + Duration::from_secs(u64::from(load.warm_up) + 1);
    let mut consumers = Vec::new();
    for _ in 0..args.consumers {
        consumers.push(tail(cluster.last(), &topic, epoch, begin, expected).await?);
    }
    let before = cluster.counters().await?;
    let start = epoch + Duration::from_secs(1);
    tokio::time::sleep_until(start).await;
    let measured = produce::at_rate(cluster, &topic, args.rate, load, start, Some(epoch)).await?;
    let wall = start.elapsed().as_secs_f64();
    let mut arrivals = Latencies::new()?;
    for consumer in consumers {
        let own = tokio::time::timeout(ARRIVAL_WAIT_MAX, consumer)
            .await
            .map_err(|_| "records did not arrive")???;
        arrivals.add(&own);
    }
    if beside.is_empty() {
        measured.report(report, load);
    } else {
        report.add_latencies(&format!("ack{beside}"), &measured.acks);
        report.add(&format!("failed{beside}"), "requests", super::float(measured.failures));
    }
    report.add_latencies(&format!("end to end{beside}"), &arrivals);
    if beside.is_empty() {
        produce::add_counters(report, cluster, &before, wall).await?;
    }
    Ok(())
}

/// Follows a topic until `expected` records have arrived. Returns the latencies of those that were due at
/// `begin` or later.
async fn tail(
    client: &Arc<Client>,
    topic: &str,
    epoch: Instant,
    begin: Instant,
    expected: usize,
) -> Outcome<JoinHandle<Outcome<Latencies>>> {
    let path =
        format!("/v1/topics/{topic}/records?from=earliest&follow=true&max_records=100000&max_bytes=8388608");
    let (response, connection) = client.open(&path, Format::Ndjson.content_type()).await?;
    let mut body = response.into_body();
    Ok(tokio::spawn(async move {
        let _connection = connection;
        let mut latencies = Latencies::new()?;
        let mut seen = 0;
        let mut carried = Vec::new();
        while seen < expected {
            let frame = body.frame().await.ok_or("the tail ended")??;
            let Ok(data) = frame.into_data() else { continue };
            let now = Instant::now();
            seen += scan(&mut carried, &data, |due_us| {
                let due = epoch + Duration::from_micros(due_us);
                if due >= begin {
                    latencies.record(now.saturating_duration_since(due));
                }
            });
        }
        Ok(latencies)
    }))
}

/// Calls `found` with each due time in a stream of bytes, whose chunks may end anywhere; returns their
/// number. `carried` holds the rest of earlier chunks.
fn scan(carried: &mut Vec<u8>, data: &Bytes, mut found: impl FnMut(u64)) -> usize {
    carried.extend_from_slice(data);
    let mut count = 0;
    let mut end = 0;
    for at in memchr::memmem::find_iter(carried.as_slice(), DUE_MARK) {
        let digits = at + DUE_MARK.len();
        let Some(text) = carried.get(digits..digits + DUE_DIGITS) else { break };
        found(std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()).unwrap_or(0));
        count += 1;
        end = digits + DUE_DIGITS;
    }
    // Keep what may be the beginning of a mark.
    let keep = end.max(carried.len().saturating_sub(DUE_MARK.len() + DUE_DIGITS));
    carried.drain(..keep);
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_times_are_found_wherever_the_stream_breaks() {
        let text = br#"{"due_us":"0000000000000012","a":1}{"due_us":"0000000000000345"}"#;
        for cut in 0..text.len() {
            let (mut carried, mut found) = (Vec::new(), Vec::new());
            let mut count = scan(&mut carried, &Bytes::copy_from_slice(&text[..cut]), |due| found.push(due));
            count += scan(&mut carried, &Bytes::copy_from_slice(&text[cut..]), |due| found.push(due));
            assert_eq!((count, found), (2, vec![12, 345]), "cut at {cut}");
        }
    }
}
