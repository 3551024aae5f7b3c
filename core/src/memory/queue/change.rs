//! Creating, changing and deleting queues, and operations on a whole queue: redrive, purge, seek.

use super::row::{AdmittedRow, Counts, CursorRow, Dead, QueueRow, Rates, Waiting, count, partition_range};
use crate::group::Start;
use crate::id::{Offset, PartitionId, QueueId, TopicId};
use crate::memory::State;
use crate::name::Name;
use crate::number::saturated;
use crate::queue::change::{DeadDone, DeadStep, SeekTo};
use crate::queue::like::like;
use crate::queue::{DeadFilter, DeadRejected, PutQueueRejected, Queue, QueueChange, QueueConfig};
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// First half of the secret of every queue. The in-memory control plane needs no real secrets.
const SECRET_PREFIX: u64 = 0x5ec2e7;

type PartitionOffset = (PartitionId, Offset);
/// The dead records that a step takes, and the last that it looked at, if there may be more.
type Looked = (Vec<(PartitionId, i64)>, Option<PartitionOffset>);

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a delay need not be exact"
)]
/// Delay of the `nth` redriven record at `rate` records per second.
fn delay_ms(nth: i64, rate: f64) -> i64 {
    (nth as f64 * 1_000.0 / rate) as i64
}

impl State {
    pub(super) fn put_queue(
        &mut self,
        tenant: &Name,
        name: &Name,
        change: &QueueChange,
        now: i64,
    ) -> Result<(Queue, bool), PutQueueRejected> {
        if let Some(row) = self.queues.values_mut().find(|row| row.is(tenant, name)) {
            row.change(change, now)?;
            return Ok((row.queue.clone(), false));
        }
        let topic = change.topic.as_ref().unwrap_or(name);
        let topic = self
            .topics
            .get(&(tenant.clone(), topic.clone()))
            .cloned()
            .ok_or(PutQueueRejected::NoSuchTopic)?;
        let id = QueueId(self.new_id());
        let queue = Queue {
            id,
            tenant: tenant.clone(),
            name: name.clone(),
            topic: topic.name,
            topic_id: topic.id,
            mode: change.mode.unwrap_or_default(),
            from: change.from.unwrap_or_default(),
            config: change.apply(&QueueConfig::default()),
            paused: false,
            secret: Uuid::from_u64_pair(SECRET_PREFIX, id.0.unsigned_abs()),
            partitions: topic.partitions,
        };
        let row = self.new_queue(queue.clone(), now);
        self.queues.insert(id, row);
        Ok((queue, true))
    }

    fn new_queue(&self, queue: Queue, now: i64) -> QueueRow {
        let cursor = |partition: &PartitionId| {
            let row = self.alive_partition(*partition)?;
            let start = if queue.from == Start::Latest { row.high_watermark.0 } else { row.log_start.0 };
            Some((*partition, CursorRow { start, next: start }))
        };
        QueueRow {
            version: 0,
            cursors: queue.partitions.iter().filter_map(cursor).collect(),
            leases: BTreeMap::new(),
            waiting: BTreeMap::new(),
            dead: BTreeMap::new(),
            admitted: BTreeMap::new(),
            keys: BTreeMap::new(),
            counts: Counts::default(),
            skipped: 0,
            tokens: queue.config.rate.map_or(0.0, |rate| f64::from(rate.limit)),
            refilled_ms: now,
            rates: Rates { at_ms: now, ..Rates::default() },
            settled: HashMap::new(),
            operations: HashMap::new(),
            queue,
        }
    }

    /// Adds new partitions of a topic to all its queues.
    pub(in crate::memory) fn grow_queues(&mut self, topic: TopicId, partitions: &[PartitionId]) {
        for row in self.queues.values_mut().filter(|row| row.queue.topic_id == topic) {
            for partition in partitions {
                row.cursors.entry(*partition).or_insert(CursorRow { start: 0, next: 0 });
            }
            row.queue.partitions = partitions.to_vec();
        }
    }

    pub(in crate::memory) fn delete_queues_of(&mut self, topic: TopicId) {
        self.queues.retain(|_, row| row.queue.topic_id != topic);
    }

    pub(super) fn delete_queue(&mut self, tenant: &Name, name: &Name) -> bool {
        self.queues.extract_if(.., |_, row| row.is(tenant, name)).count() > 0
    }

    fn log_start(&self, partition: PartitionId) -> i64 {
        self.alive_partition(partition).map_or(0, |row| row.log_start.0)
    }

    /// Of these partitions, or of all if there are none.
    pub(in crate::memory) fn clamp(&mut self, partitions: &[PartitionId]) -> i64 {
        let starts: HashMap<PartitionId, i64> =
            self.partitions.iter().map(|(id, row)| (*id, row.log_start.0)).collect();
        let concerned = |id: &PartitionId| partitions.is_empty() || partitions.contains(id);
        let mut all = 0;
        for row in self.queues.values_mut() {
            for (partition, cursor) in row.cursors.iter_mut().filter(|(id, _)| concerned(id)) {
                let gone = (starts.get(partition).copied().unwrap_or(0) - cursor.next).max(0);
                cursor.next += gone;
                row.counts.expired += gone;
                all += gone;
            }
        }
        all
    }

    pub(super) fn redrive(
        &self,
        row: &mut QueueRow,
        filter: &DeadFilter,
        rate: Option<f64>,
        step: &DeadStep,
        now: i64,
    ) -> Result<DeadDone, DeadRejected> {
        let (mut chosen, last) = row.dead_matching(filter, step)?;
        let begun_ms = step.begun_ms.unwrap_or(now);
        chosen.retain(|(partition, offset)| *offset >= self.log_start(*partition));
        for (nth, (partition, offset)) in (step.redriven..).zip(&chosen) {
            let Some(dead) = row.dead.remove(&(*partition, *offset)) else { continue };
            row.counts.dead -= 1;
            let due_ms = rate.map(|rate| begun_ms + delay_ms(nth, rate));
            if let Some(key_hash) = dead.key_hash {
                row.admit(
                    *partition,
                    *offset,
                    AdmittedRow { key_hash, due_ms, attempt: dead.attempt, given_out: false },
                );
            } else {
                let (hi, due_ms) = (offset + 1, due_ms.unwrap_or(now));
                let run =
                    Waiting { hi, due_ms, attempt: dead.attempt, failures: 0, alone: false, reason: None };
                row.add_waiting(*partition, *offset, run);
            }
        }
        let records = count(chosen.len());
        let (limit, redriven) = (step.limit, step.redriven + records);
        let next = last.map(|last| DeadStep { after: Some(last), limit, begun_ms: Some(begun_ms), redriven });
        Ok(DeadDone { records, next })
    }

    pub(super) fn seek(&self, row: &mut QueueRow, to: &SeekTo) -> Vec<PartitionOffset> {
        let all = row.queue.partitions.iter();
        let to: Vec<PartitionOffset> = match to {
            SeekTo::Earliest => all.map(|partition| (*partition, Offset::ZERO)).collect(),
            SeekTo::Latest => all.map(|partition| (*partition, Offset(i64::MAX))).collect(),
            SeekTo::Offsets(offsets) => offsets.clone(),
        };
        let mut cursors = Vec::new();
        row.skipped = 0;
        for (partition, offset) in to {
            let Some(log) = self.alive_partition(partition) else { continue };
            let target = offset.clamp(log.log_start, log.high_watermark);
            if let Some(over) = row.seek(partition, target.0) {
                row.skipped += over;
                cursors.push((partition, target));
            }
        }
        cursors.sort_unstable();
        cursors
    }
}

impl QueueRow {
    pub(super) fn is(&self, tenant: &Name, name: &Name) -> bool {
        self.queue.tenant == *tenant && self.queue.name == *name
    }

    fn change(&mut self, change: &QueueChange, now: i64) -> Result<(), PutQueueRejected> {
        let queue = &mut self.queue;
        if change.topic.as_ref().is_some_and(|topic| *topic != queue.topic) {
            return Err(PutQueueRejected::TopicFixed);
        }
        if change.mode.is_some_and(|mode| mode != queue.mode) {
            return Err(PutQueueRejected::ModeFixed);
        }
        if change.from.is_some_and(|from| from != queue.from) {
            return Err(PutQueueRejected::FromFixed);
        }
        let before = queue.config.rate;
        queue.config = change.apply(&queue.config);
        if queue.config.rate != before {
            self.tokens = queue.config.rate.map_or(0.0, |rate| f64::from(rate.limit));
            self.refilled_ms = now;
        }
        self.version += 1;
        Ok(())
    }

    /// The dead records that a step looks at and that a filter selects, and the last that it looks at, if
    /// there may be more.
    fn dead_matching(&self, filter: &DeadFilter, step: &DeadStep) -> Result<Looked, DeadRejected> {
        if let DeadFilter::Offsets(offsets) = filter {
            let mut all: Vec<(PartitionId, i64)> = offsets.iter().map(|(p, o)| (*p, o.0)).collect();
            if let Some(nth) = all.iter().position(|at| !self.dead.contains_key(at)) {
                return Err(DeadRejected::NotDead { nth });
            }
            all.sort_unstable();
            return Ok((all, None));
        }
        let after = step.after.map(|(partition, offset)| (partition, offset.0));
        let rest = self.dead.iter().filter(|(at, _)| after.is_none_or(|after| **at > after));
        let looked: Vec<_> = rest.take(saturated::<usize, _>(step.limit)).collect();
        let is_full = count(looked.len()) >= step.limit;
        let last = looked.last().filter(|_| is_full).map(|(at, _)| (at.0, Offset(at.1)));
        let is_it = |dead: &Dead| match filter {
            DeadFilter::Reason(pattern) => dead.reason.as_ref().is_some_and(|reason| like(pattern, reason)),
            _ => true,
        };
        Ok((looked.into_iter().filter(|(_, dead)| is_it(dead)).map(|(at, _)| *at).collect(), last))
    }

    pub(super) fn purge_dead(
        &mut self,
        filter: &DeadFilter,
        step: &DeadStep,
    ) -> Result<DeadDone, DeadRejected> {
        let (chosen, last) = self.dead_matching(filter, step)?;
        for at in &chosen {
            self.dead.remove(at);
        }
        let purged = count(chosen.len());
        self.counts.dead -= purged;
        self.counts.purged += purged;
        let next = last.map(|last| DeadStep { after: Some(last), ..*step });
        Ok(DeadDone { records: purged, next })
    }

    /// Sets the cursor of a partition. Returns the number of unsettled records below it; `None` if the queue
    /// does not have the partition.
    fn seek(&mut self, partition: PartitionId, to: i64) -> Option<i64> {
        let cursor = self.cursors.get_mut(&partition)?;
        let moved = to - cursor.next;
        cursor.next = to;
        let mut todo: Vec<i64> = Vec::new();
        for parts in self.leases.values_mut() {
            let ended = parts.extract_if(.., |p| p.partition == partition);
            todo.extend(ended.flat_map(|p| p.pending.offsets().collect::<Vec<_>>()));
        }
        self.leases.retain(|_, parts| !parts.is_empty());
        let runs: Vec<i64> = self.waiting.range(partition_range(partition)).map(|((_, lo), _)| *lo).collect();
        for lo in runs {
            let hi = self.waiting[&(partition, lo)].hi;
            self.take_waiting(partition, lo, hi - lo);
            todo.extend(lo..hi);
        }
        let admitted: Vec<(i64, bool)> = self
            .admitted
            .range(partition_range(partition))
            .map(|((_, o), row)| (*o, row.given_out))
            .collect();
        for (offset, out) in admitted {
            if !out {
                self.counts.waiting -= 1;
                todo.push(offset);
            }
            self.remove_admitted(partition, offset..offset + 1);
        }
        let dead: Vec<i64> =
            self.dead.range((partition, to)..=(partition, i64::MAX)).map(|((_, o), _)| *o).collect();
        for offset in &dead {
            self.dead.remove(&(partition, *offset));
        }
        self.counts.dead -= count(dead.len());
        self.counts.purged += moved + count(todo.len()) + count(dead.len());
        Some(moved.max(0) + count(todo.iter().filter(|offset| **offset < to).count()))
    }
}
