//! A whole topic, read in chunks over all its partitions, once or for ever.

use super::AppState;
use super::chunk::{Chunk, Limits};
use super::error::{Code, Problem};
use super::fetch::{Form, find_from, gone};
use super::render::Encoding;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures::Stream;
use http::{HeaderValue, header};
use millpond_core::{Offset, PartitionId, Topic};
use millpond_engine::fetch::reader::Fetched;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A tail that has nothing to say says so, for proxies cut what is silent.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_secs(1);
/// What a partition gets of a chunk, however many there are.
pub const SHARE_MIN_BYTES: usize = 64 << 10;
/// Partitions that are read at once: each may give a whole batch, however little is asked for.
pub const GROUP: usize = 64;

/// Next offset of every partition. The token names the topic's id, so that a later topic of the name does not
/// take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    topic: i64,
    next: BTreeMap<i32, Offset>,
}

impl Position {
    pub fn new(topic: &Topic, next: impl Iterator<Item = (i32, Offset)>) -> Self {
        Self { topic: topic.id.0, next: next.collect() }
    }

    /// Partitions that the token does not know begin at 0.
    pub fn parse(token: &str, topic: &Topic) -> Result<Self, Problem> {
        let refuse = || Problem::bad_request("this is not a position of the topic");
        let text =
            URL_SAFE_NO_PAD.decode(token).ok().and_then(|b| String::from_utf8(b).ok()).ok_or_else(refuse)?;
        let mut parts = text.split('.');
        let id = parts.next().and_then(|p| p.parse().ok()).ok_or_else(refuse)?;
        if id != topic.id.0 {
            return Err(refuse());
        }
        let mut next: BTreeMap<i32, Offset> =
            (0..topic.partition_count()).map(|p| (p, Offset::ZERO)).collect();
        for part in parts {
            let (partition, offset) = part.split_once('-').ok_or_else(refuse)?;
            let (partition, offset) =
                (partition.parse().map_err(|_| refuse())?, offset.parse().map_err(|_| refuse())?);
            if topic.partition_id(partition).is_none() || offset < 0 {
                return Err(refuse());
            }
            next.insert(partition, Offset(offset));
        }
        Ok(Self { topic: id, next })
    }

    #[must_use]
    pub fn token(&self) -> String {
        let mut text = self.topic.to_string();
        // Those that are not named begin at 0.
        for (partition, offset) in self.next.iter().filter(|(_, offset)| **offset > Offset::ZERO) {
            write!(text, ".{partition}-{offset}").unwrap_or_default();
        }
        URL_SAFE_NO_PAD.encode(text)
    }
}

struct Tail {
    app: AppState,
    topic: Arc<Topic>,
    ids: Vec<(i32, PartitionId)>,
    position: Position,
    form: Form,
    encoding: Encoding,
    limits: Limits,
    /// Partition that the next chunk begins with: each gets its turn.
    turn: usize,
}

/// Answers with one chunk, or with chunks for ever.
pub async fn tail(
    app: AppState,
    topic: Arc<Topic>,
    position: Position,
    form: Form,
    encoding: Encoding,
    limits: Limits,
) -> Result<Response, Problem> {
    let ids = position.next.keys().filter_map(|p| topic.partition_id(*p).map(|id| (*p, id))).collect();
    let mut tail = Tail { app, topic, ids, position, form, encoding, limits, turn: 0 };
    let body = if tail.is_endless() {
        Body::from_stream(tail.endless())
    } else {
        Body::from(tail.next_chunk(Instant::now() + limits.wait).await?)
    };
    let content_type = match form {
        Form::Json => "application/json",
        Form::NdJson => "application/x-ndjson",
        Form::Arrow => "application/vnd.apache.arrow.stream",
        Form::Events => "text/event-stream",
    };
    let mut response = body.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

impl Tail {
    /// Chunks as they come, until the agent stops. What is temporary is tried again; what is not ends the
    /// tail with a problem.
    fn endless(mut self) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
        async_stream::stream! {
            while !self.app.watcher.is_stopping() {
                match self.next_chunk(Instant::now() + KEEP_ALIVE).await {
                    Ok(chunk) => yield Ok(chunk),
                    Err(problem) if matches!(problem.code, Code::ControlPlaneUnavailable | Code::ObjectStoreUnavailable) => {
                        yield Ok(self.keep_alive());
                        tokio::time::sleep(RETRY).await;
                    }
                    Err(problem) => {
                        match self.form {
                            Form::Events => yield Ok(format!("event: problem\ndata: {}\n\n", problem.body()).into()),
                            _ => yield Err(std::io::Error::other(problem.body())),
                        }
                        return;
                    }
                }
            }
        }
    }

    fn is_endless(&self) -> bool {
        self.limits.follow || self.form == Form::Events
    }

    fn keep_alive(&self) -> Bytes {
        Bytes::from_static(if self.form == Form::Events { b":\n\n" } else { b"\n" })
    }

    /// Records of all partitions in turn, within the limits; waits for the first until the deadline.
    async fn next_chunk(&mut self, deadline: Instant) -> Result<Bytes, Problem> {
        self.grow().await?;
        let waits = deadline > Instant::now();
        let watch = waits.then(|| self.app.watcher.watch(self.ids.iter().map(|(_, id)| *id).collect()));
        loop {
            let mut chunk = Chunk::new(self.form, self.encoding, self.limits);
            let count = self.ids.len();
            let turns: Vec<(i32, PartitionId)> =
                (0..count).map(|n| self.ids[(self.turn + n) % count]).collect();
            let mut done = 0;
            for group in turns.chunks(GROUP) {
                let fetched = self.fetch(group).await?;
                for ((partition, id), one) in group.iter().zip(&fetched) {
                    chunk.take(
                        self.topic.name.as_str(),
                        *partition,
                        one,
                        self.position.next.entry(*partition).or_insert(Offset::ZERO),
                    )?;
                    if let Some(watch) = &watch {
                        watch.saw(*id, one.high_watermark);
                    }
                }
                done += group.len();
                // A tail hands on what it has: other groups come with the next chunk.
                if chunk.full || (self.is_endless() && chunk.records > 0) {
                    break;
                }
            }
            self.turn = (self.turn + if chunk.full { 1 } else { done }) % count.max(1);
            if chunk.records > 0 {
                return chunk.finish(&self.position.token(), "");
            }
            if Instant::now() >= deadline || self.app.watcher.is_stopping() {
                return if self.is_endless() {
                    Ok(self.keep_alive())
                } else {
                    chunk.finish(&self.position.token(), "")
                };
            }
            if let Some(watch) = &watch {
                tokio::time::timeout_at(deadline, watch.moved()).await.ok();
            }
        }
    }

    /// Partitions that were added in the meantime are read from their beginning.
    async fn grow(&mut self) -> Result<(), Problem> {
        let topic = self.app.topics.get(&self.topic.tenant, &self.topic.name).await?;
        if topic.id == self.topic.id && topic.partition_count() > self.topic.partition_count() {
            let added = self.topic.partition_count()..topic.partition_count();
            self.ids.extend(added.clone().filter_map(|p| topic.partition_id(p).map(|id| (p, id))));
            self.position.next.extend(added.map(|p| (p, Offset::ZERO)));
            self.topic = topic;
        }
        Ok(())
    }

    /// One answer per partition, after those that retention has passed were moved up to the log start.
    async fn fetch(&mut self, group: &[(i32, PartitionId)]) -> Result<Vec<Fetched>, Problem> {
        let share =
            (self.limits.max_bytes / group.len().max(1)).max(SHARE_MIN_BYTES.min(self.limits.max_bytes));
        loop {
            let requests: Vec<_> =
                group.iter().map(|(p, id)| find_from(*id, self.position.next[p], share)).collect();
            let fetched: Vec<Fetched> = self
                .app
                .reader
                .fetch(&requests)
                .await?
                .into_iter()
                .collect::<Option<_>>()
                .ok_or_else(gone)?;
            let mut moved = false;
            for ((partition, _), one) in group.iter().zip(&fetched) {
                let next = self.position.next.entry(*partition).or_insert(Offset::ZERO);
                if *next < one.log_start_offset {
                    *next = one.log_start_offset;
                    moved = true;
                }
            }
            if !moved {
                return Ok(fetched);
            }
        }
    }
}
