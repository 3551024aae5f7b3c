//! The command `millpond work`: runs a command for each record of a queue.
//!
//! It carries out what [`plan`] decides: it calls the server, runs commands and handles signals. Every record
//! that is leased is settled, or else its lease expires, so no record is lost if the worker dies.

use std::ffi::OsString;
use std::pin::Pin;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::error::CliError;
use super::humane;
use super::leases::{Ask, Granted, Leases, Settlement, Verdict};

mod command;
mod last_line;
mod leased;
mod outbox;
mod plan;
#[cfg(test)]
mod tests;

use command::NotStarted;
use leased::Leased;
use outbox::Outcome;
use plan::{Lost, Plan, Settings, Step};

#[derive(Debug, Clone, clap::Args)]
pub struct WorkArgs {
    /// Queue to work on
    pub queue: String,

    /// Number of commands that run at the same time
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=1_000)
    )]
    pub concurrency: u16,

    /// Time until a lease expires unless it is renewed: milliseconds, or such as 30s; as set for the queue by
    /// default
    #[arg(long, value_name = "DURATION", value_parser = humane::parse_ms)]
    pub lease: Option<u64>,

    /// How long one lease call waits for records: milliseconds, or such as 5s; at most 30s
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = humane::parse_duration)]
    pub wait: Duration,

    /// Exit when no command is running and a lease call got no records in its wait time
    #[arg(long)]
    pub idle_exit: bool,

    /// Command to run, and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

type PendingCall<T> = Option<Pin<Box<dyn Future<Output = Result<T, CliError>> + Send>>>;

pub async fn run(client: &Client, args: &WorkArgs) -> Result<(), CliError> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (sender, signals) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if sender.send(()).await.is_err() {
                return;
            }
        }
    });
    work(client, args, signals).await
}

/// Like [`run`], but with signals from a channel.
async fn work(client: &Client, args: &WorkArgs, mut signals: mpsc::Receiver<()>) -> Result<(), CliError> {
    let mut worker = Worker::new(client, args);
    let (mut leasing, mut settling): (PendingCall<String>, PendingCall<Vec<Verdict>>) = (None, None);
    loop {
        let Step { lease, drop_lease, settle, wake_at, end } = worker.plan.next(Instant::now());
        if end {
            break;
        }
        if let Some(max_records) = lease {
            leasing = Some(worker.lease(max_records));
        }
        if drop_lease {
            leasing = None;
        }
        if let Some(settlement) = settle {
            settling = Some(worker.settle(settlement));
        }
        tokio::select! {
            Some(()) = signals.recv() => worker.signalled(),
            Some(ended) = worker.commands.join_next() => worker.ended(ended),
            answer = answer(&mut leasing) => worker.leased(answer),
            answer = answer(&mut settling) => worker.settled(answer),
            () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => {}
        }
    }
    worker.end()
}

/// Waits for the answer to a call; for ever if there is none under way.
async fn answer<T>(call: &mut PendingCall<T>) -> Result<T, CliError> {
    let Some(future) = call else { return std::future::pending().await };
    let answer = future.await;
    *call = None;
    answer
}

struct Worker<'a> {
    args: &'a WorkArgs,
    leases: Leases,
    plan: Plan,
    /// The running commands, each with its receipt and its outcome.
    commands: JoinSet<(String, Outcome)>,
    /// Cancelled to kill all commands.
    kill: CancellationToken,
    /// The first error, which ends the worker.
    failure: Option<CliError>,
}

impl<'a> Worker<'a> {
    fn new(client: &Client, args: &'a WorkArgs) -> Self {
        let leases = Leases {
            client: client.clone(),
            queue: args.queue.clone(),
            client_id: "millpond work",
            retry_for: None,
        };
        let settings = Settings {
            concurrency: args.concurrency.into(),
            lease_ms: args.lease,
            wait: args.wait,
            idle_exit: args.idle_exit,
        };
        let (plan, kill) = (Plan::new(settings), CancellationToken::new());
        Self { args, leases, plan, commands: JoinSet::new(), kill, failure: None }
    }

    fn lease(&self, max_records: usize) -> Pin<Box<dyn Future<Output = Result<String, CliError>> + Send>> {
        let (leases, ask) =
            (self.leases.clone(), Ask { max_records, wait: self.args.wait, lease_ms: self.args.lease });
        Box::pin(async move { leases.lease(ask, true).await })
    }

    fn settle(
        &self,
        settlement: Settlement,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<Verdict>, CliError>> + Send>> {
        let leases = self.leases.clone();
        Box::pin(async move { leases.settle(&settlement).await })
    }

    fn signalled(&mut self) {
        if self.plan.is_stopping() {
            eprintln!("killing the running commands");
            self.plan.hurry();
            self.kill.cancel();
        } else {
            self.plan.stop();
            if self.plan.held() > 0 {
                eprintln!("waiting for {} to end; a second signal kills them", commands(self.plan.held()));
            }
        }
    }

    fn failed(&mut self, error: CliError) {
        if self.failure.is_none() {
            self.failure = Some(error);
        }
    }

    fn leased(&mut self, answer: Result<String, CliError>) {
        let taken = answer.and_then(|text| self.take(&text));
        if let Err(error) = taken {
            self.plan.lease_failed();
            self.failed(error);
        }
    }

    fn take(&mut self, text: &str) -> Result<(), CliError> {
        let granted = Granted::parse(text)?;
        let records = granted
            .records
            .iter()
            .map(|raw| Leased::parse(raw.get(), &self.args.queue))
            .collect::<Result<Vec<Leased>, CliError>>()?;
        let names = records.iter().map(|record| (record.receipt.clone(), record.name.clone())).collect();
        if self.plan.leased(Instant::now(), granted.length(), names, granted.limited_by.as_deref()) {
            for record in records {
                self.start(record);
            }
        }
        Ok(())
    }

    /// Starts the command for a record. If the command itself cannot be started, that is not the record's
    /// fault: the record is given back and the worker ends.
    fn start(&mut self, record: Leased) {
        let receipt = record.receipt.clone();
        if self.failure.is_some() {
            return self.plan.ended(Instant::now(), &receipt, Outcome::Released);
        }
        match command::start(&self.args.command, record) {
            Ok(running) => {
                let outcome = running.outcome(self.kill.clone());
                self.commands.spawn(async move { (receipt, outcome.await) });
            }
            Err(NotStarted::Record(reason)) => {
                self.plan.ended(Instant::now(), &receipt, Outcome::Failed(reason))
            }
            Err(NotStarted::Command(source)) => {
                let program = self
                    .args
                    .command
                    .first()
                    .map_or_else(String::new, |program| program.display().to_string());
                self.plan.stop();
                self.plan.ended(Instant::now(), &receipt, Outcome::Released);
                self.failed(CliError::Command { program, source });
            }
        }
    }

    fn ended(&mut self, ended: Result<(String, Outcome), JoinError>) {
        match ended.map_err(JoinError::try_into_panic) {
            Ok((receipt, outcome)) => self.plan.ended(Instant::now(), &receipt, outcome),
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(_cancelled)) => {}
        }
    }

    fn settled(&mut self, answer: Result<Vec<Verdict>, CliError>) {
        match answer {
            Ok(verdicts) => {
                for lost in self.plan.settled(Instant::now(), &verdicts) {
                    match lost {
                        Lost::Running { name } => eprintln!(
                            "the lease of {name} is lost: its command continues, but the outcome is not \
                             reported"
                        ),
                        Lost::Ended { name } => {
                            eprintln!(
                                "the lease of {name} was lost: the outcome of its command is not reported"
                            )
                        }
                    }
                }
            }
            Err(error) => {
                self.plan.settle_failed();
                self.failed(error);
            }
        }
    }

    fn end(self) -> Result<(), CliError> {
        let tally = self.plan.tally();
        eprintln!(
            "{} acked, {} nacked, {} lost",
            humane::records(tally.acked),
            humane::count(tally.nacked),
            humane::count(tally.lost)
        );
        match self.failure {
            Some(error) => Err(error),
            None if tally.untold > 0 => Err(CliError::Untold { records: tally.untold }),
            None => Ok(()),
        }
    }
}

fn commands(number: usize) -> String {
    if number == 1 { "1 command".to_owned() } else { format!("{number} commands") }
}
