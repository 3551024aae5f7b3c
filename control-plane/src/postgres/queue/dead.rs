//! Dead letters: redriven to their queue, or purged.

use super::again;
use crate::postgres::PostgresControlPlane;
use crate::postgres::connection::{ADMIN, sent};
use crate::postgres::error::classify;
use millpond_core::queue::{DeadFilter, DeadRejected};
use millpond_core::{Error, QueueId, Scope};

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

/// `None` if the statement has to be sent again.
fn decided(status: &str, missing: Option<i64>, records: i64) -> Option<Result<i64, Error<DeadRejected>>> {
    match (status, missing) {
        ("again", _) => None,
        ("gone", _) => Some(Err(Error::Rejected(DeadRejected::NoSuchQueue))),
        (_, Some(nth)) => {
            Some(Err(Error::Rejected(DeadRejected::NotDead { nth: usize::try_from(nth - 1).unwrap_or(0) })))
        }
        (_, None) => Some(Ok(records)),
    }
}

pub(super) async fn redrive(
    plane: &PostgresControlPlane,
    scope: &Scope,
    queue: QueueId,
    filter: &DeadFilter,
    max_rate: Option<f64>,
) -> Result<i64, Error<DeadRejected>> {
    let c = Chosen::of(filter);
    for _ in 0..SENDINGS_MAX {
        let statement = sqlx::query_file!(
            "queries/queue/redrive.sql",
            queue.0,
            c.named,
            &c.partitions,
            &c.offsets,
            c.reason.as_deref() as _,
            max_rate as _,
            scope.tenant.as_str()
        );
        let row = sent!(plane, ADMIN, c => statement.fetch_one(c)).and_then(|sent| sent.map_err(classify));
        let row = row.map_err(Error::from_infallible)?;
        if let Some(decided) = decided(&row.status, row.missing, row.records) {
            return decided;
        }
    }
    Err(again())
}

pub(super) async fn purge(
    plane: &PostgresControlPlane,
    scope: &Scope,
    queue: QueueId,
    filter: &DeadFilter,
) -> Result<i64, Error<DeadRejected>> {
    let c = Chosen::of(filter);
    for _ in 0..SENDINGS_MAX {
        let statement = sqlx::query_file!(
            "queries/queue/purge_dead.sql",
            queue.0,
            c.named,
            &c.partitions,
            &c.offsets,
            c.reason.as_deref() as _,
            scope.tenant.as_str()
        );
        let row = sent!(plane, ADMIN, c => statement.fetch_one(c)).and_then(|sent| sent.map_err(classify));
        let row = row.map_err(Error::from_infallible)?;
        if let Some(decided) = decided(&row.status, row.missing, row.records) {
            return decided;
        }
    }
    Err(again())
}
