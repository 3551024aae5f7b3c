//! Background work of agents: heartbeats, the drain, retention, the sweep.

use super::log::Batch;
use crate::error::Error;
use crate::id::{AgentId, Offset, PartId, PartitionId, TopicId};
use crate::name::Name;
use async_trait::async_trait;
use bytes::Bytes;

/// Work on the cluster as a whole, which therefore takes no scope.
#[async_trait]
pub trait Jobs: Send + Sync + 'static {
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
    /// Ends leases whose deadline is past, at most `limit` parts, oldest first; answers how many, those of
    /// queues that are gone among them. A run of length `n` comes back as runs of `ceil(n / 2)`, of one
    /// when the next failure is the last, due by the retry policy; or dead, with the reason `lease expired`.
    async fn expire(&self, limit: i64, dice: f64) -> Result<i64, Error>;
    /// Lets cursors of queues pass what retention has unlinked, counted as expired; answers how many records.
    async fn clamp(&self) -> Result<i64, Error>;
    /// Answers if the control plane can be reached.
    async fn ping(&self) -> Result<(), Error>;
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
    /// Latest expiry, as in [`Run`](super::Run).
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
