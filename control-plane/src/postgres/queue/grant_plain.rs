//! The statement for grants of fresh records only. It costs less than half of the general statement in
//! [`super::grant`].

use super::columns::joined;
use crate::postgres::PostgresControlPlane;
use crate::postgres::connection::{WRITE, sent};
use millpond_core::queue::{Grant, Granted, LeasePart};
use millpond_core::{Error, LeaseId, PartitionId};
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// `None` if nothing was changed and the general statement has to be sent instead.
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
