//! The log: parts, commits, and reads of the index of batches.

use crate::error::Error;
use crate::group::{OffsetCommit, OffsetsRejected};
use crate::id::{AgentId, Offset, PartId, PartitionId, RequestId, TopicId};
use crate::queue::Ack;
use crate::scope::Scope;
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;
use uuid::Uuid;

/// Appending to partitions, and finding what they hold. Parts have no scope: one part may hold records of
/// several tenants.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// Makes ids known before anything is uploaded under them, so that an orphan is found by a query.
    async fn register_parts(&self, agent: AgentId, ids: &[PartId]) -> Result<(), Error>;
    async fn commit(&self, commit: &Commit) -> Result<Committed, Error>;
    /// Where the first record of each dedup id of a topic lies; `None` when the id is unknown or past its
    /// window.
    async fn dedup_offsets(
        &self,
        scope: &Scope,
        topic: TopicId,
        id_hashes: &[Uuid],
    ) -> Result<Vec<Option<(i32, Offset)>>, Error>;

    /// Plans reads; one answer per request, `None` for a partition that is gone.
    async fn find(&self, requests: &[FindRequest]) -> Result<Vec<Option<Found>>, Error>;
    /// Bytes of inline payloads, in the order asked; `None` where the payload is gone.
    async fn payloads(&self, ranges: &[PayloadRange]) -> Result<Vec<Option<Bytes>>, Error>;
    /// High watermarks of those partitions that are alive. Precondition: a partition is asked for in one
    /// scope only, that in which its id was found.
    async fn high_watermarks(
        &self,
        partitions: &[(Scope, PartitionId)],
    ) -> Result<Vec<(PartitionId, Offset)>, Error>;
    /// For each partition of the topic the first offset of a batch that holds a record at or after the
    /// timestamp, else the high watermark; exact up to the batch, the reader looks into it.
    async fn offsets_at(
        &self,
        scope: &Scope,
        topic: TopicId,
        timestamp_ms: i64,
    ) -> Result<Vec<(i32, PartitionId, Offset)>, Error>;
}

/// Records of several requests, uploaded or inline, to be given offsets in one step: visible whole or not at
/// all.
///
/// Indexes: a piece names its request and its run, a run names its part. Pieces come in the order in which
/// offsets are given within a partition, and lie in their run from 0 without holes. Dedups come by piece and
/// position. Preconditions, which the agent keeps: a key stands in at most one request of a commit and of
/// those in flight from one agent; a request with `expect` is the only one of its commit, and so is that of a
/// commit with a guard, which may do without records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Commit {
    pub parts: Vec<Part>,
    pub runs: Vec<Run>,
    pub pieces: Vec<Piece>,
    pub requests: Vec<Request>,
    pub dedups: Vec<Dedup>,
    pub guard: Option<Guard>,
}

/// What else is changed together with the records, or refuses them. The key of the request is looked at
/// first, so the retry of a success is a success; its answer is kept even without a key, so that the same
/// commit is recognized when it is sent again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    pub offsets: Option<OffsetCommit>,
    /// Records of queues of the tenant of the commit's one request, acked with the commit: all of them, or
    /// nothing happens.
    pub acks: Option<Vec<Ack>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    pub id: PartId,
    pub body: PartBody,
}

#[derive(Clone, Debug, PartialEq)]
pub enum PartBody {
    /// An object that is already durable under a registered id; length and CRC-32C of the whole.
    Segment { bytes: i64, crc: i32 },
    /// The bytes themselves, which the commit stores.
    Inline(Bytes),
}

/// One record batch: records of one partition, contiguous in one part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    pub part: usize,
    pub partition: PartitionId,
    pub records: i32,
    pub byte_offset: i32,
    pub byte_length: i32,
    /// Before compression.
    pub raw_bytes: i32,
    /// CRC-32C of the byte range.
    pub crc: i32,
    pub max_timestamp: i64,
    /// When the last record that has a time to live expires; `None` if one has none.
    pub expires_at_ms: Option<i64>,
    pub flags: BatchFlags,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchFlags(pub i16);

impl BatchFlags {
    /// Every value is JSON text without raw line ends.
    pub const JSON: Self = Self(1);
    /// Some record has a delay, a time to live, a dedup id.
    pub const DELAY: Self = Self(2);
    pub const TTL: Self = Self(4);

    #[must_use]
    pub fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }

    /// Of a batch that holds both: JSON if all is, the others if any is.
    #[must_use]
    pub fn joined(self, other: Self) -> Self {
        Self(((self.0 | other.0) & !Self::JSON.0) | (self.0 & other.0 & Self::JSON.0))
    }

    #[must_use]
    pub fn with(self, flag: Self) -> Self {
        Self(self.0 | flag.0)
    }
}

/// The records of one request within one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub request: usize,
    pub run: usize,
    /// Position of its first record in the run.
    pub first: i32,
    pub records: i32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub scope: Scope,
    pub id: RequestId,
    pub key: Option<RequestKey>,
    /// Append only if this is the high watermark of the one partition of the request.
    pub expect: Option<Offset>,
    /// Stored with the answer of a request that has a key or dedup ids, and given back to its retries.
    pub context: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// 128 bits of a hash over tenant, path and `Idempotency-Key`.
    pub key_hash: Uuid,
    /// 128 bits of a hash over what must not differ between retries.
    pub body_hash: Uuid,
    pub ttl_ms: i64,
}

/// A record that is stored only if its id is new to the topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dedup {
    pub piece: usize,
    /// Position in the piece.
    pub position: i32,
    /// That of the piece's partition.
    pub topic: TopicId,
    pub id_hash: Uuid,
    pub window_ms: i64,
    pub partition: i32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The control plane's clock.
    pub at_ms: i64,
    /// One per request.
    pub verdicts: Vec<Verdict>,
    /// One per piece; meaningful where the verdict is `Stored`.
    pub pieces: Vec<PieceOutcome>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Stored,
    /// The key was used before with the same body: this is what was answered then.
    Duplicate(Answer),
    /// The key was used before with another body.
    Conflict,
    OffsetMismatch {
        current: Offset,
    },
    /// A partition is gone: its topic was deleted. A partition of another tenant never was there.
    PartitionGone,
    /// The group offsets of the commit's guard were.
    OffsetsRejected(OffsetsRejected),
    /// These acks of the commit's guard, by index, name records that their leases no longer hold.
    LeaseLost(Vec<usize>),
    /// The part was committed by an earlier sending, or was abandoned, and it can no longer be told what
    /// became of this request: it was refused then, or was stored without a key and has moved since. It is
    /// not stored now.
    Unknown,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PieceOutcome {
    /// Offset of its first kept record, `None` where nothing was stored; the kept ones follow without holes.
    pub base: Option<Offset>,
    /// Positions in the piece, ascending, whose dedup id was stored before.
    pub dropped: Vec<i32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub context: Bytes,
    pub pieces: Vec<PieceOutcome>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FindRequest {
    pub scope: Scope,
    pub partition: PartitionId,
    pub offset: Offset,
    /// Batches from here on are not asked for.
    pub end: Option<Offset>,
    /// Before compression; at least one batch is planned if there is one.
    pub max_bytes: i64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub log_start_offset: Offset,
    pub high_watermark: Offset,
    /// By offset; the first holds `offset` if that is below the high watermark and not below the log start.
    pub batches: Vec<Batch>,
}

/// A row of the log's index.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    pub base: Offset,
    /// Kept records: the batch ends before `base + records`.
    pub records: i32,
    pub part: PartId,
    pub inline: bool,
    pub byte_offset: i32,
    pub byte_length: i32,
    pub raw_bytes: i32,
    pub crc: i32,
    pub committed_at_ms: i64,
    pub max_timestamp: i64,
    pub flags: BatchFlags,
    /// Positions among the encoded records that have no offset, ascending and disjoint.
    pub skip: Vec<Range<i32>>,
}

impl Batch {
    #[must_use]
    pub fn end(&self) -> Offset {
        Offset(self.base.0 + i64::from(self.records))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadRange {
    pub part: PartId,
    pub byte_offset: i32,
    pub byte_length: i32,
}
