//! Seek: sets the cursors of a queue and drops what it has of these partitions. However much that is, each
//! statement is short.
//!
//! One transaction marks the cursors with their targets and closes the queue: grants, admissions, redrives
//! and other changes of its rows do nothing. Steps then end the leases and delete the rows; the last sets the
//! cursors and opens the queue. Whoever needs the queue goes on with a seek whose caller is gone.

use super::admin::hold;
use crate::postgres::PostgresControlPlane;
use crate::postgres::connection::{ADMIN, WRITE, retried, sent};
use crate::postgres::error::classify;
use millpond_core::queue::NoSuchQueue;
use millpond_core::queue::change::{SeekStep, SeekTo};
use millpond_core::{Error, Name, Offset, PartitionId, QueueId, Scope, saturated};
use sqlx::{Connection, PgConnection};
use std::time::Duration;

/// Lease parts that one statement ends.
const LEASE_PARTS_MAX: i64 = 2_000;
/// Rows of a kind that one statement deletes.
const ROWS_MAX: i64 = 5_000;
/// Partitions in which one statement deletes rows.
const PARTITIONS_MAX: usize = 2_000;
/// Pause before another look at a seek that somebody else works on.
const PAUSE: Duration = Duration::from_millis(20);

type Places = Vec<(PartitionId, Offset)>;

pub(super) async fn begin(
    plane: &PostgresControlPlane,
    scope: &Scope,
    queue: QueueId,
    to: &SeekTo,
) -> Result<Places, Error<NoSuchQueue>> {
    let (plane, tenant, to) = (plane.clone(), scope.tenant.clone(), to.clone());
    let task = tokio::spawn(async move {
        let sent = sent!(plane, ADMIN, c => begin_once(c, &tenant, queue, &to));
        sent.map_err(Error::from_infallible)?
    });
    task.await.unwrap_or_else(|e| Err(Error::MaybeApplied(e.into())))
}

async fn begin_once(
    connection: &mut PgConnection,
    tenant: &Name,
    queue: QueueId,
    to: &SeekTo,
) -> Result<Places, Error<NoSuchQueue>> {
    let lift = |e| Error::from_infallible(classify(e));
    let (place, offsets) = match to {
        SeekTo::Earliest => ("earliest", &[][..]),
        SeekTo::Latest => ("latest", &[][..]),
        SeekTo::Offsets(offsets) => ("offsets", &offsets[..]),
    };
    let (partitions, offsets): (Vec<i64>, Vec<i64>) =
        offsets.iter().map(|(partition, offset)| (partition.0, offset.0)).unzip();
    let mut tx = connection.begin().await.map_err(|e| Error::NotApplied(e.into()))?;
    hold(&mut tx, tenant, &[queue.0]).await.map_err(lift)?;
    let statement = sqlx::query_file!(
        "queries/queue/begin_seek.sql",
        queue.0,
        tenant.as_str(),
        place,
        &partitions,
        &offsets
    );
    let rows = statement.fetch_all(&mut *tx).await.map_err(lift)?;
    if rows.is_empty() {
        return Err(Error::Rejected(NoSuchQueue));
    }
    tx.commit().await.map_err(lift)?;
    let places = rows.into_iter().filter_map(|row| row.partition_id.zip(row.target));
    Ok(places.map(|(partition, target)| (PartitionId(partition), Offset(target))).collect())
}

/// A seek under way, as a worker on it knows it.
struct Clearing<'a> {
    plane: &'a PostgresControlPlane,
    queue: i64,
    /// The turn of the queue's flow after the last statement; the next does nothing if it is another one.
    turn: i64,
    partitions: Vec<i64>,
    targets: Vec<i64>,
    /// Statements that may still be sent.
    left: usize,
}

/// Why a worker stopped.
enum Stop {
    /// Somebody else changed the queue, or holds it.
    Disturbed,
    /// No statement is left.
    Spent,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Where in a partition rows are still to be deleted, by kind.
#[derive(Clone, Copy)]
struct Rest {
    partition: i64,
    target: i64,
    waiting: i64,
    admitted: i64,
    dead: i64,
    key: i64,
}

/// Works on the seek of a queue, if there is one under way, with at most so many statements.
pub(super) async fn step(
    plane: &PostgresControlPlane,
    scope: &Scope,
    queue: QueueId,
    statements_max: usize,
) -> Result<SeekStep, Error<NoSuchQueue>> {
    let tenant = scope.tenant.as_str();
    let mut left = statements_max;
    loop {
        let row = retried!(
            plane,
            c => sqlx::query_file!("queries/queue/clearing.sql", queue.0, tenant).fetch_optional(c)
        );
        let row = row.map_err(Error::from_infallible)?.ok_or(Error::Rejected(NoSuchQueue))?;
        let under_way = SeekStep { done: row.partitions.is_empty(), skipped: row.skipped };
        if under_way.done || left == 0 {
            return Ok(under_way);
        }
        let mut clearing = Clearing {
            plane,
            queue: queue.0,
            turn: row.turn,
            partitions: row.partitions,
            targets: row.targets,
            left,
        };
        match clearing.work().await {
            Ok(skipped) => return Ok(SeekStep { done: true, skipped }),
            Err(Stop::Disturbed) => {
                left = clearing.left.saturating_sub(1);
                tokio::time::sleep(PAUSE).await;
            }
            Err(Stop::Spent) => left = 0,
            Err(Stop::Failed(error)) => return Err(Error::from_infallible(error)),
        }
    }
}

impl Clearing<'_> {
    /// Returns how many unsettled records the seek has skipped.
    async fn work(&mut self) -> Result<i64, Stop> {
        while self.end_leases().await? > 0 {}
        let start = |(partition, target): (&i64, &i64)| Rest {
            partition: *partition,
            target: *target,
            waiting: 0,
            admitted: 0,
            dead: 0,
            key: i64::MIN,
        };
        let mut rest: Vec<Rest> = self.partitions.iter().zip(&self.targets).map(start).collect();
        while !rest.is_empty() {
            let later = rest.split_off(rest.len().min(PARTITIONS_MAX));
            rest = self.delete_rows(&rest).await?;
            rest.extend(later);
        }
        self.take_statement()?;
        let (queue, turn) = (self.queue, self.turn);
        let statement = sqlx::query_file_scalar!("queries/queue/clear_ended.sql", queue, turn);
        let plane = self.plane;
        let skipped = sent!(plane, WRITE, c => statement.fetch_optional(c))?.map_err(classify)?;
        skipped.ok_or(Stop::Disturbed)
    }

    fn take_statement(&mut self) -> Result<(), Stop> {
        self.left = self.left.checked_sub(1).ok_or(Stop::Spent)?;
        Ok(())
    }

    /// Returns how many lease parts there were.
    async fn end_leases(&mut self) -> Result<i64, Stop> {
        self.take_statement()?;
        let statement = sqlx::query_file!(
            "queries/queue/clear_leases.sql",
            self.queue,
            self.turn,
            &self.partitions,
            &self.targets,
            LEASE_PARTS_MAX
        );
        let plane = self.plane;
        let row = sent!(plane, ADMIN, c => statement.fetch_optional(c))?.map_err(classify)?;
        let row = row.ok_or(Stop::Disturbed)?;
        self.turn = row.turn;
        Ok(row.seen)
    }

    /// Deletes some rows of each of these partitions. Returns those that may have more.
    async fn delete_rows(&mut self, rest: &[Rest]) -> Result<Vec<Rest>, Stop> {
        self.take_statement()?;
        let column = |of: fn(&Rest) -> i64| rest.iter().map(of).collect::<Vec<i64>>();
        let statement = sqlx::query_file!(
            "queries/queue/clear_rows.sql",
            self.queue,
            self.turn,
            ROWS_MAX / saturated::<i64, _>(rest.len()).max(1),
            &column(|r| r.partition),
            &column(|r| r.target),
            &column(|r| r.waiting),
            &column(|r| r.admitted),
            &column(|r| r.dead),
            &column(|r| r.key)
        );
        let plane = self.plane;
        let rows = sent!(plane, ADMIN, c => statement.fetch_all(c))?.map_err(classify)?;
        self.turn = rows.first().ok_or(Stop::Disturbed)?.turn;
        let more = rows.into_iter().filter(|row| row.more).filter_map(|row| {
            let before = rest.iter().find(|r| r.partition == row.partition_id)?;
            Some(Rest {
                waiting: row.waiting_from,
                admitted: row.admitted_from,
                dead: row.dead_from,
                key: row.key_from,
                ..*before
            })
        });
        Ok(more.collect())
    }
}
