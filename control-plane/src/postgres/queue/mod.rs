//! Queues: made, leased, settled, looked at.

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

fn unbuilt<R>() -> Error<R> {
    Error::NotApplied("queues are not built".into())
}

#[async_trait]
impl QueuePlane for PostgresControlPlane {
    async fn put_queue(&self, _: &Name, _: &Name, _: &QueueChange) -> Result<(Queue, bool), Error<PutQueueRejected>> {
        Err(unbuilt())
    }
    async fn queue(&self, _: &Name, _: &Name) -> Result<Queue, Error<NoSuchQueue>> {
        Err(unbuilt())
    }
    async fn queues(&self, _: &Name) -> Result<Vec<Queue>, Error> {
        Err(unbuilt())
    }
    async fn delete_queue(&self, _: &Name, _: &Name) -> Result<bool, Error> {
        Err(unbuilt())
    }
    async fn pause_queue(&self, _: QueueId, _: bool) -> Result<(), Error<NoSuchQueue>> {
        Err(unbuilt())
    }
    async fn grant(&self, _: &Grant) -> Result<Granted, Error<NoSuchQueue>> {
        Err(unbuilt())
    }
    async fn admit(&self, _: &Admit) -> Result<bool, Error<NoSuchQueue>> {
        Err(unbuilt())
    }
    async fn settle(&self, _: &Settle) -> Result<Settled, Error> {
        Err(unbuilt())
    }
    async fn expire(&self, _: i64, _: f64) -> Result<i64, Error> {
        Err(unbuilt())
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
