//! A look at a queue that changes nothing.

use crate::id::{LeaseId, QueueId};
use crate::scope::Scope;

/// Asks what a queue has to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlookRequest {
    pub scope: Scope,
    pub queue: QueueId,
    /// Leases that calls name. If one of them is alive, the queue is ready.
    pub leases: Vec<LeaseId>,
}

/// What a queue has to give, seen without changing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlook {
    pub queue: QueueId,
    /// Another one after each change of the queue's configuration.
    pub version: i64,
    /// Time of the look, by the clock of the control plane.
    pub at_ms: i64,
    /// A grant may give out records, or find some to admit or a lease that is alive. If false, it would do
    /// none of this.
    pub ready: bool,
    pub paused: bool,
    /// Earliest due time of the waiting and admitted records that are not due yet, as in
    /// [`Granted::next_due_ms`].
    pub next_due_ms: Option<i64>,
}
