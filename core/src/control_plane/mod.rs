//! The seam between agents and the one arbiter: offsets, keys, batches, parts, jobs.
//!
//! Contract of every mutation: it carries its own identity and may be sent twice; the second time changes
//! nothing. Failures are told apart as [`Error`](crate::Error) says.
//!
//! Contract of every scope: an id of another tenant is answered as if it did not exist, and nothing of that
//! tenant changes. Calls that fold those of several callers carry a scope per item; [`Jobs`] and parts, which
//! hold records of several tenants, have none.
//!
//! Implementations: `PostgresControlPlane` and [`crate::MemoryControlPlane`]; both pass one conformance
//! suite. What is done around every call of another control plane is an [`around::Around`].

pub mod around;
mod groups;
mod jobs;
mod log;
mod queues;
mod topics;

pub use groups::Groups;
pub use jobs::{Beat, DrainBatch, Jobs, Swap, SwapInput, SwapOutput, SwapRejected, TopicLabel};
pub use log::{
    Answer, Batch, BatchFlags, Commit, Committed, Dedup, FindRequest, Found, Guard, Log, Part, PartBody,
    PayloadRange, Piece, PieceOutcome, Request, RequestKey, Run, Verdict,
};
pub use queues::Queues;
pub use topics::Topics;

/// Everything that agents ask of the control plane.
pub trait ControlPlane: Topics + Log + Groups + Queues + Jobs {}

impl<T: Topics + Log + Groups + Queues + Jobs> ControlPlane for T {}
