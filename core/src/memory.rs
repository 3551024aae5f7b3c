//! The executable specification of [`ControlPlane`]: the pure parts behind a mutex.

mod commit;
mod group;
mod queue;
mod retain;

use crate::clock::Clock;
use crate::control_plane::{
    Answer, Batch, Beat, Commit, Committed, ControlPlane, DrainBatch, FindRequest, Found, PayloadRange, Swap,
    SwapRejected, TopicLabel,
};
use crate::error::Error;
use crate::group::{
    DeleteGroupRejected, GenerationMoved, GroupState, NoSuchGroup, OffsetCommit, OffsetsRejected, Progress,
    Regroup, RenewRejected, Renewed, ResetRejected,
};
use crate::id::{
    AgentId, Generation, GroupId, MemberId, Offset, PartId, PartitionId, QueueId, RequestId, TopicId,
};
use crate::limits;
use crate::name::Name;
use crate::topic::{NoSuchTopic, PartitionStatus, PutTopicRejected, Topic, TopicChange, TopicConfig};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use uuid::Uuid;

pub struct MemoryControlPlane {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next_id: i64,
    topics: BTreeMap<(Name, Name), Topic>,
    dead_topics: Vec<Topic>,
    partitions: BTreeMap<PartitionId, PartitionRow>,
    segments: BTreeMap<PartId, SegmentRow>,
    payloads: BTreeMap<PartId, PayloadRow>,
    batches: BTreeMap<(PartitionId, Offset), BatchRow>,
    keys: HashMap<Uuid, KeyRow>,
    answers: HashMap<RequestId, (i64, Answer)>,
    dedups: HashMap<(TopicId, Uuid), DedupRow>,
    groups: BTreeMap<(Name, Name), group::GroupRow>,
    queues: BTreeMap<QueueId, queue::QueueRow>,
}

struct PartitionRow {
    topic: TopicId,
    number: i32,
    log_start: Offset,
    high_watermark: Offset,
    alive: bool,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum SegmentState {
    Pending,
    Committed,
    /// Its object may be deleted from the instant on; `again`: it was deleted once and is deleted again.
    Unlinked {
        delete_at_ms: i64,
        again: bool,
    },
}

struct SegmentRow {
    state: SegmentState,
    registered_ms: i64,
    live: i64,
}

struct PayloadRow {
    committed_ms: i64,
    drained_ms: Option<i64>,
    bytes: Bytes,
}

struct BatchRow {
    batch: Batch,
    expires_at_ms: Option<i64>,
}

struct KeyRow {
    body_hash: Uuid,
    request: RequestId,
    expires_ms: i64,
}

struct DedupRow {
    partition: i32,
    offset: Offset,
    expires_ms: i64,
}

impl MemoryControlPlane {
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::new(State::default()) }
    }
}

impl State {
    fn id(&mut self) -> i64 {
        self.next_id += 1;
        self.next_id
    }

    fn add_partitions(&mut self, topic: &mut Topic, to: i32) {
        for number in topic.partition_count()..to {
            let id = PartitionId(self.id());
            let row = PartitionRow {
                topic: topic.id,
                number,
                log_start: Offset::ZERO,
                high_watermark: Offset::ZERO,
                alive: true,
            };
            self.partitions.insert(id, row);
            topic.partitions.push(id);
        }
    }

    fn alive(&self, id: PartitionId) -> Option<&PartitionRow> {
        self.partitions.get(&id).filter(|p| p.alive)
    }

    fn batches_of(&self, partition: PartitionId) -> impl DoubleEndedIterator<Item = &BatchRow> {
        self.batches.range((partition, Offset::ZERO)..=(partition, Offset(i64::MAX))).map(|(_, b)| b)
    }

    fn unlink(&mut self, key: (PartitionId, Offset), now: i64) {
        if let Some(row) = self.batches.remove(&key)
            && let Some(segment) = self.segments.get_mut(&row.batch.part)
        {
            segment.live -= 1;
            if segment.live == 0 {
                segment.state =
                    SegmentState::Unlinked { delete_at_ms: now + limits::PLAN_TTL_MS, again: false };
            }
        }
    }
}

#[async_trait]
impl ControlPlane for MemoryControlPlane {
    async fn put_topic(
        &self,
        tenant: &Name,
        name: &Name,
        change: &TopicChange,
        default_partitions: i32,
    ) -> Result<(Topic, bool), Error<PutTopicRejected>> {
        let mut state = self.state.lock();
        if change.partitions.is_some_and(|p| !(1..=limits::PARTITIONS_MAX).contains(&p)) {
            return Err(Error::Rejected(PutTopicRejected::PartitionsOutOfRange));
        }
        let existing = state.topics.get(&(tenant.clone(), name.clone())).cloned();
        let made = existing.is_none();
        let mut topic = existing.unwrap_or_else(|| Topic {
            id: TopicId(0),
            tenant: tenant.clone(),
            name: name.clone(),
            config: TopicConfig::default(),
            partitions: Vec::new(),
        });
        let current = topic.partition_count();
        let wanted = change.partitions.unwrap_or(if made { default_partitions } else { current });
        if wanted < current {
            return Err(Error::Rejected(PutTopicRejected::PartitionsShrink { current }));
        }
        if made {
            topic.id = TopicId(state.id());
        }
        topic.config = change.apply(&topic.config);
        state.add_partitions(&mut topic, wanted);
        state.grow_queues(topic.id, &topic.partitions);
        state.topics.insert((tenant.clone(), name.clone()), topic.clone());
        Ok((topic, made))
    }

    async fn topic(&self, tenant: &Name, name: &Name) -> Result<Topic, Error<NoSuchTopic>> {
        self.state
            .lock()
            .topics
            .get(&(tenant.clone(), name.clone()))
            .cloned()
            .ok_or(Error::Rejected(NoSuchTopic))
    }

    async fn topics(&self, tenant: &Name) -> Result<Vec<Topic>, Error> {
        Ok(self.state.lock().topics.values().filter(|t| t.tenant == *tenant).cloned().collect())
    }

    async fn partitions(&self, topic: TopicId) -> Result<Vec<PartitionStatus>, Error> {
        let state = self.state.lock();
        let of_topic = state.partitions.iter().filter(|(_, p)| p.topic == topic && p.alive);
        let status = |(id, p): (&PartitionId, &PartitionRow)| PartitionStatus {
            partition: p.number,
            id: *id,
            log_start_offset: p.log_start,
            high_watermark: p.high_watermark,
            bytes: state.batches_of(*id).map(|b| i64::from(b.batch.byte_length)).sum(),
        };
        let mut all: Vec<PartitionStatus> = of_topic.map(status).collect();
        all.sort_by_key(|p| p.partition);
        Ok(all)
    }

    async fn delete_topic(&self, tenant: &Name, name: &Name) -> Result<bool, Error> {
        let mut state = self.state.lock();
        let Some(topic) = state.topics.remove(&(tenant.clone(), name.clone())) else {
            return Ok(false);
        };
        for id in &topic.partitions {
            if let Some(row) = state.partitions.get_mut(id) {
                row.alive = false;
            }
        }
        state.delete_queues_of(topic.id);
        state.dead_topics.push(topic);
        Ok(true)
    }

    async fn register_parts(&self, _agent: AgentId, ids: &[PartId]) -> Result<(), Error> {
        let now = self.clock.now_ms();
        let mut state = self.state.lock();
        for id in ids {
            state.segments.entry(*id).or_insert(SegmentRow {
                state: SegmentState::Pending,
                registered_ms: now,
                live: 0,
            });
        }
        Ok(())
    }

    async fn commit(&self, commit: &Commit) -> Result<Committed, Error> {
        Ok(self.state.lock().commit(commit, self.clock.now_ms()))
    }

    async fn dedup_offsets(
        &self,
        topic: TopicId,
        id_hashes: &[Uuid],
    ) -> Result<Vec<Option<(i32, Offset)>>, Error> {
        let now = self.clock.now_ms();
        let state = self.state.lock();
        Ok(id_hashes
            .iter()
            .map(|h| {
                state.dedups.get(&(topic, *h)).filter(|d| d.expires_ms > now).map(|d| (d.partition, d.offset))
            })
            .collect())
    }

    async fn find(&self, requests: &[FindRequest]) -> Result<Vec<Option<Found>>, Error> {
        let state = self.state.lock();
        let find = |r: &FindRequest| {
            let row = state.alive(r.partition)?;
            let mut raw = 0;
            let batches = state
                .batches_of(r.partition)
                .filter(|b| b.batch.end() > r.offset && r.end.is_none_or(|end| b.batch.base < end))
                .take_while(|b| {
                    let before = raw;
                    raw += i64::from(b.batch.raw_bytes);
                    before < r.max_bytes.max(1)
                })
                .take(usize::try_from(limits::PLAN_MAX_BATCHES).unwrap_or(usize::MAX))
                .map(|b| b.batch.clone())
                .collect();
            let batches = if r.offset < row.log_start { Vec::new() } else { batches };
            Some(Found { log_start_offset: row.log_start, high_watermark: row.high_watermark, batches })
        };
        Ok(requests.iter().map(find).collect())
    }

    async fn payloads(&self, ranges: &[PayloadRange]) -> Result<Vec<Option<Bytes>>, Error> {
        let state = self.state.lock();
        let cut = |r: &PayloadRange| {
            let bytes = &state.payloads.get(&r.part)?.bytes;
            let from = usize::try_from(r.byte_offset).ok()?;
            let to = from.checked_add(usize::try_from(r.byte_length).ok()?)?;
            (to <= bytes.len()).then(|| bytes.slice(from..to))
        };
        Ok(ranges.iter().map(cut).collect())
    }

    async fn high_watermarks(&self, partitions: &[PartitionId]) -> Result<Vec<(PartitionId, Offset)>, Error> {
        let state = self.state.lock();
        Ok(partitions.iter().filter_map(|p| state.alive(*p).map(|row| (*p, row.high_watermark))).collect())
    }

    async fn offsets_at(
        &self,
        topic: TopicId,
        timestamp_ms: i64,
    ) -> Result<Vec<(i32, PartitionId, Offset)>, Error> {
        let state = self.state.lock();
        let mut all: Vec<(i32, PartitionId, Offset)> = state
            .partitions
            .iter()
            .filter(|(_, p)| p.topic == topic && p.alive)
            .map(|(id, p)| {
                let first = state
                    .batches_of(*id)
                    .find(|b| b.batch.max_timestamp >= timestamp_ms)
                    .map(|b| b.batch.base);
                (p.number, *id, first.unwrap_or(p.high_watermark).max(p.log_start))
            })
            .collect();
        all.sort_unstable_by_key(|p| p.0);
        Ok(all)
    }

    async fn group(
        &self,
        tenant: &Name,
        name: &Name,
        also: &[Name],
    ) -> Result<GroupState, Error<NoSuchGroup>> {
        self.state.lock().group(tenant, name, also, self.clock.now_ms()).map_err(Error::Rejected)
    }

    async fn make_group(&self, tenant: &Name, name: &Name) -> Result<(), Error> {
        self.state.lock().make_group(tenant, name, self.clock.now_ms());
        Ok(())
    }

    async fn groups(&self, tenant: &Name) -> Result<Vec<Name>, Error> {
        Ok(self
            .state
            .lock()
            .groups
            .keys()
            .filter(|(t, _)| t == tenant)
            .map(|(_, name)| name.clone())
            .collect())
    }

    async fn progress(&self, group: GroupId) -> Result<Vec<Progress>, Error> {
        Ok(self.state.lock().progress(group))
    }

    async fn regroup(&self, change: &Regroup) -> Result<Generation, Error<GenerationMoved>> {
        self.state.lock().regroup(change, self.clock.now_ms()).map_err(Error::Rejected)
    }

    async fn renew(
        &self,
        tenant: &Name,
        group: &Name,
        member: MemberId,
    ) -> Result<Renewed, Error<RenewRejected>> {
        self.state.lock().renew(tenant, group, member, self.clock.now_ms()).map_err(Error::Rejected)
    }

    async fn generations(&self, groups: &[GroupId]) -> Result<Vec<(GroupId, Generation, bool)>, Error> {
        Ok(self.state.lock().generations(groups, self.clock.now_ms()))
    }

    async fn commit_offsets(
        &self,
        commit: &OffsetCommit,
    ) -> Result<Vec<(PartitionId, Offset)>, Error<OffsetsRejected>> {
        self.state.lock().commit_offsets(commit).map_err(Error::Rejected)
    }

    async fn reset_offsets(
        &self,
        tenant: &Name,
        group: &Name,
        offsets: &[(PartitionId, Offset)],
    ) -> Result<(), Error<ResetRejected>> {
        self.state.lock().reset_offsets(tenant, group, offsets, self.clock.now_ms()).map_err(Error::Rejected)
    }

    async fn delete_group(&self, tenant: &Name, group: &Name) -> Result<(), Error<DeleteGroupRejected>> {
        self.state.lock().delete_group(tenant, group, self.clock.now_ms()).map_err(Error::Rejected)
    }

    async fn beat(&self, _agent: AgentId) -> Result<Beat, Error> {
        let state = self.state.lock();
        let live = state.payloads.values().filter(|p| p.drained_ms.is_none());
        let inline_live_bytes = live.map(|p| i64::try_from(p.bytes.len()).unwrap_or(i64::MAX)).sum();
        Ok(Beat { inline_live_bytes, drain: true, sweep: true, retain: true, expire: true })
    }

    async fn drain_plan(&self, max_bytes: i64) -> Result<Vec<DrainBatch>, Error> {
        let now = self.clock.now_ms();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut budget = max_bytes;
        let mut due: Vec<(i64, PartId)> = state
            .payloads
            .iter()
            .filter(|(_, p)| p.drained_ms.is_none() && p.committed_ms <= now - limits::INLINE_DRAIN_AFTER_MS)
            .map(|(id, p)| (p.committed_ms, *id))
            .collect();
        due.sort_unstable();
        let mut chosen = BTreeSet::new();
        for (_, id) in due {
            let size = i64::try_from(state.payloads[&id].bytes.len()).unwrap_or(i64::MAX);
            if !chosen.is_empty() && size > budget {
                break;
            }
            budget -= size;
            chosen.insert(id);
        }
        let mut plan = Vec::new();
        for ((partition, _), row) in
            state.batches.iter().filter(|(_, b)| b.batch.inline && chosen.contains(&b.batch.part))
        {
            let Some(home) = state.partitions.get(partition) else { continue };
            let Some(topic) = state.topics.values().chain(&state.dead_topics).find(|t| t.id == home.topic)
            else {
                continue;
            };
            let from = usize::try_from(row.batch.byte_offset).unwrap_or(0);
            let to = from + usize::try_from(row.batch.byte_length).unwrap_or(0);
            plan.push(DrainBatch {
                topic: TopicLabel {
                    tenant: topic.tenant.clone(),
                    topic: topic.name.clone(),
                    topic_id: topic.id,
                    partition: home.number,
                },
                partition_id: *partition,
                batch: row.batch.clone(),
                expires_at_ms: row.expires_at_ms,
                bytes: state.payloads[&row.batch.part].bytes.slice(from..to),
            });
        }
        let used: BTreeSet<PartId> = plan.iter().map(|d| d.batch.part).collect();
        for id in chosen.difference(&used) {
            if let Some(p) = state.payloads.get_mut(id) {
                p.drained_ms = Some(now);
            }
        }
        Ok(plan)
    }

    async fn swap(&self, swap: &Swap) -> Result<(), Error<SwapRejected>> {
        let now = self.clock.now_ms();
        let mut state = self.state.lock();
        let unchanged = |i: &crate::control_plane::SwapInput| {
            state
                .batches
                .get(&(i.partition, i.base))
                .is_some_and(|b| b.batch.part == i.part && b.batch.records == i.records)
        };
        let applied = state.segments.get(&swap.segment).is_some_and(|s| s.state == SegmentState::Committed);
        if applied {
            return Ok(());
        }
        let pending = state.segments.get(&swap.segment).is_some_and(|s| s.state == SegmentState::Pending);
        if !pending || !swap.inputs.iter().all(unchanged) {
            return Err(Error::Rejected(SwapRejected));
        }
        for input in &swap.inputs {
            state.unlink((input.partition, input.base), now);
        }
        for output in &swap.outputs {
            let row = BatchRow { batch: output.batch.clone(), expires_at_ms: output.expires_at_ms };
            state.batches.insert((output.partition, output.batch.base), row);
        }
        if let Some(segment) = state.segments.get_mut(&swap.segment) {
            segment.state = SegmentState::Committed;
            segment.live = i64::try_from(swap.outputs.len()).unwrap_or(i64::MAX);
        }
        for id in &swap.drained {
            if let Some(p) = state.payloads.get_mut(id) {
                p.drained_ms = Some(now);
            }
        }
        Ok(())
    }

    async fn retain(&self, limit: i64) -> Result<i64, Error> {
        Ok(self.state.lock().retain(limit, self.clock.now_ms()))
    }

    async fn forget(&self, _limit: i64) -> Result<i64, Error> {
        let now = self.clock.now_ms();
        let mut state = self.state.lock();
        let before = state.keys.len() + state.dedups.len() + state.payloads.len();
        state.keys.retain(|_, k| k.expires_ms > now);
        state.dedups.retain(|_, d| d.expires_ms > now);
        state.payloads.retain(|_, p| p.drained_ms.is_none_or(|at| at > now - limits::INLINE_PLAN_TTL_MS));
        let rows = before - (state.keys.len() + state.dedups.len() + state.payloads.len());
        Ok(i64::try_from(rows + state.forget_groups(now) + state.forget_operations(now)).unwrap_or(0))
    }

    async fn sweep_plan(&self, limit: i64) -> Result<Vec<PartId>, Error> {
        let now = self.clock.now_ms();
        let mut state = self.state.lock();
        for row in state.segments.values_mut() {
            if row.state == SegmentState::Pending && row.registered_ms <= now - limits::PART_PENDING_MAX_MS {
                row.state = SegmentState::Unlinked { delete_at_ms: now, again: false };
            }
        }
        let due = |row: &SegmentRow| match row.state {
            SegmentState::Unlinked { delete_at_ms, .. } => delete_at_ms <= now,
            _ => false,
        };
        let limit = usize::try_from(limit).unwrap_or(0);
        Ok(state.segments.iter().filter(|(_, row)| due(row)).take(limit).map(|(id, _)| *id).collect())
    }

    async fn swept(&self, parts: &[PartId]) -> Result<(), Error> {
        let now = self.clock.now_ms();
        let mut state = self.state.lock();
        for id in parts {
            match state.segments.get_mut(id).map(|row| (row.state, row)) {
                Some((SegmentState::Unlinked { again: false, .. }, row)) => {
                    row.state = SegmentState::Unlinked {
                        delete_at_ms: now + limits::OBJECT_FORGET_AFTER_MS,
                        again: true,
                    };
                }
                Some((SegmentState::Unlinked { again: true, delete_at_ms }, _)) if delete_at_ms <= now => {
                    state.segments.remove(id);
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn ping(&self) -> Result<(), Error> {
        Ok(())
    }
}
