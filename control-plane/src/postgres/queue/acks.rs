//! Acks within the transaction of a commit (`/v1/batches`).

use super::settle::send;
use crate::postgres::error::classify;
use millpond_core::queue::{Ack, Action, Claim, Entry, Settle};
use millpond_core::{AgentId, Error, LeaseId, Offset, PartitionId, QueueId, Scope};
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use uuid::Uuid;

/// The queue of each lease that is still alive.
pub(in crate::postgres) type Held = HashMap<LeaseId, QueueId>;

/// Locks the leases until the transaction ends.
pub(in crate::postgres) async fn hold(
    connection: &mut PgConnection,
    scope: &Scope,
    acks: &[Ack],
) -> Result<Held, Error> {
    let leases: BTreeSet<Uuid> = acks.iter().map(|ack| ack.lease.0).collect();
    let leases: Vec<Uuid> = leases.into_iter().collect();
    let mut held = Held::new();
    // Missing leases are looked up once more in a new statement: a renewal that the first statement waited
    // for may have moved the lease to other rows.
    for _ in 0..2 {
        let statement = sqlx::query_file!("queries/queue/lock_leases.sql", scope.tenant.as_str(), &leases);
        let rows = statement.fetch_all(&mut *connection).await.map_err(classify)?;
        held = rows.into_iter().map(|row| (LeaseId(row.lease_id), QueueId(row.queue_id))).collect();
        if held.len() == leases.len() {
            break;
        }
    }
    Ok(held)
}

/// Key of a lease part: lease, partition, attempt.
type PartKey = (LeaseId, PartitionId, i32);

/// Settles the acks of all queues. Returns the acks whose records are no longer leased; if there are any, the
/// caller must roll the transaction back.
pub(in crate::postgres) async fn settle(
    connection: &mut PgConnection,
    scope: &Scope,
    held: &Held,
    acks: &[Ack],
    op: Uuid,
) -> Result<Vec<usize>, Error> {
    let mut queues: BTreeMap<QueueId, BTreeMap<PartKey, BTreeSet<i64>>> = BTreeMap::new();
    for ack in acks {
        if let Some(queue) = held.get(&ack.lease) {
            let places = queues.entry(*queue).or_default();
            places.entry((ack.lease, ack.partition, ack.attempt)).or_default().insert(ack.offset.0);
        }
    }
    let mut done: BTreeSet<(PartKey, i64)> = BTreeSet::new();
    for (queue, places) in queues {
        let entries: Vec<Entry> = places.iter().flat_map(|(place, offsets)| runs(place, offsets)).collect();
        let settle = Settle {
            scope: scope.clone(),
            queue,
            agent: AgentId(Uuid::nil()),
            op,
            keep: false,
            entries,
            random: 0.0,
            leased: 0,
        };
        let said = send(&mut *connection, &settle).await.map_err(classify)?;
        if !said.current {
            return Err(Error::NotApplied("the same acks were carried out meanwhile".into()));
        }
        for verdict in &said.settled.verdicts {
            let Some(Entry { lease, claim: Claim::Run { attempt, .. }, .. }) =
                settle.entries.get(verdict.entry)
            else {
                continue;
            };
            done.extend(
                (verdict.lo.0..verdict.hi.0).map(|offset| ((*lease, verdict.partition, *attempt), offset)),
            );
        }
    }
    let lost = |ack: &Ack| !done.contains(&((ack.lease, ack.partition, ack.attempt), ack.offset.0));
    Ok((0..).zip(acks).filter(|(_, ack)| lost(ack)).map(|(nth, _)| nth).collect())
}

/// Merges acks of adjacent offsets into one entry.
fn runs((lease, partition, attempt): &PartKey, offsets: &BTreeSet<i64>) -> Vec<Entry> {
    let mut runs: Vec<(i64, i64)> = Vec::new();
    for offset in offsets {
        match runs.last_mut() {
            Some((_, hi)) if *hi == *offset => *hi += 1,
            _ => runs.push((*offset, offset + 1)),
        }
    }
    let claim =
        |(lo, hi)| Claim::Run { partition: *partition, attempt: *attempt, lo: Offset(lo), hi: Offset(hi) };
    runs.into_iter().map(|run| Entry { lease: *lease, claim: claim(run), action: Action::Ack }).collect()
}
