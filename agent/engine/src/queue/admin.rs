//! Administration of queues: create, change, describe, delete, pause, purge and seek; redrive and purge of
//! dead records.

use super::Queues;
use crate::fetch::ReadError;
use crate::topics::TopicError;
use millpond_core::queue::change::{DeadDone, DeadStep, SeekTo};
use millpond_core::queue::{
    DeadFilter, DeadRejected, NoSuchQueue, PutQueueRejected, Queue, QueueChange, QueueCounts,
};
use millpond_core::topic::PartitionStatus;
use millpond_core::{Error, Name, Offset, Page, PageRequest, PartitionId, QueueId, Scope};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Why an operation on a queue failed.
#[derive(Debug, thiserror::Error)]
pub enum QueueAdminError {
    #[error("there is no such queue")]
    NoSuchQueue,
    #[error("there is no topic {0}")]
    NoSuchTopic(Name),
    #[error(transparent)]
    Put(PutQueueRejected),
    /// `nth` is an index into the offsets of the call.
    #[error("there is no partition {partition}")]
    NoSuchPartition { nth: usize, partition: i32 },
    #[error("there is no dead record at one of the offsets")]
    NotDead { nth: usize },
    #[error("offset {offset} is outside {log_start_offset} to {high_watermark}")]
    OutOfRange { nth: usize, offset: Offset, log_start_offset: Offset, high_watermark: Offset },
    #[error("partition {partition} is named twice")]
    NamedTwice { partition: i32 },
    #[error("this is not the `next` of an earlier page")]
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

/// How long one call works on the records of a queue before it answers that there is more to do.
const WORK_MAX: Duration = Duration::from_secs(20);
/// Dead records that one statement looks at.
const DEAD_STEP_RECORDS: i64 = 5_000;

/// What an operation on many records has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Worked {
    pub records: i64,
    /// More is left, since it takes long: the same call goes on.
    pub remaining: bool,
}

/// A queue, with the numbers of its records by state.
#[derive(Debug, Clone)]
pub struct DescribedQueue {
    pub queue: Arc<Queue>,
    pub counts: QueueCounts,
}

/// Selects dead records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadSelection {
    All,
    /// Partition number and offset of each, once. All of them must be dead.
    Offsets(Vec<(i32, Offset)>),
    /// Those whose reason matches a glob: `*` stands for any text, `?` for one character.
    ReasonLike(String),
}

/// The target of a seek.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeekTarget {
    /// The log start offset.
    Earliest,
    /// The high watermark.
    Latest,
    /// The first record with this timestamp (milliseconds since the epoch) or a later one; if there is none,
    /// the high watermark.
    Timestamp(i64),
    /// Partition number and offset, each partition once. Other partitions are not changed.
    Offsets(Vec<(i32, Offset)>),
}

impl Queues {
    /// Creates or changes a queue; `true` if it was created. The topic of a new queue has the name of the
    /// queue, unless `change` names another one. It is created if it does not exist and the server is
    /// configured to create topics.
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
        self.update_tasks(&queue);
        Ok((self.described(scope, queue).await?, made))
    }

    /// Adds the counts to a queue.
    async fn described(
        &self,
        scope: &Scope,
        queue: Arc<Queue>,
    ) -> Result<DescribedQueue, Error<NoSuchQueue>> {
        let counts = self.runtime.plane.queue_counts(scope, queue.id).await?;
        Ok(DescribedQueue { queue, counts })
    }

    /// A queue with its counts.
    pub async fn describe(&self, scope: &Scope, name: &Name) -> Result<DescribedQueue, QueueAdminError> {
        let queue = self.look_up(scope, name).await?;
        Ok(self.described(scope, queue).await?)
    }

    /// A page of the tenant's queues, in the order of their names.
    pub async fn list(
        &self,
        scope: &Scope,
        page: &PageRequest,
    ) -> Result<Page<DescribedQueue>, QueueAdminError> {
        let page = self.runtime.plane.queues(scope, page).await?;
        Ok(page.map(|(queue, counts)| DescribedQueue { queue: Arc::new(queue), counts }))
    }

    /// Deletes a queue, but not its topic. All its receipts become invalid.
    pub async fn delete(&self, scope: &Scope, name: &Name) -> Result<(), QueueAdminError> {
        let deleted = self.runtime.plane.delete_queue(scope, name).await;
        self.known.forget(scope, name).await;
        if deleted? { Ok(()) } else { Err(QueueAdminError::NoSuchQueue) }
    }

    /// Pauses or resumes a queue. A paused queue leases nothing; leases that exist can still be settled.
    pub async fn set_paused(&self, scope: &Scope, name: &Name, paused: bool) -> Result<(), QueueAdminError> {
        let queue = self.look_up(scope, name).await?;
        let done = self.runtime.plane.pause_queue(scope, queue.id, paused).await;
        self.known.forget(scope, name).await;
        self.nudge(queue.id);
        Ok(done?)
    }

    /// Moves the queue past all its records and ends its leases. Counts the records that were not settled,
    /// also those that an earlier call counted that was not done.
    pub async fn purge(&self, scope: &Scope, name: &Name) -> Result<Worked, QueueAdminError> {
        let queue = self.look_up(scope, name).await?;
        self.runtime.plane.begin_seek(scope, queue.id, &SeekTo::Latest).await?;
        self.finish_seek(scope, queue.id).await
    }

    /// Moves the cursors of a queue, and returns them by partition number, and whether the seek remains to be
    /// done by another call. In the partitions concerned, all leases end, and waiting records, as well as
    /// dead records from the new cursor on, are forgotten.
    pub async fn seek(
        &self,
        scope: &Scope,
        name: &Name,
        to: &SeekTarget,
    ) -> Result<(Vec<(i32, Offset)>, bool), QueueAdminError> {
        let queue = self.look_up(scope, name).await?;
        let to = self.target(scope, &queue, to).await?;
        let cursors = self.runtime.plane.begin_seek(scope, queue.id, &to).await?;
        let worked = self.finish_seek(scope, queue.id).await?;
        let place = |(id, offset): (PartitionId, Offset)| Some((number_of(&queue, id)?, offset));
        Ok((cursors.into_iter().filter_map(place).collect(), worked.remaining))
    }

    async fn finish_seek(&self, scope: &Scope, queue: QueueId) -> Result<Worked, QueueAdminError> {
        let begun = Instant::now();
        loop {
            let step = self.runtime.plane.step_seek(scope, queue).await?;
            if step.done || begun.elapsed() >= WORK_MAX {
                self.nudge(queue);
                return Ok(Worked { records: step.skipped, remaining: !step.done });
            }
        }
    }

    async fn target(&self, scope: &Scope, queue: &Queue, to: &SeekTarget) -> Result<SeekTo, QueueAdminError> {
        Ok(match to {
            SeekTarget::Earliest => SeekTo::Earliest,
            SeekTarget::Latest => SeekTo::Latest,
            SeekTarget::Timestamp(timestamp) => {
                let topic = self.topics.get(scope, &queue.topic).await?;
                let offsets = self.fetch.offsets_at(scope, &topic, *timestamp).await?;
                SeekTo::Offsets(offsets.into_iter().map(|(_, id, offset)| (id, offset)).collect())
            }
            SeekTarget::Offsets(places) => {
                let status = self.runtime.plane.partitions(scope, queue.topic_id).await?;
                SeekTo::Offsets(within_log(queue, &status, places)?)
            }
        })
    }

    /// Gives dead records back to their queue, with no failures counted. With `max_rate`, in records per
    /// second, they become due one after the other; all of them are scheduled before the call ends, since the
    /// schedule of another call would begin anew.
    pub async fn redrive(
        &self,
        scope: &Scope,
        name: &Name,
        dead: &DeadSelection,
        max_rate: Option<f64>,
    ) -> Result<Worked, QueueAdminError> {
        let queue = self.look_up(scope, name).await?;
        let filter = dead.filter(&queue)?;
        let until = max_rate.is_none().then(|| Instant::now() + WORK_MAX);
        let (mut worked, mut step) = (Worked::default(), DeadStep::first(DEAD_STEP_RECORDS));
        loop {
            let done = self.runtime.plane.redrive(scope, queue.id, &filter, max_rate, &step).await;
            self.nudge(queue.id);
            match worked.next(done?, until) {
                Some(next) => step = next,
                None => return Ok(worked),
            }
        }
    }

    /// Forgets dead records.
    pub async fn purge_dead(
        &self,
        scope: &Scope,
        name: &Name,
        dead: &DeadSelection,
    ) -> Result<Worked, QueueAdminError> {
        let queue = self.look_up(scope, name).await?;
        let filter = dead.filter(&queue)?;
        let until = Some(Instant::now() + WORK_MAX);
        let (mut worked, mut step) = (Worked::default(), DeadStep::first(DEAD_STEP_RECORDS));
        loop {
            let done = self.runtime.plane.purge_dead(scope, queue.id, &filter, &step).await?;
            match worked.next(done, until) {
                Some(next) => step = next,
                None => return Ok(worked),
            }
        }
    }
}

impl Worked {
    /// Adds what a step has done. Returns the next step, if there is one and it is not too late for it.
    fn next(&mut self, done: DeadDone, until: Option<Instant>) -> Option<DeadStep> {
        self.records += done.records;
        let next = done.next.filter(|_| until.is_none_or(|until| Instant::now() < until));
        self.remaining = done.next.is_some() && next.is_none();
        next
    }
}

/// Checks the offsets of a seek: each must be in the log of its partition.
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

/// The number of a partition of the topic, by its id.
pub(super) fn number_of(queue: &Queue, partition: PartitionId) -> Option<i32> {
    queue.partitions.iter().position(|p| *p == partition).and_then(|n| i32::try_from(n).ok())
}

/// The id of a partition of the topic, by its number.
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

/// Converts a glob to an SQL `LIKE` pattern with `\` as escape character.
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
