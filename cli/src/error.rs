//! Errors of client commands, and how they are printed.

use std::error::Error;
use std::fmt::Write;
use std::io;
use std::time::Duration;

use super::humane;
use super::problem::Problem;
use super::stored::Committed;

#[cfg(test)]
mod tests;

/// An error of a client command. Its message is in lowercase and does not contain that of its source;
/// [`CliError::report`] is the full text for the user.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("{url:?} is not the URL of a server: it should look like http://127.0.0.1:8080")]
    Url { url: String },
    #[error("the request could not be made")]
    Request(#[source] reqwest::Error),
    #[error("no Millpond at {url}: start one with `millpond dev` or set MILLPOND_URL")]
    Unreachable { url: String, source: reqwest::Error },
    #[error("the connection to {url} failed")]
    Connection { url: String, source: reqwest::Error },
    #[error("the server did not receive or send anything for {} s", idle.as_secs())]
    Stalled { idle: Duration },
    #[error("{0}")]
    Problem(Box<Problem>),
    #[error("the server's answer ended in the middle of a record")]
    Truncated,
    #[error("the server's answer was not understood: {what}")]
    Answer { what: &'static str, source: Option<serde_json::Error> },
    #[error("topic {topic} has no partition {partition}")]
    NoPartition { topic: String, partition: u32 },
    #[error("with --group, --from can only be earliest or latest")]
    GroupPlace,
    #[error("--to takes either earliest, latest or one timestamp, or offsets of partitions")]
    SeekPlaces,
    #[error("cannot run {program}")]
    Command { program: String, source: io::Error },
    #[error(
        "{} could not be settled: their leases will expire, and they will be leased again",
        humane::records(*records)
    )]
    Untold { records: u64 },
    #[error("line {line} of standard input is neither a receipt nor a record with one")]
    NoReceipt { line: u64 },
    #[error(
        "{} lost: {}",
        if receipts.len() == 1 { "a receipt is" } else { "receipts are" },
        receipts.join(" ")
    )]
    Lost { receipts: Vec<String> },
    #[error("cannot read {name}")]
    Input { name: String, source: io::Error },
    #[error("cannot write the output")]
    Output(#[from] io::Error),
    #[error("gave up after {} s without progress", waited.as_secs())]
    GaveUp { waited: Duration, source: Box<CliError> },
    /// `source` occurred after a part of an input had been sent.
    #[error("only part of {name} may have been stored")]
    Unfinished { name: String, idempotency_key: String, source: Box<CliError> },
}

impl CliError {
    /// Whether the same request can succeed when it is sent again a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Connection { .. } | Self::Stalled { .. } | Self::Truncated => {
                true
            }
            Self::Problem(problem) => problem.is_transient(),
            Self::Url { .. }
            | Self::Request(_)
            | Self::Answer { .. }
            | Self::NoPartition { .. }
            | Self::GroupPlace
            | Self::SeekPlaces
            | Self::Command { .. }
            | Self::NoReceipt { .. }
            | Self::Lost { .. }
            | Self::Untold { .. }
            | Self::Input { .. }
            | Self::Output(_)
            | Self::GaveUp { .. }
            | Self::Unfinished { .. } => false,
        }
    }

    /// The problem that the server answered, also if it is the source of another error.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) => Some(problem),
            Self::GaveUp { source, .. } | Self::Unfinished { source, .. } => source.problem(),
            _ => None,
        }
    }

    /// The error as it is printed: `error: DETAIL (code)`, its causes, how much was stored, and a hint, each
    /// on a line.
    pub fn report(&self) -> String {
        let mut text = format!("error: {self}");
        let mut cause = self.source();
        while let Some(error) = cause {
            cause = error.source();
            // In the chain of a library's errors, only the last one is meaningful to a user.
            if cause.is_none() || error.is::<Self>() || error.is::<Box<Self>>() {
                text.push_str("\n  because: ");
                text.push_str(&error.to_string());
            }
        }
        if let Some(problem) = self.problem() {
            if let Some(line) = problem.line {
                let _infallible = write!(text, "\n  at line {} of the input", humane::count(line));
            }
            if let Some(committed) = &problem.committed {
                text.push_str("\n  ");
                text.push_str(&committed_line(committed));
            }
        }
        if let Some(hint) = self.hint() {
            text.push_str("\nhint: ");
            text.push_str(&hint);
        }
        text
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Unfinished { idempotency_key, .. } => Some(format!(
                "send the same input again with `--idempotency-key {idempotency_key}`: \
                 the server stores only what is missing"
            )),
            Self::NoPartition { topic, .. } => Some(format!("see `millpond topic describe {topic}`")),
            Self::GroupPlace => {
                Some("move the group with `millpond group reset GROUP --topic TOPIC --to PLACE`".to_owned())
            }
            Self::Lost { .. } => Some(
                "their leases have ended: the records were settled before, or will be leased again"
                    .to_owned(),
            ),
            Self::GaveUp { source, .. } => source.hint(),
            Self::Problem(problem) => problem_hint(&problem.code).map(str::to_owned),
            _ => None,
        }
    }
}

fn committed_line(committed: &Committed) -> String {
    if committed.count == 0 {
        return "nothing of it is stored".to_owned();
    }
    format!(
        "stored from its beginning: {} ({})",
        humane::records(committed.count),
        humane::ranges(&committed.partitions)
    )
}

fn problem_hint(code: &str) -> Option<&'static str> {
    Some(match code {
        "unauthenticated" => "give a token with --token or MILLPOND_TOKEN",
        "forbidden" => "the token does not permit this",
        "topic_not_found" => "see `millpond topic list`, or make it with `millpond topic create NAME`",
        "partition_not_found" => "see `millpond topic describe NAME`",
        "group_not_found" => "see `millpond group list`",
        "group_not_empty" => "stop its members first; one that died is removed when its session is over",
        "queue_not_found" => "see `millpond queue list`, or make it with `millpond queue create NAME`",
        "dead_not_found" => "see `millpond queue dead list NAME`",
        "offset_out_of_range" => "read from another place: `--from earliest` or `--from latest`",
        "idempotency_conflict" => {
            "this --idempotency-key was used for another input: leave it out, or choose another"
        }
        "invalid_change" => {
            "the number of partitions can only grow; topic, mode and start of a queue cannot be changed: \
             delete the queue and make it again"
        }
        "record_too_large" => "raise the limit with `millpond topic create NAME --max-record-bytes N`",
        "throttled" | "quota_exceeded" => "send less, or ask the operator for more",
        "control_plane_unavailable" | "object_store_unavailable" => {
            "the server cannot reach its database or object store: see its /readyz"
        }
        _ => return None,
    })
}
