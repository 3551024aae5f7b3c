//! Reads one partition from a position on: in order, each record once, also when connections fail.
//!
//! Owns the position. It is advanced past a record when the record is added to the batch to print, so that a
//! repeated request neither skips nor repeats a record.

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

/// `max_bytes` of a request; the server's limit.
const ANSWER_MAX_BYTES: u64 = 16 << 20;
/// `max_records` of a request; the server's limit.
const ANSWER_MAX_RECORDS: u64 = 100_000;
/// Size from which on a batch is handed over for printing, even before the end of the answer.
const BATCH_BYTES: usize = 256 << 10;
/// How long a request waits for records; the server's limit is 30 s.
const POLL_WAIT: Duration = Duration::from_secs(20);
/// Longest wait for more of an answer, in addition to the time that the server is asked to wait.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);
/// Shortest time between requests whose answers are empty, in case the server does not wait.
const EMPTY_ANSWER_INTERVAL: Duration = Duration::from_millis(200);

/// Records of one partition, in order, rendered for printing.
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

/// Reads one partition.
pub struct PartitionReader {
    pub client: Client,
    pub topic: String,
    pub partition: u32,
    pub position: ReadFrom,
    /// Stop before this offset; `None`: wait for new records for ever.
    pub end: Option<u64>,
    /// An answer need not hold more records than this.
    pub max_records: u64,
    pub format: OutputFormat,
    /// Whether to continue at the log's start if retention has removed the record at the position.
    pub skip_lost: bool,
    pub patience: Patience,
    pub batches: mpsc::Sender<Batch>,
}

/// Why reading ended early.
enum Stop {
    Failed(CliError),
    /// The receiver of batches was dropped.
    Gone,
}

impl<T: Into<CliError>> From<T> for Stop {
    fn from(error: T) -> Self {
        Self::Failed(error.into())
    }
}

impl PartitionReader {
    /// Reads to the end, or until the receiver of batches is dropped.
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
                    sleep(EMPTY_ANSWER_INTERVAL.saturating_sub(started.elapsed())).await;
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

    /// The log's start, if the error says that it is beyond the position, and `skip_lost` allows to skip the
    /// records between.
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

    /// Sends one request and adds its records to `batch`, also those that arrived before an error.
    async fn read_answer(&mut self, batch: &mut Batch) -> Result<(), Stop> {
        let request = self.request();
        let silence = ANSWER_WAIT_MAX + if self.end.is_none() { POLL_WAIT } else { Duration::ZERO };
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
        // The last line may lack its line end: it is complete if it can be parsed.
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
        let wait_ms = if self.end.is_none() { POLL_WAIT.as_millis() } else { 0 };
        self.client
            .request(Method::GET, &path)
            .header(ACCEPT, "application/x-ndjson")
            .query(&[(name, value), ("max_bytes", ANSWER_MAX_BYTES)])
            .query(&[("max_records", self.max_records.min(ANSWER_MAX_RECORDS))])
            .query(&[("wait_ms", wait_ms)])
    }

    /// Renders one line, unless its record is before the position, or at or beyond the end.
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

    /// Advances the position over offsets that hold no record.
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
