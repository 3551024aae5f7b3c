//! The command `millpond topic`: makes, lists, describes and deletes topics.

use std::io::Write;

use clap::ValueEnum;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::client::Client;
use super::error::CliError;
use super::humane::{self, Limit};

#[cfg(test)]
mod tests;

#[derive(Debug, Clone, clap::Subcommand)]
pub enum TopicCommand {
    /// Make a topic, or change the given settings if it exists
    Create {
        name: String,
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        output: OutputOptions,
    },
    /// List all topics
    List {
        #[command(flatten)]
        output: OutputOptions,
    },
    /// Show the settings and partitions of a topic
    Describe {
        name: String,
        #[command(flatten)]
        output: OutputOptions,
    },
    /// Delete a topic and all its records
    Delete {
        name: String,
        #[command(flatten)]
        output: OutputOptions,
    },
}

#[derive(Debug, Clone, Copy, clap::Args)]
pub struct OutputOptions {
    /// Print the server's JSON
    #[arg(long)]
    pub json: bool,
}

/// Settings of a topic. One that is left out keeps its value; in a new topic it gets the server's default.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Settings {
    /// Number of partitions; it can only grow
    #[arg(long, value_name = "N")]
    partitions: Option<u32>,

    /// How long records are kept: milliseconds, or such as 12h, 7d, or none for ever
    #[arg(long, value_name = "DURATION", value_parser = humane::parse_ms_limit)]
    retention_ms: Option<Limit>,

    /// Size of the topic beyond which the oldest records are removed: bytes, or such as 10GiB, or none for no
    /// limit
    #[arg(long, value_name = "SIZE", value_parser = humane::parse_bytes_limit)]
    retention_bytes: Option<Limit>,

    /// Where records are stored first
    #[arg(long)]
    placement: Option<Placement>,

    /// How long a record's dedup_id is remembered: milliseconds, or such as 10m
    #[arg(long, value_name = "DURATION", value_parser = humane::parse_ms)]
    dedup_window_ms: Option<u64>,

    /// Size of the largest record: bytes, or such as 4MiB
    #[arg(long, value_name = "SIZE", value_parser = humane::parse_bytes)]
    max_record_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Placement {
    Auto,
    Inline,
    Object,
}

/// A topic, as the server describes it.
#[derive(Debug, Deserialize)]
pub struct Topic {
    #[serde(alias = "topic")]
    pub name: String,
    pub partitions: Vec<Partition>,
    #[serde(flatten)]
    pub settings: Map<String, Value>,
}

/// A partition, as the server describes it. `high_watermark` is the offset of the next record.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Partition {
    pub partition: u32,
    pub log_start_offset: u64,
    pub high_watermark: u64,
    #[serde(default)]
    pub bytes: u64,
}

#[derive(Deserialize)]
struct Topics {
    topics: Vec<Topic>,
}

pub async fn run(client: &Client, command: &TopicCommand, out: &mut impl Write) -> Result<(), CliError> {
    let text = match command {
        TopicCommand::Create { name, settings, output } => create(client, name, settings, *output).await?,
        TopicCommand::List { output } => {
            let text = client.pages("topics").await?;
            if output.json { text } else { list_table(&parse::<Topics>(&text)?.topics) }
        }
        TopicCommand::Describe { name, output } => {
            let text = describe_text(client, name).await?;
            if output.json { text } else { describe_table(&parse(&text)?) }
        }
        TopicCommand::Delete { name, output } => {
            let request = client.request(Method::DELETE, &["v1", "topics", name]);
            let (_, text) = client.text(request).await?;
            if output.json { text } else { format!("deleted topic {name}\n") }
        }
    };
    out.write_all(text.as_bytes())?;
    if !text.is_empty() && !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(())
}

/// The current description of a topic.
pub async fn describe(client: &Client, name: &str) -> Result<Topic, CliError> {
    parse(&describe_text(client, name).await?)
}

async fn describe_text(client: &Client, name: &str) -> Result<String, CliError> {
    let (_, text) = client.text(client.request(Method::GET, &["v1", "topics", name])).await?;
    Ok(text)
}

async fn create(
    client: &Client,
    name: &str,
    settings: &Settings,
    output: OutputOptions,
) -> Result<String, CliError> {
    let request = client.request(Method::PUT, &["v1", "topics", name]).json(&settings.to_json());
    let (status, text) = client.text(request).await?;
    if output.json {
        return Ok(text);
    }
    let done =
        if status == StatusCode::CREATED { "created topic" } else { "there is, with these settings, topic" };
    Ok(format!("{done} {name}\n"))
}

impl Settings {
    fn to_json(&self) -> Value {
        let placement = self.placement.map(|placement| match placement {
            Placement::Auto => "auto",
            Placement::Inline => "inline",
            Placement::Object => "object",
        });
        let given = [
            ("partitions", self.partitions.map(Value::from)),
            ("retention_ms", self.retention_ms.map(Limit::to_json)),
            ("retention_bytes", self.retention_bytes.map(Limit::to_json)),
            ("placement", placement.map(Value::from)),
            ("dedup_window_ms", self.dedup_window_ms.map(Value::from)),
            ("max_record_bytes", self.max_record_bytes.map(Value::from)),
        ];
        given
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect::<Map<_, _>>()
            .into()
    }
}

impl Partition {
    fn records(&self) -> u64 {
        self.high_watermark.saturating_sub(self.log_start_offset)
    }
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, CliError> {
    serde_json::from_str(text)
        .map_err(|error| CliError::Answer { what: "a topic's description", source: Some(error) })
}

fn list_table(topics: &[Topic]) -> String {
    let rows: Vec<Vec<String>> = topics
        .iter()
        .map(|topic| {
            let records = topic.partitions.iter().map(Partition::records).sum();
            let bytes = topic.partitions.iter().map(|partition| partition.bytes).sum();
            let setting =
                |name| topic.settings.get(name).map_or_else(|| "-".to_owned(), |value| shown(name, value));
            vec![
                topic.name.clone(),
                topic.partitions.len().to_string(),
                humane::count(records),
                humane::bytes(bytes),
                setting("retention_ms"),
                setting("placement"),
            ]
        })
        .collect();
    humane::table(&["TOPIC", "PARTITIONS", "OFFSETS", "SIZE", "RETENTION", "PLACEMENT"], &rows)
}

fn describe_table(topic: &Topic) -> String {
    let settings: Vec<Vec<String>> = topic
        .settings
        .iter()
        .filter(|(_, value)| !value.is_object() && !value.is_array())
        .map(|(name, value)| vec![name.clone(), shown(name, value)])
        .collect();
    let partitions: Vec<Vec<String>> = topic
        .partitions
        .iter()
        .map(|partition| {
            vec![
                partition.partition.to_string(),
                partition.log_start_offset.to_string(),
                partition.high_watermark.to_string(),
                humane::count(partition.records()),
                humane::bytes(partition.bytes),
            ]
        })
        .collect();
    let mut text = humane::table(&["TOPIC", &topic.name], &settings);
    text.push('\n');
    text.push_str(&humane::table(
        &["PARTITION", "LOG START OFFSET", "HIGH WATERMARK", "OFFSETS", "SIZE"],
        &partitions,
    ));
    text
}

/// The value of a setting as it is printed; the unit is taken from the end of its name.
fn shown(name: &str, value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_u64() {
            Some(ms) if name.ends_with("_ms") => humane::duration_ms(ms),
            Some(bytes) if name.ends_with("_bytes") => humane::bytes(bytes),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}
