//! The command-line client: commands for topics, records, consumer groups and queues.
//!
//! Owns everything a user sees of these commands: options, output, and the wording of errors. Data goes to
//! standard output, progress and notices to standard error. It uses only the public HTTP API, and must not
//! depend on the store, the control plane or any other part of the agent.

mod choices;
mod client;
mod consume;
mod consume_args;
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
pub use consume_args::ConsumeArgs;
pub use error::CliError;
pub use group::GroupCommand;
pub use problem::Problem;
pub use produce::ProduceArgs;
pub use queue::QueueCommand;
pub use settle::{AckArgs, LeaseArgs, NackArgs};
pub use stored::{Committed, PartitionRange};
pub use topic::{Placement, TopicCommand};
pub use work::WorkArgs;

/// Size of the buffer in front of standard output.
const OUTPUT_BUFFER_BYTES: usize = 1 << 20;

/// The commands that use a running server.
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
    /// Make, list, describe, pause, seek, purge and delete queues, and manage their dead records
    Queue {
        #[command(subcommand)]
        command: QueueCommand,
        #[command(flatten)]
        options: ClientOptions,
    },
    /// Run a command for each record of a queue
    ///
    /// The command gets the record's value as its standard input, and everything else in the environment
    /// variables MILLPOND_QUEUE, _TOPIC, _PARTITION, _OFFSET, _TIMESTAMP (in ms), _KEY, _ATTEMPT, _FAILURES
    /// and _HEADER_NAME. A key or header that is not text, or contains a NUL, is in _KEY_BASE64 or
    /// _HEADER_NAME_BASE64 instead. Exit status 0 acks the record; any other nacks it, with the last line of
    /// standard error as the reason. While the command runs, the lease of its record is renewed. After
    /// SIGTERM or Ctrl-C no more records are leased, and commands that run are waited for; a second signal
    /// kills them and gives their records back, which does not count as a failure. If the server does not
    /// answer, the worker waits until it does.
    #[command(
        after_help = "Example:\n  millpond work emails --concurrency 4 -- sh -c 'sendmail \"$MILLPOND_KEY\"'"
    )]
    Work {
        #[command(flatten)]
        args: WorkArgs,
        #[command(flatten)]
        options: ClientOptions,
    },
    /// Lease records of a queue and print them with their receipts, one JSON object per line
    ///
    /// If there is no record within the wait time, nothing is printed and the exit status is 0. A record that
    /// is not settled before its lease expires is leased again, and that counts as a failure.
    #[command(after_help = "Example:\n  millpond lease emails -n 10 | tee work | millpond ack emails")]
    Lease {
        #[command(flatten)]
        args: LeaseArgs,
        #[command(flatten)]
        options: ClientOptions,
    },
    /// Ack leased records: they are done
    ///
    /// If receipts are lost, because they were settled before or their lease has ended, they are printed and
    /// the exit status is 1.
    Ack {
        #[command(flatten)]
        args: AckArgs,
        #[command(flatten)]
        options: ClientOptions,
    },
    /// Nack leased records: give them back to their queue for a retry
    ///
    /// If receipts are lost, because they were settled before or their lease has ended, they are printed and
    /// the exit status is 1.
    Nack {
        #[command(flatten)]
        args: NackArgs,
        #[command(flatten)]
        options: ClientOptions,
    },
    /// Produce the lines of a file or of standard input as records
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

/// Runs one command to its end. It is not an error if the reader of standard output has gone away, or if
/// `consume --follow` or `consume --group` are ended by Ctrl-C.
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
