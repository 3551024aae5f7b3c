//! Control plane calls for the log: upload parts, commits, and reads of the index of batches.

use crate::error::Error;
use crate::group::{OffsetCommit, OffsetsRejected};
use crate::id::{AgentId, Offset, PartId, PartitionId, RequestId, TopicId};
use crate::queue::Ack;
use crate::scope::Scope;
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;
use uuid::Uuid;

/// Appends to partitions and finds their records. Parts have no scope, since one part may hold records of
/// several tenants.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// Registers ids of segments before their upload, so that a query finds an upload that was never
    /// committed.
    async fn register_parts(&self, agent: AgentId, ids: &[PartId]) -> Result<(), Error>;
    /// Assigns offsets to records and makes them visible.
    async fn commit(&self, commit: &Commit) -> Result<Committed, Error>;
    /// Partition number and offset of the first record with each dedup id of the topic; `None` if the id is
    /// unknown or older than the dedup window.
    async fn dedup_offsets(
        &self,
        scope: &Scope,
        topic: TopicId,
        id_hashes: &[Uuid],
    ) -> Result<Vec<Option<(i32, Offset)>>, Error>;

    /// Finds the batches to read. One answer per request; `None` for a partition that is gone.
    async fn find(&self, requests: &[FindRequest]) -> Result<Vec<Option<Found>>, Error>;
    /// Bytes of inline payloads, in the order of the ranges; `None` if the payload is gone.
    async fn payloads(&self, ranges: &[PayloadRange]) -> Result<Vec<Option<Bytes>>, Error>;
    /// What this control plane shows to a read that begins now. Takes no lock and writes nothing.
    async fn snapshot(&self) -> Result<Snapshot, Error>;
    /// High watermarks of those partitions that are alive. Precondition: each partition is asked for in one
    /// scope only, the one in which its id was found.
    async fn high_watermarks(
        &self,
        partitions: &[(Scope, PartitionId)],
    ) -> Result<Vec<(PartitionId, Offset)>, Error>;
    /// For each partition of the topic: the base offset of the first batch that has a record at or after the
    /// timestamp, else the high watermark. The reader finds the record within the batch.
    async fn offsets_at(
        &self,
        scope: &Scope,
        topic: TopicId,
        timestamp_ms: i64,
    ) -> Result<Vec<(i32, PartitionId, Offset)>, Error>;
}

/// Identifies what a read sees. If two snapshots are equal, no change was committed between them, and only
/// what depends on time can differ. If they are not equal, something may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(pub String);

/// Records of several requests, uploaded or inline, that get their offsets in one step and become visible
/// together or not at all.
///
/// Indexes: a piece names its request and its run by index, and a run its part. Pieces come in the order in
/// which offsets are assigned within a partition, and cover their run from position 0 without holes. Dedups
/// are ordered by piece and position.
///
/// Preconditions, which the agent ensures: an idempotency key is in at most one request of the commit and of
/// all commits in flight from the same agent. A request with `expect` is the only one of its commit. A commit
/// with a guard has exactly one request, which may have no records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Commit {
    pub parts: Vec<Part>,
    pub runs: Vec<Run>,
    pub pieces: Vec<Piece>,
    pub requests: Vec<Request>,
    pub dedups: Vec<Dedup>,
    pub guard: Option<Guard>,
    /// Time after which the commit is no longer applied, by the clock of the control plane; `None`: never. It
    /// is that of the first sending, since an inline payload that is sent again after its row was forgotten
    /// would be stored twice.
    pub not_after_ms: Option<i64>,
}

/// Further changes that a commit makes together with the records, or that reject all of it. The key of the
/// request is checked first, so that the retry of a success succeeds. The answer is kept even without a key,
/// so that the same commit is recognized when it is sent again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Consumer group offsets to be committed.
    pub offsets: Option<OffsetCommit>,
    /// Records of queues of the tenant of the request, to be acked by the commit: all of them, or the commit
    /// changes nothing.
    pub acks: Option<Vec<Ack>>,
}

/// One upload: a segment or an inline payload.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    pub id: PartId,
    pub body: PartBody,
}

#[derive(Clone, Debug, PartialEq)]
pub enum PartBody {
    /// An uploaded object with a registered id. `bytes` and `crc` (CRC-32C) are those of the whole object.
    Segment { bytes: i64, crc: i32 },
    /// The bytes themselves, which the commit stores in Postgres.
    Inline(Bytes),
}

/// One record batch: records of one partition that are contiguous in one part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    /// Index of the part.
    pub part: usize,
    pub partition: PartitionId,
    pub records: i32,
    pub byte_offset: i32,
    pub byte_length: i32,
    /// Length before compression.
    pub raw_bytes: i32,
    /// CRC-32C of the byte range.
    pub crc: i32,
    pub max_timestamp: i64,
    /// Time at which the last record expires; `None` if a record has no time to live.
    pub expires_at_ms: Option<i64>,
    pub flags: BatchFlags,
}

/// Properties of the records of a batch, as a bit set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchFlags(pub i16);

impl BatchFlags {
    /// Every value is JSON text without raw line breaks.
    pub const JSON: Self = Self(1);
    /// Some record has a delay.
    pub const DELAY: Self = Self(2);
    /// Some record has a time to live.
    pub const TTL: Self = Self(4);

    #[must_use]
    pub fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }

    /// Flags of a batch that holds the records of both: JSON if both have it, the others if one of them has.
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
    /// Index of the request.
    pub request: usize,
    /// Index of the run.
    pub run: usize,
    /// Position of the first record in the run.
    pub first: i32,
    pub records: i32,
}

/// One produce request, or one chunk of a stream, within a commit.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub scope: Scope,
    pub id: RequestId,
    pub key: Option<RequestKey>,
    /// Append only if this is the high watermark of the one partition of the request.
    pub expect: Option<Offset>,
    /// Bytes that are stored with the answer of a request that has a key or dedup ids, and returned to its
    /// retries.
    pub context: Bytes,
}

/// Idempotency key of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// 128 bits of a hash of tenant, path and `Idempotency-Key`.
    pub key_hash: Uuid,
    /// 128 bits of a hash of everything that must be the same in retries.
    pub body_hash: Uuid,
    pub ttl_ms: i64,
}

/// A record that is stored only if its dedup id is new to the topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dedup {
    /// Index of the piece.
    pub piece: usize,
    /// Position of the record in the piece.
    pub position: i32,
    /// Topic of the partition of the piece.
    pub topic: TopicId,
    pub id_hash: Uuid,
    pub window_ms: i64,
    /// Number of the partition of the piece.
    pub partition: i32,
}

/// Answer of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Time of the commit, by the clock of the control plane.
    pub at_ms: i64,
    /// One per request.
    pub verdicts: Vec<Verdict>,
    /// One per piece; meaningful where the verdict is `Stored`.
    pub pieces: Vec<PieceOutcome>,
}

/// Outcome of one request of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Stored,
    /// The key was used before with the same body. This is the answer that was given then.
    Duplicate(Answer),
    /// The key was used before with another body.
    Conflict,
    /// The high watermark is not the expected one.
    OffsetMismatch {
        current: Offset,
    },
    /// A partition is gone: its topic was deleted. Also the verdict for a partition of another tenant.
    PartitionGone,
    /// The group offsets in the guard of the commit were rejected.
    OffsetsRejected(OffsetsRejected),
    /// The acks of the guard with these indexes name records that their leases no longer hold.
    LeaseLost(Vec<usize>),
    /// The part was committed by an earlier sending, or was abandoned, and the earlier outcome of this
    /// request cannot be determined: it was refused, or it was stored without a key and its batch has been
    /// rewritten since. It is not stored now.
    Unknown,
    /// As `Unknown`, but the commit came after its [`not_after_ms`](Commit::not_after_ms).
    TooLate,
}

impl Verdict {
    /// The verdict if no earlier outcome of the request can be determined.
    #[must_use]
    pub fn undetermined(is_late: bool) -> Self {
        if is_late { Self::TooLate } else { Self::Unknown }
    }
}

/// The result of a commit for the records of one piece.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PieceOutcome {
    /// Offset of the first record that was kept; `None` if none was stored. The other kept records follow
    /// without holes.
    pub base: Option<Offset>,
    /// Positions in the piece, ascending, of records whose dedup id was stored before.
    pub dropped: Vec<i32>,
}

/// The stored answer of a request, which its retries get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub context: Bytes,
    pub pieces: Vec<PieceOutcome>,
}

/// Asks for the batches of a partition from an offset on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FindRequest {
    pub scope: Scope,
    pub partition: PartitionId,
    pub offset: Offset,
    /// Only batches that begin below this offset are returned.
    pub end: Option<Offset>,
    /// Maximum length before compression. At least one batch is returned if there is one.
    pub max_bytes: i64,
}

/// Batches of a partition.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub log_start_offset: Offset,
    pub high_watermark: Offset,
    /// Time of the answer by the clock of the control plane, which also gave the batches their commit times.
    pub now_ms: i64,
    /// By offset. The first one holds the requested offset, if that is below the high watermark and not below
    /// the log start offset.
    pub batches: Vec<Batch>,
}

/// A batch: one row of the index of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    pub base: Offset,
    /// Number of records that were kept. The batch ends at `base + records`, exclusive.
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
    /// Positions of the encoded records that have no offset, ascending and disjoint.
    pub skip: Vec<Range<i32>>,
}

impl Batch {
    /// Offset after the last record.
    #[must_use]
    pub fn end(&self) -> Offset {
        Offset(self.base.0 + i64::from(self.records))
    }
}

/// Byte range of an inline payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadRange {
    pub part: PartId,
    pub byte_offset: i32,
    pub byte_length: i32,
}
