//! The actions of a test on a control plane: it creates topics, commits small numbered records, and reads
//! what became of them.
//!
//! A record is a tag of eight bytes; a batch is its records' tags one after another. So a test can read a
//! batch's records and their order without a codec.

use crate::draft::Append;
pub use crate::draft::{Draft, Home, Tag, home, int, name};
use crate::world::World;
use bytes::Bytes;
use millpond_core::control_plane::{
    Batch, BatchFlags, Commit, Committed, Dedup, DrainBatch, FindRequest, Found, Part, PartBody,
    PayloadRange, Piece, PieceOutcome, Request, RequestKey, Run, Swap, SwapInput, SwapOutput, SwapRejected,
    Verdict,
};
use millpond_core::{
    AgentId, ControlPlane, Error, Offset, PartId, PartitionId, RandomSource, RequestId, Scope, Topic,
    TopicChange,
};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use uuid::Uuid;

pub const AGENT: AgentId = AgentId(Uuid::from_u128(0xa9e47));
pub const SECOND: i64 = 1_000;
pub const MINUTE: i64 = 60 * SECOND;
pub const HOUR: i64 = 60 * MINUTE;
pub const DAY: i64 = 24 * HOUR;
/// Time for which idempotency keys and dedup ids of a [`Draft`] are remembered.
pub const REMEMBERED_MS: i64 = HOUR;
const TAG_BYTES: usize = 8;
/// Pieces after which a partition's next piece begins a new run, as the agent begins one by size.
const RUN_MAX_PIECES: usize = 3;
/// Timestamp of records that have none of their own.
const DEFAULT_TIMESTAMP: i64 = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartKind {
    Inline,
    Segment,
}

pub const BOTH: [PartKind; 2] = [PartKind::Inline, PartKind::Segment];

/// A commit and its answer.
#[derive(Clone, Debug)]
pub struct Sent {
    pub commit: Commit,
    pub committed: Committed,
}

impl Sent {
    #[must_use]
    pub fn verdict(&self, request: usize) -> &Verdict {
        &self.committed.verdicts[request]
    }

    /// Outcome of the request's piece in a partition. The request must have been stored.
    #[must_use]
    pub fn outcome(&self, request: usize, home: Home) -> &PieceOutcome {
        assert_eq!(*self.verdict(request), Verdict::Stored);
        let is_it = |p: &Piece| p.request == request && self.commit.runs[p.run].partition == home.id;
        let number = self.commit.pieces.iter().position(is_it).expect("a piece");
        &self.committed.pieces[number]
    }

    #[must_use]
    pub fn base(&self, request: usize, home: Home) -> Option<i64> {
        self.outcome(request, home).base.map(|o| o.0)
    }

    /// Outcomes of the request's pieces, in their order.
    #[must_use]
    pub fn outcomes(&self, request: usize) -> Vec<PieceOutcome> {
        let own = self.commit.pieces.iter().zip(&self.committed.pieces).filter(|(p, _)| p.request == request);
        own.map(|(_, o)| o.clone()).collect()
    }
}

/// Content of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub start: i64,
    pub end: i64,
    pub records: Vec<(i64, Tag)>,
}

impl Log {
    #[must_use]
    pub fn tags(&self) -> Vec<Tag> {
        self.records.iter().map(|(_, tag)| *tag).collect()
    }
}

pub struct Stage {
    pub world: Box<dyn World>,
    pub plane: Arc<dyn ControlPlane>,
    pub scope: Scope,
    random: RandomSource,
    /// Objects of the bucket.
    objects: Mutex<HashMap<PartId, Bytes>>,
}

fn size(n: i32) -> usize {
    usize::try_from(n).expect("not negative")
}

impl Stage {
    #[must_use]
    pub fn on(world: Box<dyn World>) -> Self {
        Self::seeded(world, 1)
    }

    /// A new stage. Stages with the same seed draw the same ids.
    #[must_use]
    pub fn seeded(world: Box<dyn World>, seed: u64) -> Self {
        let plane = world.plane();
        Self {
            world,
            plane,
            scope: Scope::unauthenticated(),
            random: RandomSource::seeded(seed),
            objects: Mutex::default(),
        }
    }

    pub async fn close(self) {
        drop(self.plane);
        self.world.close().await;
    }

    /// See [`World::resends`].
    #[must_use]
    pub fn resends(&self) -> bool {
        self.world.resends()
    }

    pub async fn advance(&self, ms: i64) {
        self.world.advance(ms).await;
    }

    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.random.uuid(0)
    }

    pub async fn topic(&self, text: &str, partitions: i32) -> Topic {
        self.topic_with(text, TopicChange { partitions: Some(partitions), ..TopicChange::default() }).await
    }

    pub async fn topic_with(&self, text: &str, change: TopicChange) -> Topic {
        self.plane.put_topic(&self.scope, &name(text), &change, 1).await.expect("a topic").0
    }

    pub async fn delete_topic(&self, text: &str) {
        let deleted = self.plane.delete_topic(&self.scope, &name(text)).await.expect("an answer");
        assert!(deleted || self.resends());
    }

    pub async fn register(&self, parts: &[PartId]) {
        self.plane.register_parts(AGENT, parts).await.expect("registered");
    }

    /// Lays requests out in one new part; a segment is also uploaded and registered.
    pub async fn prepare(&self, place: PartKind, drafts: &[Draft]) -> Commit {
        let commit = self.lay_out(place, drafts);
        if place == PartKind::Segment {
            let ids: Vec<PartId> = commit.parts.iter().map(|p| p.id).collect();
            self.register(&ids).await;
        }
        commit
    }

    /// As [`prepare`](Self::prepare), but a segment is not registered.
    pub fn lay_out(&self, place: PartKind, drafts: &[Draft]) -> Commit {
        let id = PartId(self.uuid());
        let mut bytes = Vec::new();
        let mut commit =
            Commit { requests: drafts.iter().map(|d| self.request(d)).collect(), ..Commit::default() };
        let homes: BTreeSet<Home> = drafts.iter().flat_map(|d| d.appends.keys().copied()).collect();
        for home in homes {
            let in_home = drafts.iter().enumerate().filter_map(|(n, d)| d.appends.get(&home).map(|a| (n, a)));
            for (number, (request, append)) in in_home.enumerate() {
                if number % RUN_MAX_PIECES == 0 {
                    commit.runs.push(empty_run(home.id, bytes.len()));
                }
                let run = commit.runs.len() - 1;
                append_to(&mut commit, home, run, request, append);
                bytes.extend(append.records.iter().flat_map(|tag| tag.to_be_bytes()));
            }
        }
        let bytes = Bytes::from(bytes);
        let body = match place {
            PartKind::Inline => PartBody::Inline(bytes),
            PartKind::Segment => {
                let length = i64::try_from(bytes.len()).expect("small");
                self.objects.lock().insert(id, bytes);
                PartBody::Segment { bytes: length, crc: 1 }
            }
        };
        commit.parts = vec![Part { id, body }];
        commit
    }

    fn request(&self, draft: &Draft) -> Request {
        let key = draft.key.map(|(key, body)| RequestKey {
            key_hash: Uuid::from_u128(key),
            body_hash: Uuid::from_u128(body),
            ttl_ms: REMEMBERED_MS,
        });
        let id = RequestId(self.uuid());
        let scope = self.scope.clone();
        Request { scope, id, key, expect: draft.expect, context: Bytes::copy_from_slice(id.0.as_bytes()) }
    }

    pub async fn commit(&self, commit: &Commit) -> Committed {
        let committed = self.plane.commit(commit).await.expect("an answer");
        assert_eq!(committed.verdicts.len(), commit.requests.len());
        assert_eq!(committed.pieces.len(), commit.pieces.len());
        committed
    }

    pub async fn send(&self, place: PartKind, drafts: &[Draft]) -> Sent {
        let commit = self.prepare(place, drafts).await;
        let committed = self.commit(&commit).await;
        Sent { commit, committed }
    }

    /// Sends records to one partition; returns the offset of the first.
    pub async fn append(&self, place: PartKind, home: Home, records: &[Tag]) -> i64 {
        let sent = self.send(place, &[Draft::new().to(home, records)]).await;
        sent.base(0, home).expect("a base")
    }

    /// The verdict on a request that must be refused. If its first attempt is lost with its answer, the
    /// request is sent anew.
    pub async fn refusal(&self, place: PartKind, draft: &Draft) -> Verdict {
        loop {
            let sent = self.send(place, std::slice::from_ref(draft)).await;
            match sent.verdict(0) {
                Verdict::Unknown if self.resends() => {}
                Verdict::Stored => panic!("{draft:?} was stored"),
                verdict => return verdict.clone(),
            }
        }
    }

    #[must_use]
    pub fn finding(&self, partition: PartitionId, offset: i64, max_bytes: i64) -> FindRequest {
        let scope = self.scope.clone();
        FindRequest { scope, partition, offset: Offset(offset), end: None, max_bytes }
    }

    pub async fn find(&self, partition: PartitionId, offset: i64, max_bytes: i64) -> Option<Found> {
        let asked = [self.finding(partition, offset, max_bytes)];
        let mut found = self.plane.find(&asked).await.expect("found");
        assert_eq!(found.len(), 1);
        found.remove(0)
    }

    /// Records of a batch with their offsets; `None` when its object is gone.
    pub async fn read(&self, batch: &Batch) -> Option<Vec<(i64, Tag)>> {
        let bytes = if batch.inline {
            let range = PayloadRange {
                part: batch.part,
                byte_offset: batch.byte_offset,
                byte_length: batch.byte_length,
            };
            self.plane.payloads(&[range]).await.expect("an answer").remove(0)?
        } else {
            let object = self.objects.lock().get(&batch.part).cloned().expect("an object");
            object.slice(size(batch.byte_offset)..size(batch.byte_offset + batch.byte_length))
        };
        Some(decode(batch, &bytes))
    }

    /// All readable records of a partition, checked to be dense; `None` when the partition is gone.
    pub async fn log(&self, home: Home) -> Option<Log> {
        let first = self.find(home.id, 0, 1).await?;
        let (start, end) = (first.log_start_offset.0, first.high_watermark.0);
        let mut records = Vec::new();
        let mut next = start;
        while next < end {
            let found = self.find(home.id, next, i64::MAX).await?;
            assert!(!found.batches.is_empty(), "a hole at {next} below {end}");
            for batch in &found.batches {
                assert!(batch.base.0 <= next && next < batch.end().0, "{batch:?} does not follow {next}");
                let read = self.read(batch).await.expect("a payload that is referenced");
                records.extend(read.into_iter().filter(|(offset, _)| *offset >= next));
                next = batch.end().0;
            }
        }
        assert_eq!(next, end.max(start));
        let offsets: Vec<i64> = records.iter().map(|(offset, _)| *offset).collect();
        assert_eq!(offsets, (start..end).collect::<Vec<i64>>());
        Some(Log { start, end, records })
    }

    pub async fn tags(&self, home: Home) -> Vec<Tag> {
        self.log(home).await.expect("a partition").tags()
    }

    /// The swap that moves planned batches into a new segment and joins neighbours. The segment is uploaded
    /// and registered.
    pub async fn rewrite(&self, plan: &[DrainBatch]) -> Swap {
        let segment = PartId(self.uuid());
        let sources: Vec<Source> = plan
            .iter()
            .map(|d| Source {
                partition: d.partition_id,
                batch: d.batch.clone(),
                expires_at_ms: d.expires_at_ms,
                bytes: d.bytes.clone(),
            })
            .collect();
        let (bytes, mut swap) = join(&sources, segment);
        swap.drained = plan.iter().map(|d| d.batch.part).collect::<BTreeSet<PartId>>().into_iter().collect();
        self.objects.lock().insert(segment, bytes);
        self.register(&[segment]).await;
        swap
    }

    /// The swap that joins the batches of a partition, as compaction does.
    pub async fn compaction(&self, home: Home, from: i64) -> Swap {
        let found = self.find(home.id, from, i64::MAX).await.expect("a partition");
        let mut sources = Vec::new();
        for batch in found.batches.into_iter().filter(|b| !b.inline) {
            let object = self.objects.lock().get(&batch.part).cloned().expect("an object");
            let bytes = object.slice(size(batch.byte_offset)..size(batch.byte_offset + batch.byte_length));
            sources.push(Source { partition: home.id, batch, expires_at_ms: None, bytes });
        }
        let segment = PartId(self.uuid());
        let (bytes, swap) = join(&sources, segment);
        self.objects.lock().insert(segment, bytes);
        self.register(&[segment]).await;
        swap
    }

    pub async fn swap(&self, swap: &Swap) -> Result<(), SwapRejected> {
        match self.plane.swap(swap).await {
            Ok(()) => Ok(()),
            Err(Error::Rejected(rejected)) => Err(rejected),
            Err(error) => panic!("{error:?}"),
        }
    }

    /// Runs one round of the drain; returns the number of batches it moved.
    pub async fn drain(&self, max_bytes: i64) -> usize {
        let plan = self.plane.drain_plan(None, max_bytes).await.expect("a plan");
        if !plan.is_empty() {
            let swap = self.rewrite(&plan).await;
            self.swap(&swap).await.expect("swapped");
        }
        plan.len()
    }

    /// Unlinks until nothing is left to unlink; returns the number of batches.
    pub async fn retain(&self) -> i64 {
        let mut all = 0;
        loop {
            let now = self.plane.retain(1_000).await.expect("an answer");
            if now == 0 {
                return all;
            }
            all += now;
        }
    }

    pub async fn sweep_plan(&self) -> BTreeSet<PartId> {
        self.plane.sweep_plan(1_000).await.expect("a plan").into_iter().collect()
    }

    pub async fn swept(&self, parts: &BTreeSet<PartId>) {
        let parts: Vec<PartId> = parts.iter().copied().collect();
        self.plane.swept(&parts).await.expect("an answer");
    }

    /// Every part that contains a live batch of these partitions.
    pub async fn parts_in_use(&self, homes: &[Home]) -> BTreeSet<PartId> {
        let mut parts = BTreeSet::new();
        for home in homes {
            let Some(found) = self.find(home.id, 0, 1).await else { continue };
            let found = self.find(home.id, found.log_start_offset.0, i64::MAX).await.expect("a partition");
            parts.extend(found.batches.iter().map(|b| b.part));
        }
        parts
    }
}

fn empty_run(partition: PartitionId, at: usize) -> Run {
    Run {
        part: 0,
        partition,
        records: 0,
        byte_offset: int(at),
        byte_length: 0,
        raw_bytes: 0,
        crc: 0,
        max_timestamp: 0,
        expires_at_ms: None,
        flags: BatchFlags::JSON,
    }
}

fn append_to(commit: &mut Commit, home: Home, run: usize, request: usize, append: &Append) {
    let records = int(append.records.len());
    let piece = Piece { request, run, first: commit.runs[run].records, records };
    let at = &mut commit.runs[run];
    at.records += records;
    at.byte_length += records * int(TAG_BYTES);
    at.raw_bytes = 2 * at.byte_length;
    at.crc = at.byte_offset + at.byte_length;
    at.max_timestamp = at.max_timestamp.max(append.timestamp.unwrap_or(DEFAULT_TIMESTAMP));
    if append.delayed {
        at.flags = at.flags.with(BatchFlags::DELAY);
    }
    commit.dedups.extend(append.dedups.iter().map(|(position, id)| Dedup {
        piece: commit.pieces.len(),
        position: *position,
        topic: home.topic,
        id_hash: Uuid::from_u128(*id),
        window_ms: REMEMBERED_MS,
        partition: home.number,
    }));
    commit.pieces.push(piece);
}

fn decode(batch: &Batch, bytes: &[u8]) -> Vec<(i64, Tag)> {
    let all = bytes.chunks_exact(TAG_BYTES).map(|b| Tag::from_be_bytes(b.try_into().expect("eight bytes")));
    let kept = (0..).zip(all).filter(|(position, _)| !batch.skip.iter().any(|r| r.contains(position)));
    let records: Vec<(i64, Tag)> = (batch.base.0..).zip(kept.map(|(_, tag)| tag)).collect();
    assert_eq!(records.len(), size(batch.records), "{batch:?}");
    assert!(
        batch.skip.windows(2).all(|w| w[0].end < w[1].start) && batch.skip.iter().all(|r| r.start < r.end),
        "{batch:?}"
    );
    records
}

struct Source {
    partition: PartitionId,
    batch: Batch,
    expires_at_ms: Option<i64>,
    bytes: Bytes,
}

fn join(sources: &[Source], segment: PartId) -> (Bytes, Swap) {
    let mut bytes = Vec::new();
    let mut outputs: Vec<SwapOutput> = Vec::new();
    for source in sources {
        let records = decode(&source.batch, &source.bytes);
        let follows = outputs
            .last()
            .is_some_and(|o| o.partition == source.partition && o.batch.end() == source.batch.base);
        if !follows {
            let batch = Batch {
                records: 0,
                part: segment,
                inline: false,
                byte_offset: int(bytes.len()),
                byte_length: 0,
                skip: Vec::new(),
                ..source.batch.clone()
            };
            outputs.push(SwapOutput {
                partition: source.partition,
                expires_at_ms: source.expires_at_ms,
                batch,
            });
        }
        let batch = &mut outputs.last_mut().expect("one").batch;
        batch.records += source.batch.records;
        batch.flags = batch.flags.joined(source.batch.flags);
        batch.committed_at_ms = batch.committed_at_ms.max(source.batch.committed_at_ms);
        batch.max_timestamp = batch.max_timestamp.max(source.batch.max_timestamp);
        batch.byte_length += int(records.len() * TAG_BYTES);
        batch.raw_bytes = 2 * batch.byte_length;
        bytes.extend(records.iter().flat_map(|(_, tag)| tag.to_be_bytes()));
    }
    let inputs = sources
        .iter()
        .map(|s| SwapInput {
            partition: s.partition,
            base: s.batch.base,
            records: s.batch.records,
            part: s.batch.part,
        })
        .collect();
    let length = i64::try_from(bytes.len()).expect("small");
    (Bytes::from(bytes), Swap { segment, bytes: length, crc: 1, inputs, outputs, drained: Vec::new() })
}
