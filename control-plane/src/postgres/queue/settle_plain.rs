//! The statement for settlements that consist of acks only. It costs less than half of the general statement
//! in [`super::settle`].

use super::columns::{Columns, SettleReply, verdicts};
use millpond_core::LeaseId;
use millpond_core::queue::{Action, Claim, Settle, Settled};
use sqlx::PgConnection;
use std::collections::HashMap;

/// True if the settlement has acks only, need not be kept, and does not name a lease both whole and by
/// record.
pub(super) fn is_plain(settle: &Settle) -> bool {
    let mut whole: HashMap<LeaseId, bool> = HashMap::with_capacity(settle.entries.len());
    let alike = |entry: &millpond_core::queue::Entry| {
        let is_whole = entry.claim == Claim::Whole;
        entry.action == Action::Ack && *whole.entry(entry.lease).or_insert(is_whole) == is_whole
    };
    !settle.keep && settle.entries.iter().all(alike)
}

/// `None` if nothing was changed and the general statement has to be sent instead.
pub(super) async fn settle(
    connection: &mut PgConnection,
    settle: &Settle,
) -> Result<(Option<SettleReply>, bool), sqlx::Error> {
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
    let said = row.plain.then_some(SettleReply { settled, current: row.current, repeated: false });
    Ok((said, row.keyed))
}
