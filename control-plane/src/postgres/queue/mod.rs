//! Queues: made, leased, settled, looked at.

pub(super) mod acks;
mod admin;
mod admit;
mod dead;
mod grant;
mod look;
mod plain;
mod seek;
mod settle;

use super::PostgresControlPlane;
pub(super) use admin::hold;
use async_trait::async_trait;
use millpond_core::Error;
use millpond_core::Name;
use millpond_core::queue::plane::QueuePlane;
use millpond_core::queue::{
    Admit, DeadFilter, DeadRejected, Grant, Granted, Ledger, Listed, Listing, NoSuchQueue, PutQueueRejected,
    Queue, QueueChange, QueueCounts, Settle, Settled,
};
use millpond_core::{Offset, PartitionId, QueueId};
pub(super) use plain::Manners;

/// Whether a row was made that another was making at the same time: sent again, the statement finds it.
fn is_conflict(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(db) if db.is_unique_violation())
}

fn again<R>() -> Error<R> {
    Error::NotApplied("the queue changes all the time".into())
}

#[async_trait]
impl QueuePlane for PostgresControlPlane {
    async fn put_queue(
        &self,
        tenant: &Name,
        name: &Name,
        change: &QueueChange,
    ) -> Result<(Queue, bool), Error<PutQueueRejected>> {
        admin::put(self, tenant, name, change).await
    }

    async fn queue(&self, tenant: &Name, name: &Name) -> Result<Queue, Error<NoSuchQueue>> {
        admin::get(self, tenant, name).await
    }

    async fn queues(&self, tenant: &Name) -> Result<Vec<Queue>, Error> {
        admin::all(self, tenant).await
    }

    async fn delete_queue(&self, tenant: &Name, name: &Name) -> Result<bool, Error> {
        admin::delete(self, tenant, name).await
    }

    async fn pause_queue(&self, queue: QueueId, paused: bool) -> Result<(), Error<NoSuchQueue>> {
        admin::pause(self, queue, paused).await
    }

    async fn grant(&self, grant: &Grant) -> Result<Granted, Error<NoSuchQueue>> {
        grant::grant(self, grant).await
    }

    async fn admit(&self, admit: &Admit) -> Result<bool, Error<NoSuchQueue>> {
        admit::admit(self, admit).await
    }

    async fn settle(&self, settle: &Settle) -> Result<Settled, Error> {
        settle::settle(self, settle).await
    }

    async fn expire(&self, limit: i64, dice: f64) -> Result<i64, Error> {
        settle::expire(self, limit, dice).await
    }

    async fn clamp(&self) -> Result<i64, Error> {
        look::clamp(self).await
    }

    async fn queue_counts(&self, queue: QueueId) -> Result<QueueCounts, Error<NoSuchQueue>> {
        look::counts(self, queue).await
    }

    async fn ledger(&self, queue: QueueId) -> Result<Ledger, Error<NoSuchQueue>> {
        look::ledger(self, queue).await
    }

    async fn cursors(&self, queue: QueueId) -> Result<Vec<(PartitionId, Offset)>, Error<NoSuchQueue>> {
        look::cursors(self, queue).await
    }

    async fn list_queue(
        &self,
        queue: QueueId,
        listing: Listing,
        after: Option<(PartitionId, Offset)>,
        limit: i64,
    ) -> Result<Vec<Listed>, Error<NoSuchQueue>> {
        look::list(self, queue, listing, after, limit).await
    }

    async fn redrive(
        &self,
        queue: QueueId,
        filter: &DeadFilter,
        max_rate: Option<f64>,
    ) -> Result<i64, Error<DeadRejected>> {
        dead::redrive(self, queue, filter, max_rate).await
    }

    async fn purge_dead(&self, queue: QueueId, filter: &DeadFilter) -> Result<i64, Error<DeadRejected>> {
        dead::purge(self, queue, filter).await
    }

    async fn seek(
        &self,
        queue: QueueId,
        to: &[(PartitionId, Offset)],
    ) -> Result<(Vec<(PartitionId, Offset)>, i64), Error<NoSuchQueue>> {
        seek::seek(self, queue, to).await
    }
}
