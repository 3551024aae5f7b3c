//! Control planes with one planted bug each. The checker must detect every bug.

use crate::fate::Fates;
use bytes::Bytes;
use millpond_core::control_plane::around::Around;
use millpond_core::control_plane::{
    Batch, Commit, Committed, ControlPlane, FindRequest, Found, PartBody, Piece, Request, Swap, SwapRejected,
    Verdict,
};
use millpond_core::topic::{PartitionStatus, PutTopicRejected};
use millpond_core::{Error, Name, Offset, PartId, PartitionId, Scope, Topic, TopicChange, TopicId, assign};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// A commit is answered before it takes effect.
    AnswerBeforeCommit,
    /// Some commits are answered and never take effect.
    CommitDropped,
    /// A commit that is sent again gets new ids.
    NewPartOnResend,
    KeyIgnored,
    /// A request with a known key and another body gets the first request's answer.
    BodyNotCompared,
    DedupIgnored,
    ExpectIgnored,
    /// A refused request leaves a gap in the offsets, as a database sequence would.
    HoleOnRefusal,
    /// The pieces of a request in several partitions become visible one after another.
    TornCommit,
    /// A stored request is answered as refused.
    StoredThoughRefused,
    /// Reads are planned from outdated state.
    StaleFind,
    /// The end of a log is answered from outdated state.
    StaleEnd,
    /// The high watermark is higher than the end of the records.
    EndTooEarly,
    FindSkipsBatch,
    /// Records that a commit skips as duplicates are given offsets.
    SkipIgnored,
    /// Two batches of a log are found under each other's offsets, as with a wrong cache key.
    BatchesExchanged,
    /// A swap does not name the batches that it replaces.
    SwapWithoutInputs,
    SwapLosesBatch,
    /// Objects that hold live batches are deleted.
    SweepDeletesLive,
    /// Unreferenced objects are never deleted.
    SweepForgets,
    /// Records are deleted before their retention ends.
    RetainsTooLittle,
    /// A PUT is answered without being stored.
    PutNotStored,
    /// A reader skips missing objects; the store loses some.
    MissingIsSkipped,
}

impl Bug {
    pub const ALL: [Self; 23] = [
        Self::AnswerBeforeCommit,
        Self::CommitDropped,
        Self::NewPartOnResend,
        Self::KeyIgnored,
        Self::BodyNotCompared,
        Self::DedupIgnored,
        Self::ExpectIgnored,
        Self::HoleOnRefusal,
        Self::TornCommit,
        Self::StoredThoughRefused,
        Self::StaleFind,
        Self::StaleEnd,
        Self::EndTooEarly,
        Self::FindSkipsBatch,
        Self::SkipIgnored,
        Self::BatchesExchanged,
        Self::SwapWithoutInputs,
        Self::SwapLosesBatch,
        Self::SweepDeletesLive,
        Self::SweepForgets,
        Self::RetainsTooLittle,
        Self::PutNotStored,
        Self::MissingIsSkipped,
    ];
}

#[derive(Default)]
struct State {
    found: BTreeMap<(PartitionId, Offset), Found>,
    ends: BTreeMap<TopicId, Vec<PartitionStatus>>,
    /// Parts that exist only to make a gap in the offsets.
    holes: BTreeSet<PartId>,
    live: BTreeSet<PartId>,
    made: u128,
}

pub struct Wrong {
    bug: Bug,
    fates: Arc<Fates>,
    state: Mutex<State>,
}

/// A view of the control plane's state that knows the ends of logs only, to predict a commit's answer.
struct Ends(BTreeMap<PartitionId, Offset>);

impl assign::View for Ends {
    fn part_is_new(&self, _: usize) -> bool {
        true
    }
    fn high_watermark(&self, _: &Scope, partition: PartitionId) -> Option<Offset> {
        self.0.get(&partition).copied()
    }
    fn key(&self, _: Uuid) -> Option<(Uuid, millpond_core::control_plane::Answer)> {
        None
    }
    fn dedup_is_known(&self, _: TopicId, _: Uuid) -> bool {
        false
    }
}

impl Wrong {
    pub fn new(bug: Bug, fates: Arc<Fates>) -> Self {
        Self { bug, fates, state: Mutex::default() }
    }

    fn new_id(&self) -> Uuid {
        let mut state = self.state.lock();
        state.made += 1;
        Uuid::from_u128((0xb06_u128 << 96) + state.made)
    }

    /// Predicts the answer to a commit whose outcome depends on offsets only.
    async fn predict(&self, next: &Arc<dyn ControlPlane>, commit: &Commit) -> Option<Committed> {
        let plain = |r: &Request| r.key.is_none() && r.expect.is_none();
        if !commit.requests.iter().all(plain) || !commit.dedups.is_empty() {
            return None;
        }
        let home = |p: &Piece| (commit.requests[p.request].scope.clone(), commit.runs[p.run].partition);
        let partitions: Vec<(Scope, PartitionId)> = commit.pieces.iter().map(home).collect();
        let ends = next.high_watermarks(&partitions).await.ok()?.into_iter().collect();
        Some(assign::decide(commit, &Ends(ends), 0).committed)
    }

    fn with_new_parts(&self, commit: &Commit) -> Commit {
        let mut commit = commit.clone();
        for part in commit.parts.iter_mut().filter(|p| matches!(p.body, PartBody::Inline(_))) {
            part.id = PartId(self.new_id());
        }
        for request in &mut commit.requests {
            request.id = millpond_core::RequestId(self.new_id());
        }
        commit
    }

    /// Commits an inline commit of several partitions in two steps; `None` if it cannot be split. Each step
    /// may be resent.
    async fn tear(&self, next: &Arc<dyn ControlPlane>, commit: &Commit) -> Option<Result<Committed, Error>> {
        self.predict(next, commit).await?;
        let torn = commit.parts.len() == 1 && matches!(commit.parts[0].body, PartBody::Inline(_));
        let first = commit.runs[0].partition;
        let spread = (0..commit.requests.len()).any(|request| {
            let homes = || {
                commit
                    .pieces
                    .iter()
                    .filter(|p| p.request == request)
                    .map(|p| commit.runs[p.run].partition == first)
            };
            homes().any(|first| first) && homes().any(|first| !first)
        });
        if !torn || !spread {
            return None;
        }
        let half = |begin: bool| {
            let mut half = commit.clone();
            let mark = u128::from(!begin);
            half.parts[0].id.0 = Uuid::from_u128(half.parts[0].id.0.as_u128() ^ mark);
            half.pieces.retain(|p| (commit.runs[p.run].partition == first) == begin);
            half.requests.clear();
            let mut numbers = BTreeMap::new();
            for piece in &mut half.pieces {
                let next = numbers.len();
                let number = *numbers.entry(piece.request).or_insert(next);
                if number == next {
                    let mut request = commit.requests[piece.request].clone();
                    request.id.0 = Uuid::from_u128(request.id.0.as_u128() ^ mark);
                    half.requests.push(request);
                }
                piece.request = number;
            }
            half
        };
        Some(self.commit_halves(next, commit, [half(true), half(false)], first).await)
    }

    async fn commit_halves(
        &self,
        next: &Arc<dyn ControlPlane>,
        commit: &Commit,
        halves: [Commit; 2],
        first: PartitionId,
    ) -> Result<Committed, Error> {
        let one = next.commit(&halves[0]).await?;
        tokio::time::sleep(Duration::from_millis(self.fates.below(400))).await;
        let two = next.commit(&halves[1]).await?;
        let stored = |c: &Committed| c.verdicts.iter().all(|v| *v == Verdict::Stored);
        let verdict = if stored(&one) && stored(&two) { Verdict::Stored } else { Verdict::Unknown };
        let (at_ms, mut outcomes) = (two.at_ms, [one.pieces.into_iter(), two.pieces.into_iter()]);
        let half_of = |p: &Piece| usize::from(commit.runs[p.run].partition != first);
        let pieces = commit.pieces.iter().map(|p| outcomes[half_of(p)].next().unwrap_or_default()).collect();
        Ok(Committed { at_ms, verdicts: vec![verdict; commit.requests.len()], pieces })
    }

    /// Commits a batch that takes offsets and is hidden from reads.
    async fn dig(&self, next: &Arc<dyn ControlPlane>, commit: &Commit, refused: usize) {
        let Some(piece) = commit.pieces.iter().find(|p| p.request == refused) else { return };
        let mut hole = Commit { runs: vec![commit.runs[piece.run]], ..Commit::default() };
        hole.runs[0].part = 0;
        let id = PartId(self.new_id());
        let source = &commit.parts[commit.runs[piece.run].part].body;
        let bytes = match source {
            PartBody::Inline(bytes) => bytes.clone(),
            PartBody::Segment { bytes, .. } => Bytes::from(vec![0; usize::try_from(*bytes).unwrap_or(0)]),
        };
        hole.parts.push(millpond_core::control_plane::Part { id, body: PartBody::Inline(bytes) });
        hole.pieces.push(Piece { request: 0, run: 0, first: 0, records: 1 });
        hole.requests.push(Request {
            id: millpond_core::RequestId(self.new_id()),
            key: None,
            expect: None,
            context: Bytes::new(),
            ..commit.requests[refused].clone()
        });
        self.state.lock().holes.insert(id);
        drop(next.commit(&hole).await);
    }

    async fn commit_wrongly(
        &self,
        next: &Arc<dyn ControlPlane>,
        commit: &Commit,
    ) -> Result<Committed, Error> {
        let mut changed = commit.clone();
        match self.bug {
            Bug::AnswerBeforeCommit | Bug::CommitDropped => {
                if let Some(committed) = self.predict(next, commit).await {
                    let (inner, delay) = (Arc::clone(next), Duration::from_millis(self.fates.below(100)));
                    let dropped = self.bug == Bug::CommitDropped && self.fates.chance(100);
                    if dropped {
                        return Ok(committed);
                    }
                    if self.bug == Bug::AnswerBeforeCommit {
                        tokio::spawn(async move {
                            tokio::time::sleep(delay).await;
                            drop(inner.commit(&changed).await);
                        });
                        return Ok(committed);
                    }
                }
            }
            Bug::NewPartOnResend => changed = self.with_new_parts(commit),
            Bug::KeyIgnored => changed.requests.iter_mut().for_each(|r| r.key = None),
            Bug::BodyNotCompared => {
                changed
                    .requests
                    .iter_mut()
                    .filter_map(|r| r.key.as_mut())
                    .for_each(|key| key.body_hash = Uuid::nil());
            }
            Bug::DedupIgnored => changed.dedups.clear(),
            Bug::ExpectIgnored => changed.requests.iter_mut().for_each(|r| r.expect = None),
            Bug::TornCommit => {
                if let Some(outcome) = self.tear(next, commit).await {
                    return outcome;
                }
            }
            _ => {}
        }
        let mut committed = next.commit(&changed).await?;
        for number in 0..commit.requests.len() {
            let stored = matches!(committed.verdicts[number], Verdict::Stored);
            let refused =
                matches!(committed.verdicts[number], Verdict::Conflict | Verdict::OffsetMismatch { .. });
            match self.bug {
                Bug::StoredThoughRefused if stored && self.fates.chance(30) => {
                    committed.verdicts[number] = Verdict::Conflict
                }
                Bug::HoleOnRefusal if refused => self.dig(next, commit, number).await,
                _ => {}
            }
        }
        if self.bug == Bug::SweepDeletesLive {
            let segments =
                commit.parts.iter().filter(|p| matches!(p.body, PartBody::Segment { .. })).map(|p| p.id);
            self.state.lock().live.extend(segments);
        }
        Ok(committed)
    }

    fn find_wrongly(&self, request: &FindRequest, mut found: Found) -> Found {
        let mut state = self.state.lock();
        let holes = &state.holes;
        found.batches.retain(|b| !holes.contains(&b.part));
        let count = found.batches.len();
        match self.bug {
            Bug::StaleFind => {
                let known =
                    state.found.entry((request.partition, request.offset)).or_insert_with(|| found.clone());
                if self.fates.chance(300) {
                    return known.clone();
                }
                *known = found.clone();
            }
            Bug::EndTooEarly if self.fates.chance(30) => found.high_watermark = found.high_watermark.plus(1),
            Bug::FindSkipsBatch if count > 1 && self.fates.chance(50) => {
                drop(found.batches.remove(count / 2))
            }
            Bug::SkipIgnored => found.batches.iter_mut().for_each(|b| b.skip.clear()),
            Bug::BatchesExchanged if self.fates.chance(100) => {
                let pair = (1..count).find(|n| found.batches[*n].records == found.batches[0].records);
                if let Some(other) = pair {
                    let (one, two) = (found.batches[0].clone(), found.batches[other].clone());
                    found.batches[0] = Batch { base: one.base, ..two };
                    found.batches[other] = Batch { base: found.batches[other].base, ..one };
                }
            }
            _ => {}
        }
        found
    }
}

impl Around for Wrong {
    async fn put_topic(
        &self,
        next: &Arc<dyn ControlPlane>,
        scope: &Scope,
        name: &Name,
        change: &TopicChange,
        default_partitions: i32,
    ) -> Result<(Topic, bool), Error<PutTopicRejected>> {
        let mut change = change.clone();
        if self.bug == Bug::RetainsTooLittle {
            change.retention_ms = Some(Some(3_000));
        }
        next.put_topic(scope, name, &change, default_partitions).await
    }

    async fn commit(&self, next: &Arc<dyn ControlPlane>, commit: &Commit) -> Result<Committed, Error> {
        self.commit_wrongly(next, commit).await
    }

    async fn find(
        &self,
        next: &Arc<dyn ControlPlane>,
        requests: &[FindRequest],
    ) -> Result<Vec<Option<Found>>, Error> {
        let found = next.find(requests).await?;
        Ok(requests
            .iter()
            .zip(found)
            .map(|(request, found)| Some(self.find_wrongly(request, found?)))
            .collect())
    }

    async fn partitions(
        &self,
        next: &Arc<dyn ControlPlane>,
        scope: &Scope,
        topic: TopicId,
    ) -> Result<Vec<PartitionStatus>, Error> {
        let now = next.partitions(scope, topic).await?;
        let before = self.state.lock().ends.insert(topic, now.clone());
        let stale = self.bug == Bug::StaleEnd && self.fates.chance(300);
        Ok(before.filter(|_| stale).unwrap_or(now))
    }

    async fn swap(&self, next: &Arc<dyn ControlPlane>, swap: &Swap) -> Result<(), Error<SwapRejected>> {
        let mut swap = swap.clone();
        match self.bug {
            Bug::SwapWithoutInputs => swap.inputs.clear(),
            Bug::SwapLosesBatch => drop(swap.outputs.pop()),
            _ => {}
        }
        next.swap(&swap).await
    }

    async fn sweep_plan(&self, next: &Arc<dyn ControlPlane>, limit: i64) -> Result<Vec<PartId>, Error> {
        let mut parts = next.sweep_plan(limit).await?;
        let live = std::mem::take(&mut self.state.lock().live);
        parts.extend(live);
        if self.bug == Bug::SweepForgets {
            parts.clear();
        }
        Ok(parts)
    }
}
