//! The decision of a commit, as a pure function: which requests are accepted, which records are kept, and
//! which offsets they get.

use crate::control_plane::{Answer, Batch, Commit, Committed, PieceOutcome, Verdict};
use crate::id::{Offset, PartitionId, TopicId};
use crate::number::saturated;
use crate::scope::Scope;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use uuid::Uuid;

/// The state that a commit is applied to, as far as the decision needs it.
pub trait View {
    /// False if an earlier sending of the part was applied, or if the part is a segment that was never
    /// registered.
    fn part_is_new(&self, part: usize) -> bool;
    /// High watermark of a partition; `None` if it is gone or belongs to another tenant.
    fn high_watermark(&self, scope: &Scope, partition: PartitionId) -> Option<Offset>;
    /// Body hash and answer of an idempotency key's earlier use, unless it has expired.
    fn key(&self, key_hash: Uuid) -> Option<(Uuid, Answer)>;
    /// Whether a record with this dedup id was stored within the window of the topic.
    fn dedup_is_known(&self, topic: TopicId, id_hash: Uuid) -> bool;
}

/// The changes that a commit makes, and its answers.
#[derive(Debug)]
pub struct Decision {
    pub committed: Committed,
    /// Indexes of the requests whose part was applied before. The caller looks up their outcome.
    pub repeats: Vec<usize>,
    /// Batches to add to the index of the log.
    pub batches: Vec<(PartitionId, Batch)>,
    /// New high watermark of each partition that got records.
    pub high_watermarks: BTreeMap<PartitionId, Offset>,
    /// Indexes into `commit.dedups` of the ids to be stored.
    pub taken: Vec<usize>,
}

/// Decides a commit at the instant `at_ms` (milliseconds since the Unix epoch).
#[must_use]
pub fn decide(commit: &Commit, view: &impl View, at_ms: i64) -> Decision {
    let mut repeats = Vec::new();
    let mut verdicts: Vec<Verdict> = commit.requests.iter().map(|_| Verdict::Stored).collect();
    for (number, request) in commit.requests.iter().enumerate() {
        let (verdict, repeat) = request_verdict(commit, view, number);
        verdicts[number] = verdict;
        if repeat {
            repeats.push(number);
        }
        debug_assert!(request.expect.is_none() || commit.requests.len() == 1);
    }

    let mut taken = Vec::new();
    let mut taken_ids = HashSet::new();
    let mut dropped: HashMap<usize, Vec<i32>> = HashMap::new();
    for (number, dedup) in commit.dedups.iter().enumerate() {
        if verdicts[commit.pieces[dedup.piece].request] != Verdict::Stored {
            continue;
        }
        if view.dedup_is_known(dedup.topic, dedup.id_hash) || !taken_ids.insert((dedup.topic, dedup.id_hash))
        {
            dropped.entry(dedup.piece).or_default().push(dedup.position);
        } else {
            taken.push(number);
        }
    }

    let mut high_watermarks: BTreeMap<PartitionId, Offset> = BTreeMap::new();
    let mut pieces = Vec::with_capacity(commit.pieces.len());
    let mut batches: BTreeMap<usize, Batch> = BTreeMap::new();
    for (number, piece) in commit.pieces.iter().enumerate() {
        let run = &commit.runs[piece.run];
        let mut skip: Vec<Range<i32>> = Vec::new();
        let mut outcome = PieceOutcome::default();
        let mut kept = 0;
        if verdicts[piece.request] == Verdict::Stored {
            let next = high_watermarks
                .get(&run.partition)
                .copied()
                .or_else(|| view.high_watermark(&commit.requests[piece.request].scope, run.partition))
                .unwrap_or(Offset::ZERO);
            let mut positions = dropped.remove(&number).unwrap_or_default();
            positions.sort_unstable();
            kept = piece.records - saturated::<i32, _>(positions.len());
            skip.extend(positions.iter().map(|p| piece.first + p..piece.first + p + 1));
            outcome = PieceOutcome { base: (kept > 0).then_some(next), dropped: positions };
            if kept > 0 {
                high_watermarks.insert(run.partition, Offset(next.0 + i64::from(kept)));
            }
        } else {
            skip.push(piece.first..piece.first + piece.records);
        }
        let batch = batches.entry(piece.run).or_insert_with(|| Batch {
            base: outcome.base.unwrap_or(Offset(-1)),
            records: 0,
            part: commit.parts[run.part].id,
            inline: matches!(commit.parts[run.part].body, crate::control_plane::PartBody::Inline(_)),
            byte_offset: run.byte_offset,
            byte_length: run.byte_length,
            raw_bytes: run.raw_bytes,
            crc: run.crc,
            committed_at_ms: at_ms,
            max_timestamp: run.max_timestamp,
            flags: run.flags,
            skip: Vec::new(),
        });
        if batch.records == 0
            && let Some(base) = outcome.base
        {
            batch.base = base;
        }
        batch.records += kept;
        for range in skip {
            match batch.skip.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => batch.skip.push(range),
            }
        }
        pieces.push(outcome);
    }
    let batches = batches
        .into_iter()
        .filter(|(_, b)| b.records > 0)
        .map(|(run, b)| (commit.runs[run].partition, b))
        .collect();
    Decision { committed: Committed { at_ms, verdicts, pieces }, repeats, batches, high_watermarks, taken }
}

/// The verdict on one request before dedup ids are checked, and whether its part was applied before.
fn request_verdict(commit: &Commit, view: &impl View, number: usize) -> (Verdict, bool) {
    let request = &commit.requests[number];
    let mut pieces = commit.pieces.iter().filter(|p| p.request == number).peekable();
    if pieces.clone().any(|p| !view.part_is_new(commit.runs[p.run].part)) {
        return (Verdict::Unknown, true);
    }
    if let Some(key) = request.key
        && let Some((body_hash, answer)) = view.key(key.key_hash)
    {
        return if body_hash == key.body_hash {
            (Verdict::Duplicate(answer), false)
        } else {
            (Verdict::Conflict, false)
        };
    }
    if pieces.clone().any(|p| view.high_watermark(&request.scope, commit.runs[p.run].partition).is_none()) {
        return (Verdict::PartitionGone, false);
    }
    if let (Some(expect), Some(piece)) = (request.expect, pieces.peek())
        && let Some(current) = view.high_watermark(&request.scope, commit.runs[piece.run].partition)
        && current != expect
    {
        return (Verdict::OffsetMismatch { current }, false);
    }
    (Verdict::Stored, false)
}

/// Reads the outcome of a piece back from the batch that holds its run. `first` is the position of the piece
/// in its run, `records` its number of records.
#[must_use]
pub fn recover(first: i32, records: i32, batch: &Batch) -> PieceOutcome {
    let skipped_before = |position: i32| -> i32 {
        batch.skip.iter().map(|r| r.end.min(position) - r.start.min(position)).sum()
    };
    let dropped: Vec<i32> = batch
        .skip
        .iter()
        .flat_map(|r| r.start.max(first)..r.end.min(first + records))
        .map(|p| p - first)
        .collect();
    let all = dropped.len() == saturated::<usize, _>(records);
    let base = Offset(batch.base.0 + i64::from(first - skipped_before(first)));
    PieceOutcome { base: (!all).then_some(base), dropped }
}

#[cfg(test)]
mod tests;
