//! Streamed produce requests: bodies of any length, cut into chunks that are committed one after the other.
//!
//! Invariants: the places of the cuts depend on the body alone, so that a retry makes the same chunks; the
//! stored records are always a prefix of the body. While one chunk is being committed, the next one is read
//! and parsed.

use super::append::{AppendBuilder, Appended, Basis};
use super::{AppendError, Identity, Produce, ProduceError, RecordSource};
use bytes::Bytes;
use millpond_core::control_plane::RequestKey;
use millpond_core::saturated;
use millpond_core::{Name, RequestId, Scope, Topic, limits};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A body of up to this size takes memory as an atomic request does; a larger one takes that of a chunk.
const SMALL_BODY_MAX_BYTES: usize = 64 * limits::KIB;
/// How long a chunk may take to fill while other streams wait for memory.
const CHUNK_FILL_MAX: Duration = Duration::from_secs(30);

/// Cuts a body into chunks. The places of the cuts must depend on the body alone: retries rely on it.
pub trait Chunker: Send + 'static {
    /// One chunk, to be parsed on another thread.
    type Chunk: RecordSource;

    /// Buffers the next bytes of the body.
    fn add(&mut self, data: Bytes) -> Result<(), <Self::Chunk as RecordSource>::Refusal>;

    /// Cuts off the next complete chunk, or at the `end` of the body what is left of it; `None` if more bytes
    /// are needed. A record that already exceeds `max_record_bytes`, the topic's limit, is refused before it
    /// is complete.
    fn cut(&mut self, max_record_bytes: usize, end: bool) -> CutChunk<Self::Chunk>;

    /// Bytes added and not yet cut off.
    fn buffered_bytes(&self) -> usize;
}

/// The outcome of [`Chunker::cut`].
pub type CutChunk<C> = Result<Option<C>, <C as RecordSource>::Refusal>;

/// The bytes of a body as they arrive.
pub trait Frames: Send {
    type Refusal;

    /// The next bytes; `None` at the end of the body.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>, Self::Refusal>> + Send;
}

/// The stored records of a streamed body, by partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamStored {
    /// By partition number.
    pub partitions: BTreeMap<i32, StoredRange>,
    /// Whether an earlier request with the same key had already stored a part of it.
    pub duplicate: bool,
}

/// The records of a body in one partition. Records of other requests may lie between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredRange {
    pub first_offset: i64,
    /// Inclusive.
    pub last_offset: i64,
    pub count: u64,
}

/// Why a body was not stored completely, and which prefix of it was.
#[derive(Debug)]
pub struct StreamError<R> {
    pub error: ProduceError<R>,
    pub committed: StreamStored,
}

impl StreamStored {
    fn add(&mut self, appended: &Appended) {
        self.duplicate |= appended.duplicate;
        for piece in &appended.pieces {
            let (Some(base), kept) = (piece.outcome.base, i64::from(piece.kept())) else { continue };
            if kept == 0 {
                continue;
            }
            let empty = StoredRange { first_offset: base.0, last_offset: base.0, count: 0 };
            let range = self.partitions.entry(piece.partition).or_insert(empty);
            range.first_offset = range.first_offset.min(base.0);
            range.last_offset = range.last_offset.max(base.0 + kept - 1);
            range.count += saturated::<u64, _>(kept);
        }
    }
}

impl Produce {
    /// Stores a body as it arrives. With an idempotency key, each chunk has a key of its own, so that a retry
    /// stores only the chunks that are missing.
    pub async fn stream<C: Chunker, F>(
        &self,
        scope: &Scope,
        topic: Name,
        identity: Identity,
        mut chunker: C,
        mut frames: F,
    ) -> Result<StreamStored, StreamError<<C::Chunk as RecordSource>::Refusal>>
    where
        F: Frames<Refusal = <C::Chunk as RecordSource>::Refusal>,
    {
        let mut stream = Stream {
            produce: self,
            scope,
            topic,
            identity,
            chunks: 0,
            in_flight: None,
            committed: StreamStored::default(),
        };
        let outcome = stream.consume(&mut chunker, &mut frames).await;
        let finished = stream.finish_in_flight().await;
        // The error of the chunk in flight has precedence over that of a later chunk: its outcome may be
        // unknown, whereas a refusal would say that nothing else was stored.
        match finished.map_err(ProduceError::Append).and(outcome) {
            Ok(()) => Ok(stream.committed),
            Err(error) => Err(StreamError { error, committed: stream.committed }),
        }
    }
}

/// A streamed request while it is being stored.
struct Stream<'a> {
    produce: &'a Produce,
    scope: &'a Scope,
    topic: Name,
    identity: Identity,
    /// Number of chunks handed to the writer so far.
    chunks: u64,
    /// The append of the last chunk, if its outcome is not known yet.
    in_flight: Option<JoinHandle<Result<Appended, AppendError>>>,
    /// The records that were stored by chunks whose outcome is known.
    committed: StreamStored,
}

impl Stream<'_> {
    /// Reads the body to its end, cuts it and hands over its chunks.
    async fn consume<C: Chunker, F>(
        &mut self,
        chunker: &mut C,
        frames: &mut F,
    ) -> Result<(), ProduceError<<C::Chunk as RecordSource>::Refusal>>
    where
        F: Frames<Refusal = <C::Chunk as RecordSource>::Refusal>,
    {
        let admission = &self.produce.admission;
        let mut permit: Option<OwnedSemaphorePermit> = None;
        // Memory of the bytes that are buffered while they are few, and how many it is for.
        let mut small: (Option<OwnedSemaphorePermit>, usize) = (None, 0);
        let mut topic = self.look_up().await?;
        let mut held_since = Instant::now();
        loop {
            let data = frames.next().await.map_err(ProduceError::Records)?;
            if permit.is_some() && held_since.elapsed() > CHUNK_FILL_MAX && admission.chunks_are_taken() {
                return Err(ProduceError::TooSlow);
            }
            let end = data.is_none();
            if let Some(data) = data {
                chunker.add(data).map_err(ProduceError::Records)?;
            }
            let buffered = chunker.buffered_bytes();
            let is_small = buffered <= SMALL_BODY_MAX_BYTES;
            if permit.is_none() && !(is_small && admission.small_body(&mut small.0, &mut small.1, buffered)) {
                small = (None, 0);
                permit = self.memory_for_chunk().await?;
                held_since = Instant::now();
            }
            let max = usize::try_from(topic.config.max_record_bytes).unwrap_or(limits::REQUEST_MAX_BYTES);
            while let Some(chunk) = chunker.cut(max, end).map_err(ProduceError::Records)? {
                let held = permit.take().or(std::mem::take(&mut small).0);
                self.hand_over(chunk, &mut topic, held).await?;
                if chunker.buffered_bytes() > SMALL_BODY_MAX_BYTES {
                    permit = self.memory_for_chunk().await?;
                    held_since = Instant::now();
                }
            }
            if end {
                return Ok(());
            }
        }
    }

    async fn look_up<R>(&self) -> Result<Arc<Topic>, ProduceError<R>> {
        Ok(self.produce.topics.get_or_create(self.scope, &self.topic).await?)
    }

    /// Acquires memory for a chunk. A stream with a chunk in flight lets that finish before it waits for more
    /// memory.
    async fn memory_for_chunk(&mut self) -> Result<Option<OwnedSemaphorePermit>, AppendError> {
        let admission = &self.produce.admission;
        if self.in_flight.is_some() {
            if let Some(permit) = admission.another_chunk() {
                return Ok(Some(permit));
            }
            self.finish_in_flight().await?;
        }
        Ok(admission.chunk().await)
    }

    /// Waits for the outcome of the chunk in flight.
    async fn finish_in_flight(&mut self) -> Result<(), AppendError> {
        let Some(task) = self.in_flight.take() else { return Ok(()) };
        match task.await {
            Ok(Ok(appended)) => {
                self.committed.add(&appended);
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    /// Parses a chunk and hands it to the writer, once the chunk before it is committed.
    async fn hand_over<K: RecordSource>(
        &mut self,
        chunk: K,
        topic: &mut Arc<Topic>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<(), ProduceError<K::Refusal>> {
        let chunk = Arc::new(chunk);
        let builder = self.parse(&chunk, topic).await?;
        self.finish_in_flight().await?;
        if builder.records() == 0 {
            return Ok(());
        }
        let number = self.chunks;
        self.chunks += 1;
        let produce = self.produce;
        let id = || RequestId(produce.random.uuid(produce.clock.now_ms()));
        let mut append = builder.into_append(self.scope, id(), self.key(number, topic, &*chunk), None);
        append.permit = permit;
        let writer = Arc::clone(&produce.writer);
        if number > 0 {
            self.in_flight = Some(tokio::spawn(async move { writer.append(append).await }));
            return Ok(());
        }
        // The first chunk is waited for: it finds out whether the cached topic still exists.
        let mut outcome = writer.append(append).await;
        if matches!(outcome, Err(AppendError::PartitionGone)) {
            produce.topics.forget(self.scope, &self.topic).await;
            *topic = self.look_up().await?;
            let builder = self.parse(&chunk, topic).await?;
            outcome = writer
                .append(builder.into_append(self.scope, id(), self.key(number, topic, &*chunk), None))
                .await;
        }
        self.committed.add(&outcome?);
        Ok(())
    }

    async fn parse<K: RecordSource>(
        &self,
        chunk: &Arc<K>,
        topic: &Arc<Topic>,
    ) -> Result<AppendBuilder, ProduceError<K::Refusal>> {
        let basis =
            Basis { timestamp: self.produce.clock.now_ms(), topics: vec![self.produce.basis_of(topic)] };
        let mut builder = AppendBuilder::new(vec![Arc::clone(topic)], basis);
        let chunk = Arc::clone(chunk);
        let read = move || chunk.read(&mut builder).map(|()| builder).map_err(ProduceError::Records);
        crate::blocking::run(read).await
    }

    /// Idempotency key of a chunk.
    fn key<K: RecordSource>(&self, number: u64, topic: &Topic, chunk: &K) -> Option<RequestKey> {
        let key = self.identity.key.as_ref()?;
        let content = chunk.content_hash(&self.identity.shape);
        Some(super::request_key(self.scope, &super::key_scope(topic.id.0, number), key, content))
    }
}
