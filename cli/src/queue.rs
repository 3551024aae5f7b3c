//! The command `millpond queue`: makes, lists, describes, pauses, seeks, purges and deletes queues, and
//! manages their dead records.

use std::io::Write;

use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

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
            let path = ["v1", "queues", &named.name, "purge"];
            // The last answer counts what earlier calls have skipped as well.
            let text = post_until_done(client, &path, &Value::Object(Map::new()), None).await?;
            if named.output.json {
                text
            } else {
                format!("dropped {} from queue {}\n", counted(&text)?, named.name)
            }
        }
        QueueCommand::Delete(Named { name, output }) => {
            client.text(client.request(Method::DELETE, &["v1", "queues", name])).await?;
            if output.json { String::new() } else { format!("deleted queue {name}\n") }
        }
        QueueCommand::Seek { name, to, output } => {
            let path = ["v1", "queues", name, "seek"];
            let text = post_until_done(client, &path, &place::seek(to)?, None).await?;
            if output.json { text } else { show::offsets_table(&text)? }
        }
        QueueCommand::Peek { name, max, format } => return peek(client, name, *max, *format, out).await,
        QueueCommand::InFlight(args) => return Listing::InFlight.print(client, args, out).await,
        QueueCommand::Waiting(args) => return Listing::Waiting.print(client, args, out).await,
        QueueCommand::Dead { command: DeadCommand::List(args) } => {
            return Listing::Dead.print(client, args, out).await;
        }
        QueueCommand::Dead { command: DeadCommand::Purge { name, selection, output } } => {
            let path = ["v1", "queues", name, "dead", "purge"];
            let text = post_until_done(client, &path, &selection.to_json(None), Some("purged")).await?;
            if output.json {
                text
            } else {
                format!("forgot {} among the dead of queue {name}\n", counted(&text)?)
            }
        }
        QueueCommand::Redrive { name, selection, max_rate, output } => {
            let path = ["v1", "queues", name, "dead", "redrive"];
            let body = selection.to_json(*max_rate);
            let text = post_until_done(client, &path, &body, Some("redriven")).await?;
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

/// Sends a call again for as long as the server says that more remains to be done. Returns the last answer;
/// in that, the count named `sum` is the sum of what all answers count.
async fn post_until_done(
    client: &Client,
    path: &[&str],
    body: &Value,
    sum: Option<&str>,
) -> Result<String, CliError> {
    let mut before = 0;
    loop {
        let text = post(client, path, body).await?;
        let mut done: Map<String, Value> = parse(&text)?;
        let count = sum.and_then(|sum| done.get(sum)?.as_u64()).unwrap_or(0);
        if done.get("remaining") == Some(&Value::Bool(true)) {
            before += count;
            continue;
        }
        if let Some(sum) = sum.filter(|_| before > 0) {
            done.insert(sum.to_owned(), Value::from(before + count));
            return Ok(Value::Object(done).to_string());
        }
        return Ok(text);
    }
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
