//! From parsed records to an answer: `append → batcher → encode → place → commit`.

pub mod append;
pub mod batcher;
pub mod committer;
pub mod flush;
pub mod parts;
pub mod writer;

use millpond_core::Offset;
use millpond_core::group::OffsetsRejected;

/// Why an append stored nothing, or why its outcome is unknown to us.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error("a partition is gone: the topic was deleted")]
    PartitionGone,
    #[error("the idempotency key was used before with another request")]
    Conflict,
    #[error("the high watermark is {current}")]
    OffsetMismatch { current: Offset },
    #[error("the group offsets were refused")]
    OffsetsRejected(#[source] OffsetsRejected),
    #[error("{} of the acks name records that their leases no longer hold", .0.len())]
    LeaseLost(Vec<usize>),
    #[error("the agent has no memory left for more records")]
    Throttled,
    #[error("the control plane does not answer; whether the records were stored is unknown")]
    ControlPlane,
    #[error("the object store does not take the records; nothing was stored")]
    ObjectStore,
    #[error("the agent is shutting down")]
    ShuttingDown,
}
