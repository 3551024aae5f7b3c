//! The settlement that happens most: acks and nothing else. Costs less than half of the one that can do all.

use super::columns::{Columns, SettleReply, verdicts};
use millpond_core::LeaseId;
use millpond_core::queue::{Action, Claim, Settle, Settled};
use sqlx::PgConnection;
use std::collections::HashMap;

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
