//! Control plane calls for the background jobs of agents: heartbeats, drain, retention, sweep, expiry of
//! leases.

use super::log::Batch;
use crate::error::Error;
use crate::id::{AgentId, Offset, PartId, PartitionId, TopicId};
use crate::limits;
use crate::name::Name;
use async_trait::async_trait;
use bytes::Bytes;

/// Work on the whole cluster. Its calls therefore take no scope.
#[async_trait]
pub trait Jobs: Send + Sync + 'static {
    /// Heartbeat of an agent. Jobs named in `busy` stay with the agent, unless another has taken them over.
    async fn beat(&self, agent: AgentId, busy: &[Job]) -> Result<Beat, Error>;
    /// The oldest inline batches to be moved into a segment: all batches of whole payloads, up to
    /// `max_bytes`, but at least one payload; by partition and offset. What exceeds
    /// [`DRAIN_PLAN_MAX_BATCHES`](crate::limits::DRAIN_PLAN_MAX_BATCHES) is cut off. Only payloads
    /// of a `slice`, in which only spans of time are drained that are over; or any payload.
    async fn drain_plan(&self, slice: Option<u8>, max_bytes: i64) -> Result<Vec<DrainBatch>, Error>;
    /// Sets payloads aside that cannot be read: no drain plan has them again, and they are never deleted.
    async fn set_aside(&self, payloads: &[PartId]) -> Result<(), Error>;
    /// Marks those of these payloads that hold no batch any more as drained.
    async fn mark_drained(&self, payloads: &[PartId]) -> Result<(), Error>;
    /// Replaces batches by others.
    async fn swap(&self, swap: &Swap) -> Result<(), Error<SwapRejected>>;
    /// Finds batches that exceed the age or size limit of their topic, or whose topic was deleted. By size,
    /// the oldest batches of a topic go first, and no more of them than the size limit requires. A run of
    /// retention calls this until `more` is false, with `begun` of the first answer in all calls but the
    /// first.
    async fn retain_plan(&self, begun: Option<i64>) -> Result<RetainPlan, Error>;
    /// Unlinks at most `limit` batches of a plan. Returns how many; less than `limit` means that nothing is
    /// left.
    async fn unlink(&self, plan: &[Unlink], limit: i64) -> Result<i64, Error>;
    /// Deletes at most `limit` rows of a kind that are not needed any more, the oldest first. Returns how
    /// many; less than `limit` means that few or none are left.
    async fn forget_rows(&self, kind: RowKind, limit: i64) -> Result<i64, Error>;
    /// At most `limit` segments whose objects are to be deleted now.
    async fn sweep_plan(&self, limit: i64) -> Result<Vec<PartId>, Error>;
    /// Confirms that the objects of these segments were deleted.
    async fn swept(&self, parts: &[PartId]) -> Result<(), Error>;
    /// Notes that the objects of these segments could not be deleted. They are planned again later: after a
    /// minute, then after twice as long each time, up to 8 hours.
    async fn undeleted(&self, parts: &[PartId]) -> Result<(), Error>;
    /// Ends at most `limit` lease parts whose deadline has passed, oldest first, also of deleted queues.
    /// Returns how many. A run of `n` records comes back, due by the retry policy, as runs of `ceil(n / 2)`,
    /// or of one record if the next failure is the last. A run with too many failures is dead, with the
    /// reason `lease expired`.
    async fn expire(&self, limit: i64, random: f64) -> Result<i64, Error>;
    /// Moves the cursors of queues past records that retention has unlinked in these partitions, or in any if
    /// there are none, and counts those as expired. Returns their number.
    async fn clamp(&self, partitions: &[PartitionId]) -> Result<i64, Error>;
    /// Checks that the control plane can be reached.
    async fn ping(&self) -> Result<(), Error>;

    /// Plans once and unlinks at most `limit` batches. Returns how many.
    async fn retain(&self, limit: i64) -> Result<i64, Error> {
        let (mut gone, mut begun) = (0, None);
        loop {
            let plan = self.retain_plan(begun).await?;
            for step in plan.unlink.chunks(limits::UNLINK_MAX_PARTITIONS) {
                if gone < limit {
                    gone += self.unlink(step, limit - gone).await?;
                }
            }
            if gone >= limit || !plan.more {
                return Ok(gone);
            }
            begun = Some(plan.begun);
        }
    }

    /// Deletes at most `limit` rows of each kind. Returns how many.
    async fn forget(&self, limit: i64) -> Result<i64, Error> {
        let mut rows = 0;
        for kind in RowKind::ALL {
            rows += self.forget_rows(kind, limit).await?;
        }
        Ok(rows)
    }
}

/// A background job, which one agent at a time has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Job {
    /// Drains a slice of the payloads.
    Drain(u8),
    Sweep,
    Retain,
    Clamp,
    Expire,
    Forget,
    Clean,
}

impl Job {
    pub const ALL: [Self; 10] = [
        Self::Drain(0),
        Self::Drain(1),
        Self::Drain(2),
        Self::Drain(3),
        Self::Sweep,
        Self::Retain,
        Self::Clamp,
        Self::Expire,
        Self::Forget,
        Self::Clean,
    ];

    /// Unique name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Drain(0) => "drain-0",
            Self::Drain(1) => "drain-1",
            Self::Drain(2) => "drain-2",
            Self::Drain(_) => "drain-3",
            other => other.kind(),
        }
    }

    /// Name without the slice.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Drain(_) => "drain",
            Self::Sweep => "sweep",
            Self::Retain => "retain",
            Self::Clamp => "clamp",
            Self::Expire => "expire",
            Self::Forget => "forget",
            Self::Clean => "clean",
        }
    }
}

/// Rows that are deleted when they are not needed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowKind {
    /// Expired idempotency keys.
    Keys,
    /// Expired answers of requests.
    Answers,
    /// Expired dedup ids.
    Dedup,
    /// Inline payloads that were drained.
    Payloads,
    /// Expired settlements with a request id.
    Operations,
    /// Partitions of deleted topics, and these topics.
    Topics,
    /// Rows of deleted queues.
    Queues,
    /// Group members whose session ended long ago.
    Members,
    /// Groups that have long been empty.
    Groups,
    /// Agents that have long been silent.
    Agents,
    /// Counts of such agents, which are added to the counts that belong to no agent.
    Counts,
}

impl RowKind {
    pub const ALL: [Self; 11] = [
        Self::Keys,
        Self::Answers,
        Self::Dedup,
        Self::Payloads,
        Self::Operations,
        Self::Topics,
        Self::Queues,
        Self::Members,
        Self::Groups,
        Self::Agents,
        Self::Counts,
    ];
    /// Kinds of which the heartbeat does not say whether there are any. They are rare.
    pub const RARE: [Self; 4] = [Self::Members, Self::Groups, Self::Agents, Self::Counts];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Answers => "answers",
            Self::Dedup => "dedup",
            Self::Payloads => "payloads",
            Self::Operations => "operations",
            Self::Topics => "topics",
            Self::Queues => "queues",
            Self::Members => "members",
            Self::Groups => "groups",
            Self::Agents => "agents",
            Self::Counts => "counts",
        }
    }
}

/// Answer to the heartbeat of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// Epoch of the cluster. An agent of an earlier one must end.
    pub epoch: i64,
    /// Inline payload of the cluster that is not drained yet.
    pub inline_live_bytes: i64,
    /// Inline payload that is set aside.
    pub set_aside_bytes: i64,
    /// Jobs that are due and that this agent takes over, and the busy ones that it keeps.
    pub jobs: Vec<Job>,
    /// What there is to delete for [`Job::Forget`].
    pub expired: Vec<RowKind>,
    /// Jobs with work that is due, in any agent's hands, and how long the oldest has been due, in
    /// milliseconds.
    pub late: Vec<(Job, i64)>,
}

impl Beat {
    /// Whether the agent has a job of this kind.
    #[must_use]
    pub fn has(&self, kind: &str) -> bool {
        self.jobs.iter().any(|job| job.kind() == kind)
    }
}

/// What retention may unlink now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetainPlan {
    /// By partition.
    pub unlink: Vec<Unlink>,
    /// Instant of the first call of the run, for the calls that follow; of the control plane's clock.
    pub begun: i64,
    /// Whether another call may find more.
    pub more: bool,
}

/// Unlinks those of a partition's batches that end at or below `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unlink {
    pub partition: PartitionId,
    pub until: Offset,
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
/// input has changed. Several swaps may go into one segment; its size and CRC are the same in all of them.
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
    /// Inline payloads that hold only these inputs, and those of earlier swaps.
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
