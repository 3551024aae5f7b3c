//! The command-line client: topics, produce, consume, consumer groups, queues, over HTTP only.
//!
//! Owns what a user sees of a client command: its options, standard output, and the wording of its
//! errors. Data goes to standard output; progress and notices go to standard error. Must not use
//! the store, the control plane or any other part of the agent: what it knows of Millpond is the
//! public API.

mod client;
mod consume;
mod error;
mod group;
mod humane;
mod input;
mod member;
mod partition;
mod produce;
mod progress;
mod queue;
mod record;
mod retry;
#[cfg(test)]
mod testing;
mod topic;

use std::io::{BufWriter, ErrorKind, stdout};

pub use client::{ClientOptions, Committed, PartitionRange, Problem};
pub use consume::{ConsumeArgs, Format, Place};
pub use error::CliError;
pub use group::GroupCommand;
pub use produce::ProduceArgs;
pub use queue::QueueCommand;
pub use topic::{Placement, TopicCommand};

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
        ClientCommand::Topic { command, options } => topic::run(&client::Client::new(&options)?, &command, &mut out).await,
        ClientCommand::Group { command, options } => group::run(&client::Client::new(&options)?, &command, &mut out).await,
        ClientCommand::Queue { command, options } => queue::run(&client::Client::new(&options)?, &command, &mut out).await,
        ClientCommand::Produce { args, options } => produce::run(&client::Client::new(&options)?, &args, &mut out).await,
        ClientCommand::Consume { args, options } => consume::run(&client::Client::new(&options)?, &args, &mut out).await,
    };
    match result {
        Err(CliError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
