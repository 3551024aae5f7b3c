//! Queues: made, leased, settled, looked at.

mod admin;
mod grant;
mod settle;

use super::PostgresControlPlane;
use async_trait::async_trait;
use millpond_core::Error;
use millpond_core::Name;
use millpond_core::queue::plane::QueuePlane;
use millpond_core::queue::{
    Admit, DeadFilter, DeadRejected, Grant, Granted, Ledger, Listed, Listing, NoSuchQueue, PutQueueRejected, Queue, QueueChange,
    QueueCounts, Settle, Settled,
};
use millpond_core::{Offset, PartitionId, QueueId};

/// Whether a row was made that another was making at the same time: sent again, the statement finds it.
fn is_conflict(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(db) if db.is_unique_violation())
}

fn again<R>() -> Error<R> {
    Error::NotApplied("the queue changes all the time".into())
}

fn unbuilt<R>() -> Error<R> {
    Error::NotApplied("queues are not built".into())
}

#[async_trait]
impl QueuePlane for PostgresControlPlane {
    async fn put_queue(&self, tenant: &Name, name: &Name, change: &QueueChange) -> Result<(Queue, bool), Error<PutQueueRejected>> {
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
    async fn admit(&self, _: &Admit) -> Result<bool, Error<NoSuchQueue>> {
        Err(unbuilt())
    }
    async fn settle(&self, settle: &Settle) -> Result<Settled, Error> {
        settle::settle(self, settle).await
    }
    async fn expire(&self, limit: i64, dice: f64) -> Result<i64, Error> {
        settle::expire(self, limit, dice).await
    }
    async fn clamp(&self) -> Result<i64, Error> {
        Ok(0)
    }
    async fn queue_counts(&self, _: QueueId) -> Result<QueueCounts, Error<NoSuchQueue>> {
        Err(unbuilt())
    }
    async fn ledger(&self, _: QueueId) -> Result<Ledger, Error<NoSuchQueue>> {
        Err(unbuilt())
    }
    async fn cursors(&self, _: QueueId) -> Result<Vec<(PartitionId, Offset)>, Error<NoSuchQueue>> {
        Err(unbuilt())
    }
    async fn list_queue(
        &self,
        _: QueueId,
        _: Listing,
        _: Option<(PartitionId, Offset)>,
        _: i64,
    ) -> Result<Vec<Listed>, Error<NoSuchQueue>> {
        Err(unbuilt())
    }
    async fn redrive(&self, _: QueueId, _: &DeadFilter, _: Option<f64>) -> Result<i64, Error<DeadRejected>> {
        Err(unbuilt())
    }
    async fn purge_dead(&self, _: QueueId, _: &DeadFilter) -> Result<i64, Error<DeadRejected>> {
        Err(unbuilt())
    }
    async fn seek(&self, _: QueueId, _: &[(PartitionId, Offset)]) -> Result<(Vec<(PartitionId, Offset)>, i64), Error<NoSuchQueue>> {
        Err(unbuilt())
    }
}
