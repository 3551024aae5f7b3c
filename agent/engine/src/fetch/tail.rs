//! Reads a whole topic, in chunks over all its partitions: once, or continuously as a tail.

use super::fetched::Fetched;
use super::partition::find_from;
use super::position::TopicPosition;
use super::reader::Purpose;
use super::watcher::Watch;
use super::{Fetch, FetchError, ReadError, ReadLimits, RecordSink, Selection, Start};
use crate::memory::Room;
use millpond_core::{Name, Offset, PartitionId, Scope, Topic};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Pause of a tail after a temporary failure.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Least number of bytes that a chunk asks of each partition, however many partitions there are.
const PARTITION_SHARE_MIN_BYTES: usize = 64 << 10;
/// Partitions that are read at once. Limited, because each may return a whole batch, however few bytes are
/// asked for.
pub(crate) const PARTITIONS_AT_ONCE: usize = 64;

/// The start of a read of a whole topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicStart {
    /// The same start for every partition.
    At(Start),
    /// A token from [`Tail::token`].
    Position(String),
}

/// A reader of a whole topic and its position. There is no order between partitions.
pub struct Tail {
    fetch: Arc<Fetch>,
    scope: Scope,
    topic: Arc<Topic>,
    /// Numbers and ids of the partitions.
    ids: Vec<(i32, PartitionId)>,
    position: TopicPosition,
    /// Index of the partition that the next chunk begins with. It rotates, so that no partition starves.
    turn: usize,
}

/// The bytes to ask of each partition, if an answer may hold `max_bytes`.
pub(crate) fn share_of(max_bytes: usize, partitions: usize) -> usize {
    (max_bytes / partitions.max(1)).max(PARTITION_SHARE_MIN_BYTES.min(max_bytes))
}

impl Fetch {
    /// Starts to read a whole topic.
    pub async fn tail(
        self: &Arc<Self>,
        scope: &Scope,
        topic: &Name,
        start: TopicStart,
    ) -> Result<Tail, ReadError> {
        let topic = self.topics.look_up(scope, topic).await?;
        let position = match start {
            TopicStart::Position(token) => {
                TopicPosition::parse(&token, &topic).ok_or(ReadError::NotAPosition)?
            }
            TopicStart::At(Start::Timestamp(timestamp)) => {
                let offsets = self.offsets_at(scope, &topic, timestamp).await?;
                TopicPosition::new(&topic, offsets.into_iter().map(|(p, _, o)| (p, o)))
            }
            TopicStart::At(Start::Offset(offset)) => {
                TopicPosition::new(&topic, (0..topic.partition_count()).map(|p| (p, offset)))
            }
            TopicStart::At(start) => {
                let status = self.plane.partitions(scope, topic.id).await?;
                let at = |log_start, high| if start == Start::Latest { high } else { log_start };
                let next = status.iter().map(|p| (p.partition, at(p.log_start_offset, p.high_watermark)));
                TopicPosition::new(&topic, next)
            }
        };
        let ids = position.next.keys().filter_map(|p| topic.partition_id(*p).map(|id| (*p, id))).collect();
        Ok(Tail { fetch: Arc::clone(self), scope: scope.clone(), topic, ids, position, turn: 0 })
    }
}

impl Tail {
    /// The position as a token, from which a reader can continue with [`TopicStart::Position`].
    #[must_use]
    pub fn token(&self) -> String {
        self.position.token()
    }

    /// Whether the agent is shutting down: the tail should end.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.fetch.watcher.is_stopping()
    }

    /// Reads records of all partitions, within the limits; waits until the deadline for a first one. Returns
    /// the number of records.
    pub async fn read(
        &mut self,
        limits: ReadLimits,
        deadline: Instant,
        sink: &mut impl RecordSink,
    ) -> Result<usize, ReadError> {
        self.read_chunk(limits, deadline, false, sink).await
    }

    /// As [`Self::read`], for a tail: it returns as soon as it has any records, and after a temporary failure
    /// it waits a moment and returns as if there were no records.
    pub async fn follow(
        &mut self,
        limits: ReadLimits,
        deadline: Instant,
        sink: &mut impl RecordSink,
    ) -> Result<usize, ReadError> {
        match self.read_chunk(limits, deadline, true, sink).await {
            Err(error) if error.is_temporary() => {
                let (error, topic) = (crate::error_chain(&error), &self.topic.name);
                tracing::debug!(%error, %topic, "reading failed; the tail tries again");
                tokio::time::sleep(RETRY_PAUSE).await;
                Ok(0)
            }
            outcome => outcome,
        }
    }

    /// `eager`: return the records of the first group of partitions that has any.
    async fn read_chunk(
        &mut self,
        limits: ReadLimits,
        deadline: Instant,
        eager: bool,
        sink: &mut impl RecordSink,
    ) -> Result<usize, ReadError> {
        self.add_new_partitions().await?;
        let waits = deadline > Instant::now();
        let ids = || self.ids.iter().map(|(_, id)| *id).collect();
        let watch = waits.then(|| self.fetch.watcher.watch(&self.scope, ids()));
        let mut moved = self.not_at_end(watch.as_ref()).await;
        loop {
            let mut selection = Selection::new(limits);
            let count = self.ids.len();
            let is_moved = |id: &PartitionId| moved.as_ref().is_none_or(|moved| moved.contains(id));
            let turns: Vec<(i32, PartitionId)> = (0..count)
                .map(|n| self.ids[(self.turn + n) % count])
                .filter(|(_, id)| is_moved(id))
                .collect();
            let mut done = 0;
            for group in turns.chunks(PARTITIONS_AT_ONCE) {
                let room = if selection.records == 0 { Room::Wait } else { Room::IfFree };
                let mut fetched = match self.fetch_group(group, limits.max_bytes, room).await {
                    Err(ReadError::Fetch(FetchError::Throttled)) if selection.records > 0 => break,
                    fetched => fetched?,
                };
                for ((partition, id), one) in group.iter().zip(&mut fetched) {
                    sink.begin_partition(&self.topic.name, *partition);
                    sink.hold(one.take_answer_memory());
                    let next = self.position.next.entry(*partition).or_insert(Offset::ZERO);
                    selection.take(one, next, sink)?;
                    if let Some(watch) = &watch {
                        watch.saw(*id, one.high_watermark);
                    }
                }
                done += group.len();
                // The remaining groups are read by the next chunk.
                if selection.is_full || (eager && selection.records > 0) {
                    break;
                }
            }
            self.turn = (self.turn + if selection.is_full { 1 } else { done }) % count.max(1);
            if selection.records > 0 || Instant::now() >= deadline || self.is_stopping() {
                return Ok(selection.records);
            }
            if let Some(watch) = &watch {
                // A wake-up reads those partitions only that have new records.
                moved = Some(tokio::time::timeout_at(deadline, watch.moved()).await.unwrap_or_default());
            }
        }
    }

    /// The partitions of a wide topic that have records, or are gone; `None`: any may have. One query, which
    /// others may share, is cheaper than a look at each partition.
    async fn not_at_end(&self, watch: Option<&Watch>) -> Option<BTreeSet<PartitionId>> {
        if self.ids.len() <= PARTITIONS_AT_ONCE {
            return None;
        }
        let ids = self.ids.iter().map(|(_, id)| *id).collect();
        let ends = self.fetch.watcher.ends(&self.scope, ids).await?;
        let mut rest = BTreeSet::new();
        for (partition, id) in &self.ids {
            let next = self.position.next.get(partition).copied().unwrap_or(Offset::ZERO);
            match ends.get(id) {
                Some(end) if *end == next => {
                    if let Some(watch) = watch {
                        watch.saw(*id, *end);
                    }
                }
                _ => {
                    rest.insert(*id);
                }
            }
        }
        Some(rest)
    }

    /// Adds partitions that the topic got in the meantime, to be read from their beginning.
    async fn add_new_partitions(&mut self) -> Result<(), ReadError> {
        let topic = self.fetch.topics.get(&self.scope, &self.topic.name).await?;
        if topic.id == self.topic.id && topic.partition_count() > self.topic.partition_count() {
            let added = self.topic.partition_count()..topic.partition_count();
            self.ids.extend(added.clone().filter_map(|p| topic.partition_id(p).map(|id| (p, id))));
            self.position.next.extend(added.map(|p| (p, Offset::ZERO)));
            self.topic = topic;
        }
        Ok(())
    }

    /// Reads a group of partitions: one result each. Positions that retention has passed are first moved up
    /// to the log start offset.
    async fn fetch_group(
        &mut self,
        group: &[(i32, PartitionId)],
        max_bytes: usize,
        room: Room,
    ) -> Result<Vec<Fetched>, ReadError> {
        let share = share_of(max_bytes, group.len());
        loop {
            let request =
                |(p, id): &(i32, PartitionId)| find_from(&self.scope, *id, self.position.next[p], share);
            let requests: Vec<_> = group.iter().map(request).collect();
            let fetched: Option<Vec<Fetched>> =
                self.fetch.reader.fetch(&requests, Purpose::Answer, room).await?.into_iter().collect();
            let fetched = fetched.ok_or_else(|| ReadError::NoSuchTopic(self.topic.name.clone()))?;
            let mut moved = false;
            for ((partition, _), one) in group.iter().zip(&fetched) {
                let next = self.position.next.entry(*partition).or_insert(Offset::ZERO);
                if *next < one.log_start_offset {
                    *next = one.log_start_offset;
                    moved = true;
                }
            }
            if !moved {
                return Ok(fetched);
            }
        }
    }
}
