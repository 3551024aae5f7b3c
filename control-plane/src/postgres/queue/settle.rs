//! Settlements: ack, nack, reject and renew leased records; and the end of expired leases.

use super::columns::{Columns, SettleReply, verdicts};
use super::hints::KnownAs;
use super::settle_plain;
use super::{again, is_conflict};
use crate::postgres::PostgresControlPlane;
use crate::postgres::connection::{WRITE, sent};
use crate::postgres::error::classify;
use millpond_core::queue::{Settle, Settled};
use millpond_core::{Error, limits};
use sqlx::PgConnection;

const SENDINGS_MAX: usize = 50;
pub(super) async fn settle(plane: &PostgresControlPlane, settle: &Settle) -> Result<Settled, Error> {
    let mut plain =
        settle_plain::is_plain(settle) && plane.hints.read().get(&settle.queue) != Some(&KnownAs::Keyed);
    let mut looked = false;
    for _ in 0..SENDINGS_MAX {
        let sending = if std::mem::take(&mut plain) {
            match sent!(plane, WRITE, c => settle_plain::settle(c, settle))? {
                Ok((Some(said), _)) => Ok(said),
                Ok((None, keyed)) => {
                    if keyed {
                        plane.hints.write().insert(settle.queue, KnownAs::Keyed);
                    }
                    continue;
                }
                Err(e) => Err(e),
            }
        } else {
            sent!(plane, WRITE, c => send(c, settle))?
        };
        match sending {
            // Nothing was leased any more. Perhaps an earlier sending of this settlement took effect while
            // this statement waited; a new statement, with a newer snapshot, sees its result.
            Ok(said) if said.current && !said.repeated && said.settled.verdicts.is_empty() && !looked => {
                looked = true
            }
            Ok(said) if said.current => return Ok(said.settled),
            Ok(_) => {}
            Err(e) if is_conflict(&e) => {}
            Err(e) => return Err(classify(e)),
        }
    }
    Err(again())
}

/// Sends the statement `queries/queue/settle.sql` once.
pub(in crate::postgres) async fn send(
    connection: &mut PgConnection,
    settle: &Settle,
) -> Result<SettleReply, sqlx::Error> {
    let columns = Columns::of(settle);
    let statement = sqlx::query_file!(
        "queries/queue/settle.sql",
        settle.queue.0,
        settle.agent.0,
        settle.op,
        settle.keep,
        settle.random,
        settle.leased,
        &columns.leases,
        &columns.partitions as _,
        &columns.attempts as _,
        &columns.los as _,
        &columns.his as _,
        &columns.actions,
        &columns.ms as _,
        &columns.counts,
        &columns.reasons as _,
        limits::OPERATION_TTL_MS,
        settle.scope.tenant.as_str()
    );
    let row = statement.fetch_one(connection).await?;
    let current = row.current || row.repeated;
    Ok(SettleReply {
        settled: Settled { at_ms: row.at_ms, verdicts: verdicts(&row.verdicts) },
        current,
        repeated: row.repeated,
    })
}
