//! The command `millpond queue`: makes, lists, describes, pauses, seeks, purges and deletes queues, and
//! manages their dead records.

use std::io::Write;

use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::choices::OutputFormat;
use super::client::Client;
use super::error::CliError;
use super::humane;
use super::record::Record;
use super::topic::OutputOptions;

mod listing;
mod place;
mod settings;
mod show;
#[cfg(test)]
mod tests;

use listing::{Listing, ListingArgs};
use place::{Destination, Selection};
use settings::Settings;

#[derive(Debug, Clone, clap::Subcommand)]
pub enum QueueCommand {
    /// Make a queue on a topic, or change the given settings if it exists
    Create {
        name: String,
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        output: OutputOptions,
    },
    /// List all queues
    List {
        #[command(flatten)]
        output: OutputOptions,
    },
    /// Show the settings of a queue, and how many of its records are in which state
    Describe(Named),
    /// Pause a queue: no more records are leased; leased records can still be settled
    Pause(Named),
    /// Resume a paused queue
    Resume(Named),
    /// Skip all records that are in a queue; they stay in their topic
    Purge(Named),
    /// Delete a queue; the records stay in their topic
    Delete(Named),
    /// Move a queue to another position in its topic; leases, waiting records, and dead records from there on
    /// are forgotten
    Seek {
        name: String,

        /// Where to: earliest, latest, timestamp:MS, or one or more PARTITION:OFFSET
        #[arg(long, value_name = "PLACE", required = true, num_args = 1..)]
        to: Vec<Destination>,

        #[command(flatten)]
        output: OutputOptions,
    },
    /// Print the next records without leasing them
    Peek {
        name: String,

        /// Number of records
        #[arg(long, short = 'n', value_name = "N", default_value_t = 10)]
        max: u64,

        #[arg(long, value_enum, default_value_t = OutputFormat::Json)]
        format: OutputFormat,
    },
    /// List the records that are leased
    InFlight(ListingArgs),
    /// List the records that wait for their delivery time, for a retry, or for another record of their key
    Waiting(ListingArgs),
    /// List or forget dead records
    Dead {
        #[command(subcommand)]
        command: DeadCommand,
    },
    /// Give dead records back to the queue: all, or those that are selected
    Redrive {
        name: String,
        #[command(flatten)]
        selection: Selection,

        /// Records per second that become due; all at once by default
        #[arg(long, value_name = "N")]
        max_rate: Option<u64>,

        #[command(flatten)]
        output: OutputOptions,
    },
}

#[derive(Debug, Clone, clap::Subcommand)]
pub enum DeadCommand {
    /// List dead records with their reasons
    List(ListingArgs),
    /// Forget dead records: all, or those that are selected; they stay in their topic
    Purge {
        name: String,
        #[command(flatten)]
        selection: Selection,
        #[command(flatten)]
        output: OutputOptions,
    },
}

#[derive(Debug, Clone, clap::Args)]
pub struct Named {
    name: String,
    #[command(flatten)]
    output: OutputOptions,
}

#[derive(Deserialize)]
struct Counted {
    #[serde(alias = "redriven", alias = "purged")]
    count: u64,
}

#[derive(Deserialize)]
struct Peeked<'a> {
    #[serde(borrow)]
    records: Vec<&'a RawValue>,
}

pub async fn run(client: &Client, command: &QueueCommand, out: &mut impl Write) -> Result<(), CliError> {
    let text = match command {
        QueueCommand::Create { name, settings, output } => create(client, name, settings, *output).await?,
        QueueCommand::List { output } => {
            let text = client.pages("queues").await?;
            if output.json { text } else { show::list_table(&text)? }
        }
        QueueCommand::Describe(Named { name, output }) => {
            let (_, text) = client.text(client.request(Method::GET, &["v1", "queues", name])).await?;
            if output.json { text } else { show::describe_table(&text)? }
        }
        QueueCommand::Pause(named) => {
            act(client, named, "pause", |_| Ok(format!("paused queue {}\n", named.name))).await?
        }
        QueueCommand::Resume(named) => {
            act(client, named, "resume", |_| Ok(format!("resumed queue {}\n", named.name))).await?
        }
        QueueCommand::Purge(named) => {
            let told = |text: &str| Ok(format!("dropped {} from queue {}\n", counted(text)?, named.name));
            act(client, named, "purge", told).await?
        }
        QueueCommand::Delete(Named { name, output }) => {
            client.text(client.request(Method::DELETE, &["v1", "queues", name])).await?;
            if output.json { String::new() } else { format!("deleted queue {name}\n") }
        }
        QueueCommand::Seek { name, to, output } => {
            let text = post(client, &["v1", "queues", name, "seek"], &place::seek(to)?).await?;
            if output.json { text } else { show::offsets_table(&text)? }
        }
        QueueCommand::Peek { name, max, format } => return peek(client, name, *max, *format, out).await,
        QueueCommand::InFlight(args) => return Listing::InFlight.print(client, args, out).await,
        QueueCommand::Waiting(args) => return Listing::Waiting.print(client, args, out).await,
        QueueCommand::Dead { command: DeadCommand::List(args) } => {
            return Listing::Dead.print(client, args, out).await;
        }
        QueueCommand::Dead { command: DeadCommand::Purge { name, selection, output } } => {
            let text =
                post(client, &["v1", "queues", name, "dead", "purge"], &selection.to_json(None)).await?;
            if output.json {
                text
            } else {
                format!("forgot {} among the dead of queue {name}\n", counted(&text)?)
            }
        }
        QueueCommand::Redrive { name, selection, max_rate, output } => {
            let text =
                post(client, &["v1", "queues", name, "dead", "redrive"], &selection.to_json(*max_rate))
                    .await?;
            if output.json { text } else { format!("put {} back into queue {name}\n", counted(&text)?) }
        }
    };
    out.write_all(text.as_bytes())?;
    if !text.is_empty() && !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(())
}

async fn create(
    client: &Client,
    name: &str,
    settings: &Settings,
    output: OutputOptions,
) -> Result<String, CliError> {
    let request = client.request(Method::PUT, &["v1", "queues", name]).json(&settings.to_json());
    let (status, text) = client.text(request).await?;
    if output.json {
        return Ok(text);
    }
    let done =
        if status == StatusCode::CREATED { "created queue" } else { "there is, with these settings, queue" };
    Ok(format!("{done} {name}\n"))
}

async fn post(client: &Client, path: &[&str], body: &Value) -> Result<String, CliError> {
    let (_, text) = client.text(client.request(Method::POST, path).json(body)).await?;
    Ok(text)
}

/// Sends a call that has no parameters but the queue's name.
async fn act(
    client: &Client,
    named: &Named,
    verb: &str,
    told: impl FnOnce(&str) -> Result<String, CliError>,
) -> Result<String, CliError> {
    let (_, text) = client.text(client.request(Method::POST, &["v1", "queues", &named.name, verb])).await?;
    if named.output.json { Ok(text) } else { told(&text) }
}

fn counted(text: &str) -> Result<String, CliError> {
    Ok(humane::records(parse::<Counted>(text)?.count))
}

async fn peek(
    client: &Client,
    name: &str,
    max: u64,
    format: OutputFormat,
    out: &mut impl Write,
) -> Result<(), CliError> {
    let request = client.request(Method::GET, &["v1", "queues", name, "peek"]).query(&[("max_records", max)]);
    let (_, text) = client.text(request).await?;
    if format == OutputFormat::Table {
        out.write_all(super::record::heading().as_bytes())?;
    }
    let mut printed = Vec::new();
    for raw in parse::<Peeked<'_>>(&text)?.records {
        let line = raw.get().as_bytes();
        Record::parse(line)?.render(line, format, &mut printed)?;
    }
    out.write_all(&printed)?;
    out.flush()?;
    Ok(())
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, CliError> {
    serde_json::from_str(text)
        .map_err(|error| CliError::Answer { what: "a queue's description", source: Some(error) })
}
