//! Control plane calls for queues: create, lease, settle, inspect.

use crate::error::Error;
use crate::id::{Offset, PartitionId, QueueId};
use crate::name::Name;
use crate::page::{Page, PageRequest};
use crate::queue::change::{DeadDone, DeadStep, SeekStep, SeekTo};
use crate::queue::{
    Admit, DeadFilter, DeadRejected, Grant, Granted, Ledger, Listed, Listing, NoSuchQueue, Outlook,
    OutlookRequest, PutQueueRejected, Queue, QueueChange, QueueCounts, Settle, Settled,
};
use crate::scope::Scope;
use async_trait::async_trait;

/// Queues of a tenant.
#[async_trait]
pub trait Queues: Send + Sync + 'static {
    /// Creates or changes a queue. The `bool` is true if the queue was created.
    async fn put_queue(
        &self,
        scope: &Scope,
        name: &Name,
        change: &QueueChange,
    ) -> Result<(Queue, bool), Error<PutQueueRejected>>;
    async fn queue(&self, scope: &Scope, name: &Name) -> Result<Queue, Error<NoSuchQueue>>;
    /// A page of the tenant's queues, by name. Its counts are estimated from fewer rows than those of
    /// [`Self::queue_counts`].
    async fn queues(&self, scope: &Scope, page: &PageRequest) -> Result<Page<(Queue, QueueCounts)>, Error>;
    /// Deletes a queue; `false` if there was none. From then on, all its receipts are lost.
    async fn delete_queue(&self, scope: &Scope, name: &Name) -> Result<bool, Error>;
    /// Pauses or resumes a queue. A paused queue grants nothing; existing leases can be settled, and expire,
    /// as always.
    async fn pause_queue(
        &self,
        scope: &Scope,
        queue: QueueId,
        paused: bool,
    ) -> Result<(), Error<NoSuchQueue>>;

    /// Gives out records to lease calls. A call whose lease is already alive gets the records left in the
    /// lease, and takes no part in the following steps:
    ///
    /// 1. `allowed`: 0 if the queue is paused, else the smaller of the whole tokens in the rate bucket and
    ///    `max_in_flight − in flight`.
    /// 2. Due runs whose lease expired, by due time, partition and offset: each goes to one caller that gets
    ///    nothing else, cut to what the caller wants. The first callers get them: at
    ///    most `floor(callers / 2 + random)` callers, or all if there are neither fresh records nor other due
    ///    runs.
    /// 3. The other callers form a line; `need` is the number of records that they want together. The other
    ///    due runs, by due time, partition and offset, fill at most
    ///    `max(floor(need / 2 + random), need − fresh)` of it. The last run is cut.
    /// 4. Fresh records fill the rest. In shared queues: by partition from [`Grant::from`] on, in each up to
    ///    the first batch that has to be admitted. In keyed queues: the lowest admitted record of each key
    ///    that is free, if it is due, by partition and key from ([`Grant::from`], [`Grant::from_key`]) on.
    ///
    /// The rest of a waiting run that was cut stays as it was. Each lease part holds the records of a lease
    /// with the same partition, attempt and failures, in the order in which they were given out.
    async fn grant(&self, grant: &Grant) -> Result<Granted, Error<NoSuchQueue>>;
    /// Whether a grant would find something in these queues, for each of them that exists. Takes no lock and
    /// writes nothing.
    async fn outlook(&self, requests: &[OutlookRequest]) -> Result<Vec<Outlook>, Error>;
    /// Applies an admission. False if it was not applied, since the cursor did not stand at `from`.
    async fn admit(&self, admit: &Admit) -> Result<bool, Error<NoSuchQueue>>;
    /// Settles the records that the leases still hold. A deadline that has passed does not matter until the
    /// lease is ended. A queue that is gone holds no records.
    async fn settle(&self, settle: &Settle) -> Result<Settled, Error>;

    /// Counts the records of a queue. How many of those that wait are due may be an estimate if more than
    /// [`limits::COUNTED_MAX_ROWS`] wait.
    ///
    /// [`limits::COUNTED_MAX_ROWS`]: crate::limits::COUNTED_MAX_ROWS
    async fn queue_counts(&self, scope: &Scope, queue: QueueId) -> Result<QueueCounts, Error<NoSuchQueue>>;
    /// Sums of the queue, for tests and consistency checks.
    async fn ledger(&self, scope: &Scope, queue: QueueId) -> Result<Ledger, Error<NoSuchQueue>>;
    /// The cursor of each partition, by partition.
    async fn cursors(
        &self,
        scope: &Scope,
        queue: QueueId,
    ) -> Result<Vec<(PartitionId, Offset)>, Error<NoSuchQueue>>;
    /// One page of a listing, by partition and offset: at most `limit` records after the position `after`.
    async fn list_queue(
        &self,
        scope: &Scope,
        queue: QueueId,
        listing: Listing,
        after: Option<(PartitionId, Offset)>,
        limit: i64,
    ) -> Result<Vec<Listed>, Error<NoSuchQueue>>;

    /// Moves dead records back to their queue, with 0 failures and without reason. With `max_rate` (records
    /// per second) they become due one after the other, by partition and offset, from the beginning of the
    /// first step on. Records that retention has deleted stay dead. With a filter by offsets: all or none, in
    /// one step.
    async fn redrive(
        &self,
        scope: &Scope,
        queue: QueueId,
        filter: &DeadFilter,
        max_rate: Option<f64>,
        step: &DeadStep,
    ) -> Result<DeadDone, Error<DeadRejected>>;
    /// Deletes dead records. With a filter by offsets: all or none, in one step.
    async fn purge_dead(
        &self,
        scope: &Scope,
        queue: QueueId,
        filter: &DeadFilter,
        step: &DeadStep,
    ) -> Result<DeadDone, Error<DeadRejected>>;
    /// Begins a seek: leases, waiting runs and admitted records of its partitions end, dead records end from
    /// the targets on, and the cursors are set to the targets, which are returned by partition. That may need
    /// calls of [`Self::step_seek`]; until it is done, no record is given out, and calls that need the queue
    /// go on with it. A seek that begins before another is done takes its place in the partitions of both.
    async fn begin_seek(
        &self,
        scope: &Scope,
        queue: QueueId,
        to: &SeekTo,
    ) -> Result<Vec<(PartitionId, Offset)>, Error<NoSuchQueue>>;
    /// Goes on with a seek for some seconds at most.
    async fn step_seek(&self, scope: &Scope, queue: QueueId) -> Result<SeekStep, Error<NoSuchQueue>>;
}
