//! Prints queues as tables.

use serde::Deserialize;

use super::super::error::CliError;
use super::super::humane;
use super::parse;

#[derive(Deserialize)]
struct Queues {
    queues: Vec<Queue>,
}

#[derive(Deserialize)]
struct Queue {
    queue: String,
    topic: String,
    mode: String,
    lease_ms: u64,
    retry: Retry,
    rate: Option<Rate>,
    max_in_flight: Option<u64>,
    from: String,
    paused: bool,
    ready: u64,
    delayed: u64,
    retrying: u64,
    in_flight: u64,
    dead: u64,
    oldest_age_ms: Option<u64>,
    lease_rate: f64,
    settle_rate: f64,
    /// Names of the counts that are estimates.
    #[serde(default)]
    approximate: Vec<String>,
}

impl Queue {
    /// A count as it is printed: `~` before an estimate.
    fn count(&self, name: &str, count: u64) -> String {
        let sign = if self.approximate.iter().any(|one| one == name) { "~" } else { "" };
        format!("{sign}{}", humane::count(count))
    }
}

#[derive(Deserialize)]
struct Retry {
    base_ms: u64,
    factor: f64,
    cap_ms: u64,
    jitter: f64,
    max_failures: u32,
}

#[derive(Deserialize)]
struct Rate {
    limit: u64,
    per_ms: u64,
}

#[derive(Deserialize)]
struct Offsets {
    offsets: Vec<Offset>,
}

#[derive(Deserialize)]
struct Offset {
    partition: u32,
    offset: u64,
}

pub fn list_table(text: &str) -> Result<String, CliError> {
    let row = |queue: &Queue| {
        vec![
            queue.queue.clone(),
            queue.topic.clone(),
            queue.mode.clone(),
            queue.count("ready", queue.ready),
            queue.count("delayed", queue.delayed),
            queue.count("retrying", queue.retrying),
            humane::count(queue.in_flight),
            humane::count(queue.dead),
            age(queue.oldest_age_ms),
            if queue.paused { "paused" } else { "" }.to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = parse::<Queues>(text)?.queues.iter().map(row).collect();
    Ok(humane::table(
        &["QUEUE", "TOPIC", "MODE", "READY", "DELAYED", "RETRYING", "IN FLIGHT", "DEAD", "OLDEST", ""],
        &rows,
    ))
}

pub fn describe_table(text: &str) -> Result<String, CliError> {
    let queue: Queue = parse(text)?;
    let settings = [
        ("topic", queue.topic.clone()),
        ("mode", queue.mode.clone()),
        ("from", queue.from.clone()),
        ("lease", humane::duration_ms(queue.lease_ms)),
        ("retry after", retry(&queue.retry)),
        ("dead after", format!("{} failures", humane::count(queue.retry.max_failures.into()))),
        ("rate", queue.rate.as_ref().map_or_else(|| "none".to_owned(), rate)),
        ("max in flight", queue.max_in_flight.map_or_else(|| "none".to_owned(), humane::count)),
        ("paused", if queue.paused { "yes" } else { "no" }.to_owned()),
    ];
    let counts = [
        ("ready", queue.count("ready", queue.ready)),
        ("delayed", queue.count("delayed", queue.delayed)),
        ("retrying", queue.count("retrying", queue.retrying)),
        ("in flight", humane::count(queue.in_flight)),
        ("dead", humane::count(queue.dead)),
    ];
    let pace = [
        ("oldest ready", age(queue.oldest_age_ms)),
        ("leased", format!("{:.1} records/s", queue.lease_rate)),
        ("settled", format!("{:.1} records/s", queue.settle_rate)),
    ];
    let rows = |pairs: &[(&str, String)]| -> Vec<Vec<String>> {
        pairs.iter().map(|(name, value)| vec![(*name).to_owned(), value.clone()]).collect()
    };
    let mut table = humane::table(&["QUEUE", &queue.queue], &rows(&settings));
    table.push('\n');
    table.push_str(&humane::table(&["STATE", "RECORDS"], &rows(&counts)));
    table.push('\n');
    table.push_str(&humane::table(&["PACE", ""], &rows(&pace)));
    Ok(table)
}

pub fn offsets_table(text: &str) -> Result<String, CliError> {
    let row = |at: &Offset| vec![at.partition.to_string(), at.offset.to_string()];
    let rows: Vec<Vec<String>> = parse::<Offsets>(text)?.offsets.iter().map(row).collect();
    Ok(humane::table(&["PARTITION", "OFFSET"], &rows))
}

/// A retry policy, such as `1s, times 2 up to 1h, ±20%`.
fn retry(retry: &Retry) -> String {
    let (base, cap) = (humane::duration_ms(retry.base_ms), humane::duration_ms(retry.cap_ms));
    format!("{base}, times {} up to {cap}, ±{:.0}%", retry.factor, retry.jitter * 100.0)
}

fn rate(rate: &Rate) -> String {
    format!("{} in {}", humane::count(rate.limit), humane::duration_ms(rate.per_ms))
}

fn age(ms: Option<u64>) -> String {
    ms.map_or_else(|| "-".to_owned(), humane::age_ms)
}
