//! The commands `millpond lease`, `ack` and `nack`, with which scripts use a queue.

use std::collections::BTreeMap;
use std::io::{BufRead, Write, stdin};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::client::Client;
use super::error::CliError;
use super::humane;
use super::leases::{Ask, Granted, LEASE_MAX_RECORDS, Leases, Nack, Settlement, Status};

#[cfg(test)]
mod tests;

/// Receipts that are settled in one call.
const SETTLE_MAX_RECEIPTS: usize = 1_000;
/// Time after the first receipt during which further receipts are collected for the same call.
const COLLECT_WINDOW: Duration = Duration::from_millis(10);

#[derive(Debug, Clone, clap::Args)]
pub struct LeaseArgs {
    /// Queue to lease from
    pub queue: String,

    /// Largest number of records
    #[arg(
        long,
        short = 'n',
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=1_000)
    )]
    pub max: u16,

    /// How long to wait for the first record: milliseconds, or such as 5s; at most 30s
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = humane::parse_duration)]
    pub wait: Duration,

    /// Time until the lease expires: milliseconds, or such as 30s; as set for the queue by default
    #[arg(long, value_name = "DURATION", value_parser = humane::parse_ms)]
    pub lease: Option<u64>,

    #[command(flatten)]
    pub retry: RetryOptions,
}

#[derive(Debug, Clone, clap::Args)]
pub struct AckArgs {
    #[command(flatten)]
    pub receipts: ReceiptArgs,
}

#[derive(Debug, Clone, clap::Args)]
pub struct NackArgs {
    #[command(flatten)]
    pub receipts: ReceiptArgs,

    /// Delay until the records can be leased again: milliseconds, or such as 5s; as the queue's retry policy
    /// says by default
    #[arg(long, value_name = "DURATION", value_parser = humane::parse_ms)]
    pub delay: Option<u64>,

    /// Reason, which the listings of the queue show
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,

    /// Do not count this as a failure of the records
    #[arg(long)]
    pub no_count: bool,
}

#[derive(Debug, Clone, clap::Args)]
pub struct ReceiptArgs {
    /// Queue from which the records were leased
    pub queue: String,

    /// Receipts; without any, they are read from standard input, one per line, which can also be a record as
    /// `millpond lease` prints it
    #[arg(value_name = "RECEIPT")]
    pub receipts: Vec<String>,

    /// Print the result of each receipt as JSON, one per line
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub retry: RetryOptions,
}

#[derive(Debug, Clone, clap::Args)]
pub struct RetryOptions {
    /// How long to retry while the server cannot be reached
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humane::parse_duration)]
    pub retry_for: Duration,
}

/// Receipts to settle; an error ends them.
type Receipts = mpsc::Receiver<Result<String, CliError>>;

#[derive(Deserialize)]
struct WithReceipt {
    receipt: String,
}

/// Leases records and prints them, one per line; prints nothing if there was none within the wait time.
pub async fn lease(client: &Client, args: &LeaseArgs, out: &mut impl Write) -> Result<(), CliError> {
    let leases = leases(client, &args.queue, "millpond lease", &args.retry);
    let max_records = usize::from(args.max).min(LEASE_MAX_RECORDS);
    let text = leases.lease(Ask { max_records, wait: args.wait, lease_ms: args.lease }, false).await?;
    let records = Granted::parse(&text)?.records;
    let mut print = || {
        for record in &records {
            // A line end in the server's JSON can only be white space, so it can be replaced.
            writeln!(out, "{}", record.get().replace(['\n', '\r'], " "))?;
        }
        out.flush()
    };
    let Err(error) = print() else { return Ok(()) };
    // The records could not be printed: give them back at once. If that fails, their leases expire.
    let receipts = records.iter().filter_map(|record| receipt_of(record.get()));
    let back = |receipt| Nack { receipt, delay_ms: Some(0), reason: None, counts: false };
    leases.settle(&Settlement { nack: receipts.map(back).collect(), ..Settlement::default() }).await.ok();
    Err(CliError::Output(error))
}

pub async fn ack(client: &Client, args: &AckArgs, out: &mut impl Write) -> Result<(), CliError> {
    let settlement = |ack| Settlement { ack, ..Settlement::default() };
    settle(client, "millpond ack", &args.receipts, args.receipts.source(), settlement, out).await
}

pub async fn nack(client: &Client, args: &NackArgs, out: &mut impl Write) -> Result<(), CliError> {
    let NackArgs { receipts, delay: delay_ms, reason, no_count } = args;
    let nack = |receipt| Nack { receipt, delay_ms: *delay_ms, reason: reason.clone(), counts: !no_count };
    let settlement = |receipts: Vec<String>| Settlement {
        nack: receipts.into_iter().map(nack).collect(),
        ..Settlement::default()
    };
    settle(client, "millpond nack", receipts, receipts.source(), settlement, out).await
}

fn leases(client: &Client, queue: &str, client_id: &'static str, retry: &RetryOptions) -> Leases {
    Leases { client: client.clone(), queue: queue.to_owned(), client_id, retry_for: Some(retry.retry_for) }
}

/// Settles receipts as they come, collecting those that come at about the same time. Returns an error if any
/// of them was lost.
async fn settle(
    client: &Client,
    client_id: &'static str,
    args: &ReceiptArgs,
    mut source: Receipts,
    settlement: impl Fn(Vec<String>) -> Settlement,
    out: &mut impl Write,
) -> Result<(), CliError> {
    let leases = leases(client, &args.queue, client_id, &args.retry);
    let mut settled = Settled::default();
    let mut outcome = Ok(());
    while outcome.is_ok()
        && let Some(first) = source.recv().await
    {
        let (mut receipts, until) = (Vec::new(), Instant::now() + COLLECT_WINDOW);
        let mut next = Some(first);
        while let Some(item) = next.take() {
            match item {
                Ok(receipt) if receipts.contains(&receipt) => {}
                Ok(receipt) => receipts.push(receipt),
                Err(error) => outcome = Err(error),
            }
            if outcome.is_ok() && receipts.len() < SETTLE_MAX_RECEIPTS {
                next = timeout_at(until, source.recv()).await.ok().flatten();
            }
        }
        if !receipts.is_empty()
            && let Err(error) = settled.add(&leases, &settlement(receipts), args.json, out).await
        {
            outcome = Err(error);
        }
    }
    if !args.json {
        out.write_all(settled.told().as_bytes())?;
    }
    out.flush()?;
    outcome?;
    if settled.lost.is_empty() { Ok(()) } else { Err(CliError::Lost { receipts: settled.lost }) }
}

#[derive(Default)]
struct Settled {
    counts: BTreeMap<&'static str, u64>,
    lost: Vec<String>,
}

impl Settled {
    async fn add(
        &mut self,
        leases: &Leases,
        settlement: &Settlement,
        json: bool,
        out: &mut impl Write,
    ) -> Result<(), CliError> {
        for verdict in leases.settle(settlement).await? {
            let status = match verdict.status {
                Status::Acked => "acked",
                Status::Released => "released",
                Status::Renewed => "renewed",
                Status::Dead => "dead",
                Status::Expired => "expired",
                Status::Lost => "lost",
            };
            if json {
                writeln!(out, "{}", json!({"receipt": verdict.receipt, "status": status}))?;
            }
            if verdict.status == Status::Lost {
                self.lost.push(verdict.receipt);
            } else {
                *self.counts.entry(status).or_default() += 1;
            }
        }
        out.flush()?;
        Ok(())
    }

    /// The summary, with a line such as `acked: 3 records` for each status.
    fn told(&self) -> String {
        self.counts.iter().map(|(status, count)| format!("{status}: {}\n", humane::records(*count))).collect()
    }
}

impl ReceiptArgs {
    /// The receipts of the command line, or else of standard input.
    fn source(&self) -> Receipts {
        let (sender, receiver) = mpsc::channel(self.receipts.len().max(SETTLE_MAX_RECEIPTS));
        if self.receipts.is_empty() {
            // A separate thread, since the end of the command must not wait for a read of standard input.
            std::thread::spawn(move || read(stdin().lock(), &sender));
        } else {
            for receipt in &self.receipts {
                // It cannot fail: the channel has room for all.
                sender.try_send(Ok(receipt.clone())).ok();
            }
        }
        receiver
    }
}

/// Sends the receipt of each line, up to the first that has none.
fn read(lines: impl BufRead, sender: &mpsc::Sender<Result<String, CliError>>) {
    for (at, line) in (1..).zip(lines.lines()) {
        let receipt = match line {
            Ok(line) if line.trim().is_empty() => continue,
            Ok(line) => receipt_of(line.trim()).ok_or(CliError::NoReceipt { line: at }),
            Err(source) => Err(CliError::Input { name: "standard input".to_owned(), source }),
        };
        let end = receipt.is_err();
        if sender.blocking_send(receipt).is_err() || end {
            return;
        }
    }
}

/// The receipt in a record's JSON, or else the text itself if it has no white space.
fn receipt_of(text: &str) -> Option<String> {
    if text.starts_with('{') {
        return serde_json::from_str::<WithReceipt>(text).ok().map(|record| record.receipt);
    }
    (!text.contains(char::is_whitespace)).then(|| text.to_owned())
}
