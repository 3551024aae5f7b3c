//! Guarded commits: commits with a condition, group offsets or acks. Each is a transaction that first locks
//! what the guard names, then checks it in a later statement (with a newer snapshot), and applies all or
//! nothing.
//!
//! Order of locks: leases by id, group, partitions by id, rows that settling the leases changes, committed
//! offsets, keys.

use super::PostgresControlPlane;
use super::commit::{RequestOutcome, outcomes, send};
use super::connection::{COMMIT, sent};
use super::error::classify;
use super::group;
use super::queue::acks;
use bytes::Bytes;
use millpond_core::control_plane::{Answer, Commit, Committed, PieceOutcome, Verdict};
use millpond_core::{Error, limits};
use sqlx::{Connection, PgConnection, Postgres, Transaction};
use uuid::Uuid;

/// Runs in a task of its own, so that it is not cancelled with its caller.
pub(super) async fn commit(plane: &PostgresControlPlane, commit: &Commit) -> Result<Committed, Error> {
    let (plane, commit) = (plane.clone(), commit.clone());
    let task = tokio::spawn(async move { sent!(plane, COMMIT, c => commit_once(c, &commit))? });
    task.await.unwrap_or_else(|e| Err(Error::MaybeApplied(e.into())))
}

async fn commit_once(connection: &mut PgConnection, commit: &Commit) -> Result<Committed, Error> {
    let mut tx = connection.begin().await.map_err(|e| Error::NotApplied(e.into()))?;
    let committed = decide(&mut tx, commit).await?;
    if committed.verdicts != [Verdict::Stored] {
        tx.rollback().await.ok();
        return Ok(committed);
    }
    tx.commit().await.map_err(classify)?;
    Ok(committed)
}

fn told(commit: &Commit, verdict: Verdict) -> Committed {
    Committed {
        at_ms: 0,
        verdicts: vec![verdict],
        pieces: vec![PieceOutcome::default(); commit.pieces.len()],
    }
}

async fn decide(tx: &mut Transaction<'_, Postgres>, commit: &Commit) -> Result<Committed, Error> {
    let offsets = commit.guard.as_ref().and_then(|g| g.offsets.as_ref());
    let acks = commit.guard.as_ref().and_then(|g| g.acks.as_ref());
    let scope = commit.requests.first().map(|request| &request.scope);
    let leases = match (scope, acks) {
        (Some(scope), Some(acks)) => acks::hold(tx, scope, acks).await?,
        _ => acks::Held::default(),
    };
    if let Some(offsets) = offsets {
        let share = sqlx::query_file!(
            "queries/group/share.sql",
            offsets.scope.tenant.as_str(),
            offsets.group.as_str()
        );
        share.fetch_optional(&mut **tx).await.map_err(classify)?;
    }
    let partitions: Vec<i64> = commit.runs.iter().map(|r| r.partition.0).collect();
    if let Some(scope) = scope.filter(|_| !partitions.is_empty()) {
        sqlx::query_file!("queries/log/lock.sql", &partitions, scope.tenant.as_str())
            .fetch_all(&mut **tx)
            .await
            .map_err(classify)?;
    }
    if let Some(known) = look(tx, commit).await? {
        return Ok(known);
    }
    if let (Some(request), Some(acks)) = (commit.requests.first(), acks) {
        let lost = acks::settle(tx, &request.scope, &leases, acks, request.id.0).await?;
        if !lost.is_empty() {
            return Ok(told(commit, Verdict::LeaseLost(lost)));
        }
    }
    if let Some(offsets) = offsets {
        match group::send_offsets(tx, offsets).await? {
            Some(Ok(_)) => {}
            Some(Err(rejected)) => return Ok(told(commit, Verdict::OffsetsRejected(rejected))),
            None => return Err(Error::NotApplied("a group changed although it was held".into())),
        }
    }
    if commit.pieces.is_empty() {
        return alone(tx, commit).await;
    }
    let (committed, said) = send(tx, commit).await?;
    match said.first() {
        // Another agent used the key since the lookup. If the commit is sent again, it finds that answer.
        Some(RequestOutcome::Key) => {
            Err(Error::NotApplied("the idempotency key is being used elsewhere".into()))
        }
        _ => Ok(committed),
    }
}

/// The answer that an earlier sending of this commit, or another request with its key, left.
async fn look(connection: &mut PgConnection, commit: &Commit) -> Result<Option<Committed>, Error> {
    let Some(request) = commit.requests.first() else { return Ok(None) };
    let keys: [Option<Uuid>; 1] = [request.key.map(|k| k.key_hash)];
    let tenants = [request.scope.tenant.as_str()];
    let statement =
        sqlx::query_file!("queries/log/answers.sql", &[0], &[request.id.0], &keys as _, &tenants as _);
    let Some(row) = statement.fetch_optional(connection).await.map_err(classify)? else { return Ok(None) };
    let pieces = outcomes(&row.bases, &row.dropped);
    if row.request_id == request.id.0 {
        return Ok(Some(Committed { at_ms: 0, verdicts: vec![Verdict::Stored], pieces }));
    }
    let same = row.body_hash == request.key.map(|k| k.body_hash);
    let verdict = if same {
        Verdict::Duplicate(Answer { context: Bytes::from(row.context), pieces })
    } else {
        Verdict::Conflict
    };
    Ok(Some(told(commit, verdict)))
}

/// Stores answer and key of a request without records.
async fn alone(connection: &mut PgConnection, commit: &Commit) -> Result<Committed, Error> {
    let Some(request) = commit.requests.first() else { return Ok(told(commit, Verdict::Stored)) };
    let key = request.key;
    let keep_ms = key.map_or(0, |k| k.ttl_ms).max(limits::GUARDED_ANSWER_TTL_MS);
    let statement = sqlx::query_file_scalar!(
        "queries/log/answer_alone.sql",
        request.id.0,
        key.map(|k| k.key_hash) as _,
        key.map(|k| k.body_hash) as _,
        keep_ms,
        &request.context[..],
        request.scope.tenant.as_str()
    );
    if statement.fetch_one(connection).await.map_err(classify)? {
        Ok(told(commit, Verdict::Stored))
    } else {
        Err(Error::NotApplied("the idempotency key is being used elsewhere".into()))
    }
}
