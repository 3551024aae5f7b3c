//! The command `millpond consume --group`: reads as a member of a consumer group.
//!
//! Owns the membership: joins, polls, prints records, commits their offsets, and leaves. The members of a
//! group together print each record at least once. A record is printed again only if, between printing and
//! commit, its partition moved to another member or the command was killed.

use std::collections::BTreeMap;
use std::io::Write;
use std::pin::Pin;
use std::time::Duration;

use reqwest::Method;
use reqwest::header::ACCEPT;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

use super::choices::{OutputFormat, StartAt};
use super::client::Client;
use super::consume_args::ConsumeArgs;
use super::error::CliError;
use super::record::{self, Record};

#[cfg(test)]
mod tests;

/// Records of a poll, which are printed before the next commit: few enough that the session does not end even
/// if a slow reader delays the output.
const POLL_MAX_RECORDS: u64 = 5_000;
/// How long a poll waits for records; the server's limit is 30 s.
const POLL_WAIT: Duration = Duration::from_secs(20);
/// Longest wait for an answer, in addition to the time that the server is asked to wait.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);
/// Longest time to finish what is under way, and to leave the group, when the command is to end.
const LEAVE_WAIT_MAX: Duration = Duration::from_secs(5);

/// Reads until SIGINT or SIGTERM, until `--max` records are printed or, without `--follow`, until there are
/// no more records.
pub async fn run(
    client: &Client,
    args: &ConsumeArgs,
    group: &str,
    out: &mut impl Write,
) -> Result<(), CliError> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    consume(client, args, group, out, stop).await
}

/// Like [`run`], but ends when `stop` resolves.
async fn consume(
    client: &Client,
    args: &ConsumeArgs,
    group: &str,
    out: &mut impl Write,
    stop: impl Future<Output = ()>,
) -> Result<(), CliError> {
    if !matches!(args.from, StartAt::Earliest | StartAt::Latest) {
        return Err(CliError::GroupPlace);
    }
    if args.format == OutputFormat::Table {
        out.write_all(record::heading().as_bytes())?;
    }
    let mut member = Member {
        client,
        args,
        group,
        id: None,
        generation: 0,
        after: None,
        left: args.max.unwrap_or(u64::MAX),
    };
    let outcome = member.read(out, stop).await;
    member.leave().await;
    outcome.and(out.flush().map_err(CliError::Output))
}

/// The output of `work`. If `stop` resolves first, `None`, after `work` had up to [`LEAVE_WAIT_MAX`] to end.
async fn unless<T>(stop: Pin<&mut impl Future<Output = ()>>, work: impl Future<Output = T>) -> Option<T> {
    tokio::pin!(work);
    tokio::select! {
        biased;
        output = &mut work => Some(output),
        () = stop => {
            timeout(LEAVE_WAIT_MAX, work).await.ok();
            None
        }
    }
}

struct Member<'a> {
    client: &'a Client,
    args: &'a ConsumeArgs,
    group: &'a str,
    /// The member's id; `None` before joining and after the session has ended.
    id: Option<String>,
    generation: i64,
    /// Position token of the last answer.
    after: Option<String>,
    /// Number of records that are still to be printed.
    left: u64,
}

#[derive(Deserialize)]
struct Joined {
    member_id: String,
    generation: i64,
}

/// The last line of a poll's answer.
#[derive(Deserialize)]
struct PollEnd {
    next: String,
    generation: i64,
}

/// Topic and partition of a record.
#[derive(Deserialize)]
struct RecordPartition {
    topic: String,
    partition: u32,
}

/// Offset of the next record to read, by topic and partition.
type Offsets = BTreeMap<(String, u32), u64>;

fn not_understood(error: serde_json::Error) -> CliError {
    CliError::Answer { what: "a poll's answer", source: Some(error) }
}

impl Member<'_> {
    /// Joins, polls and commits until all is read or `stop` resolves.
    async fn read(&mut self, out: &mut impl Write, stop: impl Future<Output = ()>) -> Result<(), CliError> {
        tokio::pin!(stop);
        let mut patience = self.args.patience();
        while self.left > 0 {
            let started = Instant::now();
            let Some(joined) = unless(stop.as_mut(), self.join()).await else { return Ok(()) };
            let outcome = match joined {
                Err(error) => Err(error),
                Ok(()) => tokio::select! {
                    biased;
                    () = &mut stop => return Ok(()),
                    answer = self.poll() => answer,
                },
            };
            let outcome = match outcome {
                Err(error) => Err(error),
                Ok(answer) => match unless(stop.as_mut(), self.take(&answer, out)).await {
                    Some(taken) => taken,
                    None => return Ok(()),
                },
            };
            let error = match outcome {
                Ok(Taken::Records) => {
                    patience.progressed();
                    continue;
                }
                Ok(Taken::Nothing) if self.args.follow => continue,
                Ok(Taken::Nothing) => return Ok(()),
                Ok(Taken::Moved) => continue,
                Err(error) => error,
            };
            if error.problem().is_some_and(|problem| problem.code == "member_not_found") {
                eprintln!("the session ended: joining {} again", self.group);
                self.id = None;
                continue;
            }
            if !error.is_transient() {
                return Err(error);
            }
            let retry_after = error.problem().and_then(|problem| problem.retry_after);
            let Some(pause) = patience.pause(started.elapsed(), retry_after) else {
                return Err(patience.give_up(error));
            };
            tokio::select! {
                () = &mut stop => return Ok(()),
                () = sleep(pause) => {}
            }
        }
        Ok(())
    }

    /// Joins the group, unless this is a member already. Should not be cancelled: if the answer with the
    /// member's id is lost, the member keeps its partitions until its session ends.
    async fn join(&mut self) -> Result<(), CliError> {
        if self.id.is_some() {
            return Ok(());
        }
        let topics: Vec<&String> = [&self.args.topic].into_iter().chain(&self.args.also).collect();
        let from = if self.args.from == StartAt::Latest { "latest" } else { "earliest" };
        let body = json!({
            "topics": topics, "from": from, "session_ms": self.args.session_ms,
            "client_id": "millpond consume"
        });
        let request = self.client.request(Method::POST, &["v1", "groups", self.group, "members"]).json(&body);
        let joined: Joined =
            serde_json::from_str(&self.answer(request, Duration::ZERO).await?).map_err(not_understood)?;
        (self.id, self.generation, self.after) = (Some(joined.member_id), joined.generation, None);
        Ok(())
    }

    /// Sends a request and reads the answer, for which the server may wait for `wait`.
    async fn answer(&self, request: reqwest::RequestBuilder, wait: Duration) -> Result<String, CliError> {
        let limit = wait + ANSWER_WAIT_MAX;
        let (_, text) = timeout(limit, self.client.text(request))
            .await
            .map_err(|_| CliError::Stalled { idle: limit })??;
        Ok(text)
    }

    async fn poll(&self) -> Result<String, CliError> {
        let wait = if self.args.follow { POLL_WAIT } else { Duration::ZERO };
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(0);
        let mut body = json!({"max_records": self.left.min(POLL_MAX_RECORDS), "wait_ms": wait_ms});
        if let Some(after) = &self.after {
            body["after"] = json!(after);
        }
        let id = self.id.as_deref().unwrap_or_default();
        let path = ["v1", "groups", self.group, "members", id, "poll"];
        self.answer(
            self.client.request(Method::POST, &path).header(ACCEPT, "application/x-ndjson").json(&body),
            wait,
        )
        .await
    }

    /// Prints the records of a poll's answer, takes over its position, and commits the offsets.
    async fn take(&mut self, answer: &str, out: &mut impl Write) -> Result<Taken, CliError> {
        let mut lines: Vec<&str> = answer.lines().filter(|line| !line.trim_ascii().is_empty()).collect();
        let end: PollEnd = serde_json::from_str(lines.pop().unwrap_or_default()).map_err(not_understood)?;
        let mut offsets = Offsets::new();
        let mut printed = Vec::new();
        for line in &lines {
            let record = Record::parse(line.as_bytes())?;
            let home: RecordPartition = serde_json::from_str(line).map_err(not_understood)?;
            record.render(line.as_bytes(), self.args.format, &mut printed)?;
            offsets.insert((home.topic, home.partition), record.offset.saturating_add(1));
        }
        out.write_all(&printed)?;
        out.flush()?;
        self.left = self.left.saturating_sub(u64::try_from(lines.len()).unwrap_or(u64::MAX));
        let moved = end.generation != self.generation;
        (self.generation, self.after) = (end.generation, Some(end.next));
        self.commit(&offsets).await?;
        Ok(match (lines.is_empty(), moved) {
            (false, _) => Taken::Records,
            (true, true) => Taken::Moved,
            (true, false) => Taken::Nothing,
        })
    }

    /// Commits offsets, with retries. If partitions were assigned to another member in the meantime, nothing
    /// is committed, which is not an error.
    async fn commit(&self, offsets: &Offsets) -> Result<(), CliError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let entry = |(place, offset): (&(String, u32), &u64)| {
            let (topic, partition) = place;
            json!({"topic": topic, "partition": partition, "offset": offset})
        };
        let offsets: Vec<Value> = offsets.iter().map(entry).collect();
        let body = json!({"member_id": self.id, "generation": self.generation, "offsets": offsets});
        let mut patience = self.args.patience();
        loop {
            let started = Instant::now();
            let request =
                self.client.request(Method::POST, &["v1", "groups", self.group, "offsets"]).json(&body);
            let error = match self.answer(request, Duration::ZERO).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            let code = error.problem().map_or("", |problem| problem.code.as_str());
            if matches!(code, "generation_fenced" | "group_not_found" | "topic_not_found") {
                eprintln!(
                    "offsets were not committed, since a partition has moved to another member or was \
                     deleted: records may be printed again ({code})"
                );
                return Ok(());
            }
            if !error.is_transient() {
                return Err(error);
            }
            let retry_after = error.problem().and_then(|problem| problem.retry_after);
            match patience.pause(started.elapsed(), retry_after) {
                Some(pause) => sleep(pause).await,
                None => return Err(patience.give_up(error)),
            }
        }
    }

    /// Leaves the group, so that other members get the partitions at once. If that fails, they get them when
    /// the session ends.
    async fn leave(&self) {
        if let Some(id) = &self.id {
            let request = self.client.request(Method::DELETE, &["v1", "groups", self.group, "members", id]);
            timeout(LEAVE_WAIT_MAX, self.client.send(request)).await.ok();
        }
    }
}

/// The content of a poll's answer.
enum Taken {
    Records,
    Nothing,
    /// No records, but a new generation: partitions may have been assigned.
    Moved,
}
