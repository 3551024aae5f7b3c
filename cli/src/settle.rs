//! `millpond lease`, `ack` and `nack`: a queue for scripts, one call after the other.

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

/// Receipts that are settled in one call, if so many have been read.
const RECEIPTS: usize = 1_000;
/// What is read so long after the first receipt is settled together with it.
const WINDOW: Duration = Duration::from_millis(10);

#[derive(Debug, Clone, clap::Args)]
pub struct LeaseArgs {
    /// The queue to lease from
    pub queue: String,

    /// How many records at most
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub max: u16,

    /// How long to wait for the first: milliseconds, or such as 5s; 30s at most
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = humane::parse_duration)]
    pub wait: Duration,

    /// How long the lease is: milliseconds, or such as 30s; the queue's by default
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

    /// When the records may be handed out again: milliseconds, or such as 5s; by the queue's retry policy if
    /// not given
    #[arg(long, value_name = "DURATION", value_parser = humane::parse_ms)]
    pub delay: Option<u64>,

    /// Why; the listings of the queue show it
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,

    /// Count it as no failure of the records
    #[arg(long)]
    pub no_count: bool,
}

#[derive(Debug, Clone, clap::Args)]
pub struct ReceiptArgs {
    /// The queue they were leased from
    pub queue: String,

    /// The receipts; without any, one a line of standard input, which may also be a record as `millpond
    /// lease` prints it
    #[arg(value_name = "RECEIPT")]
    pub receipts: Vec<String>,

    /// Print the server's verdicts as JSON, a line for each
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub retry: RetryOptions,
}

#[derive(Debug, Clone, clap::Args)]
pub struct RetryOptions {
    /// How long to go on trying when the server cannot be reached
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humane::parse_duration)]
    pub retry_for: Duration,
}

type Receipts = mpsc::Receiver<Result<String, CliError>>;

#[derive(Deserialize)]
struct WithReceipt {
    receipt: String,
}

/// Prints each leased record on a line; nothing if there was none in all the time.
pub async fn lease(client: &Client, args: &LeaseArgs, out: &mut impl Write) -> Result<(), CliError> {
    let leases = leases(client, &args.queue, "millpond lease", &args.retry);
    let max_records = usize::from(args.max).min(LEASE_MAX_RECORDS);
    let text = leases.lease(Ask { max_records, wait: args.wait, lease_ms: args.lease }, false).await?;
    let records = Granted::parse(&text)?.records;
    let mut print = || {
        for record in &records {
            // A line end of the server's JSON could only be white space.
            writeln!(out, "{}", record.get().replace(['\n', '\r'], " "))?;
        }
        out.flush()
    };
    let Err(error) = print() else { return Ok(()) };
    // What nobody learns of goes back at once; if that fails, when its lease is over.
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

/// Settles what comes, together what comes at about the same time; ends with an error if anything was lost.
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
        let (mut receipts, until) = (Vec::new(), Instant::now() + WINDOW);
        let mut next = Some(first);
        while let Some(item) = next.take() {
            match item {
                Ok(receipt) if receipts.contains(&receipt) => {}
                Ok(receipt) => receipts.push(receipt),
                Err(error) => outcome = Err(error),
            }
            if outcome.is_ok() && receipts.len() < RECEIPTS {
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

    /// `acked: 3 records`, a line for each kind.
    fn told(&self) -> String {
        self.counts.iter().map(|(status, count)| format!("{status}: {}\n", humane::records(*count))).collect()
    }
}

impl ReceiptArgs {
    fn source(&self) -> Receipts {
        let (sender, receiver) = mpsc::channel(self.receipts.len().max(RECEIPTS));
        if self.receipts.is_empty() {
            // A thread of its own: nobody waits for a read of standard input when the command ends.
            std::thread::spawn(move || read(stdin().lock(), &sender));
        } else {
            for receipt in &self.receipts {
                // There is room for all.
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

/// Of a record's JSON, or the text itself.
fn receipt_of(text: &str) -> Option<String> {
    if text.starts_with('{') {
        return serde_json::from_str::<WithReceipt>(text).ok().map(|record| record.receipt);
    }
    (!text.contains(char::is_whitespace)).then(|| text.to_owned())
}
