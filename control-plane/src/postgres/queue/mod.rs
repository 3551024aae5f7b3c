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
mod outlook;
mod seek;
mod settle;
mod settle_plain;

use super::PostgresControlPlane;
pub(super) use admin::hold;
use async_trait::async_trait;
pub(super) use hints::QueueHints;
use millpond_core::control_plane::Queues;
use millpond_core::queue::change::{DeadDone, DeadStep, SeekStep, SeekTo};
use millpond_core::queue::{
    Admit, DeadFilter, DeadRejected, Grant, Granted, Ledger, Listed, Listing, NoSuchQueue, Outlook,
    OutlookRequest, PutQueueRejected, Queue, QueueChange, QueueCounts, Settle, Settled,
};
use millpond_core::{Error, Name, Offset, Page, PageRequest, PartitionId, QueueId, Scope};

/// Statements of one call for a seek; each takes some 100 ms at most.
const SEEK_STATEMENTS_MAX: usize = 60;
/// Statements for a seek that another call sends first, because it needs the queue.
const SEEK_HELP_STATEMENTS_MAX: usize = 10;

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

    async fn outlook(&self, requests: &[OutlookRequest]) -> Result<Vec<Outlook>, Error> {
        outlook::outlook(self, requests).await
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
        step: &DeadStep,
    ) -> Result<DeadDone, Error<DeadRejected>> {
        dead::redrive(self, scope, queue, filter, max_rate, step).await
    }

    async fn purge_dead(
        &self,
        scope: &Scope,
        queue: QueueId,
        filter: &DeadFilter,
        step: &DeadStep,
    ) -> Result<DeadDone, Error<DeadRejected>> {
        dead::purge(self, scope, queue, filter, step).await
    }

    async fn begin_seek(
        &self,
        scope: &Scope,
        queue: QueueId,
        to: &SeekTo,
    ) -> Result<Vec<(PartitionId, Offset)>, Error<NoSuchQueue>> {
        seek::begin(self, scope, queue, to).await
    }

    async fn step_seek(&self, scope: &Scope, queue: QueueId) -> Result<SeekStep, Error<NoSuchQueue>> {
        seek::step(self, scope, queue, SEEK_STATEMENTS_MAX).await
    }
}
