//! Bodies of any length: cut into chunks at fixed places, one chunk after the other committed, so that what
//! is stored is a prefix.
//!
//! The next chunk is read and parsed while the last one is on its way, but handed over only when that is
//! committed.

use super::body::next_frame;
use super::{Call, PartitionRange, StreamAnswer};
use crate::AppState;
use crate::error::{Code, Problem};
use axum::body::Body;
use axum::response::{IntoResponse, Json, Response};
use bytes::Bytes;
use millpond_core::control_plane::RequestKey;
use millpond_core::{RequestId, Topic, limits};
use millpond_engine::hash;
use millpond_engine::produce::AppendError;
use millpond_engine::produce::append::{AppendBuilder, Appended, Basis, BasisTopic};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

/// So much of a body is buffered before memory is set aside for a chunk.
const FREE_BYTES: usize = 64 * limits::KIB;
/// A chunk may hold its memory so long while it fills, if there is none left for others.
const SLOW: Duration = Duration::from_secs(30);

/// Cuts a body into chunks and reads their records.
pub trait Chunker: Send + Sized + 'static {
    /// A chunk that was cut off, ready to be parsed on another thread.
    type Chunk: Chunk;

    fn add(&mut self, data: Bytes) -> Result<(), Problem>;
    /// The next whole chunk; at the end of the body also what is left.
    fn cut(&mut self, max_record_bytes: usize, end: bool) -> Result<Option<Self::Chunk>, Problem>;
    fn buffered_bytes(&self) -> usize;
}

pub trait Chunk: Send + Sync + 'static {
    /// Identity of the chunk's content, for its idempotency key.
    fn body_hash(&self, shape: &[u8]) -> Uuid;
    fn read(&self, builder: &mut AppendBuilder) -> Result<(), Problem>;
}

struct Stream<'a> {
    app: &'a AppState,
    call: Call,
    number: u64,
    in_flight: Option<JoinHandle<Result<Appended, Problem>>>,
    committed: Summary,
}

#[derive(Default)]
struct Summary {
    partitions: BTreeMap<i32, PartitionRange>,
    duplicate: bool,
}

impl Summary {
    fn add(&mut self, appended: &Appended) {
        self.duplicate |= appended.duplicate;
        for piece in &appended.pieces {
            let (Some(base), kept) = (piece.outcome.base, i64::from(piece.kept())) else { continue };
            if kept == 0 {
                continue;
            }
            let empty = PartitionRange {
                partition: piece.partition,
                first_offset: base.0,
                last_offset: base.0,
                count: 0,
            };
            let range = self.partitions.entry(piece.partition).or_insert(empty);
            range.first_offset = range.first_offset.min(base.0);
            range.last_offset = range.last_offset.max(base.0 + kept - 1);
            range.count += u64::try_from(kept).unwrap_or(0);
        }
    }

    fn answer(&self) -> StreamAnswer {
        let partitions: Vec<PartitionRange> = self.partitions.values().cloned().collect();
        StreamAnswer {
            count: partitions.iter().map(|p| p.count).sum(),
            partitions,
            duplicate: self.duplicate,
        }
    }
}

/// Place of a chunk's idempotency key; an atomic request is a first chunk, so that a key holds whatever the
/// form of the body.
pub fn key_place(topic: i64, chunk: u64) -> String {
    format!("records/{topic}/{chunk}")
}

pub async fn run<C: Chunker>(
    app: &AppState,
    call: Call,
    mut chunker: C,
    mut body: Body,
) -> Result<Response, Problem> {
    let mut stream = Stream { app, call, number: 0, in_flight: None, committed: Summary::default() };
    let outcome = stream.consume(&mut chunker, &mut body).await;
    let finished = stream.settle().await;
    // An outcome that is unknown weighs more than what is wrong with a later chunk: a 4xx says that nothing
    // else was stored.
    match finished.and(outcome) {
        Ok(()) => Ok(Json(stream.committed.answer()).into_response()),
        Err(problem) => {
            let committed = serde_json::to_value(stream.committed.answer()).unwrap_or_default();
            Err(problem.with("committed", committed))
        }
    }
}

impl Stream<'_> {
    async fn consume<C: Chunker>(&mut self, chunker: &mut C, body: &mut Body) -> Result<(), Problem> {
        let mut permit: Option<OwnedSemaphorePermit> = None;
        let mut topic = self.topic().await?;
        let mut held_since = Instant::now();
        loop {
            let data = next_frame(body).await?;
            if permit.is_some() && held_since.elapsed() > SLOW && self.app.admission.chunks_are_taken() {
                return Err(Problem::new(
                    Code::Throttled,
                    "the body comes too slowly while others wait for memory: send it again",
                ));
            }
            let end = data.is_none();
            if let Some(data) = data {
                chunker.add(data)?;
            }
            if permit.is_none() && chunker.buffered_bytes() > FREE_BYTES {
                permit = self.room().await?;
                held_since = Instant::now();
            }
            let max = usize::try_from(topic.config.max_record_bytes).unwrap_or(limits::REQUEST_MAX_BYTES);
            while let Some(chunk) = chunker.cut(max, end)? {
                self.hand_over(chunk, &mut topic, permit.take()).await?;
                if chunker.buffered_bytes() > FREE_BYTES {
                    permit = self.room().await?;
                    held_since = Instant::now();
                }
            }
            if end {
                return Ok(());
            }
        }
    }

    async fn topic(&self) -> Result<Arc<Topic>, Problem> {
        Ok(self.app.topics.get_or_create(&self.call.principal.tenant, &self.call.topic).await?)
    }

    /// Memory for a chunk. Whoever holds one already gives it up before waiting for another.
    async fn room(&mut self) -> Result<Option<OwnedSemaphorePermit>, Problem> {
        if self.in_flight.is_some() {
            if let Some(permit) = self.app.admission.another_chunk() {
                return Ok(Some(permit));
            }
            self.settle().await?;
        }
        Ok(self.app.admission.chunk().await)
    }

    async fn settle(&mut self) -> Result<(), Problem> {
        let Some(task) = self.in_flight.take() else { return Ok(()) };
        match task.await {
            Ok(Ok(appended)) => {
                self.committed.add(&appended);
                Ok(())
            }
            Ok(Err(problem)) => Err(problem),
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    async fn hand_over<K: Chunk>(
        &mut self,
        chunk: K,
        topic: &mut Arc<Topic>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<(), Problem> {
        let chunk = Arc::new(chunk);
        let builder = self.parse(&chunk, topic).await?;
        self.settle().await?;
        if builder.records() == 0 {
            return Ok(());
        }
        let number = self.number;
        self.number += 1;
        let id = || RequestId(self.app.ids.uuid(self.app.clock.now_ms()));
        let mut append = builder.into_append(id(), self.key(number, topic, &*chunk), None);
        append.permit = permit;
        if number > 0 {
            let writer = Arc::clone(&self.app.writer);
            self.in_flight =
                Some(tokio::spawn(async move { writer.append(append).await.map_err(Problem::from) }));
            return Ok(());
        }
        // The first chunk finds out whether the topic is still the one that was remembered.
        let mut outcome = self.app.writer.append(append).await;
        if matches!(outcome, Err(AppendError::PartitionGone)) {
            self.app.topics.forget(&self.call.principal.tenant, &self.call.topic).await;
            *topic = self.topic().await?;
            let builder = self.parse(&chunk, topic).await?;
            outcome = self
                .app
                .writer
                .append(builder.into_append(id(), self.key(number, topic, &*chunk), None))
                .await;
        }
        self.committed.add(&outcome?);
        Ok(())
    }

    async fn parse<K: Chunk>(&self, chunk: &Arc<K>, topic: &Arc<Topic>) -> Result<AppendBuilder, Problem> {
        let basis = BasisTopic { partitions: topic.partition_count(), sticky: self.app.topics.sticky(topic) };
        let basis = Basis { timestamp: self.app.clock.now_ms(), topics: vec![basis] };
        let mut builder = AppendBuilder::new(vec![Arc::clone(topic)], basis);
        let chunk = Arc::clone(chunk);
        let parsed = tokio::task::spawn_blocking(move || chunk.read(&mut builder).map(|()| builder)).await;
        parsed.map_err(|_| Problem::new(Code::Internal, "a chunk could not be read"))?
    }

    fn key<K: Chunk>(&self, number: u64, topic: &Topic, chunk: &K) -> Option<RequestKey> {
        let key = self.call.idempotency_key.as_ref()?;
        let place = key_place(topic.id.0, number);
        Some(RequestKey {
            key_hash: hash::of(&[
                self.call.principal.tenant.as_str().as_bytes(),
                place.as_bytes(),
                key.as_bytes(),
            ]),
            body_hash: chunk.body_hash(&self.call.shape),
            ttl_ms: limits::IDEMPOTENCY_KEY_TTL_MS,
        })
    }
}
