//! Statements for what happens most: fresh records and nothing else, acks and nothing else. They cost less
//! than half of those that can do all, and do nothing when those are needed.

use super::grant::joined;
use super::settle::{Columns, Said, verdicts};
use crate::postgres::PostgresControlPlane;
use crate::postgres::connection::{WRITE, sent};
use millpond_core::queue::{Action, Claim, Grant, Granted, LeasePart, Settle, Settled};
use millpond_core::{Error, LeaseId, PartitionId, QueueId};
use sqlx::PgConnection;
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// What a grant has learnt of a queue.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::postgres) enum Manner {
    /// For ever.
    Keyed,
    /// There was more to think of than fresh records; after so many grants in which there was not, they are
    /// taken for all again.
    Mixed(u8),
}

pub(super) const MIXED: Manner = Manner::Mixed(16);

/// Queues of which no manner is known are taken for plain.
pub(in crate::postgres) type Manners = HashMap<QueueId, Manner>;

/// Learns from what was given out whether there was nothing but fresh records.
pub(super) fn learn(plane: &PostgresControlPlane, queue: QueueId, granted: &Granted) {
    let fresh = granted.parts.iter().all(|p| p.attempt == 1);
    let plain = fresh && granted.limited_by.is_none() && granted.unadmitted.is_empty() && !granted.contended;
    let mut manners = plane.manners.write();
    match manners.get(&queue).copied() {
        Some(Manner::Keyed) => {}
        Some(Manner::Mixed(left)) if plain && left == 0 => drop(manners.remove(&queue)),
        Some(Manner::Mixed(left)) if plain => drop(manners.insert(queue, Manner::Mixed(left - 1))),
        _ => drop(manners.insert(queue, MIXED)),
    }
}

/// `None`: nothing was done, the other statement has to be sent.
pub(super) async fn grant(
    plane: &PostgresControlPlane,
    grant: &Grant,
) -> Result<Result<Option<Granted>, sqlx::Error>, Error> {
    let leases: Vec<Uuid> = grant.wants.iter().map(|w| w.lease.0).collect();
    let records: Vec<i32> = grant.wants.iter().map(|w| w.records).collect();
    let lease_ms: Vec<i64> = grant.wants.iter().map(|w| w.lease_ms).collect();
    let statement = sqlx::query_file!(
        "queries/queue/grant_plain.sql",
        grant.queue.0,
        &leases,
        &records,
        &lease_ms,
        grant.from.0,
        grant.scope.tenant.as_str()
    );
    let rows = match sent!(plane, WRITE, c => statement.fetch_all(c))? {
        Ok(rows) => rows,
        Err(e) => return Ok(Err(e)),
    };
    let Some(first) = rows.first().filter(|row| row.status == "given") else { return Ok(Ok(None)) };
    let mut granted = Granted {
        at_ms: first.at_ms.unwrap_or(0),
        contended: first.contended.unwrap_or(false),
        next_due_ms: first.next_due_ms,
        ..Granted::default()
    };
    let places: HashMap<LeaseId, usize> =
        grant.wants.iter().enumerate().map(|(nth, want)| (want.lease, nth)).collect();
    let mut parts = BTreeMap::new();
    for row in &rows {
        let (Some(lease), Some(partition), Some(number)) =
            (row.lease_id.map(LeaseId), row.partition_id, row.part)
        else {
            continue;
        };
        let (Some(deadline_ms), Some(lo), Some(hi)) = (row.deadline_ms, row.lo, row.hi) else { continue };
        let ranges = joined(std::iter::once(lo..hi).collect());
        let part = LeasePart {
            lease,
            partition: PartitionId(partition),
            ranges,
            attempt: 1,
            failures: 0,
            deadline_ms,
        };
        parts.insert((places.get(&lease).copied(), number), part);
    }
    granted.parts = parts.into_values().collect();
    Ok(Ok(Some(granted)))
}

/// Acks alone, that a replay need not know for long, and no lease both whole and in parts.
pub(super) fn is_plain(settle: &Settle) -> bool {
    let mut whole: HashMap<LeaseId, bool> = HashMap::with_capacity(settle.entries.len());
    let alike = |entry: &millpond_core::queue::Entry| {
        let is_whole = entry.claim == Claim::Whole;
        entry.action == Action::Ack && *whole.entry(entry.lease).or_insert(is_whole) == is_whole
    };
    !settle.keep && settle.entries.iter().all(alike)
}

/// `None`: nothing was done, the other statement has to be sent, and always for this queue if so is said.
pub(super) async fn settle(
    connection: &mut PgConnection,
    settle: &Settle,
) -> Result<(Option<Said>, bool), sqlx::Error> {
    let columns = Columns::of(settle);
    let statement = sqlx::query_file!(
        "queries/queue/settle_plain.sql",
        settle.queue.0,
        settle.agent.0,
        settle.op,
        settle.leased,
        &columns.leases,
        &columns.partitions as _,
        &columns.attempts as _,
        &columns.los as _,
        &columns.his as _,
        settle.scope.tenant.as_str()
    );
    let row = statement.fetch_one(connection).await?;
    let settled = Settled { at_ms: row.at_ms, verdicts: verdicts(&row.verdicts) };
    let said = row.plain.then_some(Said { settled, current: row.current, repeated: false });
    Ok((said, row.keyed))
}
