//! Control plane calls for the background jobs of agents: heartbeats, drain, retention, sweep, expiry of
//! leases.

use super::log::Batch;
use crate::error::Error;
use crate::id::{AgentId, Offset, PartId, PartitionId, TopicId};
use crate::name::Name;
use async_trait::async_trait;
use bytes::Bytes;

/// Work on the whole cluster. Its calls therefore take no scope.
#[async_trait]
pub trait Jobs: Send + Sync + 'static {
    /// Heartbeat of an agent.
    async fn beat(&self, agent: AgentId) -> Result<Beat, Error>;
    /// The oldest inline batches to be moved into a segment: all batches of whole payloads, up to
    /// `max_bytes`, but at least one payload; by partition and offset.
    async fn drain_plan(&self, max_bytes: i64) -> Result<Vec<DrainBatch>, Error>;
    /// Replaces batches by others.
    async fn swap(&self, swap: &Swap) -> Result<(), Error<SwapRejected>>;
    /// Unlinks at most `limit` batches that exceed the age or size limit of their topic, or whose topic was
    /// deleted. Returns how many. By size, the oldest batches of a topic go first, and no more of them than
    /// the size limit requires.
    async fn retain(&self, limit: i64) -> Result<i64, Error>;
    /// Deletes expired keys, answers, dedup ids, drained payloads and long-expired group members, at most
    /// `limit` rows of each kind. Returns how many.
    async fn forget(&self, limit: i64) -> Result<i64, Error>;
    /// At most `limit` segments whose objects are to be deleted now.
    async fn sweep_plan(&self, limit: i64) -> Result<Vec<PartId>, Error>;
    /// Confirms that the objects of these segments were deleted.
    async fn swept(&self, parts: &[PartId]) -> Result<(), Error>;
    /// Ends at most `limit` lease parts whose deadline has passed, oldest first, also of deleted queues.
    /// Returns how many. A run of `n` records comes back, due by the retry policy, as runs of `ceil(n / 2)`,
    /// or of one record if the next failure is the last. A run with too many failures is dead, with the
    /// reason `lease expired`.
    async fn expire(&self, limit: i64, random: f64) -> Result<i64, Error>;
    /// Moves the cursors of queues past records that retention has unlinked, and counts those as expired.
    /// Returns their number.
    async fn clamp(&self) -> Result<i64, Error>;
    /// Checks that the control plane can be reached.
    async fn ping(&self) -> Result<(), Error>;
}

/// Answer to the heartbeat of an agent: the background jobs that are due and that this agent takes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// Inline payload of the cluster that is not drained yet.
    pub inline_live_bytes: i64,
    pub drain: bool,
    pub sweep: bool,
    pub retain: bool,
    /// There are leases to be ended of queues that no agent serves.
    pub expire: bool,
}

/// An inline batch that is to be moved into a segment.
#[derive(Clone, Debug, PartialEq)]
pub struct DrainBatch {
    pub topic: TopicLabel,
    pub partition_id: PartitionId,
    pub batch: Batch,
    /// Latest expiry of its records, as in [`Run`](super::Run).
    pub expires_at_ms: Option<i64>,
    /// The bytes of the batch in its payload.
    pub bytes: Bytes,
}

/// Topic and partition of a batch, as the footer of a segment states them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicLabel {
    pub tenant: Name,
    pub topic: Name,
    pub topic_id: TopicId,
    pub partition: i32,
}

/// A change that replaces batches by others that hold the same offsets: in one step, or not at all if an
/// input has changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Swap {
    pub segment: PartId,
    /// Size of the segment.
    pub bytes: i64,
    /// CRC-32C of the segment.
    pub crc: i32,
    pub inputs: Vec<SwapInput>,
    /// The new batches. Their `part` is `segment`, and their `skip` is empty, since rewriting leaves out the
    /// records that commits had skipped.
    pub outputs: Vec<SwapOutput>,
    /// Inline payloads that hold only these inputs.
    pub drained: Vec<PartId>,
}

/// A batch to be replaced, as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct SwapInput {
    pub partition: PartitionId,
    pub base: Offset,
    pub records: i32,
    pub part: PartId,
}

/// A new batch.
#[derive(Clone, Debug, PartialEq)]
pub struct SwapOutput {
    pub partition: PartitionId,
    pub expires_at_ms: Option<i64>,
    pub batch: Batch,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("an input batch changed or the segment is no longer pending")]
pub struct SwapRejected;
