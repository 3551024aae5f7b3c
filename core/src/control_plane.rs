//! The seam between agents and the one arbiter: offsets, keys, batches, parts, jobs.
//!
//! Contract of every mutation: it carries its own identity and may be sent twice; the second time changes
//! nothing. Failures are told apart as [`Error`] says. Implementations: `PostgresControlPlane` and
//! [`crate::MemoryControlPlane`]; both pass one conformance suite.

use crate::error::Error;
use crate::group::{
    DeleteGroupRejected, GenerationMoved, GroupState, NoSuchGroup, OffsetCommit, OffsetsRejected, Progress,
    Regroup, RenewRejected, Renewed, ResetRejected,
};
use crate::id::{AgentId, Generation, GroupId, MemberId, Offset, PartId, PartitionId, RequestId, TopicId};
use crate::name::Name;
use crate::queue::Ack;
use crate::queue::plane::QueuePlane;
use crate::topic::{NoSuchTopic, PartitionStatus, PutTopicRejected, Topic, TopicChange};
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;
use uuid::Uuid;

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
    /// Records of queues of this tenant, acked with the commit: all of them, or nothing happens.
    pub acks: Option<(Name, Vec<Ack>)>,
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
    /// A partition is gone: the topic was deleted.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FindRequest {
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

/// An agent's sign of life, which also takes over the background jobs that are due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// Undrained inline payload of the cluster.
    pub inline_live_bytes: i64,
    pub drain: bool,
    pub sweep: bool,
    pub retain: bool,
    /// Leases wait to be ended whose queue no agent serves.
    pub expire: bool,
}

/// An inline batch that is due to be moved into a segment.
#[derive(Clone, Debug, PartialEq)]
pub struct DrainBatch {
    pub topic: TopicLabel,
    pub partition_id: PartitionId,
    pub batch: Batch,
    /// Latest expiry, as in [`Run`].
    pub expires_at_ms: Option<i64>,
    /// The batch's byte range of its payload.
    pub bytes: Bytes,
}

/// What a segment's footer says of a batch's home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicLabel {
    pub tenant: Name,
    pub topic: Name,
    pub topic_id: TopicId,
    pub partition: i32,
}

/// Replaces batches by others of the same offsets, in one step, or not at all if an input has changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Swap {
    pub segment: PartId,
    pub bytes: i64,
    pub crc: i32,
    pub inputs: Vec<SwapInput>,
    /// Their `part` is `segment`, and their `skip` is empty: a rewrite leaves behind what commits had passed
    /// over.
    pub outputs: Vec<SwapOutput>,
    /// Inline payloads that hold none but these inputs.
    pub drained: Vec<PartId>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SwapInput {
    pub partition: PartitionId,
    pub base: Offset,
    pub records: i32,
    pub part: PartId,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SwapOutput {
    pub partition: PartitionId,
    pub expires_at_ms: Option<i64>,
    pub batch: Batch,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("an input batch changed or the segment is no longer pending")]
pub struct SwapRejected;

#[async_trait]
pub trait ControlPlane: QueuePlane {
    /// Makes the topic or changes it; `bool` says that it was made. Partitions only grow.
    async fn put_topic(
        &self,
        tenant: &Name,
        name: &Name,
        change: &TopicChange,
        default_partitions: i32,
    ) -> Result<(Topic, bool), Error<PutTopicRejected>>;
    async fn topic(&self, tenant: &Name, name: &Name) -> Result<Topic, Error<NoSuchTopic>>;
    /// All topics of the tenant by name.
    async fn topics(&self, tenant: &Name) -> Result<Vec<Topic>, Error>;
    /// By partition number; empty when the topic is gone.
    async fn partitions(&self, topic: TopicId) -> Result<Vec<PartitionStatus>, Error>;
    /// `false`: there was none. Its partitions take no commit and answer no find from then on.
    async fn delete_topic(&self, tenant: &Name, name: &Name) -> Result<bool, Error>;

    /// Makes ids known before anything is uploaded under them, so that an orphan is found by a query.
    async fn register_parts(&self, agent: AgentId, ids: &[PartId]) -> Result<(), Error>;
    async fn commit(&self, commit: &Commit) -> Result<Committed, Error>;
    /// Where the first record of each dedup id of a topic lies; `None` when the id is unknown or past its
    /// window.
    async fn dedup_offsets(
        &self,
        topic: TopicId,
        id_hashes: &[Uuid],
    ) -> Result<Vec<Option<(i32, Offset)>>, Error>;

    /// Plans reads; one answer per request, `None` for a partition that is gone.
    async fn find(&self, requests: &[FindRequest]) -> Result<Vec<Option<Found>>, Error>;
    /// Bytes of inline payloads, in the order asked; `None` where the payload is gone.
    async fn payloads(&self, ranges: &[PayloadRange]) -> Result<Vec<Option<Bytes>>, Error>;
    /// High watermarks of those partitions that are alive.
    async fn high_watermarks(&self, partitions: &[PartitionId]) -> Result<Vec<(PartitionId, Offset)>, Error>;
    /// For each partition of the topic the first offset of a batch that holds a record at or after the
    /// timestamp, else the high watermark; exact up to the batch, the reader looks into it.
    async fn offsets_at(
        &self,
        topic: TopicId,
        timestamp_ms: i64,
    ) -> Result<Vec<(i32, PartitionId, Offset)>, Error>;

    /// The group, with the topics that its members subscribe to and those named in `also`. Written to by
    /// [`Self::regroup`] only.
    async fn group(
        &self,
        tenant: &Name,
        name: &Name,
        also: &[Name],
    ) -> Result<GroupState, Error<NoSuchGroup>>;
    /// Makes a group without members, if there is none of the name.
    async fn make_group(&self, tenant: &Name, name: &Name) -> Result<(), Error>;
    /// All groups of the tenant by name.
    async fn groups(&self, tenant: &Name) -> Result<Vec<Name>, Error>;
    /// Partitions that are assigned or committed and alive, by topic name and number.
    async fn progress(&self, group: GroupId) -> Result<Vec<Progress>, Error>;
    /// Answers the generation that it made. Who loses to another reads the group again; so does who sends a
    /// change twice.
    async fn regroup(&self, change: &Regroup) -> Result<Generation, Error<GenerationMoved>>;
    /// A member's sign of life, noted if the last one is older than a part of the session.
    async fn renew(
        &self,
        tenant: &Name,
        group: &Name,
        member: MemberId,
    ) -> Result<Renewed, Error<RenewRejected>>;
    /// Generation of each group that is there, and whether a new one is due; cheap, for those who wait.
    async fn generations(&self, groups: &[GroupId]) -> Result<Vec<(GroupId, Generation, bool)>, Error>;
    /// What is committed then, by partition: the greater of what was and what comes. All or nothing.
    async fn commit_offsets(
        &self,
        commit: &OffsetCommit,
    ) -> Result<Vec<(PartitionId, Offset)>, Error<OffsetsRejected>>;
    /// Sets offsets, also backwards, by partition, each once; in a group without living members, which is
    /// made if there is none.
    async fn reset_offsets(
        &self,
        tenant: &Name,
        group: &Name,
        offsets: &[(PartitionId, Offset)],
    ) -> Result<(), Error<ResetRejected>>;
    async fn delete_group(&self, tenant: &Name, group: &Name) -> Result<(), Error<DeleteGroupRejected>>;

    async fn beat(&self, agent: AgentId) -> Result<Beat, Error>;
    /// Oldest inline batches that are due, whole payloads, within `max_bytes` but one at least; by partition
    /// and offset.
    async fn drain_plan(&self, max_bytes: i64) -> Result<Vec<DrainBatch>, Error>;
    async fn swap(&self, swap: &Swap) -> Result<(), Error<SwapRejected>>;
    /// Unlinks batches that retention or the end of their topic lets go, at most `limit`; returns how many.
    /// By size the oldest of a topic go, and what stays is never less than the limit.
    async fn retain(&self, limit: i64) -> Result<i64, Error>;
    /// Forgets expired keys, answers, dedup ids, drained payloads and members long dead, at most `limit` rows
    /// of each; returns how many.
    async fn forget(&self, limit: i64) -> Result<i64, Error>;
    /// Segments whose object is to be deleted now.
    async fn sweep_plan(&self, limit: i64) -> Result<Vec<PartId>, Error>;
    /// Says that those objects were deleted.
    async fn swept(&self, parts: &[PartId]) -> Result<(), Error>;
    /// Answers if the control plane can be reached.
    async fn ping(&self) -> Result<(), Error>;
}
