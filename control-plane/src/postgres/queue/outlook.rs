//! Looks at queues without taking locks, for calls that wait until there is something.

use crate::postgres::PostgresControlPlane;
use crate::postgres::connection::retried;
use millpond_core::queue::{Outlook, OutlookRequest};
use millpond_core::{Error, QueueId};
use uuid::Uuid;

pub(super) async fn outlook(
    plane: &PostgresControlPlane,
    requests: &[OutlookRequest],
) -> Result<Vec<Outlook>, Error> {
    let queues: Vec<i64> = requests.iter().map(|r| r.queue.0).collect();
    let tenants: Vec<&str> = requests.iter().map(|r| r.scope.tenant.as_str()).collect();
    let leases: Vec<Uuid> = requests.iter().flat_map(|r| &r.leases).map(|l| l.0).collect();
    let rows = retried!(
        plane,
        c => sqlx::query_file!("queries/queue/outlook.sql", &queues, &tenants as _, &leases).fetch_all(c)
    )?;
    let outlooks = rows.into_iter().map(|row| Outlook {
        queue: QueueId(row.queue_id),
        version: row.version,
        at_ms: row.at_ms,
        ready: row.ready,
        paused: row.paused,
        next_due_ms: row.next_due_ms,
    });
    Ok(outlooks.collect())
}
