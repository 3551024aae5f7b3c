//! Commit: the statement, and lookups of what its snapshot could not contain (concurrent requests with the
//! same key, earlier sendings of the same commit).

use super::PostgresControlPlane;
use super::connection::{COMMIT, retried, sent};
use super::error::classify;
use super::find::ranges;
use bytes::Bytes;
use millpond_core::assign;
use millpond_core::control_plane::{
    Answer, Batch, BatchFlags, Commit, Committed, PartBody, Piece, PieceOutcome, Run, Verdict,
};
use millpond_core::{Error, Offset, PartitionId, limits};
use sqlx::PgConnection;
use std::collections::HashMap;
use uuid::Uuid;

/// Numbers of a commit fit `int4`: `limits::COMMIT_MAX_RUNS` and `CHUNK_MAX_RECORDS` bound them.
fn int(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// Error that the plain statement raises if a partition does not exist or belongs to another tenant, so that
/// Postgres rolls back its changes to the other partitions.
const DIVISION_BY_ZERO: &str = "22012";

/// The statement's result for a whole request.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum RequestOutcome {
    Stored,
    Late,
    Repeat,
    Gone,
    Mismatch(Offset),
    Key,
}

pub(super) async fn commit(plane: &PostgresControlPlane, commit: &Commit) -> Result<Committed, Error> {
    let plain =
        commit.dedups.is_empty() && commit.requests.iter().all(|r| r.key.is_none() && r.expect.is_none());
    if plain
        && let Some(tenants) = tenants(commit)
        && let Some(committed) = send_plain(plane, commit, &tenants).await?
    {
        return Ok(committed);
    }
    let (mut committed, said) = sent!(plane, COMMIT, c => send(c, commit))??;
    resolve_answers(plane, commit, &said, &mut committed).await?;
    resolve_repeats(plane, commit, &said, &mut committed).await?;
    Ok(committed)
}

/// Parts and runs of a commit, as one array per column.
struct Columns<'a> {
    segment_ids: Vec<Uuid>,
    segment_bytes: Vec<i64>,
    segment_crcs: Vec<i32>,
    payload_ids: Vec<Uuid>,
    payloads: Vec<&'a [u8]>,
    parts: Vec<Uuid>,
    inline: Vec<bool>,
    partitions: Vec<i64>,
    offsets: Vec<i32>,
    lengths: Vec<i32>,
    raw: Vec<i32>,
    crcs: Vec<i32>,
    times: Vec<i64>,
    expiries: Vec<Option<i64>>,
    flags: Vec<i16>,
    /// Each partition once, ordered by id.
    distinct: Vec<i64>,
}

impl<'a> Columns<'a> {
    fn of(commit: &'a Commit) -> Self {
        let runs = &commit.runs;
        let mut columns = Self {
            segment_ids: Vec::new(),
            segment_bytes: Vec::new(),
            segment_crcs: Vec::new(),
            payload_ids: Vec::new(),
            payloads: Vec::new(),
            parts: runs.iter().map(|r| commit.parts[r.part].id.0).collect(),
            inline: runs.iter().map(|r| matches!(commit.parts[r.part].body, PartBody::Inline(_))).collect(),
            partitions: runs.iter().map(|r| r.partition.0).collect(),
            offsets: runs.iter().map(|r| r.byte_offset).collect(),
            lengths: runs.iter().map(|r| r.byte_length).collect(),
            raw: runs.iter().map(|r| r.raw_bytes).collect(),
            crcs: runs.iter().map(|r| r.crc).collect(),
            times: runs.iter().map(|r| r.max_timestamp).collect(),
            expiries: runs.iter().map(|r| r.expires_at_ms).collect(),
            flags: runs.iter().map(|r| r.flags.0).collect(),
            distinct: runs.iter().map(|r| r.partition.0).collect(),
        };
        columns.distinct.sort_unstable();
        columns.distinct.dedup();
        for part in &commit.parts {
            match &part.body {
                PartBody::Segment { bytes, crc } => {
                    columns.segment_ids.push(part.id.0);
                    columns.segment_bytes.push(*bytes);
                    columns.segment_crcs.push(*crc);
                }
                PartBody::Inline(bytes) => {
                    columns.payload_ids.push(part.id.0);
                    columns.payloads.push(bytes);
                }
            }
        }
        columns
    }
}

/// The tenant of each partition of the commit. `None` if the commit names a partition under several tenants,
/// at most one of which owns it.
fn tenants(commit: &Commit) -> Option<HashMap<PartitionId, &str>> {
    let mut tenants = HashMap::new();
    for piece in &commit.pieces {
        let tenant = commit.requests[piece.request].scope.tenant.as_str();
        if *tenants.entry(commit.runs[piece.run].partition).or_insert(tenant) != tenant {
            return None;
        }
    }
    Some(tenants)
}

/// Sends `queries/log/commit_plain.sql`. `None` if it changed nothing.
async fn send_plain(
    plane: &PostgresControlPlane,
    commit: &Commit,
    tenants: &HashMap<PartitionId, &str>,
) -> Result<Option<Committed>, Error> {
    let c = Columns::of(commit);
    let mut records = vec![0; commit.runs.len()];
    for piece in &commit.pieces {
        records[piece.run] += piece.records;
    }
    let mut partition_records = vec![0_i64; c.distinct.len()];
    let mut partition_bytes = vec![0_i64; c.distinct.len()];
    for (run, records) in commit.runs.iter().zip(&records) {
        if let Ok(at) = c.distinct.binary_search(&run.partition.0) {
            partition_records[at] += i64::from(*records);
            partition_bytes[at] += i64::from(run.byte_length);
        }
    }
    let tenants: Vec<&str> =
        c.distinct.iter().map(|p| tenants.get(&PartitionId(*p)).copied().unwrap_or_default()).collect();
    let mut runs_of: HashMap<Uuid, i32> = HashMap::new();
    for part in &c.parts {
        *runs_of.entry(*part).or_default() += 1;
    }
    let live: Vec<i32> = c.segment_ids.iter().map(|id| runs_of.get(id).copied().unwrap_or(0)).collect();
    let statement = sqlx::query_file!(
        "queries/log/commit_plain.sql",
        &c.segment_ids,
        &c.segment_bytes,
        &c.segment_crcs,
        &c.payload_ids,
        &c.payloads as _,
        &c.parts,
        &c.inline,
        &c.partitions,
        &c.offsets,
        &c.lengths,
        &c.raw,
        &c.crcs,
        &c.times,
        &c.expiries as _,
        &c.flags,
        &c.distinct,
        &partition_records,
        &partition_bytes,
        &records,
        &live,
        &tenants as _,
        commit.not_after_ms
    );
    let rows = match sent!(plane, COMMIT, c => statement.fetch_all(c))? {
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(DIVISION_BY_ZERO) => {
            return Ok(None);
        }
        outcome => outcome.map_err(classify)?,
    };
    let Some(first) = rows.first() else { return Ok(None) };
    let piece = |p: &Piece| PieceOutcome {
        base: Some(Offset(rows[p.run].base + i64::from(p.first))),
        dropped: Vec::new(),
    };
    Ok(Some(Committed {
        at_ms: first.at_ms,
        verdicts: vec![Verdict::Stored; commit.requests.len()],
        pieces: commit.pieces.iter().map(piece).collect(),
    }))
}

/// Sends `queries/log/commit.sql` once.
pub(super) async fn send(
    connection: &mut PgConnection,
    commit: &Commit,
) -> Result<(Committed, Vec<RequestOutcome>), Error> {
    let c = Columns::of(commit);
    let pieces = &commit.pieces;
    let piece_requests: Vec<i32> = pieces.iter().map(|p| int(p.request) + 1).collect();
    let piece_runs: Vec<i32> = pieces.iter().map(|p| int(p.run) + 1).collect();
    let piece_firsts: Vec<i32> = pieces.iter().map(|p| p.first).collect();
    let piece_records: Vec<i32> = pieces.iter().map(|p| p.records).collect();
    let mut next = vec![-1; commit.requests.len()];
    let mut nth = |request: usize| -> i32 {
        next[request] += 1;
        next[request]
    };
    let piece_nths: Vec<i32> = pieces.iter().map(|p| nth(p.request)).collect();
    let piece_partitions: Vec<i64> = pieces.iter().map(|p| c.partitions[p.run]).collect();
    let piece_parts: Vec<Uuid> = pieces.iter().map(|p| c.parts[p.run]).collect();
    let mut keep: Vec<Option<i64>> = commit.requests.iter().map(|r| r.key.map(|k| k.ttl_ms)).collect();
    for dedup in &commit.dedups {
        let keep = &mut keep[pieces[dedup.piece].request];
        *keep = (*keep).max(Some(dedup.window_ms));
    }
    if commit.guard.is_some() {
        keep.iter_mut().for_each(|keep| *keep = (*keep).max(Some(limits::GUARDED_ANSWER_TTL_MS)));
    }
    let requests = &commit.requests;
    let request_ids: Vec<Uuid> = requests.iter().map(|r| r.id.0).collect();
    let key_hashes: Vec<Option<Uuid>> = requests.iter().map(|r| r.key.map(|k| k.key_hash)).collect();
    let body_hashes: Vec<Option<Uuid>> = requests.iter().map(|r| r.key.map(|k| k.body_hash)).collect();
    let expects: Vec<Option<i64>> = requests.iter().map(|r| r.expect.map(|o| o.0)).collect();
    let contexts: Vec<&[u8]> = requests.iter().map(|r| &r.context[..]).collect();
    let tenants: Vec<&str> = requests.iter().map(|r| r.scope.tenant.as_str()).collect();
    let dedups = &commit.dedups;
    let dedup_pieces: Vec<i32> = dedups.iter().map(|d| int(d.piece)).collect();
    let dedup_positions: Vec<i32> = dedups.iter().map(|d| d.position).collect();
    let dedup_topics: Vec<i64> = dedups.iter().map(|d| d.topic.0).collect();
    let dedup_hashes: Vec<Uuid> = dedups.iter().map(|d| d.id_hash).collect();
    let dedup_windows: Vec<i64> = dedups.iter().map(|d| d.window_ms).collect();
    let dedup_partitions: Vec<i32> = dedups.iter().map(|d| d.partition).collect();

    let statement = sqlx::query_file!(
        "queries/log/commit.sql",
        &c.segment_ids,
        &c.segment_bytes,
        &c.segment_crcs,
        &c.payload_ids,
        &c.payloads as _,
        &c.parts,
        &c.inline,
        &c.partitions,
        &c.offsets,
        &c.lengths,
        &c.raw,
        &c.crcs,
        &c.times,
        &c.expiries as _,
        &c.flags,
        &piece_requests,
        &piece_runs,
        &piece_firsts,
        &piece_records,
        &request_ids,
        &key_hashes as _,
        &body_hashes as _,
        &keep as _,
        &expects as _,
        &contexts as _,
        &dedup_pieces,
        &dedup_positions,
        &dedup_topics,
        &dedup_hashes,
        &dedup_windows,
        &dedup_partitions,
        &piece_nths,
        &c.distinct,
        &piece_partitions,
        &piece_parts,
        &tenants as _,
        commit.not_after_ms
    );
    let rows = statement.fetch_all(connection).await.map_err(classify)?;

    let mut committed = Committed {
        at_ms: 0,
        verdicts: vec![Verdict::Stored; requests.len()],
        pieces: Vec::with_capacity(rows.len()),
    };
    let mut said = vec![RequestOutcome::Stored; requests.len()];
    for (piece, row) in pieces.iter().zip(rows) {
        committed.at_ms = row.at_ms;
        committed.pieces.push(PieceOutcome { base: row.base.map(Offset), dropped: row.dropped });
        let (now_said, verdict) = match row.refused.as_deref() {
            None => continue,
            Some("late") => (RequestOutcome::Late, Verdict::TooLate),
            Some("repeat") => (RequestOutcome::Repeat, Verdict::Unknown),
            Some("gone") => (RequestOutcome::Gone, Verdict::PartitionGone),
            Some("mismatch") => {
                let current = Offset(row.high_watermark.unwrap_or(0));
                (RequestOutcome::Mismatch(current), Verdict::OffsetMismatch { current })
            }
            Some(_) => (RequestOutcome::Key, Verdict::Unknown),
        };
        said[piece.request] = now_said;
        committed.verdicts[piece.request] = verdict;
    }
    Ok((committed, said))
}

/// Looks up the answers that the commit's snapshot could not contain: that of a concurrent request with the
/// same key, or that of an earlier sending of the same request.
async fn resolve_answers(
    plane: &PostgresControlPlane,
    commit: &Commit,
    said: &[RequestOutcome],
    committed: &mut Committed,
) -> Result<(), Error> {
    let mut has_answer: Vec<bool> = commit.requests.iter().map(|r| r.key.is_some()).collect();
    for dedup in &commit.dedups {
        has_answer[commit.pieces[dedup.piece].request] = true;
    }
    let open: Vec<usize> =
        (0..said.len()).filter(|n| said[*n] != RequestOutcome::Stored && has_answer[*n]).collect();
    if open.is_empty() {
        return Ok(());
    }
    let mut pieces_of: Vec<Vec<usize>> = vec![Vec::new(); commit.requests.len()];
    for (number, piece) in commit.pieces.iter().enumerate() {
        pieces_of[piece.request].push(number);
    }
    let numbers: Vec<i32> = open.iter().map(|n| int(*n)).collect();
    let ids: Vec<Uuid> = open.iter().map(|n| commit.requests[*n].id.0).collect();
    let keys: Vec<Option<Uuid>> = open.iter().map(|n| commit.requests[*n].key.map(|k| k.key_hash)).collect();
    let tenants: Vec<&str> = open.iter().map(|n| commit.requests[*n].scope.tenant.as_str()).collect();
    let rows = retried!(
        plane, COMMIT,
        c => sqlx::query_file!("queries/log/answers.sql", &numbers, &ids, &keys as _, &tenants as _)
            .fetch_all(c)
    )?;
    for row in rows {
        let number = usize::try_from(row.req).unwrap_or(0);
        let request = &commit.requests[number];
        let pieces = outcomes(&row.bases, &row.dropped);
        if row.request_id == request.id.0 {
            for (n, outcome) in pieces_of[number].iter().zip(pieces) {
                committed.pieces[*n] = outcome;
            }
            committed.verdicts[number] = Verdict::Stored;
        } else if row.body_hash == request.key.map(|k| k.body_hash) {
            committed.verdicts[number] =
                Verdict::Duplicate(Answer { context: Bytes::from(row.context), pieces });
        } else {
            committed.verdicts[number] = Verdict::Conflict;
        }
    }
    if open.iter().any(|n| said[*n] == RequestOutcome::Key && committed.verdicts[*n] == Verdict::Unknown) {
        return Err(Error::NotApplied("an idempotency key expired while it was looked up".into()));
    }
    Ok(())
}

pub(super) fn outcomes(bases: &[Option<i64>], dropped: &[i64]) -> Vec<PieceOutcome> {
    let mut pieces: Vec<PieceOutcome> =
        bases.iter().map(|b| PieceOutcome { base: b.map(Offset), dropped: Vec::new() }).collect();
    for packed in dropped {
        let position = i32::try_from(packed & 0xffff_ffff).unwrap_or(i32::MAX);
        if let Some(piece) = usize::try_from(packed >> 32).ok().and_then(|n| pieces.get_mut(n)) {
            piece.dropped.push(position);
        }
    }
    pieces
}

/// Reconstructs, from the batches, the answers of requests that have no answer row and whose part was
/// committed by an earlier sending.
async fn resolve_repeats(
    plane: &PostgresControlPlane,
    commit: &Commit,
    said: &[RequestOutcome],
    committed: &mut Committed,
) -> Result<(), Error> {
    let open = |request: usize| {
        matches!(committed.verdicts[request], Verdict::Unknown | Verdict::TooLate)
            && matches!(said[request], RequestOutcome::Repeat | RequestOutcome::Late)
    };
    let pieces: Vec<usize> = (0..commit.pieces.len()).filter(|n| open(commit.pieces[*n].request)).collect();
    if pieces.is_empty() {
        return Ok(());
    }
    let sought = |piece: &Piece| (piece.run, commit.requests[piece.request].scope.tenant.as_str());
    let mut asked: Vec<(usize, &str)> = pieces.iter().map(|n| sought(&commit.pieces[*n])).collect();
    asked.dedup();
    let numbers: Vec<i32> = (0..asked.len()).map(int).collect();
    let tenants: Vec<&str> = asked.iter().map(|(_, tenant)| *tenant).collect();
    let runs: Vec<&Run> = asked.iter().map(|(run, _)| &commit.runs[*run]).collect();
    let partitions: Vec<i64> = runs.iter().map(|r| r.partition.0).collect();
    let parts: Vec<Uuid> = runs.iter().map(|r| commit.parts[r.part].id.0).collect();
    let offsets: Vec<i32> = runs.iter().map(|r| r.byte_offset).collect();
    let rows = retried!(
        plane, COMMIT,
        c => sqlx::query_file!(
            "queries/log/repeats.sql", &numbers, &partitions, &parts, &offsets, &tenants as _
        )
        .fetch_all(c)
    )?;
    let mut batches: HashMap<(usize, &str), Batch> = HashMap::new();
    for row in rows {
        let number = usize::try_from(row.run).unwrap_or(0);
        let run = runs[number];
        let batch = Batch {
            base: Offset(row.base_offset),
            records: row.records,
            part: commit.parts[run.part].id,
            inline: false,
            byte_offset: run.byte_offset,
            byte_length: run.byte_length,
            raw_bytes: run.raw_bytes,
            crc: run.crc,
            committed_at_ms: committed.at_ms,
            max_timestamp: run.max_timestamp,
            flags: BatchFlags::default(),
            skip: ranges(&row.skip_from, &row.skip_to),
        };
        batches.insert(asked[number], batch);
    }
    for number in &pieces {
        let piece = &commit.pieces[*number];
        let outcome = batches
            .get(&sought(piece))
            .map(|b| assign::recover(piece.first, piece.records, b))
            .unwrap_or_default();
        committed.pieces[*number] = outcome;
    }
    for number in &pieces {
        committed.verdicts[commit.pieces[*number].request] = Verdict::Stored;
    }
    for number in pieces.into_iter().filter(|n| committed.pieces[*n].base.is_none()) {
        let request = commit.pieces[number].request;
        committed.verdicts[request] = Verdict::undetermined(said[request] == RequestOutcome::Late);
    }
    Ok(())
}
