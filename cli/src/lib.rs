//! The command-line client: topics, produce, consume, consumer groups, queues, over HTTP only.
//!
//! Owns what a user sees of a client command: its options, standard output, and the wording of its
//! errors. Data goes to standard output; progress and notices go to standard error. Must not use
//! the store, the control plane or any other part of the agent: what it knows of Millpond is the
//! public API.

mod choices;
mod client;
mod consume;
mod error;
mod group;
mod humane;
mod input;
mod leases;
mod member;
mod partition;
mod problem;
mod produce;
mod progress;
mod queue;
mod record;
mod retry;
mod settle;
mod stored;
#[cfg(test)]
mod testing;
mod topic;
mod work;

use std::io::{BufWriter, ErrorKind, stdout};

pub use choices::{OutputFormat, StartAt};
pub use client::ClientOptions;
pub use consume::ConsumeArgs;
pub use error::CliError;
pub use group::GroupCommand;
pub use problem::Problem;
pub use produce::ProduceArgs;
pub use queue::QueueCommand;
pub use settle::{AckArgs, LeaseArgs, NackArgs};
pub use stored::{Committed, PartitionRange};
pub use topic::{Placement, TopicCommand};
pub use work::WorkArgs;

/// Standard output is written in pieces of this size where the reader keeps up.
const OUTPUT_BUFFER_BYTES: usize = 1 << 20;

/// The commands that talk to a running Millpond.
#[derive(clap::Subcommand)]
pub enum ClientCommand {
    /// Make, list, describe and delete topics
    Topic {
        #[command(subcommand)]
        command: TopicCommand,
        #[command(flatten)]
        options: ClientOptions,
    },
    /// List, describe, reset and delete consumer groups
    Group {
        #[command(subcommand)]
        command: GroupCommand,
        #[command(flatten)]
        options: ClientOptions,
    },
    /// Make, look at, pause, move, empty and delete queues, and tend their dead records
    Queue {
        #[command(subcommand)]
        command: QueueCommand,
        #[command(flatten)]
        options: ClientOptions,
    },
    /// Run a command for each record of a queue
    ///
    /// The record's value is the command's standard input; MILLPOND_QUEUE, _TOPIC, _PARTITION, _OFFSET,
    /// _TIMESTAMP (in ms), _KEY, _ATTEMPT, _FAILURES and _HEADER_NAME tell the rest. A key or header that is
    /// not text, or holds a NUL, stands in _KEY_BASE64 or _HEADER_NAME_BASE64 instead. Exit status 0 acks the
    /// record; any other nacks it, with the last line of standard error as the reason. While a command runs,
    /// its record's lease is renewed. SIGTERM or Ctrl-C takes nothing more and waits for the commands that
    /// run; the second kills them and gives their records back, which counts as no failure. A server that
    /// does not answer is waited for.
    #[command(
        after_help = "Example:\n  millpond work emails --concurrency 4 -- sh -c 'sendmail \"$MILLPOND_KEY\"'"
    )]
    Work {
        #[command(flatten)]
        args: WorkArgs,
        #[command(flatten)]
        options: ClientOptions,
    },
    /// Lease records of a queue and print them, each with its receipt, as JSON on a line
    ///
    /// Prints nothing, and exits with 0 all the same, if there was none in all the time. What is not settled
    /// while the lease lasts is handed out again, and has failed once more.
    #[command(after_help = "Example:\n  millpond lease emails -n 10 | tee work | millpond ack emails")]
    Lease {
        #[command(flatten)]
        args: LeaseArgs,
        #[command(flatten)]
        options: ClientOptions,
    },
    /// Tell a queue that leased records are done
    ///
    /// Exits with 1 and names the receipts if any are lost: settled before, or their lease is over.
    Ack {
        #[command(flatten)]
        args: AckArgs,
        #[command(flatten)]
        options: ClientOptions,
    },
    /// Give leased records back to their queue, to be tried again
    ///
    /// Exits with 1 and names the receipts if any are lost: settled before, or their lease is over.
    Nack {
        #[command(flatten)]
        args: NackArgs,
        #[command(flatten)]
        options: ClientOptions,
    },
    /// Store the lines of a file or of standard input as records
    Produce {
        #[command(flatten)]
        args: ProduceArgs,
        #[command(flatten)]
        options: ClientOptions,
    },
    /// Print the records of a topic
    Consume {
        #[command(flatten)]
        args: ConsumeArgs,
        #[command(flatten)]
        options: ClientOptions,
    },
}

/// Runs one command to its end. A reader of standard output that has gone away is a normal end, as
/// is Ctrl-C under `consume --follow` and `consume --group`.
///
/// The caller prints an error with [`CliError::report`] and exits with 1.
pub async fn run(command: ClientCommand) -> Result<(), CliError> {
    let mut out = BufWriter::with_capacity(OUTPUT_BUFFER_BYTES, stdout());
    let result = match command {
        ClientCommand::Topic { command, options } => {
            topic::run(&client::Client::new(&options)?, &command, &mut out).await
        }
        ClientCommand::Group { command, options } => {
            group::run(&client::Client::new(&options)?, &command, &mut out).await
        }
        ClientCommand::Queue { command, options } => {
            queue::run(&client::Client::new(&options)?, &command, &mut out).await
        }
        ClientCommand::Work { args, options } => work::run(&client::Client::new(&options)?, &args).await,
        ClientCommand::Lease { args, options } => {
            settle::lease(&client::Client::new(&options)?, &args, &mut out).await
        }
        ClientCommand::Ack { args, options } => {
            settle::ack(&client::Client::new(&options)?, &args, &mut out).await
        }
        ClientCommand::Nack { args, options } => {
            settle::nack(&client::Client::new(&options)?, &args, &mut out).await
        }
        ClientCommand::Produce { args, options } => {
            produce::run(&client::Client::new(&options)?, &args, &mut out).await
        }
        ClientCommand::Consume { args, options } => {
            consume::run(&client::Client::new(&options)?, &args, &mut out).await
        }
    };
    match result {
        Err(CliError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
