//! A lease call that waits for its answer.

use super::{LeaseRequest, Leased, QueueError};
use millpond_core::LeaseId;
use tokio::sync::oneshot;
use tokio::time::Instant;

pub type Answer = Result<Leased, QueueError>;

/// A lease call on its way through granter and fill.
#[derive(Debug)]
pub struct LeaseCall {
    /// Id of the lease that it will get.
    pub lease: LeaseId,
    pub request: LeaseRequest,
    pub lease_ms: i64,
    /// End of its wait.
    pub deadline: Instant,
    pub answer: oneshot::Sender<Answer>,
    /// Whether it was granted records before, none of which could be delivered.
    pub is_retry: bool,
}
