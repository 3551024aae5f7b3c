//! The control plane's part for queues; the rules of [`crate::control_plane`] hold here too.

use super::{
    Admit, DeadFilter, DeadRejected, Grant, Granted, Ledger, Listed, Listing, NoSuchQueue, PutQueueRejected,
    Queue, QueueChange, QueueCounts, Settle, Settled,
};
use crate::error::Error;
use crate::id::{Offset, PartitionId, QueueId};
use crate::name::Name;
use async_trait::async_trait;

#[async_trait]
pub trait QueuePlane: Send + Sync + 'static {
    /// Makes the queue or changes it; `bool` says that it was made.
    async fn put_queue(
        &self,
        tenant: &Name,
        name: &Name,
        change: &QueueChange,
    ) -> Result<(Queue, bool), Error<PutQueueRejected>>;
    async fn queue(&self, tenant: &Name, name: &Name) -> Result<Queue, Error<NoSuchQueue>>;
    /// All queues of the tenant by name.
    async fn queues(&self, tenant: &Name) -> Result<Vec<Queue>, Error>;
    /// `false`: there was none. All receipts are lost from then on.
    async fn delete_queue(&self, tenant: &Name, name: &Name) -> Result<bool, Error>;
    /// A paused queue grants nothing; leases go on, and are settled and end as always.
    async fn pause_queue(&self, queue: QueueId, paused: bool) -> Result<(), Error<NoSuchQueue>>;

    /// Gives out records. A want whose lease is alive is answered what is left of it and takes no part in the
    /// rest, which is, in this order:
    ///
    /// 1. `allowed`: 0 if paused, else the least of the bucket's whole tokens and `max_in_flight − in
    ///    flight`.
    /// 2. Runs whose lease expired, due, by due time, partition, offset: each alone to one caller (the first
    ///    of the wants get them), cut to what it wants; to at most `floor(callers / 2 + dice)` callers, or to
    ///    all if there is neither fresh work nor any other due run.
    /// 3. The other wants form a line, `need` records long. Due runs, by due time, partition, offset, fill at
    ///    most `max(floor(need / 2 + dice), need − fresh)` of it, the last run cut.
    /// 4. Fresh records fill the rest: shared queues by partition from [`Grant::from`] on, up to the first
    ///    batch that has to be admitted; keyed queues the lowest admitted record of each key that is free and
    ///    due, by partition and key from ([`Grant::from`], [`Grant::from_key`]) on.
    ///
    /// What is cut off a waiting run stays as it was. Parts are the records of a lease by partition, attempt
    /// and failures, in the order in which they come.
    async fn grant(&self, grant: &Grant) -> Result<Granted, Error<NoSuchQueue>>;
    /// Whether it was applied: the cursor stood at `from`.
    async fn admit(&self, admit: &Admit) -> Result<bool, Error<NoSuchQueue>>;
    /// Settles what the leases still hold; a deadline that is past does not matter as long as nobody has
    /// ended the lease. A queue that is gone holds none.
    async fn settle(&self, settle: &Settle) -> Result<Settled, Error>;
    /// Ends leases whose deadline is past, at most `limit` parts, oldest first; answers how many, those of
    /// queues that are gone among them. A run of length `n` comes back as runs of `ceil(n / 2)`, of one
    /// when the next failure is the last, due by the retry policy; or dead, with the reason `lease expired`.
    async fn expire(&self, limit: i64, dice: f64) -> Result<i64, Error>;
    /// Lets cursors pass what retention has unlinked, counted as expired; answers how many records.
    async fn clamp(&self) -> Result<i64, Error>;

    async fn queue_counts(&self, queue: QueueId) -> Result<QueueCounts, Error<NoSuchQueue>>;
    /// For tests and checks.
    async fn ledger(&self, queue: QueueId) -> Result<Ledger, Error<NoSuchQueue>>;
    /// Cursor of each partition, by partition.
    async fn cursors(&self, queue: QueueId) -> Result<Vec<(PartitionId, Offset)>, Error<NoSuchQueue>>;
    /// A page by partition and offset, from after a place on.
    async fn list_queue(
        &self,
        queue: QueueId,
        listing: Listing,
        after: Option<(PartitionId, Offset)>,
        limit: i64,
    ) -> Result<Vec<Listed>, Error<NoSuchQueue>>;

    /// Gives dead records back to their queue with failures 0 and without reason, at a rate (records a
    /// second) one after the other, by partition and offset; those that retention has let go stay dead.
    /// Answers how many. With offsets: all or nothing.
    async fn redrive(
        &self,
        queue: QueueId,
        filter: &DeadFilter,
        max_rate: Option<f64>,
    ) -> Result<i64, Error<DeadRejected>>;
    /// Forgets dead records.
    async fn purge_dead(&self, queue: QueueId, filter: &DeadFilter) -> Result<i64, Error<DeadRejected>>;
    /// Sets cursors, each partition once, within the log as it is; leases, waiting runs and admitted records
    /// of these partitions end, and dead ones from the new cursor on. Answers where these cursors stand, by
    /// partition, and how many records that were still to be done before it now passes over.
    async fn seek(
        &self,
        queue: QueueId,
        to: &[(PartitionId, Offset)],
    ) -> Result<(Vec<(PartitionId, Offset)>, i64), Error<NoSuchQueue>>;
}

/// Hands the signatures of [`QueuePlane`] to another macro, for wrappers that treat all calls alike:
/// `name(argument: type => how to own it, …) -> answer;`. The types have to be in scope where it is used.
#[macro_export]
macro_rules! queue_plane_calls {
    ($callback:ident) => {
        $callback! {
            put_queue(tenant: &Name => to_owned, name: &Name => to_owned, change: &QueueChange => to_owned)
                -> Result<(Queue, bool), Error<PutQueueRejected>>;
            queue(tenant: &Name => to_owned, name: &Name => to_owned) -> Result<Queue, Error<NoSuchQueue>>;
            queues(tenant: &Name => to_owned) -> Result<Vec<Queue>, Error>;
            delete_queue(tenant: &Name => to_owned, name: &Name => to_owned) -> Result<bool, Error>;
            pause_queue(queue: QueueId => clone, paused: bool => clone) -> Result<(), Error<NoSuchQueue>>;
            grant(grant: &Grant => to_owned) -> Result<Granted, Error<NoSuchQueue>>;
            admit(admit: &Admit => to_owned) -> Result<bool, Error<NoSuchQueue>>;
            settle(settle: &Settle => to_owned) -> Result<Settled, Error>;
            expire(limit: i64 => clone, dice: f64 => clone) -> Result<i64, Error>;
            clamp() -> Result<i64, Error>;
            queue_counts(queue: QueueId => clone) -> Result<QueueCounts, Error<NoSuchQueue>>;
            ledger(queue: QueueId => clone) -> Result<Ledger, Error<NoSuchQueue>>;
            cursors(queue: QueueId => clone) -> Result<Vec<(PartitionId, Offset)>, Error<NoSuchQueue>>;
            list_queue(
                queue: QueueId => clone,
                listing: Listing => clone,
                after: Option<(PartitionId, Offset)> => clone,
                limit: i64 => clone
            ) -> Result<Vec<Listed>, Error<NoSuchQueue>>;
            redrive(queue: QueueId => clone, filter: &DeadFilter => to_owned, max_rate: Option<f64> => clone)
                -> Result<i64, Error<DeadRejected>>;
            purge_dead(queue: QueueId => clone, filter: &DeadFilter => to_owned)
                -> Result<i64, Error<DeadRejected>>;
            seek(queue: QueueId => clone, to: &[(PartitionId, Offset)] => to_vec)
                -> Result<(Vec<(PartitionId, Offset)>, i64), Error<NoSuchQueue>>;
        }
    };
}
