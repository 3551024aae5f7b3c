//! The control plane as agents see it: traits for offsets, keys, batches, parts, groups, queues and
//! background jobs. The control plane alone decides on their order.
//!
//! Contract of every mutation: it carries its own identity and may be sent twice; the second time changes
//! nothing. Failures are distinguished as in [`Error`](crate::Error).
//!
//! Contract of every scope: an id of another tenant is treated as if it did not exist, and nothing of that
//! tenant changes. Calls that combine several callers carry a scope per item. [`Jobs`], [`Cluster`] and
//! parts, which hold records of several tenants, have none.
//!
//! Implementations: `PostgresControlPlane` and [`crate::MemoryControlPlane`], which both pass one conformance
//! suite. [`around::Around`] wraps any of them to run code around every call.

pub mod around;
mod cluster;
mod groups;
mod jobs;
mod log;
mod queues;
mod topics;

pub use cluster::{Cluster, DeletionsRejected, Identity};
pub use groups::Groups;
pub use jobs::{
    Beat, DrainBatch, Job, Jobs, RetainPlan, RowKind, Swap, SwapInput, SwapOutput, SwapRejected, TopicLabel,
    Unlink,
};
pub use log::{
    Answer, Batch, BatchFlags, Commit, Committed, Dedup, FindRequest, Found, Guard, Log, Part, PartBody,
    PayloadRange, Piece, PieceOutcome, Request, RequestKey, Run, Snapshot, Verdict,
};
pub use queues::Queues;
pub use topics::Topics;

/// All calls that agents make to the control plane.
pub trait ControlPlane: Topics + Log + Groups + Queues + Jobs + Cluster {}

impl<T: Topics + Log + Groups + Queues + Jobs + Cluster> ControlPlane for T {}
