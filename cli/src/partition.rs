//! Reads one partition from a position on, in order, each record once, through whatever happens to
//! the connection.
//!
//! Owns the position: it moves past a record when that record is in the batch to be printed, so a
//! repeated request neither leaves out nor repeats one.

use std::time::Duration;
use tokio::time::Instant;

use reqwest::Method;
use reqwest::header::{ACCEPT, HeaderMap};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::choices::OutputFormat;
use super::client::Client;
use super::error::CliError;
use super::record::{Lines, Record};
use super::retry::Patience;

#[cfg(test)]
mod tests;

const ANSWER_BYTES: u64 = 16 << 20;
const ANSWER_RECORDS: u64 = 100_000;
const BATCH_BYTES: usize = 256 << 10;
/// The server's limit is 30 s.
const LONG_POLL: Duration = Duration::from_secs(20);
/// An answer that brings nothing for this long, beyond the time it was asked to wait, is given up.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// Empty answers come no faster than this, whatever the server does with long polls.
const EMPTY_ANSWER_PACE: Duration = Duration::from_millis(200);

/// Rendered records of one partition, in its order.
#[derive(Debug, Default)]
pub struct Batch {
    pub bytes: Vec<u8>,
    /// Where each record ends in `bytes`.
    pub ends: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFrom {
    Offset(u64),
    /// The first record at or after this instant.
    TimestampMs(u64),
}

/// What to read.
pub struct PartitionReader {
    pub client: Client,
    pub topic: String,
    pub partition: u32,
    pub position: ReadFrom,
    /// Stop before this offset; without it, wait for more for ever.
    pub end: Option<u64>,
    /// No answer needs to hold more records than this.
    pub max_records: u64,
    pub format: OutputFormat,
    /// Whether to go on at the log's start where retention has overtaken the position.
    pub skip_lost: bool,
    pub patience: Patience,
    pub batches: mpsc::Sender<Batch>,
}

/// Why reading ended early.
enum Stop {
    Failed(CliError),
    /// Nobody takes batches any more.
    Gone,
}

impl<T: Into<CliError>> From<T> for Stop {
    fn from(error: T) -> Self {
        Self::Failed(error.into())
    }
}

impl PartitionReader {
    /// Reads to the end, or until nobody takes batches any more.
    pub async fn run(mut self) -> Result<(), CliError> {
        let mut batch = Batch::default();
        while !self.is_done() {
            let before = self.position;
            let started = Instant::now();
            let result = self.read_answer(&mut batch).await;
            if !batch.ends.is_empty() && self.batches.send(std::mem::take(&mut batch)).await.is_err() {
                return Ok(());
            }
            let moved = self.position != before;
            if moved {
                self.patience.progressed();
            }
            let error = match result {
                Ok(()) if moved => continue,
                Ok(()) if self.end.is_none() => {
                    self.patience.progressed();
                    sleep(EMPTY_ANSWER_PACE.saturating_sub(started.elapsed())).await;
                    continue;
                }
                Ok(()) => CliError::Truncated,
                Err(Stop::Gone) => return Ok(()),
                Err(Stop::Failed(error)) => error,
            };
            if let Some(start) = self.log_start_after(&error) {
                self.position = ReadFrom::Offset(start);
                continue;
            }
            if !error.is_transient() {
                return Err(error);
            }
            let retry_after = error.problem().and_then(|problem| problem.retry_after);
            let idle = if moved { Duration::ZERO } else { started.elapsed() };
            let Some(pause) = self.patience.pause(idle, retry_after) else {
                return Err(self.patience.give_up(error));
            };
            sleep(pause).await;
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        matches!((self.position, self.end), (ReadFrom::Offset(at), Some(end)) if at >= end)
    }

    /// The log's start, where it lies beyond the position and that is to be borne.
    fn log_start_after(&self, error: &CliError) -> Option<u64> {
        let problem = error.problem().filter(|problem| problem.code == "offset_out_of_range")?;
        let start = problem.log_start_offset?;
        match self.position {
            ReadFrom::Offset(at) if self.skip_lost && start > at => {
                eprintln!("partition {}: records {at} to {} are no longer kept", self.partition, start - 1);
                Some(start)
            }
            _ => None,
        }
    }

    /// Makes one request and adds its records to `batch`, also those that came before an error.
    async fn read_answer(&mut self, batch: &mut Batch) -> Result<(), Stop> {
        let request = self.request();
        let silence = SILENCE_LIMIT + if self.end.is_none() { LONG_POLL } else { Duration::ZERO };
        let stalled = |_| CliError::Stalled { idle: silence };
        let mut response = timeout(silence, self.client.send(request)).await.map_err(stalled)??;
        let next_offset = number(response.headers(), "millpond-next-offset");
        let mut lines = Lines::default();
        loop {
            let chunk = timeout(silence, response.chunk()).await.map_err(stalled)?;
            let Some(chunk) = chunk.map_err(|error| self.client.failed(error))? else {
                break;
            };
            lines.push(&chunk, |line| self.add(line, batch))?;
            if batch.bytes.len() >= BATCH_BYTES {
                self.batches.send(std::mem::take(batch)).await.map_err(|_| Stop::Gone)?;
            }
        }
        // A last line without its end is whole if it can be read.
        self.add(lines.rest(), batch).map_err(|_| CliError::Truncated)?;
        if let Some(next) = next_offset {
            self.advance(next);
        }
        Ok(())
    }

    fn request(&self) -> reqwest::RequestBuilder {
        let partition = self.partition.to_string();
        let path = ["v1", "topics", &self.topic, "partitions", &partition, "records"];
        let (name, value) = match self.position {
            ReadFrom::Offset(offset) => ("offset", offset),
            ReadFrom::TimestampMs(ms) => ("timestamp", ms),
        };
        let wait_ms = if self.end.is_none() { LONG_POLL.as_millis() } else { 0 };
        self.client
            .request(Method::GET, &path)
            .header(ACCEPT, "application/x-ndjson")
            .query(&[(name, value), ("max_bytes", ANSWER_BYTES)])
            .query(&[("max_records", self.max_records.min(ANSWER_RECORDS))])
            .query(&[("wait_ms", wait_ms)])
    }

    /// Renders one line, unless its record lies before the position or at the end or beyond.
    fn add(&mut self, line: &[u8], batch: &mut Batch) -> Result<(), CliError> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let record = Record::parse(line)?;
        let printed = matches!(self.position, ReadFrom::Offset(at) if record.offset < at);
        if printed || self.end.is_some_and(|end| record.offset >= end) {
            return Ok(());
        }
        let begin = batch.bytes.len();
        record.render(line, self.format, &mut batch.bytes).inspect_err(|_| batch.bytes.truncate(begin))?;
        batch.ends.push(batch.bytes.len());
        self.position = ReadFrom::Offset(record.offset.saturating_add(1));
        Ok(())
    }

    /// Moves on over offsets that hold no record.
    fn advance(&mut self, next: u64) {
        match self.position {
            ReadFrom::Offset(at) if at >= next => {}
            _ => self.position = ReadFrom::Offset(next),
        }
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}
