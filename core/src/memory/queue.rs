//! Queues of the in-memory control plane.

mod change;
mod grant;
mod look;
mod row;
mod settle;

use super::{MemoryControlPlane, State};
use crate::control_plane::Queues;
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
pub(super) use row::QueueRow;

impl State {
    fn queue_row(&self, scope: &Scope, queue: QueueId) -> Result<&QueueRow, Error<NoSuchQueue>> {
        let row = self.queues.get(&queue).filter(|row| row.queue.tenant == scope.tenant);
        row.ok_or(Error::Rejected(NoSuchQueue))
    }

    fn queue_row_mut(&mut self, scope: &Scope, queue: QueueId) -> Result<&mut QueueRow, Error<NoSuchQueue>> {
        let row = self.queues.get_mut(&queue).filter(|row| row.queue.tenant == scope.tenant);
        row.ok_or(Error::Rejected(NoSuchQueue))
    }

    /// Changes a queue with a view of the rest of the state; `None` if there is no such queue.
    fn with_queue<T>(
        &mut self,
        scope: &Scope,
        queue: QueueId,
        change: impl FnOnce(&Self, &mut QueueRow) -> T,
    ) -> Option<T> {
        self.queue_row(scope, queue).ok()?;
        let mut row = self.queues.remove(&queue)?;
        let outcome = change(self, &mut row);
        self.queues.insert(queue, row);
        Some(outcome)
    }
}

/// Converts the outcome of a call on dead records; `None` stands for a queue that does not exist.
fn dead_outcome<T>(outcome: Option<Result<T, DeadRejected>>) -> Result<T, Error<DeadRejected>> {
    outcome.unwrap_or(Err(DeadRejected::NoSuchQueue)).map_err(Error::Rejected)
}

#[async_trait]
impl Queues for MemoryControlPlane {
    async fn put_queue(
        &self,
        scope: &Scope,
        name: &Name,
        change: &QueueChange,
    ) -> Result<(Queue, bool), Error<PutQueueRejected>> {
        let mut state = self.state.lock();
        state.put_queue(&scope.tenant, name, change, self.clock.now_ms()).map_err(Error::Rejected)
    }

    async fn queue(&self, scope: &Scope, name: &Name) -> Result<Queue, Error<NoSuchQueue>> {
        let state = self.state.lock();
        let row = state
            .queues
            .values()
            .find(|row| row.is(&scope.tenant, name))
            .ok_or(Error::Rejected(NoSuchQueue))?;
        Ok(row.queue.clone())
    }

    async fn queues(&self, scope: &Scope, page: &PageRequest) -> Result<Page<(Queue, QueueCounts)>, Error> {
        let (state, now) = (self.state.lock(), self.clock.now_ms());
        let mut all: Vec<&QueueRow> =
            state.queues.values().filter(|row| row.queue.tenant == scope.tenant).collect();
        all.sort_by(|a, b| a.queue.name.cmp(&b.queue.name));
        let page = page.cut(all, |row| &row.queue.name, |row| row.queue.partitions.len());
        Ok(page.map(|row| (row.queue.clone(), state.queue_counts(row, now))))
    }

    async fn delete_queue(&self, scope: &Scope, name: &Name) -> Result<bool, Error> {
        Ok(self.state.lock().delete_queue(&scope.tenant, name))
    }

    async fn pause_queue(
        &self,
        scope: &Scope,
        queue: QueueId,
        paused: bool,
    ) -> Result<(), Error<NoSuchQueue>> {
        self.state.lock().queue_row_mut(scope, queue)?.queue.paused = paused;
        Ok(())
    }

    async fn grant(&self, grant: &Grant) -> Result<Granted, Error<NoSuchQueue>> {
        let mut state = self.state.lock();
        let now = self.clock.now_ms();
        state
            .with_queue(&grant.scope, grant.queue, |state, row| state.grant(row, grant, now))
            .ok_or(Error::Rejected(NoSuchQueue))
    }

    async fn outlook(&self, requests: &[OutlookRequest]) -> Result<Vec<Outlook>, Error> {
        let (state, now) = (self.state.lock(), self.clock.now_ms());
        let look = |r: &OutlookRequest| {
            Some(state.outlook(state.queue_row(&r.scope, r.queue).ok()?, &r.leases, now))
        };
        Ok(requests.iter().filter_map(look).collect())
    }

    async fn admit(&self, admit: &Admit) -> Result<bool, Error<NoSuchQueue>> {
        let mut state = self.state.lock();
        let now = self.clock.now_ms();
        Ok(state.queue_row_mut(&admit.scope, admit.queue)?.apply_admit(admit, now))
    }

    async fn settle(&self, settle: &Settle) -> Result<Settled, Error> {
        let mut state = self.state.lock();
        let now = self.clock.now_ms();
        let row = state.queue_row_mut(&settle.scope, settle.queue);
        Ok(row.map_or_else(|_| Settled { at_ms: now, verdicts: Vec::new() }, |row| row.settle(settle, now)))
    }

    async fn queue_counts(&self, scope: &Scope, queue: QueueId) -> Result<QueueCounts, Error<NoSuchQueue>> {
        let state = self.state.lock();
        Ok(state.queue_counts(state.queue_row(scope, queue)?, self.clock.now_ms()))
    }

    async fn ledger(&self, scope: &Scope, queue: QueueId) -> Result<Ledger, Error<NoSuchQueue>> {
        Ok(self.state.lock().queue_row(scope, queue)?.ledger())
    }

    async fn cursors(
        &self,
        scope: &Scope,
        queue: QueueId,
    ) -> Result<Vec<(PartitionId, Offset)>, Error<NoSuchQueue>> {
        let state = self.state.lock();
        Ok(state
            .queue_row(scope, queue)?
            .cursors
            .iter()
            .map(|(partition, cursor)| (*partition, Offset(cursor.next)))
            .collect())
    }

    async fn list_queue(
        &self,
        scope: &Scope,
        queue: QueueId,
        listing: Listing,
        after: Option<(PartitionId, Offset)>,
        limit: i64,
    ) -> Result<Vec<Listed>, Error<NoSuchQueue>> {
        let state = self.state.lock();
        Ok(state.list_queue(state.queue_row(scope, queue)?, listing, after, limit))
    }

    async fn redrive(
        &self,
        scope: &Scope,
        queue: QueueId,
        filter: &DeadFilter,
        max_rate: Option<f64>,
        step: &DeadStep,
    ) -> Result<DeadDone, Error<DeadRejected>> {
        let mut state = self.state.lock();
        let now = self.clock.now_ms();
        let redrive = |state: &State, row: &mut QueueRow| state.redrive(row, filter, max_rate, step, now);
        dead_outcome(state.with_queue(scope, queue, redrive))
    }

    async fn purge_dead(
        &self,
        scope: &Scope,
        queue: QueueId,
        filter: &DeadFilter,
        step: &DeadStep,
    ) -> Result<DeadDone, Error<DeadRejected>> {
        dead_outcome(self.state.lock().with_queue(scope, queue, |_, row| row.purge_dead(filter, step)))
    }

    /// Does the whole seek.
    async fn begin_seek(
        &self,
        scope: &Scope,
        queue: QueueId,
        to: &SeekTo,
    ) -> Result<Vec<(PartitionId, Offset)>, Error<NoSuchQueue>> {
        self.state
            .lock()
            .with_queue(scope, queue, |state, row| state.seek(row, to))
            .ok_or(Error::Rejected(NoSuchQueue))
    }

    async fn step_seek(&self, scope: &Scope, queue: QueueId) -> Result<SeekStep, Error<NoSuchQueue>> {
        Ok(SeekStep { done: true, skipped: self.state.lock().queue_row(scope, queue)?.skipped })
    }
}
