//! Queues: the trait [`Queues`](millpond_core::control_plane::Queues) on Postgres.

pub(super) mod acks;
mod admin;
mod admit;
mod columns;
mod dead;
mod grant;
mod grant_plain;
mod hints;
mod look;
mod seek;
mod settle;
mod settle_plain;

use super::PostgresControlPlane;
pub(super) use admin::hold;
use async_trait::async_trait;
pub(super) use hints::QueueHints;
use millpond_core::control_plane::Queues;
use millpond_core::queue::{
    Admit, DeadFilter, DeadRejected, Grant, Granted, Ledger, Listed, Listing, NoSuchQueue, PutQueueRejected,
    Queue, QueueChange, QueueCounts, Settle, Settled,
};
use millpond_core::{Error, Name, Offset, Page, PageRequest, PartitionId, QueueId, Scope};

/// True if an insert failed because another session inserted the same row at the same time. If the statement
/// is sent again, it finds that row.
fn is_conflict(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(db) if db.is_unique_violation())
}

fn again<R>() -> Error<R> {
    Error::NotApplied("the queue changes all the time".into())
}

#[async_trait]
impl Queues for PostgresControlPlane {
    async fn put_queue(
        &self,
        scope: &Scope,
        name: &Name,
        change: &QueueChange,
    ) -> Result<(Queue, bool), Error<PutQueueRejected>> {
        admin::put(self, scope, name, change).await
    }

    async fn queue(&self, scope: &Scope, name: &Name) -> Result<Queue, Error<NoSuchQueue>> {
        admin::get(self, scope, name).await
    }

    async fn queues(&self, scope: &Scope, page: &PageRequest) -> Result<Page<(Queue, QueueCounts)>, Error> {
        admin::list(self, scope, page).await
    }

    async fn delete_queue(&self, scope: &Scope, name: &Name) -> Result<bool, Error> {
        admin::delete(self, scope, name).await
    }

    async fn pause_queue(
        &self,
        scope: &Scope,
        queue: QueueId,
        paused: bool,
    ) -> Result<(), Error<NoSuchQueue>> {
        admin::pause(self, scope, queue, paused).await
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

    async fn queue_counts(&self, scope: &Scope, queue: QueueId) -> Result<QueueCounts, Error<NoSuchQueue>> {
        look::counts(self, scope, queue).await
    }

    async fn ledger(&self, scope: &Scope, queue: QueueId) -> Result<Ledger, Error<NoSuchQueue>> {
        look::ledger(self, scope, queue).await
    }

    async fn cursors(
        &self,
        scope: &Scope,
        queue: QueueId,
    ) -> Result<Vec<(PartitionId, Offset)>, Error<NoSuchQueue>> {
        look::cursors(self, scope, queue).await
    }

    async fn list_queue(
        &self,
        scope: &Scope,
        queue: QueueId,
        listing: Listing,
        after: Option<(PartitionId, Offset)>,
        limit: i64,
    ) -> Result<Vec<Listed>, Error<NoSuchQueue>> {
        look::list(self, scope, queue, listing, after, limit).await
    }

    async fn redrive(
        &self,
        scope: &Scope,
        queue: QueueId,
        filter: &DeadFilter,
        max_rate: Option<f64>,
    ) -> Result<i64, Error<DeadRejected>> {
        dead::redrive(self, scope, queue, filter, max_rate).await
    }

    async fn purge_dead(
        &self,
        scope: &Scope,
        queue: QueueId,
        filter: &DeadFilter,
    ) -> Result<i64, Error<DeadRejected>> {
        dead::purge(self, scope, queue, filter).await
    }

    async fn seek(
        &self,
        scope: &Scope,
        queue: QueueId,
        to: &[(PartitionId, Offset)],
    ) -> Result<(Vec<(PartitionId, Offset)>, i64), Error<NoSuchQueue>> {
        seek::seek(self, scope, queue, to).await
    }
}
