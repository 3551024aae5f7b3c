//! Settling what leases hold, and ending those whose deadline is past.

use super::plain::{self, Manner};
use super::{again, is_conflict};
use crate::postgres::PostgresControlPlane;
use crate::postgres::connection::{WRITE, sent};
use crate::postgres::error::classify;
use millpond_core::queue::{Action, Claim, Outcome, Settle, Settled, Verdict};
use millpond_core::{Error, Offset, PartitionId, limits};
use sqlx::PgConnection;
use uuid::Uuid;

const SENDINGS_MAX: usize = 50;
/// Numbers that a stored verdict takes; the first is `entry * OUTCOMES + outcome`.
const VERDICT: usize = 4;
const OUTCOMES: i64 = 8;

/// Entries as columns.
#[derive(Default)]
pub(super) struct Columns {
    pub leases: Vec<Uuid>,
    pub partitions: Vec<Option<i64>>,
    pub attempts: Vec<Option<i32>>,
    pub los: Vec<Option<i64>>,
    pub his: Vec<Option<i64>>,
    actions: Vec<String>,
    ms: Vec<Option<i64>>,
    counts: Vec<bool>,
    reasons: Vec<Option<String>>,
}

impl Columns {
    pub fn of(settle: &Settle) -> Self {
        let mut columns = Self::default();
        for entry in &settle.entries {
            let run = match entry.claim {
                Claim::Whole => None,
                Claim::Run { partition, attempt, lo, hi } => Some((partition.0, attempt, lo.0, hi.0)),
            };
            let (action, ms, counts, reason) = match &entry.action {
                Action::Ack => ("ack", None, false, None),
                Action::Nack { delay_ms, counts, reason } => ("nack", *delay_ms, *counts, reason.clone()),
                Action::Reject { reason } => ("reject", None, false, reason.clone()),
                Action::Renew { lease_ms } => ("renew", Some(*lease_ms), false, None),
                Action::Release => ("release", None, false, None),
                Action::Expire => ("expire", None, false, None),
            };
            columns.leases.push(entry.lease.0);
            columns.partitions.push(run.map(|r| r.0));
            columns.attempts.push(run.map(|r| r.1));
            columns.los.push(run.map(|r| r.2));
            columns.his.push(run.map(|r| r.3));
            columns.actions.push(action.to_owned());
            columns.ms.push(ms);
            columns.counts.push(counts);
            columns.reasons.push(reason);
        }
        columns
    }
}

/// What one sending of the statement says.
pub(in crate::postgres) struct Said {
    pub settled: Settled,
    /// Whether it is the answer: not if another sending of the same settlement was carried out while this one
    /// waited.
    pub current: bool,
    pub repeated: bool,
}

pub(super) async fn settle(plane: &PostgresControlPlane, settle: &Settle) -> Result<Settled, Error> {
    let mut plain =
        plain::is_plain(settle) && plane.manners.read().get(&settle.queue) != Some(&Manner::Keyed);
    let mut looked = false;
    for _ in 0..SENDINGS_MAX {
        let sending = if std::mem::take(&mut plain) {
            match sent!(plane, WRITE, c => plain::settle(c, settle))? {
                Ok((Some(said), _)) => Ok(said),
                Ok((None, keyed)) => {
                    if keyed {
                        plane.manners.write().insert(settle.queue, Manner::Keyed);
                    }
                    continue;
                }
                Err(e) => Err(e),
            }
        } else {
            sent!(plane, WRITE, c => send(c, settle))?
        };
        match sending {
            // Nothing was held: by the settlement itself, if another sending of it was carried out meanwhile.
            // A new statement sees that.
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

/// One round trip.
pub(in crate::postgres) async fn send(
    connection: &mut PgConnection,
    settle: &Settle,
) -> Result<Said, sqlx::Error> {
    let columns = Columns::of(settle);
    let statement = sqlx::query_file!(
        "queries/queue/settle.sql",
        settle.queue.0,
        settle.agent.0,
        settle.op,
        settle.keep,
        settle.dice,
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
    Ok(Said {
        settled: Settled { at_ms: row.at_ms, verdicts: verdicts(&row.verdicts) },
        current,
        repeated: row.repeated,
    })
}

pub(super) fn verdicts(stored: &[i64]) -> Vec<Verdict> {
    stored.chunks_exact(VERDICT).filter_map(verdict).collect()
}

fn verdict(numbers: &[i64]) -> Option<Verdict> {
    let &[what, partition, lo, hi] = numbers else { return None };
    let outcome = match what % OUTCOMES {
        0 => Outcome::Acked,
        1 => Outcome::Released,
        2 => Outcome::Renewed,
        3 => Outcome::Dead,
        _ => Outcome::Expired,
    };
    let entry = usize::try_from(what / OUTCOMES).ok()?;
    Some(Verdict { entry, partition: PartitionId(partition), lo: Offset(lo), hi: Offset(hi), outcome })
}
