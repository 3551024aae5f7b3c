//! Dead letters: redriven to their queue, or purged, step by step.

use super::{SEEK_HELP_STATEMENTS_MAX, again, seek};
use crate::postgres::PostgresControlPlane;
use crate::postgres::connection::{ADMIN, sent};
use crate::postgres::error::classify;
use millpond_core::queue::change::{DeadDone, DeadStep};
use millpond_core::queue::{DeadFilter, DeadRejected};
use millpond_core::{Error, Offset, PartitionId, QueueId, Scope};

const SENDINGS_MAX: usize = 50;

/// A filter of dead records, as parameters of a statement.
struct Chosen {
    named: bool,
    partitions: Vec<i64>,
    offsets: Vec<i64>,
    reason: Option<String>,
}

impl Chosen {
    fn of(filter: &DeadFilter) -> Self {
        let (named, offsets, reason) = match filter {
            DeadFilter::All => (false, &[][..], None),
            DeadFilter::Offsets(offsets) => (true, &offsets[..], None),
            DeadFilter::Reason(pattern) => (false, &[][..], Some(pattern.clone())),
        };
        let (partitions, offsets) = offsets.iter().map(|(partition, offset)| (partition.0, offset.0)).unzip();
        Self { named, partitions, offsets, reason }
    }
}

/// What the statement says about its step.
struct Told {
    records: i64,
    /// The last record that was looked at, if there may be more.
    last: Option<(PartitionId, Offset)>,
    begun_ms: Option<i64>,
}

impl Told {
    fn done(self, step: &DeadStep) -> DeadDone {
        let next = self.last.map(|last| DeadStep {
            after: Some(last),
            limit: step.limit,
            begun_ms: step.begun_ms.or(self.begun_ms),
            redriven: step.redriven + self.records,
        });
        DeadDone { records: self.records, next }
    }
}

fn place(partition: Option<i64>, offset: Option<i64>) -> Option<(PartitionId, Offset)> {
    Some((PartitionId(partition?), Offset(offset?)))
}

/// The place after which a step begins, as parameters of a statement.
fn after(step: &DeadStep) -> (i64, i64) {
    step.after.map_or((0, -1), |(partition, offset)| (partition.0, offset.0))
}

/// Decides about the answer; `None` if the statement has to be sent again. If a seek is under way, that goes
/// on first.
async fn decided(
    plane: &PostgresControlPlane,
    scope: &Scope,
    queue: QueueId,
    status: &str,
    missing: Option<i64>,
) -> Result<Option<()>, Error<DeadRejected>> {
    match (status, missing) {
        ("again", _) => Ok(None),
        ("clearing", _) => {
            let helped = seek::step(plane, scope, queue, SEEK_HELP_STATEMENTS_MAX).await;
            helped.map(|_| None).map_err(|error| error.map_rejection(|_| DeadRejected::NoSuchQueue))
        }
        ("gone", _) => Err(Error::Rejected(DeadRejected::NoSuchQueue)),
        (_, Some(nth)) => {
            let nth = usize::try_from(nth - 1).unwrap_or(0);
            Err(Error::Rejected(DeadRejected::NotDead { nth }))
        }
        (_, None) => Ok(Some(())),
    }
}

pub(super) async fn redrive(
    plane: &PostgresControlPlane,
    scope: &Scope,
    queue: QueueId,
    filter: &DeadFilter,
    max_rate: Option<f64>,
    step: &DeadStep,
) -> Result<DeadDone, Error<DeadRejected>> {
    let c = Chosen::of(filter);
    let (partition, offset) = after(step);
    for _ in 0..SENDINGS_MAX {
        let statement = sqlx::query_file!(
            "queries/queue/redrive.sql",
            queue.0,
            c.named,
            &c.partitions,
            &c.offsets,
            c.reason.as_deref() as _,
            max_rate as _,
            scope.tenant.as_str(),
            partition,
            offset,
            step.limit,
            step.begun_ms as _,
            step.redriven
        );
        let row = sent!(plane, ADMIN, c => statement.fetch_one(c)).and_then(|sent| sent.map_err(classify));
        let row = row.map_err(Error::from_infallible)?;
        if decided(plane, scope, queue, &row.status, row.missing).await?.is_some() {
            let last = place(row.partition_id, row.record_offset);
            return Ok(Told { records: row.records, last, begun_ms: row.begun_ms }.done(step));
        }
    }
    Err(again())
}

pub(super) async fn purge(
    plane: &PostgresControlPlane,
    scope: &Scope,
    queue: QueueId,
    filter: &DeadFilter,
    step: &DeadStep,
) -> Result<DeadDone, Error<DeadRejected>> {
    let c = Chosen::of(filter);
    let (partition, offset) = after(step);
    for _ in 0..SENDINGS_MAX {
        let statement = sqlx::query_file!(
            "queries/queue/purge_dead.sql",
            queue.0,
            c.named,
            &c.partitions,
            &c.offsets,
            c.reason.as_deref() as _,
            scope.tenant.as_str(),
            partition,
            offset,
            step.limit
        );
        let row = sent!(plane, ADMIN, c => statement.fetch_one(c)).and_then(|sent| sent.map_err(classify));
        let row = row.map_err(Error::from_infallible)?;
        if decided(plane, scope, queue, &row.status, row.missing).await?.is_some() {
            let last = place(row.partition_id, row.record_offset);
            return Ok(Told { records: row.records, last, begun_ms: None }.done(step));
        }
    }
    Err(again())
}
