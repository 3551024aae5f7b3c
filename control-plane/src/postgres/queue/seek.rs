//! Seek: sets the cursors of a queue. One transaction locks out grants and ends the leases; a later statement
//! of it, which sees what concurrent settlements did, deletes the retries and admissions that they left.

use super::admin::hold;
use super::again;
use crate::postgres::PostgresControlPlane;
use crate::postgres::connection::{ADMIN, sent};
use crate::postgres::error::classify;
use millpond_core::queue::NoSuchQueue;
use millpond_core::{Error, Name, Offset, PartitionId, QueueId, Scope};
use sqlx::{Connection, PgConnection};

/// Maximum number of attempts. An attempt fails only if a settlement moved renewed records to another part of
/// a lease while it ran.
const ROUNDS_MAX: usize = 50;

type Places = Vec<(PartitionId, Offset)>;

pub(super) async fn seek(
    plane: &PostgresControlPlane,
    scope: &Scope,
    queue: QueueId,
    to: &[(PartitionId, Offset)],
) -> Result<(Places, i64), Error<NoSuchQueue>> {
    let (plane, tenant, to) = (plane.clone(), scope.tenant.clone(), to.to_vec());
    let task = tokio::spawn(async move {
        let sent = sent!(plane, ADMIN, c => seek_once(c, &tenant, queue, &to));
        sent.map_err(Error::from_infallible)?
    });
    task.await.unwrap_or_else(|e| Err(Error::MaybeApplied(e.into())))
}

fn lift(error: sqlx::Error) -> Error<NoSuchQueue> {
    Error::from_infallible(classify(error))
}

async fn seek_once(
    connection: &mut PgConnection,
    tenant: &Name,
    queue: QueueId,
    to: &[(PartitionId, Offset)],
) -> Result<(Places, i64), Error<NoSuchQueue>> {
    let mut tx = connection.begin().await.map_err(|e| Error::NotApplied(e.into()))?;
    hold(&mut tx, tenant, &[queue.0]).await.map_err(lift)?;
    let (partitions, offsets): (Vec<i64>, Vec<i64>) =
        to.iter().map(|(partition, offset)| (partition.0, offset.0)).unzip();
    let rows =
        sqlx::query_file!("queries/queue/targets.sql", queue.0, &partitions, &offsets, tenant.as_str())
            .fetch_all(&mut *tx)
            .await
            .map_err(lift)?;
    if rows.is_empty() {
        return Err(Error::Rejected(NoSuchQueue));
    }
    let places = rows.into_iter().filter_map(|row| row.partition_id.zip(row.target));
    let (partitions, targets): (Vec<i64>, Vec<i64>) = places.unzip();
    let (leased, below) = end_leases(&mut tx, tenant, queue, &partitions, &targets).await?;
    let seek = sqlx::query_file_scalar!(
        "queries/queue/seek.sql",
        queue.0,
        &partitions,
        &targets,
        leased,
        below,
        tenant.as_str()
    );
    let passed = seek.fetch_one(&mut *tx).await.map_err(lift)?;
    tx.commit().await.map_err(lift)?;
    let places = partitions.into_iter().map(PartitionId).zip(targets.into_iter().map(Offset));
    Ok((places.collect(), passed + below))
}

/// Number of records that were leased, and number of those below the new cursors.
async fn end_leases(
    connection: &mut PgConnection,
    tenant: &Name,
    queue: QueueId,
    partitions: &[i64],
    targets: &[i64],
) -> Result<(i64, i64), Error<NoSuchQueue>> {
    let (mut leased, mut below) = (0, 0);
    for _ in 0..ROUNDS_MAX {
        let statement =
            sqlx::query_file!("queries/queue/end_leases.sql", queue.0, partitions, targets, tenant.as_str());
        let row = statement.fetch_one(&mut *connection).await.map_err(lift)?;
        if row.seen == 0 {
            return Ok((leased, below));
        }
        leased += row.records;
        below += row.below;
    }
    Err(again())
}
