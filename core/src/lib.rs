//! The domain model of Millpond: names and ids, decisions as pure functions, the traits of the control plane,
//! and an in-memory control plane that is their executable specification.
//!
//! Owns: names, ids, offsets, limits, time, partitioning, offset assignment, consumer group assignment,
//! [`ControlPlane`], [`MemoryControlPlane`]. Must not: do I/O, read the system clock outside [`SystemClock`],
//! or know HTTP, SQL or object stores.

pub mod assign;
pub mod clock;
pub mod control_plane;
pub mod error;
pub mod group;
pub mod id;
pub mod limits;
pub mod memory;
pub mod name;
pub mod number;
pub mod page;
pub mod partition;
pub mod queue;
pub mod retry;
pub mod scope;
pub mod topic;

pub use clock::{Clock, RandomSource, SystemClock};
pub use control_plane::ControlPlane;
pub use error::{Error, Source};
pub use id::{
    AgentId, Generation, GroupId, LeaseId, MemberId, Offset, PartId, PartitionId, QueueId, RequestId, TopicId,
};
pub use memory::MemoryControlPlane;
pub use name::{Name, NameError};
pub use number::saturated;
pub use page::{Page, PageRequest};
pub use scope::Scope;
pub use topic::{Placement, Topic, TopicChange, TopicConfig};
