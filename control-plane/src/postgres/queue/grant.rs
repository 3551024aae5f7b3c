//! Grant: leases records of a queue to callers.
//!
//! A grant has no row of its own; the ids of its leases identify it. If it is sent again, the answer holds
//! those of its leases that are still alive.

use super::columns::joined;
use super::grant_plain;
use super::hints::{self, KnownAs, MIXED};
use super::{SEEK_HELP_STATEMENTS_MAX, again, is_conflict, seek};
use crate::postgres::PostgresControlPlane;
use crate::postgres::connection::{WRITE, sent};
use crate::postgres::error::classify;
use millpond_core::queue::{Grant, Granted, LeasePart, LimitedBy, NoSuchQueue, Unadmitted};
use millpond_core::{Error, LeaseId, Offset, PartitionId, limits};
use uuid::Uuid;

/// Maximum number of times that a grant is sent. A statement that waited for the lock of its queue finds that
/// the queue changed meanwhile and has to be sent again; more often in a row than this, something is wrong.
const SENDINGS_MAX: usize = 50;

/// A row of the answer. The first row holds the values that count for the whole grant, each other row is a
/// part of a lease.
pub(super) struct Row {
    status: Option<String>,
    at_ms: Option<i64>,
    limited_by: Option<String>,
    contended: Option<bool>,
    next_due_ms: Option<i64>,
    partitions: Option<Vec<i64>>,
    nexts: Option<Vec<i64>>,
    ends: Option<Vec<i64>>,
    lease_id: Option<Uuid>,
    part: Option<i32>,
    partition_id: Option<i64>,
    attempt: Option<i32>,
    failures: Option<i32>,
    deadline_ms: Option<i64>,
    los: Option<Vec<i64>>,
    his: Option<Vec<i64>>,
}

pub(super) async fn grant(
    plane: &PostgresControlPlane,
    grant: &Grant,
) -> Result<Granted, Error<NoSuchQueue>> {
    // Hints are kept only for queues that are known to exist and to belong to the tenant.
    let mut known = plane.hints.read().get(&grant.queue).copied();
    let mut patient = false;
    for _ in 0..SENDINGS_MAX {
        if known.is_none() {
            match grant_plain::grant(plane, grant).await.map_err(Error::from_infallible)? {
                Ok(Some(granted)) => return Ok(granted),
                Ok(None) => known = Some(MIXED),
                Err(e) if is_conflict(&e) => continue,
                Err(e) => return Err(Error::from_infallible(classify(e))),
            }
        }
        let rows = match send(plane, grant, known == Some(KnownAs::Keyed), patient)
            .await
            .map_err(Error::from_infallible)?
        {
            Ok(rows) => rows,
            Err(e) if is_conflict(&e) => continue,
            Err(e) => return Err(Error::from_infallible(classify(e))),
        };
        match rows.iter().find_map(|row| row.status.as_deref()) {
            Some("given") => {}
            Some("again") => continue,
            Some("clearing") => {
                let step = seek::step(plane, &grant.scope, grant.queue, SEEK_HELP_STATEMENTS_MAX).await?;
                if step.done {
                    continue;
                }
                // There may be fresh records once the seek is done.
                return Ok(Granted { contended: true, ..read(grant, rows) });
            }
            Some("keyed") => {
                known = Some(KnownAs::Keyed);
                plane.hints.write().insert(grant.queue, KnownAs::Keyed);
                continue;
            }
            _ => return Err(Error::Rejected(NoSuchQueue)),
        }
        let granted = read(grant, rows);
        if granted.contended && granted.parts.is_empty() && !patient {
            patient = true;
            continue;
        }
        hints::learn(plane, grant.queue, &granted);
        return Ok(granted);
    }
    Err(again())
}

async fn send(
    plane: &PostgresControlPlane,
    grant: &Grant,
    keyed: bool,
    patient: bool,
) -> Result<Result<Vec<Row>, sqlx::Error>, Error> {
    let leases: Vec<Uuid> = grant.wants.iter().map(|w| w.lease.0).collect();
    let records: Vec<i32> = grant.wants.iter().map(|w| w.records).collect();
    let lease_ms: Vec<i64> = grant.wants.iter().map(|w| w.lease_ms).collect();
    if keyed {
        let statement = sqlx::query_file_as!(
            Row,
            "queries/queue/grant_keyed.sql",
            grant.queue.0,
            grant.agent.0,
            &leases,
            &records,
            &lease_ms,
            grant.from.0,
            grant.random,
            limits::KEYED_WINDOW,
            limits::UNADMITTED_MAX,
            grant.from_key,
            grant.scope.tenant.as_str()
        );
        return sent!(plane, WRITE, c => statement.fetch_all(c));
    }
    let statement = sqlx::query_file_as!(
        Row,
        "queries/queue/grant.sql",
        grant.queue.0,
        grant.agent.0,
        &leases,
        &records,
        &lease_ms,
        grant.from.0,
        grant.random,
        patient,
        limits::UNADMITTED_MAX,
        grant.scope.tenant.as_str()
    );
    sent!(plane, WRITE, c => statement.fetch_all(c))
}

fn read(grant: &Grant, rows: Vec<Row>) -> Granted {
    let mut granted = Granted::default();
    let mut parts: Vec<(usize, i32, LeasePart)> = Vec::with_capacity(rows.len());
    for row in rows {
        if row.status.is_some() {
            head(&mut granted, &row);
        } else if let Some((number, part)) = part(&row)
            && let Some(nth) = grant.wants.iter().position(|w| w.lease == part.lease)
        {
            parts.push((nth, number, part));
        }
    }
    parts.sort_unstable_by_key(|(nth, number, _)| (*nth, *number));
    granted.parts = parts.into_iter().map(|(_, _, part)| part).collect();
    granted
}

fn head(granted: &mut Granted, row: &Row) {
    granted.at_ms = row.at_ms.unwrap_or(0);
    granted.contended = row.contended.unwrap_or(false);
    granted.next_due_ms = row.next_due_ms;
    granted.limited_by = match row.limited_by.as_deref() {
        Some("rate") => Some(LimitedBy::Rate),
        Some("max_in_flight") => Some(LimitedBy::MaxInFlight),
        Some("keys") => Some(LimitedBy::Keys),
        Some("paused") => Some(LimitedBy::Paused),
        _ => None,
    };
    let of = |column: &Option<Vec<i64>>| column.clone().unwrap_or_default();
    let places = of(&row.partitions).into_iter().zip(of(&row.nexts)).zip(of(&row.ends));
    granted.unadmitted = places
        .map(|((partition, from), end)| Unadmitted {
            partition: PartitionId(partition),
            from: Offset(from),
            end: Offset(end),
        })
        .collect();
}

fn part(row: &Row) -> Option<(i32, LeasePart)> {
    let ranges = row.los.as_ref()?.iter().zip(row.his.as_ref()?).map(|(lo, hi)| *lo..*hi);
    let part = LeasePart {
        lease: LeaseId(row.lease_id?),
        partition: PartitionId(row.partition_id?),
        ranges: joined(ranges.collect()),
        attempt: row.attempt?,
        failures: row.failures?,
        deadline_ms: row.deadline_ms?,
    };
    Some((row.part?, part))
}
