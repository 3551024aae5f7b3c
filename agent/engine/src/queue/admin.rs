//! Administration of queues: made, changed, described, deleted; paused, purged, sought; dead records given back.

use super::Queues;
use crate::fetch::ReadError;
use crate::topics::TopicError;
use millpond_core::queue::{
    DeadFilter, DeadRejected, NoSuchQueue, PutQueueRejected, Queue, QueueChange, QueueCounts,
};
use millpond_core::topic::PartitionStatus;
use millpond_core::{Error, Name, Offset, PartitionId, Scope};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Why a queue was not changed, described or listed.
#[derive(Debug, thiserror::Error)]
pub enum QueueAdminError {
    #[error("there is no such queue")]
    NoSuchQueue,
    #[error("there is no topic {0}")]
    NoSuchTopic(Name),
    #[error(transparent)]
    Put(PutQueueRejected),
    /// By index among the offsets of the call.
    #[error("there is no partition {partition}")]
    NoSuchPartition { nth: usize, partition: i32 },
    #[error("an offset names no dead record")]
    NotDead { nth: usize },
    #[error("offset {offset} is outside {log_start_offset} to {high_watermark}")]
    OutOfRange { nth: usize, offset: Offset, log_start_offset: Offset, high_watermark: Offset },
    #[error("partition {partition} is named twice")]
    NamedTwice { partition: i32 },
    #[error("this is not a place of an earlier page")]
    NotAPlace,
    #[error("records cannot be read")]
    Read(#[source] ReadError),
    #[error("the control plane failed")]
    ControlPlane(#[source] Error),
}

impl From<Error<NoSuchQueue>> for QueueAdminError {
    fn from(error: Error<NoSuchQueue>) -> Self {
        match error.into_rejection() {
            Ok(NoSuchQueue) => Self::NoSuchQueue,
            Err(failure) => Self::ControlPlane(failure),
        }
    }
}

impl From<Error<DeadRejected>> for QueueAdminError {
    fn from(error: Error<DeadRejected>) -> Self {
        match error.into_rejection() {
            Ok(DeadRejected::NoSuchQueue) => Self::NoSuchQueue,
            Ok(DeadRejected::NotDead { nth }) => Self::NotDead { nth },
            Err(failure) => Self::ControlPlane(failure),
        }
    }
}

impl From<TopicError> for QueueAdminError {
    fn from(error: TopicError) -> Self {
        match error {
            TopicError::NoSuchTopic(name) => Self::NoSuchTopic(name),
            TopicError::ControlPlane(error) => Self::ControlPlane(error),
        }
    }
}

impl From<ReadError> for QueueAdminError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl From<Error> for QueueAdminError {
    fn from(error: Error) -> Self {
        Self::ControlPlane(error)
    }
}

/// A queue and how many of its records are in which state.
#[derive(Debug, Clone)]
pub struct DescribedQueue {
    pub queue: Arc<Queue>,
    pub counts: QueueCounts,
}

/// Which dead records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadSelection {
    All,
    /// Partition and offset of each, once; all of them have to be dead.
    Offsets(Vec<(i32, Offset)>),
    /// Those whose reason matches a glob: `*` stands for any text, `?` for one character.
    ReasonLike(String),
}

/// Where a queue goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeekTarget {
    Earliest,
    Latest,
    /// The first record at or after it, in milliseconds since the epoch; else the high watermark.
    Timestamp(i64),
    /// Partition and offset, each partition once; the others stay where they are.
    Offsets(Vec<(i32, Offset)>),
}

impl Queues {
    /// Makes a queue over a topic or changes it; `bool` says that it was made. A new queue's topic is made if
    /// there is none and the server makes topics by itself; without a name it is that of the queue.
    pub async fn put(
        &self,
        scope: &Scope,
        name: &Name,
        mut change: QueueChange,
    ) -> Result<(DescribedQueue, bool), QueueAdminError> {
        let plane = &self.runtime.plane;
        match plane.queue(scope, name).await {
            Ok(_) => {}
            Err(Error::Rejected(NoSuchQueue)) => {
                let topic = change.topic.get_or_insert_with(|| name.clone());
                self.topics.get_or_create(scope, topic).await?;
            }
            Err(failure) => return Err(failure.into()),
        }
        let put = plane.put_queue(scope, name, &change).await.map_err(Error::into_rejection);
        let (queue, made) = match put {
            Ok(put) => put,
            Err(Ok(PutQueueRejected::NoSuchTopic)) => {
                return Err(QueueAdminError::NoSuchTopic(change.topic.unwrap_or_else(|| name.clone())));
            }
            Err(Ok(rejected)) => return Err(QueueAdminError::Put(rejected)),
            Err(Err(failure)) => return Err(QueueAdminError::ControlPlane(failure)),
        };
        let queue = self.known.remember(scope, name, queue).await;
        self.tell_tasks(&queue);
        Ok((self.described(scope, queue).await?, made))
    }

    async fn described(
        &self,
        scope: &Scope,
        queue: Arc<Queue>,
    ) -> Result<DescribedQueue, Error<NoSuchQueue>> {
        let counts = self.runtime.plane.queue_counts(scope, queue.id).await?;
        Ok(DescribedQueue { queue, counts })
    }

    pub async fn describe(&self, scope: &Scope, name: &Name) -> Result<DescribedQueue, QueueAdminError> {
        let queue = self.look_up(scope, name).await?;
        Ok(self.described(scope, queue).await?)
    }

    /// All queues of the tenant by name.
    pub async fn list(&self, scope: &Scope) -> Result<Vec<DescribedQueue>, QueueAdminError> {
        let mut queues = Vec::new();
        for queue in self.runtime.plane.queues(scope).await? {
            match self.described(scope, Arc::new(queue)).await {
                Ok(described) => queues.push(described),
                // Deleted since.
                Err(Error::Rejected(NoSuchQueue)) => {}
                Err(failure) => return Err(failure.into()),
            }
        }
        Ok(queues)
    }

    /// Deletes a queue, not its topic. All its receipts are lost.
    pub async fn delete(&self, scope: &Scope, name: &Name) -> Result<(), QueueAdminError> {
        let deleted = self.runtime.plane.delete_queue(scope, name).await;
        self.known.forget(scope, name).await;
        if deleted? { Ok(()) } else { Err(QueueAdminError::NoSuchQueue) }
    }

    /// A paused queue hands out nothing; what is leased stays so and is settled as always.
    pub async fn set_paused(&self, scope: &Scope, name: &Name, paused: bool) -> Result<(), QueueAdminError> {
        let queue = self.look_up(scope, name).await?;
        let done = self.runtime.plane.pause_queue(scope, queue.id, paused).await;
        self.known.forget(scope, name).await;
        self.nudge(queue.id);
        Ok(done?)
    }

    /// Passes over everything that is in the queue now; its leases end. Answers how many records were still to
    /// be done.
    pub async fn purge(&self, scope: &Scope, name: &Name) -> Result<i64, QueueAdminError> {
        let queue = self.look_up(scope, name).await?;
        let status = self.runtime.plane.partitions(scope, queue.topic_id).await?;
        let ends: Vec<(PartitionId, Offset)> = status.into_iter().map(|p| (p.id, p.high_watermark)).collect();
        let (_, purged) = self.runtime.plane.seek(scope, queue.id, &ends).await?;
        Ok(purged)
    }

    /// Goes on from elsewhere, and answers where, by partition. In the partitions concerned all leases end, and
    /// what was waiting, and dead records from there on are forgotten.
    pub async fn seek(
        &self,
        scope: &Scope,
        name: &Name,
        to: &SeekTarget,
    ) -> Result<Vec<(i32, Offset)>, QueueAdminError> {
        let queue = self.look_up(scope, name).await?;
        let targets = self.targets(scope, &queue, to).await?;
        let (cursors, _) = self.runtime.plane.seek(scope, queue.id, &targets).await?;
        self.nudge(queue.id);
        let place = |(id, offset): (PartitionId, Offset)| Some((number_of(&queue, id)?, offset));
        Ok(cursors.into_iter().filter_map(place).collect())
    }

    async fn targets(
        &self,
        scope: &Scope,
        queue: &Queue,
        to: &SeekTarget,
    ) -> Result<Vec<(PartitionId, Offset)>, QueueAdminError> {
        let status = self.runtime.plane.partitions(scope, queue.topic_id).await?;
        Ok(match to {
            SeekTarget::Earliest => status.into_iter().map(|p| (p.id, p.log_start_offset)).collect(),
            SeekTarget::Latest => status.into_iter().map(|p| (p.id, p.high_watermark)).collect(),
            SeekTarget::Timestamp(timestamp) => {
                let topic = self.topics.get(scope, &queue.topic).await?;
                let offsets = self.fetch.offsets_at(scope, &topic, *timestamp).await?;
                offsets.into_iter().map(|(_, id, offset)| (id, offset)).collect()
            }
            SeekTarget::Offsets(places) => within_log(queue, &status, places)?,
        })
    }

    /// Gives dead records back to their queue, with no failures. At a rate, in records a second, they become due
    /// one after the other. Answers how many.
    pub async fn redrive(
        &self,
        scope: &Scope,
        name: &Name,
        dead: &DeadSelection,
        max_rate: Option<f64>,
    ) -> Result<i64, QueueAdminError> {
        let queue = self.look_up(scope, name).await?;
        let filter = dead.filter(&queue)?;
        let redriven = self.runtime.plane.redrive(scope, queue.id, &filter, max_rate).await?;
        self.nudge(queue.id);
        Ok(redriven)
    }

    /// Forgets dead records; answers how many.
    pub async fn purge_dead(
        &self,
        scope: &Scope,
        name: &Name,
        dead: &DeadSelection,
    ) -> Result<i64, QueueAdminError> {
        let queue = self.look_up(scope, name).await?;
        let filter = dead.filter(&queue)?;
        Ok(self.runtime.plane.purge_dead(scope, queue.id, &filter).await?)
    }
}

/// Offsets to seek to, each of which has to lie in the log.
fn within_log(
    queue: &Queue,
    status: &[PartitionStatus],
    places: &[(i32, Offset)],
) -> Result<Vec<(PartitionId, Offset)>, QueueAdminError> {
    let mut targets = BTreeMap::new();
    for (nth, (partition, offset)) in places.iter().enumerate() {
        let missing = || QueueAdminError::NoSuchPartition { nth, partition: *partition };
        let id = partition_of(queue, *partition).ok_or_else(missing)?;
        let at = status.iter().find(|p| p.id == id).ok_or_else(missing)?;
        let (log_start_offset, high_watermark) = (at.log_start_offset, at.high_watermark);
        if !(log_start_offset..=high_watermark).contains(offset) {
            let offset = *offset;
            return Err(QueueAdminError::OutOfRange { nth, offset, log_start_offset, high_watermark });
        }
        if targets.insert(id, *offset).is_some() {
            return Err(QueueAdminError::NamedTwice { partition: *partition });
        }
    }
    Ok(targets.into_iter().collect())
}

pub(super) fn number_of(queue: &Queue, partition: PartitionId) -> Option<i32> {
    queue.partitions.iter().position(|p| *p == partition).and_then(|n| i32::try_from(n).ok())
}

pub(super) fn partition_of(queue: &Queue, number: i32) -> Option<PartitionId> {
    usize::try_from(number).ok().and_then(|n| queue.partitions.get(n)).copied()
}

impl DeadSelection {
    fn filter(&self, queue: &Queue) -> Result<DeadFilter, QueueAdminError> {
        let places = match self {
            Self::All => return Ok(DeadFilter::All),
            Self::ReasonLike(glob) => return Ok(DeadFilter::Reason(like_pattern(glob))),
            Self::Offsets(places) => places,
        };
        let mut offsets = Vec::with_capacity(places.len());
        let mut seen = BTreeSet::new();
        for (nth, (partition, offset)) in places.iter().enumerate() {
            let id = partition_of(queue, *partition).ok_or(QueueAdminError::NotDead { nth })?;
            if !seen.insert((id, *offset)) {
                return Err(QueueAdminError::NamedTwice { partition: *partition });
            }
            offsets.push((id, *offset));
        }
        Ok(DeadFilter::Offsets(offsets))
    }
}

/// A glob as a `LIKE` pattern of SQL with `\` as escape.
fn like_pattern(glob: &str) -> String {
    let mut pattern = String::with_capacity(glob.len());
    for c in glob.chars() {
        match c {
            '*' => pattern.push('%'),
            '?' => pattern.push('_'),
            '%' | '_' | '\\' => pattern.extend(['\\', c]),
            '\0' => pattern.push('\u{fffd}'),
            c => pattern.push(c),
        }
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_becomes_a_like_pattern() {
        assert_eq!(like_pattern("smtp*"), "smtp%");
        assert_eq!(like_pattern("a?c_100%\\"), "a_c\\_100\\%\\\\");
    }
}
