//! The executable specification of [`ControlPlane`](crate::ControlPlane): the pure parts behind a mutex.

mod commit;
mod group;
mod jobs;
mod log;
mod queue;
mod retain;
mod topic;

use crate::clock::Clock;
use crate::control_plane::{Answer, Batch};
use crate::id::{Offset, PartId, PartitionId, QueueId, RequestId, TopicId};
use crate::limits;
use crate::name::Name;
use crate::topic::Topic;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
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
    tenant: Name,
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

    /// Whether the tenant has the topic, or had it.
    fn has_topic(&self, tenant: &Name, id: TopicId) -> bool {
        self.topics.values().chain(&self.dead_topics).any(|t| t.id == id && t.tenant == *tenant)
    }

    /// Partitions of a topic that is alive and the tenant's.
    fn partitions_of(
        &self,
        tenant: &Name,
        topic: TopicId,
    ) -> impl Iterator<Item = (&PartitionId, &PartitionRow)> {
        self.partitions.iter().filter(move |(_, p)| p.topic == topic && p.alive && p.tenant == *tenant)
    }

    /// A partition that is alive and the tenant's.
    fn alive_of(&self, tenant: &Name, id: PartitionId) -> Option<&PartitionRow> {
        self.alive(id).filter(|p| p.tenant == *tenant)
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
