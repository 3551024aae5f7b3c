//! Reads of queues: counts, listings, rates.

use crate::postgres::PostgresControlPlane;
use crate::postgres::connection::{ADMIN, retried, sent};
use crate::postgres::error::read;
use millpond_core::queue::{Estimated, Ledger, Listed, Listing, NoSuchQueue, QueueCounts};
use millpond_core::{Error, Offset, PartitionId, QueueId, Scope, limits, saturated};
use std::collections::HashMap;

async fn living(
    plane: &PostgresControlPlane,
    scope: &Scope,
    queue: QueueId,
) -> Result<(), Error<NoSuchQueue>> {
    let tenant = scope.tenant.as_str();
    let living = retried!(
        plane,
        c => sqlx::query_file_scalar!("queries/queue/living.sql", queue.0, tenant).fetch_one(c)
    );
    if living.map_err(Error::from_infallible)? { Ok(()) } else { Err(Error::Rejected(NoSuchQueue)) }
}

/// Least number of waiting rows that are read per queue, however many queues are counted at once.
const COUNTED_MIN_ROWS: i64 = 100;

pub(super) async fn counts(
    plane: &PostgresControlPlane,
    scope: &Scope,
    queue: QueueId,
) -> Result<QueueCounts, Error<NoSuchQueue>> {
    let counts = counts_of(plane, scope, &[queue]).await.map_err(Error::from_infallible)?.remove(&queue);
    counts.ok_or(Error::Rejected(NoSuchQueue))
}

/// Counts the records of several queues, by one statement whose work is bounded. A queue that is gone is left
/// out.
pub(super) async fn counts_of(
    plane: &PostgresControlPlane,
    scope: &Scope,
    queues: &[QueueId],
) -> Result<HashMap<QueueId, QueueCounts>, Error> {
    let ids: Vec<i64> = queues.iter().map(|queue| queue.0).collect();
    let share = limits::COUNTED_MAX_ROWS / saturated::<i64, _>(ids.len()).max(1);
    let rows_max = share.max(COUNTED_MIN_ROWS);
    let statement = sqlx::query_file!("queries/queue/counts.sql", &ids, scope.tenant.as_str(), rows_max);
    let rows = sent!(plane, ADMIN, c => statement.fetch_all(c))?.map_err(read)?;
    let counts = rows.into_iter().map(|row| {
        let mut estimated = Vec::new();
        if !row.later_whole && !row.due_whole {
            estimated.push(Estimated::Ready);
        }
        if !row.later_whole {
            estimated.extend([Estimated::Delayed, Estimated::Retrying]);
        }
        if !row.oldest_sure {
            estimated.push(Estimated::Oldest);
        }
        let counts = QueueCounts {
            ready: row.ready,
            delayed: row.delayed,
            retrying: row.retrying,
            in_flight: row.in_flight,
            dead: row.dead,
            oldest_ms: row.oldest_ms,
            lease_rate: row.lease_rate,
            settle_rate: row.settle_rate,
            estimated,
        };
        (QueueId(row.queue_id), counts)
    });
    Ok(counts.collect())
}

pub(super) async fn ledger(
    plane: &PostgresControlPlane,
    scope: &Scope,
    queue: QueueId,
) -> Result<Ledger, Error<NoSuchQueue>> {
    let statement = sqlx::query_file!("queries/queue/ledger.sql", queue.0, scope.tenant.as_str());
    let row = sent!(plane, ADMIN, c => statement.fetch_optional(c)).and_then(|sent| sent.map_err(read));
    let row = row.map_err(Error::from_infallible)?.ok_or(Error::Rejected(NoSuchQueue))?;
    Ok(Ledger {
        passed: row.passed,
        acked: row.acked,
        expired: row.expired,
        purged: row.purged,
        dead: row.dead,
        waiting: row.waiting,
        dead_rows: row.dead_rows,
        waiting_rows: row.waiting_rows,
        leased_rows: row.leased_rows,
    })
}

pub(super) async fn cursors(
    plane: &PostgresControlPlane,
    scope: &Scope,
    queue: QueueId,
) -> Result<Vec<(PartitionId, Offset)>, Error<NoSuchQueue>> {
    let tenant = scope.tenant.as_str();
    let rows =
        retried!(plane, c => sqlx::query_file!("queries/queue/cursors.sql", queue.0, tenant).fetch_all(c));
    let rows = rows.map_err(Error::from_infallible)?;
    if rows.is_empty() {
        living(plane, scope, queue).await?;
    }
    Ok(rows.into_iter().map(|row| (PartitionId(row.partition_id), Offset(row.next_offset))).collect())
}

struct Row {
    partition_id: i64,
    record_offset: i64,
    attempt: i32,
    failures: i32,
    at_ms: Option<i64>,
    reason: Option<String>,
    gone: bool,
}

pub(super) async fn list(
    plane: &PostgresControlPlane,
    scope: &Scope,
    queue: QueueId,
    listing: Listing,
    after: Option<(PartitionId, Offset)>,
    limit: i64,
) -> Result<Vec<Listed>, Error<NoSuchQueue>> {
    let (partition, offset) = after.map_or((0, -1), |(partition, offset)| (partition.0, offset.0));
    let (q, tenant) = (queue.0, scope.tenant.as_str());
    let rows = match listing {
        Listing::InFlight => {
            retried!(
                plane,
                c => sqlx::query_file_as!(
                    Row, "queries/queue/list_in_flight.sql", q, partition, offset, limit, tenant
                )
                .fetch_all(c)
            )
        }
        Listing::Waiting => {
            retried!(
                plane,
                c => sqlx::query_file_as!(
                    Row, "queries/queue/list_waiting.sql", q, partition, offset, limit, tenant
                )
                .fetch_all(c)
            )
        }
        Listing::Dead => {
            retried!(
                plane,
                c => sqlx::query_file_as!(
                    Row, "queries/queue/list_dead.sql", q, partition, offset, limit, tenant
                )
                .fetch_all(c)
            )
        }
    };
    let rows = rows.map_err(Error::from_infallible)?;
    living(plane, scope, queue).await?;
    let listed = rows.into_iter().map(|row| Listed {
        partition: PartitionId(row.partition_id),
        offset: Offset(row.record_offset),
        attempt: row.attempt,
        failures: row.failures,
        at_ms: row.at_ms,
        reason: row.reason,
        gone: row.gone,
    });
    Ok(listed.collect())
}
