//! Queues: made, leased, settled, looked at.

use crate::error::Error;
use crate::id::{Offset, PartitionId, QueueId};
use crate::name::Name;
use crate::queue::{
    Admit, DeadFilter, DeadRejected, Grant, Granted, Ledger, Listed, Listing, NoSuchQueue, PutQueueRejected,
    Queue, QueueChange, QueueCounts, Settle, Settled,
};
use crate::scope::Scope;
use async_trait::async_trait;

#[async_trait]
pub trait Queues: Send + Sync + 'static {
    /// Makes the queue or changes it; `bool` says that it was made.
    async fn put_queue(
        &self,
        scope: &Scope,
        name: &Name,
        change: &QueueChange,
    ) -> Result<(Queue, bool), Error<PutQueueRejected>>;
    async fn queue(&self, scope: &Scope, name: &Name) -> Result<Queue, Error<NoSuchQueue>>;
    /// All queues of the tenant by name.
    async fn queues(&self, scope: &Scope) -> Result<Vec<Queue>, Error>;
    /// `false`: there was none. All receipts are lost from then on.
    async fn delete_queue(&self, scope: &Scope, name: &Name) -> Result<bool, Error>;
    /// A paused queue grants nothing; leases go on, and are settled and end as always.
    async fn pause_queue(
        &self,
        scope: &Scope,
        queue: QueueId,
        paused: bool,
    ) -> Result<(), Error<NoSuchQueue>>;

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

    async fn queue_counts(&self, scope: &Scope, queue: QueueId) -> Result<QueueCounts, Error<NoSuchQueue>>;
    /// For tests and checks.
    async fn ledger(&self, scope: &Scope, queue: QueueId) -> Result<Ledger, Error<NoSuchQueue>>;
    /// Cursor of each partition, by partition.
    async fn cursors(
        &self,
        scope: &Scope,
        queue: QueueId,
    ) -> Result<Vec<(PartitionId, Offset)>, Error<NoSuchQueue>>;
    /// A page by partition and offset, from after a place on.
    async fn list_queue(
        &self,
        scope: &Scope,
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
        scope: &Scope,
        queue: QueueId,
        filter: &DeadFilter,
        max_rate: Option<f64>,
    ) -> Result<i64, Error<DeadRejected>>;
    /// Forgets dead records.
    async fn purge_dead(
        &self,
        scope: &Scope,
        queue: QueueId,
        filter: &DeadFilter,
    ) -> Result<i64, Error<DeadRejected>>;
    /// Sets cursors, each partition once, within the log as it is; leases, waiting runs and admitted records
    /// of these partitions end, and dead ones from the new cursor on. Answers where these cursors stand, by
    /// partition, and how many records that were still to be done before it now passes over.
    async fn seek(
        &self,
        scope: &Scope,
        queue: QueueId,
        to: &[(PartitionId, Offset)],
    ) -> Result<(Vec<(PartitionId, Offset)>, i64), Error<NoSuchQueue>>;
}
