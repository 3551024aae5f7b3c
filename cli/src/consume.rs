//! The command `millpond consume`: prints the records of a topic, each of them once.
//!
//! Records of one partition are printed in order. Several partitions are read at the same time, so there is
//! no order between partitions.

use std::collections::HashSet;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval};

use super::choices::{OutputFormat, StartAt};
use super::client::Client;
use super::consume_args::ConsumeArgs;
use super::error::CliError;
use super::member;
use super::partition::{Batch, PartitionReader, ReadFrom};
use super::record;
use super::topic::{self, Partition};

#[cfg(test)]
mod tests;

/// Number of partitions that are read at the same time without `--follow`; with it, all are.
const CONCURRENT_PARTITIONS_MAX: usize = 4;
/// Batches of all partitions together that are read ahead of printing.
const BATCHES_AHEAD_MAX: usize = 8;
/// Interval at which new partitions of the topic are looked for with `--follow`.
const NEW_PARTITIONS_INTERVAL: Duration = Duration::from_secs(30);

/// Prints records until the end of the topic or, with `--follow`, until Ctrl-C; at most `--max`.
pub async fn run(client: &Client, args: &ConsumeArgs, out: &mut impl Write) -> Result<(), CliError> {
    if let Some(group) = &args.group {
        return member::run(client, args, group, out).await;
    }
    let follow = args.follow;
    let interrupted = async move {
        if !follow || tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    consume(client, args, out, interrupted).await
}

/// Like [`run`], but ends when `stop` resolves.
async fn consume(
    client: &Client,
    args: &ConsumeArgs,
    out: &mut impl Write,
    stop: impl Future<Output = ()>,
) -> Result<(), CliError> {
    tokio::pin!(stop);
    let mut readers = Readers::new(client, args);
    let (sender, mut batches) = mpsc::channel(BATCHES_AHEAD_MAX);
    readers.start(&sender, true).await?;
    // Unless new partitions are looked for, only readers have senders, and the channel closes with the last.
    let sender = args.follow.then_some(sender);
    let mut left = args.max.unwrap_or(u64::MAX);
    if args.format == OutputFormat::Table {
        out.write_all(record::heading().as_bytes())?;
    }
    let mut look = interval(NEW_PARTITIONS_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Skip);
    look.reset();
    let mut failure = None;
    while left > 0 && failure.is_none() {
        if batches.is_empty() {
            out.flush()?;
        }
        tokio::select! {
            biased;
            () = &mut stop => break,
            Some(ended) = readers.tasks.join_next() => failure = finished(ended),
            batch = batches.recv() => match batch {
                Some(batch) => left -= print(&batch, left, out)?,
                None => break,
            },
            _ = look.tick(), if sender.is_some() => if let Some(sender) = &sender {
                // A failure can be ignored: readers report it too, and partitions are looked for again.
                let _unknown = readers.start(sender, false).await;
            },
        }
    }
    // Batches that were read before the end or the failure are complete, and are printed.
    readers.tasks.abort_all();
    while left > 0
        && let Ok(batch) = batches.try_recv()
    {
        left -= print(&batch, left, out)?;
    }
    out.flush()?;
    failure.map_or(Ok(()), Err)
}

/// The error of a reader that has ended. A panic of a reader is passed on, since records of its partition
/// would be missing.
fn finished(ended: Result<Result<(), CliError>, JoinError>) -> Option<CliError> {
    match ended.map_err(JoinError::try_into_panic) {
        Ok(result) => result.err(),
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_cancelled)) => None,
    }
}

/// Writes at most `left` records of a batch; returns their number.
fn print(batch: &Batch, left: u64, out: &mut impl Write) -> Result<u64, CliError> {
    let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(batch.ends.len());
    if let Some(last) = wanted.checked_sub(1) {
        let end = batch.ends.get(last).copied().unwrap_or_default();
        out.write_all(batch.bytes.get(..end).unwrap_or_default())?;
    }
    Ok(u64::try_from(wanted).unwrap_or(u64::MAX))
}

/// One task per partition; dropping this ends all of them.
struct Readers<'a> {
    client: &'a Client,
    args: &'a ConsumeArgs,
    permits: Arc<Semaphore>,
    known: HashSet<u32>,
    tasks: JoinSet<Result<(), CliError>>,
}

impl<'a> Readers<'a> {
    fn new(client: &'a Client, args: &'a ConsumeArgs) -> Self {
        let permits = if args.follow { Semaphore::MAX_PERMITS } else { CONCURRENT_PARTITIONS_MAX };
        Self {
            client,
            args,
            permits: Arc::new(Semaphore::new(permits)),
            known: HashSet::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Starts a reader for each partition that has none. Partitions that are found later (`first` is false)
    /// are read from their start, since they did not exist before.
    async fn start(&mut self, batches: &mpsc::Sender<Batch>, first: bool) -> Result<(), CliError> {
        let topic = topic::describe(self.client, &self.args.topic).await?;
        let wanted =
            |partition: &&Partition| self.args.partition.is_none_or(|only| only == partition.partition);
        let partitions: Vec<Partition> = topic.partitions.iter().filter(wanted).copied().collect();
        if let (Some(partition), true) = (self.args.partition, partitions.is_empty()) {
            return Err(CliError::NoPartition { topic: self.args.topic.clone(), partition });
        }
        for partition in partitions {
            if !self.known.insert(partition.partition) {
                continue;
            }
            let from = if first { self.args.from } else { StartAt::Earliest };
            let reader = self.reader(partition, from, batches.clone());
            let permits = self.permits.clone();
            self.tasks.spawn(async move {
                // It cannot fail: the semaphore is never closed.
                let _permit = permits.acquire_owned().await;
                reader.run().await
            });
        }
        Ok(())
    }

    fn reader(&self, partition: Partition, from: StartAt, batches: mpsc::Sender<Batch>) -> PartitionReader {
        PartitionReader {
            client: self.client.clone(),
            topic: self.args.topic.clone(),
            partition: partition.partition,
            position: match from {
                StartAt::Earliest => ReadFrom::Offset(partition.log_start_offset),
                StartAt::Latest => ReadFrom::Offset(partition.high_watermark),
                StartAt::Offset(offset) => ReadFrom::Offset(offset),
                StartAt::TimestampMs(ms) => ReadFrom::TimestampMs(ms),
            },
            end: (!self.args.follow).then_some(partition.high_watermark),
            max_records: self.args.max.unwrap_or(u64::MAX),
            format: self.args.format,
            skip_lost: !matches!(from, StartAt::Offset(_)),
            patience: self.args.patience(),
            batches,
        }
    }
}
