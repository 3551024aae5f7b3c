//! The command `millpond produce`: sends an input as one streamed request, and repeats it with the same
//! idempotency key until all of it is stored.
//!
//! The server stores of a repeated body only what it has not stored before, so the whole request can be
//! repeated wherever an attempt failed.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::client::Client;
use super::error::CliError;
use super::humane;
use super::input::{Input, Progress};
use super::progress::Meter;
use super::retry::Patience;
use super::stored::Committed;

#[cfg(test)]
mod tests;

/// Interval at which progress is shown and checked.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// Longest time that the connection may neither accept bytes nor answer; then the attempt has failed.
const STALL_MAX: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, clap::Args)]
pub struct ProduceArgs {
    /// Topic to append to
    pub topic: String,

    /// File with newline-delimited JSON, which can be compressed with gzip or Zstandard; without it, or if it
    /// is `-`, standard input is read
    #[arg(long, value_name = "PATH")]
    pub file: Option<PathBuf>,

    /// JSON pointer to the key in each value, such as /customer/id
    #[arg(long, value_name = "POINTER", conflicts_with = "records")]
    pub key: Option<String>,

    /// Read each line as a whole record with key, value and headers, not just as a value
    #[arg(long)]
    pub records: bool,

    /// Key under which the server stores this input only once; random by default
    #[arg(long, value_name = "TEXT")]
    pub idempotency_key: Option<String>,

    /// How long to retry without progress, if the input is a file; 0 for a single attempt
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humane::parse_duration)]
    pub retry_for: Duration,
}

/// Stores the whole input, then prints one line with what was stored in which partitions.
pub async fn run(client: &Client, args: &ProduceArgs, out: &mut impl Write) -> Result<(), CliError> {
    let input = Input::find(args.file.as_deref())?;
    let mut rng = StdRng::from_os_rng();
    let key = args.idempotency_key.clone().unwrap_or_else(|| random_key(&mut rng));
    let patience = Patience::new(Some(args.retry_for), rng);
    let started = Instant::now();
    let mut meter = Meter::new(input.size_bytes());
    let sent = send_until_stored(client, args, &input, &key, patience, &mut meter).await;
    meter.clear();
    let (stored, bytes) = sent?;
    out.write_all(summary(&args.topic, &stored, bytes, started.elapsed()).as_bytes())?;
    out.flush()?;
    Ok(())
}

fn random_key(rng: &mut StdRng) -> String {
    let mut bytes = [0; 16];
    rng.fill_bytes(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

/// Repeats attempts until the input is stored. Returns the server's answer and the size of the body in bytes.
async fn send_until_stored(
    client: &Client,
    args: &ProduceArgs,
    input: &Input,
    key: &str,
    mut patience: Patience,
    meter: &mut Meter,
) -> Result<(Committed, u64), CliError> {
    let mut furthest_bytes = 0;
    let mut most_committed = 0;
    loop {
        let (body, progress) = input.open()?;
        meter.restart();
        let mut idle = Duration::ZERO;
        let error = match attempt(client, args, key, body, &progress, meter, &mut idle).await {
            Ok(stored) => return Ok((stored, progress.taken_bytes())),
            Err(error) => error,
        };
        let taken_bytes = progress.taken_bytes();
        let unfinished = |error| {
            let (name, idempotency_key) = (input.name(), key.to_owned());
            CliError::Unfinished { name, idempotency_key, source: Box::new(error) }
        };
        if let Some(failure) = progress.take_failure() {
            let error = input.failed(failure);
            return Err(if taken_bytes > 0 { unfinished(error) } else { error });
        }
        if !error.is_transient() {
            return Err(error);
        }
        if !input.is_repeatable() {
            return Err(if taken_bytes > 0 { unfinished(error) } else { error });
        }
        let committed = error.problem().and_then(|problem| problem.committed.as_ref());
        let committed = committed.map_or(0, |committed| committed.count);
        if taken_bytes > furthest_bytes || committed > most_committed {
            patience.progressed();
        }
        furthest_bytes = furthest_bytes.max(taken_bytes);
        most_committed = most_committed.max(committed);
        let retry_after = error.problem().and_then(|problem| problem.retry_after);
        let Some(pause) = patience.pause(idle, retry_after) else {
            let error = patience.give_up(error);
            return Err(if furthest_bytes > 0 { unfinished(error) } else { error });
        };
        meter.notice(&error.to_string(), pause);
        sleep(pause).await;
    }
}

/// Sends the body once. `idle` is set to the time since the connection last accepted a byte.
async fn attempt(
    client: &Client,
    args: &ProduceArgs,
    key: &str,
    body: reqwest::Body,
    progress: &Arc<Progress>,
    meter: &Meter,
    idle: &mut Duration,
) -> Result<Committed, CliError> {
    let mut request = client
        .request(Method::POST, &["v1", "topics", &args.topic, "records"])
        .header(CONTENT_TYPE, "application/x-ndjson")
        .header("idempotency-key", key);
    if let Some(pointer) = &args.key {
        request = request.query(&[("key", pointer)]);
    }
    if args.records {
        request = request.query(&[("records", "true")]);
    }
    let answer = client.text(request.body(body));
    tokio::pin!(answer);
    let mut tick = interval(PROGRESS_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut moved = (progress.taken_bytes(), Instant::now());
    loop {
        tokio::select! {
            biased;
            result = &mut answer => {
                if progress.taken_bytes() == moved.0 {
                    *idle = moved.1.elapsed();
                }
                let (_, text) = result?;
                return serde_json::from_str(&text)
                    .map_err(|error| CliError::Answer { what: "a produce's answer", source: Some(error) });
            }
            _ = tick.tick() => {
                meter.show(progress);
                // While the connection waits for input, for example from a pipe, the server is not stalled.
                if progress.taken_bytes() != moved.0 || progress.wants_input() {
                    moved = (progress.taken_bytes(), Instant::now());
                }
                *idle = moved.1.elapsed();
                if *idle >= STALL_MAX {
                    return Err(CliError::Stalled { idle: *idle });
                }
            }
        }
    }
}

fn summary(topic: &str, stored: &Committed, bytes: u64, elapsed: Duration) -> String {
    let mut line = format!(
        "{} to {topic} in {:.2} s, {}",
        humane::records(stored.count),
        elapsed.as_secs_f64(),
        humane::mib_per_second(bytes, elapsed)
    );
    if !stored.partitions.is_empty() {
        line.push_str("; ");
        line.push_str(&humane::ranges(&stored.partitions));
    }
    if stored.duplicate {
        line.push_str("; stored before, nothing added");
    }
    line.push('\n');
    line
}
