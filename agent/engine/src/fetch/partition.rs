//! Reads one partition, and finds offsets by timestamp.

use super::fetched::{FetchError, Fetched};
use super::reader::Purpose;
use super::{Fetch, ReadError, Start};
use crate::memory::Room;
use futures::stream::{self, StreamExt, TryStreamExt};
use millpond_core::control_plane::{Batch, FindRequest};
use millpond_core::saturated;
use millpond_core::{Name, Offset, PartitionId, Scope, Topic};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Partitions of a topic in which an offset is looked up by its timestamp at the same time.
const OFFSETS_AT_ONCE: usize = 16;

/// A read of one partition.
#[derive(Debug, Clone)]
pub struct PartitionRead {
    pub topic: Name,
    pub partition: i32,
    pub start: Start,
    /// Uncompressed bytes to read at most; the first batch is read even if it is larger.
    pub max_bytes: usize,
    /// How long to wait if there is no record yet.
    pub wait: Duration,
}

/// The batches of one partition from an offset on. The first one may begin before that offset.
#[derive(Debug)]
pub struct PartitionRecords {
    pub topic: Name,
    pub partition: i32,
    /// The offset that the read begins with; earlier records of the first batch are not part of the answer.
    pub start: Offset,
    pub fetched: Fetched,
}

/// The request for a read plan of one partition.
pub(crate) fn find_from(
    scope: &Scope,
    partition: PartitionId,
    offset: Offset,
    max_bytes: usize,
) -> FindRequest {
    FindRequest {
        scope: scope.clone(),
        partition,
        offset,
        end: None,
        max_bytes: saturated::<i64, _>(max_bytes),
    }
}

impl Fetch {
    /// Reads a partition, and waits for a first record if asked to. If the cached topic was deleted, or
    /// deleted and created again, it is looked up again, once.
    pub async fn partition(
        &self,
        scope: &Scope,
        read: &PartitionRead,
    ) -> Result<PartitionRecords, ReadError> {
        // Reads the topic again if the cached one does not have the partition yet.
        let (topic, _) = self.topics.with_partition(scope, &read.topic, read.partition).await?;
        match self.partition_of(scope, &topic, read).await {
            Err(ReadError::NoSuchTopic(_)) => {
                let topic = self.topics.look_up(scope, &read.topic).await?;
                self.partition_of(scope, &topic, read).await
            }
            outcome => outcome,
        }
    }

    async fn partition_of(
        &self,
        scope: &Scope,
        topic: &Arc<Topic>,
        read: &PartitionRead,
    ) -> Result<PartitionRecords, ReadError> {
        let deadline = Instant::now() + read.wait;
        let no_such_partition =
            || ReadError::NoSuchPartition { topic: topic.name.clone(), count: topic.partition_count() };
        let id = topic.partition_id(read.partition).ok_or_else(no_such_partition)?;
        let start = self.start_of(scope, topic, id, read.start).await?;
        // The watch begins before the first read, so that no commit in between is missed.
        let watch = (!read.wait.is_zero()).then(|| self.watcher.watch(scope, vec![id]));
        loop {
            let fetched = self.fetch_one(scope, topic, id, start, read.max_bytes, Purpose::Answer).await?;
            if start < fetched.log_start_offset || start > fetched.high_watermark {
                return Err(ReadError::OutOfRange {
                    offset: start,
                    log_start_offset: fetched.log_start_offset,
                    high_watermark: fetched.high_watermark,
                });
            }
            match &watch {
                Some(watch)
                    if fetched.batches.is_empty()
                        && Instant::now() < deadline
                        && !self.watcher.is_stopping() =>
                {
                    watch.saw(id, fetched.high_watermark);
                    tokio::time::timeout_at(deadline, watch.moved()).await.ok();
                }
                _ => {
                    let (topic, partition) = (topic.name.clone(), read.partition);
                    return Ok(PartitionRecords { topic, partition, start, fetched });
                }
            }
        }
    }

    /// Reads one partition; an error if its topic was deleted.
    async fn fetch_one(
        &self,
        scope: &Scope,
        topic: &Topic,
        id: PartitionId,
        from: Offset,
        max_bytes: usize,
        purpose: Purpose,
    ) -> Result<Fetched, ReadError> {
        let request = find_from(scope, id, from, max_bytes);
        let found = self.reader.fetch(&[request], purpose, Room::Wait).await?;
        found.into_iter().next().flatten().ok_or_else(|| ReadError::NoSuchTopic(topic.name.clone()))
    }

    /// The offset that a [`Start`] stands for.
    async fn start_of(
        &self,
        scope: &Scope,
        topic: &Topic,
        id: PartitionId,
        start: Start,
    ) -> Result<Offset, ReadError> {
        let gone = || ReadError::NoSuchTopic(topic.name.clone());
        match start {
            Start::Offset(offset) => Ok(offset),
            Start::Timestamp(timestamp) => {
                let batches = self.plane.offsets_at(scope, topic.id, timestamp).await?;
                let (_, _, from) = batches.into_iter().find(|(_, p, _)| *p == id).ok_or_else(gone)?;
                self.first_at(scope, topic, id, from, timestamp).await
            }
            Start::Earliest | Start::Latest => {
                let status = self.plane.partitions(scope, topic.id).await?;
                let status = status.into_iter().find(|p| p.id == id).ok_or_else(gone)?;
                Ok(if start == Start::Latest { status.high_watermark } else { status.log_start_offset })
            }
        }
    }

    /// For every partition of a topic: number, id, and offset of the first record with the given timestamp or
    /// a later one; if there is none, the high watermark.
    pub async fn offsets_at(
        &self,
        scope: &Scope,
        topic: &Topic,
        timestamp: i64,
    ) -> Result<Vec<(i32, PartitionId, Offset)>, ReadError> {
        let batches = self.plane.offsets_at(scope, topic.id, timestamp).await?;
        let first = |(number, id, start): (i32, PartitionId, Offset)| async move {
            let offset = self.first_at(scope, topic, id, start, timestamp).await?;
            Ok((number, id, offset))
        };
        stream::iter(batches).map(first).buffered(OFFSETS_AT_ONCE).try_collect().await
    }

    /// As [`Self::offsets_at`], for a topic that is looked up by name.
    pub async fn offsets_of_topic_at(
        &self,
        scope: &Scope,
        topic: &Name,
        timestamp: i64,
    ) -> Result<Vec<(i32, PartitionId, Offset)>, ReadError> {
        let topic = self.topics.look_up(scope, topic).await?;
        self.offsets_at(scope, &topic, timestamp).await
    }

    /// Finds the first record with the timestamp or a later one, from an offset on, at which a batch begins
    /// whose newest timestamp is late enough. If that record was dropped by the commit, as a duplicate, the
    /// search goes on in the next such batch.
    async fn first_at(
        &self,
        scope: &Scope,
        topic: &Topic,
        partition: PartitionId,
        mut from: Offset,
        timestamp: i64,
    ) -> Result<Offset, ReadError> {
        loop {
            let fetched = self.fetch_one(scope, topic, partition, from, 1, Purpose::Inspection).await?;
            let Some(batch) = fetched.batches.first() else {
                if from >= fetched.log_start_offset {
                    return Ok(fetched.high_watermark);
                }
                // Retention has moved on in the meantime.
                from =
                    self.next_batch_at(scope, topic, partition, fetched.log_start_offset, timestamp).await?;
                continue;
            };
            for record in batch.records() {
                let corrupt = |source| FetchError::Corrupt { part: batch.batch.part, source: Some(source) };
                let (offset, record) = record.map_err(corrupt)?;
                if offset >= from && record.timestamp >= timestamp {
                    return Ok(offset);
                }
            }
            from = self.next_batch_at(scope, topic, partition, batch.batch.end(), timestamp).await?;
        }
    }

    /// Offset of the first batch, from the offset `from` on, whose newest timestamp is at or after the given
    /// one; if there is none, the high watermark.
    async fn next_batch_at(
        &self,
        scope: &Scope,
        topic: &Topic,
        partition: PartitionId,
        mut from: Offset,
        timestamp: i64,
    ) -> Result<Offset, ReadError> {
        loop {
            let found = self.plane.find(&[find_from(scope, partition, from, usize::MAX)]).await?;
            let gone = || ReadError::NoSuchTopic(topic.name.clone());
            let found = found.into_iter().next().flatten().ok_or_else(gone)?;
            if let Some(batch) = found.batches.iter().find(|b| b.max_timestamp >= timestamp) {
                return Ok(batch.base.max(from));
            }
            from = match found.batches.last().map(Batch::end) {
                Some(end) => end,
                None if from < found.log_start_offset => found.log_start_offset,
                None => return Ok(found.high_watermark),
            };
        }
    }
}
