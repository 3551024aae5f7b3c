//! A lease call on its way to its answer.

use super::{LeaseRequest, Leased, QueueError};
use millpond_core::LeaseId;
use tokio::sync::oneshot;
use tokio::time::Instant;

pub type Answer = Result<Leased, QueueError>;

#[derive(Debug)]
pub struct LeaseCall {
    pub lease: LeaseId,
    pub request: LeaseRequest,
    pub lease_ms: i64,
    pub deadline: Instant,
    pub answer: oneshot::Sender<Answer>,
    /// It was given records before, none of which could be handed on.
    pub returned: bool,
}
