//! Produces the records for queues: a backlog, a steady stream, or records that wait for a retry.

use super::QueueArgs;
use crate::Outcome;
use crate::body::Template;
use crate::cluster::Cluster;
use crate::http::whole;
use crate::report::Latencies;
use crate::{Format, LoadArgs, consume, fresh_topic, pace};
use http::{Method, header};
use millpond_core::RandomSource;
use millpond_core::saturated;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// When each record was acknowledged to its producer, and the latencies of lease calls in each minute.
#[derive(Default)]
pub struct Acked {
    /// By partition and offset.
    at: Mutex<HashMap<(i32, i64), Instant>>,
    /// The end of the warm-up.
    from: Mutex<Option<Instant>>,
    minutes: Mutex<Vec<Latencies>>,
}

impl Acked {
    /// When a record was acknowledged. The time is removed, since it is only needed once.
    pub fn at(&self, place: (i32, i64)) -> Option<Instant> {
        self.at.lock().remove(&place)
    }

    /// Whether the warm-up was over at this time.
    pub fn counts(&self, at: Instant) -> bool {
        self.from.lock().is_some_and(|from| at >= from)
    }

    /// Records the latency of a lease call.
    pub fn leased(&self, at: Instant, took: Duration) {
        let Some(from) = *self.from.lock() else { return };
        let minute = saturated::<usize, _>(at.saturating_duration_since(from).as_secs() / 60);
        let mut minutes = self.minutes.lock();
        while minutes.len() <= minute {
            match Latencies::new() {
                Ok(latencies) => minutes.push(latencies),
                Err(_) => return,
            }
        }
        minutes[minute].record(took);
    }

    pub fn minutes(&self) -> Vec<Latencies> {
        std::mem::take(&mut *self.minutes.lock())
    }
}

/// Number of records that were produced to a topic.
pub async fn records(cluster: &Cluster, topic: &str) -> Outcome<usize> {
    let answer = cluster.first().get(&format!("/v1/topics/{topic}"), "application/json").await?.ok()?;
    let described: Value = serde_json::from_slice(&answer.bytes)?;
    let partitions = described["partitions"].as_array().ok_or("no partitions")?;
    let total: u64 = partitions.iter().filter_map(|p| p["high_watermark"].as_u64()).sum();
    Ok(usize::try_from(total)?)
}

/// Stores `mib` MiB of records in a new topic, whose name it returns. The records have `keys` different keys
/// in turn.
pub async fn fill_with_keys(
    cluster: &Arc<Cluster>,
    partitions: u32,
    record_bytes: u32,
    mib: u32,
    keys: u32,
) -> Outcome<String> {
    /// Records of a request.
    const CHUNK_RECORDS: u64 = 4_096;
    let topic = fresh_topic(cluster, partitions).await?;
    let path = format!("/v1/topics/{topic}/records?records=true");
    let total = (u64::from(mib) << 20) / u64::from(record_bytes);
    let padding = "abcdefgh ".repeat(usize::try_from(record_bytes)? / 9 + 1);
    let padding = &padding[..usize::try_from(record_bytes)?.saturating_sub(24)];
    let mut number = 0;
    while number < total {
        let end = (number + CHUNK_RECORDS).min(total);
        let lines: Vec<String> = (number..end)
            .map(|n| {
                format!(r#"{{"key":"k{}","value":{{"n":{n},"padding":"{padding}"}}}}"#, n % u64::from(keys))
            })
            .collect();
        cluster.first().produce(&path, "application/x-ndjson", whole(lines.join("\n"))).await?;
        number = end;
    }
    Ok(topic)
}

/// Produces records at a rate until the time is over; returns their number.
pub async fn produce(
    cluster: &Arc<Cluster>,
    topic: &str,
    args: &QueueArgs,
    rate: f64,
    start: Instant,
    acked: Arc<Acked>,
) -> Outcome<usize> {
    const WARM_UP_SECONDS: u32 = 1;
    let load = LoadArgs {
        record_bytes: args.record_bytes,
        batch: args.produce_batch,
        format: Format::Json,
        keyed: false,
        idempotent: false,
        partitions: args.partitions,
        seconds: args.seconds,
        warm_up: WARM_UP_SECONDS,
        connections: 64,
    };
    *acked.from.lock() = Some(start + Duration::from_secs(WARM_UP_SECONDS.into()));
    let template = Arc::new(Template::new(&load, &RandomSource::seeded(1))?);
    let path: Arc<str> = format!("/v1/topics/{topic}/records").into();
    let requests = rate / f64::from(args.produce_batch);
    let mut due = pace::open_loop(start, requests, pace::requests(requests, args.seconds + WARM_UP_SECONDS)?);
    let sent = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    while let Some((number, _)) = due.recv().await {
        let (client, path, template) =
            (Arc::clone(cluster.turn(number)), Arc::clone(&path), Arc::clone(&template));
        let (acked, sent) = (Arc::clone(&acked), Arc::clone(&sent));
        tasks.spawn(async move {
            let answer = client
                .produce(&path, template.content_type, template.body())
                .await
                .map_err(|e| e.to_string())?;
            let at = Instant::now();
            let answer: Value = serde_json::from_slice(&answer.bytes).map_err(|e| e.to_string())?;
            let results = answer["results"].as_array().ok_or("no results")?;
            let mut known = acked.at.lock();
            for one in results {
                let place = (
                    one["partition"].as_i64().and_then(|p| i32::try_from(p).ok()).unwrap_or(0),
                    one["offset"].as_i64().unwrap_or(0),
                );
                known.insert(place, at);
            }
            sent.fetch_add(results.len(), Ordering::Relaxed);
            Ok::<(), String>(())
        });
        while let Some(done) = tasks.try_join_next() {
            done??;
        }
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(sent.load(Ordering::Relaxed))
}

/// Makes a queue in which `count` records wait for a retry in an hour, each in a database row of its own.
pub async fn make_waiting(cluster: &Arc<Cluster>, record_bytes: u32, count: u32) -> Outcome<()> {
    const WORKERS: usize = 4;
    let mib = u32::try_from(((u64::from(count) * u64::from(record_bytes)) >> 20) + 1)?;
    let topic = consume::fill(cluster, 8, record_bytes, mib).await?;
    let queue = format!("/v1/queues/{topic}");
    cluster.first().put_json(&queue, r#"{"max_in_flight":1000000}"#.to_owned()).await?.ok()?;
    let left = Arc::new(AtomicUsize::new(usize::try_from(count)?));
    let mut tasks = JoinSet::new();
    for _ in 0..WORKERS {
        let (cluster, queue, left) = (Arc::clone(cluster), queue.clone(), Arc::clone(&left));
        tasks.spawn(async move { nack_all(&cluster, &queue, &left).await.map_err(|e| e.to_string()) });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

async fn nack_all(cluster: &Cluster, queue: &str, left: &AtomicUsize) -> Outcome<()> {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::ACCEPT, "application/json")];
    let client = cluster.first();
    while left.load(Ordering::Relaxed) > 0 {
        let body = r#"{"max_records":1000,"max_bytes":16777216,"lease_ms":600000}"#;
        let answer =
            client.call(Method::POST, &format!("{queue}/leases"), &headers, whole(body)).await?.ok()?;
        let answer: Value = serde_json::from_slice(&answer.bytes)?;
        let records = answer["records"].as_array().ok_or("no records")?;
        if records.is_empty() {
            return Ok(());
        }
        // Each record gets a different delay; otherwise neighbours would share a row.
        let nack =
            |(n, r): (usize, &Value)| serde_json::json!({"receipt": r["receipt"], "delay_ms": 3_600_000 + n});
        let nacks: Vec<Value> = records.iter().enumerate().map(nack).collect();
        let body = serde_json::json!({ "nack": nacks }).to_string();
        client.call(Method::POST, &format!("{queue}/settlements"), &headers, whole(body)).await?.ok()?;
        left.fetch_sub(records.len().min(left.load(Ordering::Relaxed)), Ordering::Relaxed);
    }
    Ok(())
}
