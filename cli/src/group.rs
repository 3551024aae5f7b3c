//! The command `millpond group`: lists, describes, resets and deletes consumer groups.

use std::io::Write;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::choices::StartAt;
use super::client::Client;
use super::error::CliError;
use super::humane;
use super::topic::OutputOptions;

#[cfg(test)]
mod tests;

/// Characters of a client id in a table.
const CLIENT_ID_WIDTH_MAX: usize = 36;

#[derive(Debug, Clone, clap::Subcommand)]
pub enum GroupCommand {
    /// List all consumer groups
    List {
        #[command(flatten)]
        output: OutputOptions,
    },
    /// Show the members of a group, and its committed offset and lag in each partition
    Describe {
        name: String,
        #[command(flatten)]
        output: OutputOptions,
    },
    /// Set the offsets of a group that has no members
    Reset {
        name: String,

        #[arg(long)]
        topic: String,

        /// Only this partition
        #[arg(long, value_name = "P")]
        partition: Option<u32>,

        /// Where to: earliest, latest, an offset, or timestamp:MS
        #[arg(long, value_name = "PLACE")]
        to: StartAt,

        #[command(flatten)]
        output: OutputOptions,
    },
    /// Delete a group that has no members, and its committed offsets
    Delete {
        name: String,
        #[command(flatten)]
        output: OutputOptions,
    },
}

#[derive(Deserialize)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    group: String,
    generation: i64,
    members: Vec<Member>,
    partitions: Vec<Partition>,
}

#[derive(Deserialize)]
struct Member {
    member_id: String,
    client_id: Option<String>,
    session_ms: u64,
    assignments: Vec<Assignment>,
}

#[derive(Deserialize)]
struct Assignment {
    topic: String,
    partitions: Vec<u32>,
}

#[derive(Deserialize)]
struct Partition {
    topic: String,
    partition: u32,
    member_id: Option<String>,
    committed_offset: Option<u64>,
    high_watermark: u64,
    lag: Option<u64>,
}

#[derive(Deserialize)]
struct Offsets {
    offsets: Vec<Offset>,
}

#[derive(Deserialize)]
struct Offset {
    topic: String,
    partition: u32,
    offset: u64,
}

pub async fn run(client: &Client, command: &GroupCommand, out: &mut impl Write) -> Result<(), CliError> {
    let text = match command {
        GroupCommand::List { output } => {
            let text = client.pages("groups").await?;
            if output.json { text } else { list_table(&parse::<Groups>(&text)?.groups) }
        }
        GroupCommand::Describe { name, output } => {
            let (_, text) = client.text(client.request(Method::GET, &["v1", "groups", name])).await?;
            if output.json { text } else { describe_table(&parse(&text)?) }
        }
        GroupCommand::Reset { name, topic, partition, to, output } => {
            let body = json!({"offsets": [entry(topic, *partition, *to)]});
            let (_, text) = client
                .text(client.request(Method::POST, &["v1", "groups", name, "offsets"]).json(&body))
                .await?;
            if output.json { text } else { offsets_table(&parse::<Offsets>(&text)?.offsets) }
        }
        GroupCommand::Delete { name, output } => {
            client.text(client.request(Method::DELETE, &["v1", "groups", name])).await?;
            if output.json { String::new() } else { format!("deleted group {name}\n") }
        }
    };
    out.write_all(text.as_bytes())?;
    if !text.is_empty() && !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(())
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, CliError> {
    serde_json::from_str(text)
        .map_err(|error| CliError::Answer { what: "a group's description", source: Some(error) })
}

/// An entry of the request that resets offsets.
fn entry(topic: &str, partition: Option<u32>, to: StartAt) -> Value {
    let mut entry = json!({"topic": topic});
    if let Some(partition) = partition {
        entry["partition"] = json!(partition);
    }
    match to {
        StartAt::Earliest => entry["from"] = json!("earliest"),
        StartAt::Latest => entry["from"] = json!("latest"),
        StartAt::Offset(offset) => entry["offset"] = json!(offset),
        StartAt::TimestampMs(ms) => entry["timestamp"] = json!(ms),
    }
    entry
}

fn list_table(groups: &[Group]) -> String {
    let row = |group: &Group| {
        let lags: Option<u64> = group.partitions.iter().map(|p| p.lag).sum();
        vec![
            group.group.clone(),
            group.generation.to_string(),
            group.members.len().to_string(),
            group.partitions.len().to_string(),
            lags.map_or_else(|| "-".to_owned(), humane::count),
        ]
    };
    humane::table(
        &["GROUP", "GENERATION", "MEMBERS", "PARTITIONS", "LAG"],
        &groups.iter().map(row).collect::<Vec<_>>(),
    )
}

fn describe_table(group: &Group) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let name = |member: &Member| {
        or_dash(member.client_id.as_ref().map(|id| humane::one_line(id, CLIENT_ID_WIDTH_MAX)))
    };
    let members: Vec<Vec<String>> = group
        .members
        .iter()
        .map(|member| {
            let topics: Vec<String> = member
                .assignments
                .iter()
                .map(|a| format!("{}: {}", a.topic, numbers(&a.partitions)))
                .collect();
            vec![
                member.member_id.clone(),
                name(member),
                humane::duration_ms(member.session_ms),
                or_dash(Some(topics.join("; ")).filter(|t| !t.is_empty())),
            ]
        })
        .collect();
    let partitions: Vec<Vec<String>> = group
        .partitions
        .iter()
        .map(|p| {
            vec![
                p.topic.clone(),
                p.partition.to_string(),
                or_dash(p.committed_offset.map(|o| o.to_string())),
                p.high_watermark.to_string(),
                or_dash(p.lag.map(humane::count)),
                or_dash(p.member_id.clone()),
            ]
        })
        .collect();
    let mut text = humane::table(
        &["GROUP", &group.group],
        &[vec!["generation".to_owned(), group.generation.to_string()]],
    );
    text.push('\n');
    text.push_str(&humane::table(&["MEMBER", "CLIENT", "SESSION", "PARTITIONS"], &members));
    text.push('\n');
    text.push_str(&humane::table(
        &["TOPIC", "PARTITION", "COMMITTED", "HIGH WATERMARK", "LAG", "MEMBER"],
        &partitions,
    ));
    text
}

/// A list of partitions, such as `0, 1, 5`.
fn numbers(partitions: &[u32]) -> String {
    partitions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn offsets_table(offsets: &[Offset]) -> String {
    let row = |o: &Offset| vec![o.topic.clone(), o.partition.to_string(), o.offset.to_string()];
    humane::table(&["TOPIC", "PARTITION", "OFFSET"], &offsets.iter().map(row).collect::<Vec<_>>())
}
