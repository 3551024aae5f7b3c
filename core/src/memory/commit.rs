//! Commits of the in-memory control plane.

use super::{BatchRow, DedupRow, KeyRow, PayloadRow, SegmentState, State};
use crate::assign::{self, View};
use crate::control_plane::{Answer, Commit, Committed, PartBody, PieceOutcome, Verdict};
use crate::id::{Offset, PartitionId, TopicId};
use crate::number::saturated;
use crate::scope::Scope;
use uuid::Uuid;

/// The state as a commit sees it.
struct CommitView<'a> {
    state: &'a State,
    commit: &'a Commit,
    now: i64,
}

impl View for CommitView<'_> {
    fn part_is_new(&self, part: usize) -> bool {
        let part = &self.commit.parts[part];
        match part.body {
            _ if is_late(self.commit, self.now) => false,
            PartBody::Segment { .. } => {
                self.state.segments.get(&part.id).is_some_and(|s| s.state == SegmentState::Pending)
            }
            PartBody::Inline(_) => !self.state.payloads.contains_key(&part.id),
        }
    }

    fn high_watermark(&self, scope: &Scope, partition: PartitionId) -> Option<Offset> {
        self.state.alive_partition_of(&scope.tenant, partition).map(|p| p.high_watermark)
    }

    fn key(&self, key_hash: Uuid) -> Option<(Uuid, Answer)> {
        let key = self.state.keys.get(&key_hash).filter(|k| k.expires_ms > self.now)?;
        let answer = self.state.answers.get(&key.request).map(|(_, a)| a.clone())?;
        Some((key.body_hash, answer))
    }

    fn dedup_is_known(&self, topic: TopicId, id_hash: Uuid) -> bool {
        self.state.dedups.get(&(topic, id_hash)).is_some_and(|d| d.expires_ms > self.now)
    }
}

fn is_late(commit: &Commit, now: i64) -> bool {
    commit.not_after_ms.is_some_and(|not_after| now > not_after)
}

impl State {
    /// The answer to a commit with a guard that changes nothing, since it is refused or was applied before;
    /// `None` if it is to be applied.
    fn answer_without_change(&self, commit: &Commit, now: i64) -> Option<Committed> {
        let guard = commit.guard.as_ref()?;
        let request = commit.requests.first()?;
        let answered = |verdict, pieces| Some(Committed { at_ms: now, verdicts: vec![verdict], pieces });
        let no_outcomes = || vec![PieceOutcome::default(); commit.pieces.len()];
        if let Some((_, answer)) = self.answers.get(&request.id) {
            return answered(Verdict::Stored, answer.pieces.clone());
        }
        let view = CommitView { state: self, commit, now };
        if let Some((key, (body_hash, answer))) = request.key.and_then(|k| Some((k, view.key(k.key_hash)?))) {
            let verdict =
                if body_hash == key.body_hash { Verdict::Duplicate(answer) } else { Verdict::Conflict };
            return answered(verdict, no_outcomes());
        }
        if let Some(acks) = &guard.acks {
            let lost = self.lost_acks(&request.scope.tenant, acks);
            if !lost.is_empty() {
                return answered(Verdict::LeaseLost(lost), no_outcomes());
            }
        }
        if let Some(Err(rejected)) = guard.offsets.as_ref().map(|offsets| self.judge_offsets(offsets)) {
            return answered(Verdict::OffsetsRejected(rejected), no_outcomes());
        }
        match assign::decide(commit, &view, now).committed.verdicts.pop()? {
            Verdict::Stored => None,
            Verdict::Unknown => answered(Verdict::undetermined(is_late(commit, now)), no_outcomes()),
            refused => answered(refused, no_outcomes()),
        }
    }

    pub(super) fn commit(&mut self, commit: &Commit, now: i64) -> Committed {
        if let Some(committed) = self.answer_without_change(commit, now) {
            return committed;
        }
        if let Some(offsets) = commit.guard.as_ref().and_then(|g| g.offsets.as_ref()) {
            self.apply_offsets(offsets);
        }
        let acks = commit.guard.as_ref().and_then(|g| g.acks.as_ref());
        if let (Some(request), Some(acks)) = (commit.requests.first(), acks) {
            self.apply_acks(&request.scope.tenant, acks, now);
        }
        let state = self;
        let new_parts: Vec<bool> =
            (0..commit.parts.len()).map(|p| CommitView { state, commit, now }.part_is_new(p)).collect();
        let decision = assign::decide(commit, &CommitView { state, commit, now }, now);
        let mut committed = decision.committed;
        for (part, _) in commit.parts.iter().zip(&new_parts).filter(|(_, new)| **new) {
            match &part.body {
                PartBody::Segment { .. } => {
                    let live = decision.batches.iter().filter(|(_, b)| b.part == part.id).count();
                    if let Some(row) = state.segments.get_mut(&part.id) {
                        row.live_batches = saturated::<i64, _>(live);
                        let unlinked = SegmentState::Unlinked { delete_at_ms: now, again: false };
                        row.state = if live == 0 { unlinked } else { SegmentState::Committed };
                    }
                }
                PartBody::Inline(bytes) => {
                    state.payloads.insert(
                        part.id,
                        PayloadRow {
                            committed_ms: now,
                            drained_ms: None,
                            set_aside: false,
                            bytes: bytes.clone(),
                        },
                    );
                }
            }
        }
        for taken in &decision.taken {
            let dedup = &commit.dedups[*taken];
            let outcome = &committed.pieces[dedup.piece];
            let before = outcome.dropped.iter().filter(|p| **p < dedup.position).count();
            let offset = outcome.base.map_or(0, |b| b.0) + i64::from(dedup.position)
                - i64::try_from(before).unwrap_or(0);
            let row = DedupRow {
                partition: dedup.partition,
                offset: Offset(offset),
                expires_ms: now + dedup.window_ms,
            };
            state.dedups.insert((dedup.topic, dedup.id_hash), row);
        }
        for (partition, batch) in decision.batches {
            let expires_at_ms = commit
                .runs
                .iter()
                .find(|r| commit.parts[r.part].id == batch.part && r.byte_offset == batch.byte_offset)
                .and_then(|r| r.expires_at_ms);
            state.batches.insert((partition, batch.base), BatchRow { batch, expires_at_ms });
        }
        for (partition, high_watermark) in decision.high_watermarks {
            if let Some(row) = state.partitions.get_mut(&partition) {
                row.high_watermark = high_watermark;
            }
        }
        for (number, request) in commit.requests.iter().enumerate() {
            let pieces = || commit.pieces.iter().enumerate().filter(move |(_, p)| p.request == number);
            let has_dedup = commit.dedups.iter().any(|d| commit.pieces[d.piece].request == number);
            if committed.verdicts[number] == Verdict::Stored
                && (request.key.is_some() || has_dedup || commit.guard.is_some())
            {
                let outcomes = pieces().map(|(n, _)| committed.pieces[n].clone()).collect();
                state
                    .answers
                    .insert(request.id, (now, Answer { context: request.context.clone(), pieces: outcomes }));
                if let Some(key) = request.key {
                    let row = KeyRow {
                        body_hash: key.body_hash,
                        request: request.id,
                        expires_ms: now + key.ttl_ms,
                    };
                    state.keys.insert(key.key_hash, row);
                }
            }
        }
        for number in decision.repeats {
            let pieces: Vec<usize> = commit
                .pieces
                .iter()
                .enumerate()
                .filter(|(_, p)| p.request == number)
                .map(|(n, _)| n)
                .collect();
            if let Some((_, answer)) = state.answers.get(&commit.requests[number].id) {
                for (n, outcome) in pieces.iter().zip(&answer.pieces) {
                    committed.pieces[*n] = outcome.clone();
                }
                committed.verdicts[number] = Verdict::Stored;
                continue;
            }
            let key = commit.requests[number].key;
            if let Some((key, (body_hash, answer))) =
                key.and_then(|k| Some((k, CommitView { state, commit, now }.key(k.key_hash)?)))
            {
                committed.verdicts[number] =
                    if body_hash == key.body_hash { Verdict::Duplicate(answer) } else { Verdict::Conflict };
                continue;
            }
            let found: Vec<_> = pieces
                .iter()
                .filter_map(|n| {
                    let piece = &commit.pieces[*n];
                    let run = &commit.runs[piece.run];
                    let home = state.partitions.get(&run.partition)?;
                    if home.tenant != commit.requests[number].scope.tenant {
                        return None;
                    }
                    let row = state.batches_of(run.partition).find(|b| {
                        b.batch.part == commit.parts[run.part].id && b.batch.byte_offset == run.byte_offset
                    })?;
                    Some(assign::recover(piece.first, piece.records, &row.batch)).filter(|o| o.base.is_some())
                })
                .collect();
            if found.len() == pieces.len() {
                for (n, outcome) in pieces.into_iter().zip(found) {
                    committed.pieces[n] = outcome;
                }
                committed.verdicts[number] = Verdict::Stored;
            } else {
                committed.verdicts[number] = Verdict::undetermined(is_late(commit, now));
            }
        }
        committed
    }
}
