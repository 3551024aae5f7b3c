//! The in-memory control plane: the executable specification of [`ControlPlane`](crate::ControlPlane), and a
//! stand-in for Postgres in tests.
//!
//! Owns: the state behind one mutex. Decisions come from the pure functions of this crate.

mod cluster;
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
use std::sync::atomic::AtomicU64;
use uuid::Uuid;

/// A control plane in memory. It keeps nothing when it is dropped.
pub struct MemoryControlPlane {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Snapshots given out. Each is another one, whether or not something changed.
    snapshots: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Id that was given out last.
    last_id: i64,
    /// By tenant and name.
    topics: BTreeMap<(Name, Name), Topic>,
    dead_topics: Vec<Topic>,
    partitions: BTreeMap<PartitionId, PartitionRow>,
    segments: BTreeMap<PartId, SegmentRow>,
    payloads: BTreeMap<PartId, PayloadRow>,
    batches: BTreeMap<(PartitionId, Offset), BatchRow>,
    /// Idempotency keys, by hash.
    keys: HashMap<Uuid, KeyRow>,
    /// Time of the commit, and answer.
    answers: HashMap<RequestId, (i64, Answer)>,
    /// By topic and hash of the dedup id.
    dedups: HashMap<(TopicId, Uuid), DedupRow>,
    /// By tenant and name.
    groups: BTreeMap<(Name, Name), group::GroupRow>,
    queues: BTreeMap<QueueId, queue::QueueRow>,
    cluster: cluster::ClusterRow,
    /// Least age at which an unlinked object may be deleted; never less than the longest read plan lives.
    restore_window_ms: i64,
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
    /// The object may be deleted from this instant on. `again`: it was deleted once and is deleted a second
    /// time, in case a stalled PUT arrived in between.
    Unlinked {
        delete_at_ms: i64,
        again: bool,
    },
}

struct SegmentRow {
    state: SegmentState,
    /// Deletions of its object that failed.
    failures: u32,
    registered_ms: i64,
    /// Number of batches in the index that lie in the segment.
    live_batches: i64,
}

struct PayloadRow {
    committed_ms: i64,
    drained_ms: Option<i64>,
    /// Set when the drain could not read it.
    set_aside: bool,
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
        Self { clock, state: Mutex::new(State::default()), snapshots: AtomicU64::new(0) }
    }

    /// The same, in which objects are deleted no earlier than this after they were unlinked.
    #[must_use]
    pub fn with_restore_window_ms(self, restore_window_ms: i64) -> Self {
        self.state.lock().restore_window_ms = restore_window_ms;
        self
    }
}

impl State {
    fn new_id(&mut self) -> i64 {
        self.last_id += 1;
        self.last_id
    }

    /// Whether the topic belongs, or belonged until it was deleted, to the tenant.
    fn has_topic(&self, tenant: &Name, id: TopicId) -> bool {
        self.topics.values().chain(&self.dead_topics).any(|t| t.id == id && t.tenant == *tenant)
    }

    /// The partitions of a topic of the tenant that is alive.
    fn partitions_of(
        &self,
        tenant: &Name,
        topic: TopicId,
    ) -> impl Iterator<Item = (&PartitionId, &PartitionRow)> {
        self.partitions.iter().filter(move |(_, p)| p.topic == topic && p.alive && p.tenant == *tenant)
    }

    /// The partition, if it is alive and belongs to the tenant.
    fn alive_partition_of(&self, tenant: &Name, id: PartitionId) -> Option<&PartitionRow> {
        self.alive_partition(id).filter(|p| p.tenant == *tenant)
    }

    /// The partition, if it is alive.
    fn alive_partition(&self, id: PartitionId) -> Option<&PartitionRow> {
        self.partitions.get(&id).filter(|p| p.alive)
    }

    fn batches_of(&self, partition: PartitionId) -> impl DoubleEndedIterator<Item = &BatchRow> {
        self.batches.range((partition, Offset::ZERO)..=(partition, Offset(i64::MAX))).map(|(_, b)| b)
    }

    /// Removes a batch from the index. The object of a segment without batches may be deleted after the
    /// longest read plan has ended and the restore window has passed.
    fn unlink(&mut self, key: (PartitionId, Offset), now: i64) {
        let wait_ms = self.restore_window_ms.max(limits::PLAN_TTL_MS);
        if let Some(row) = self.batches.remove(&key)
            && let Some(segment) = self.segments.get_mut(&row.batch.part)
        {
            segment.live_batches -= 1;
            if segment.live_batches == 0 {
                segment.state = SegmentState::Unlinked { delete_at_ms: now + wait_ms, again: false };
            }
        }
    }
}
