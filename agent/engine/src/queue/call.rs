//! A lease call that waits for its answer.

use super::{LeaseRequest, Leased, QueueError};
use millpond_core::LeaseId;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long a call may go on after its deadline if it was granted only records that could not be delivered,
/// or while records are being admitted.
pub const GRACE_AFTER_DEADLINE: Duration = Duration::from_secs(1);

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

impl LeaseCall {
    /// When the call came.
    #[must_use]
    pub fn began_at(&self) -> Instant {
        self.deadline - self.request.wait
    }

    /// When it is answered, also if there is nothing.
    #[must_use]
    pub fn ends_at(&self) -> Instant {
        if self.is_retry { self.deadline + GRACE_AFTER_DEADLINE } else { self.deadline }
    }
}
