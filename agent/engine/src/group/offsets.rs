//! Offsets of consumer groups: committed by members, alone or together with records, and reset while a group
//! has no members.

use super::Groups;
use crate::fetch::ReadError;
use crate::metrics;
use crate::resend::Resend;
use crate::topics::{TopicError, Topics};
use millpond_core::group::{OffsetCommit, OffsetsRejected, ResetRejected};
use millpond_core::topic::PartitionStatus;
use millpond_core::{ControlPlane, Error, Generation, MemberId, Name, Offset, PartitionId, Scope, limits};
use std::collections::BTreeMap;

/// The offset of the next record to read in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedOffset {
    pub topic: Name,
    pub partition: i32,
    pub offset: Offset,
}

/// The offsets that a member commits: one per partition, all of them or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupOffsets {
    pub group: Name,
    pub member: MemberId,
    /// The generation of the poll that returned the records.
    pub generation: Generation,
    pub offsets: Vec<NamedOffset>,
}

/// A reset of the offset of one partition, or of all partitions of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetReset {
    pub topic: Name,
    /// `None`: all partitions.
    pub partition: Option<i32>,
    pub to: ResetTo,
}

/// The target of a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetTo {
    /// The log start offset.
    Earliest,
    /// The high watermark.
    Latest,
    /// The first record with this timestamp (milliseconds since the epoch) or a later one; if there is none,
    /// the high watermark.
    Timestamp(i64),
    Offset(Offset),
}

/// Why no offset was committed or reset, or why the outcome is unknown.
#[derive(Debug, thiserror::Error)]
pub enum OffsetsError {
    #[error("there is no topic {0}")]
    NoSuchTopic(Name),
    #[error("{topic} has partitions 0 to {}, not {partition}", .count - 1)]
    NoSuchPartition { topic: Name, count: i32, partition: i32 },
    #[error("at most {} offsets can be committed or reset at a time", limits::OFFSETS_PER_COMMIT)]
    TooMany,
    #[error("partition {partition} of {topic} is named twice")]
    NamedTwice { topic: Name, partition: i32 },
    #[error(transparent)]
    Rejected(OffsetsRejected),
    #[error(transparent)]
    ResetRejected(ResetRejected),
    #[error("the offset of a timestamp cannot be found")]
    Read(#[source] ReadError),
    #[error("the control plane failed")]
    ControlPlane(#[source] Error),
}

impl OffsetsError {
    /// Whether a topic, as it was cached, does not exist any more.
    fn is_topic_gone(&self) -> bool {
        matches!(
            self,
            Self::NoSuchTopic(_)
                | Self::Rejected(OffsetsRejected::PartitionGone { .. })
                | Self::ResetRejected(ResetRejected::PartitionGone { .. })
                | Self::Read(ReadError::NoSuchTopic(_))
        )
    }
}

impl From<TopicError> for OffsetsError {
    fn from(error: TopicError) -> Self {
        match error {
            TopicError::NoSuchTopic(name) => Self::NoSuchTopic(name),
            TopicError::ControlPlane(error) => Self::ControlPlane(error),
        }
    }
}

impl From<Error> for OffsetsError {
    fn from(error: Error) -> Self {
        Self::ControlPlane(error)
    }
}

/// Offsets by partition id, each with the topic and partition number that the client named.
type PlacedOffsets = BTreeMap<PartitionId, NamedOffset>;

impl Groups {
    /// Commits a member's offsets. Returns the committed offsets after that, by topic and partition: the
    /// greater of the member's offset and the one committed before. If a cached topic was deleted, it is
    /// looked up again, once.
    pub async fn commit_offsets(
        &self,
        scope: &Scope,
        commit: &GroupOffsets,
    ) -> Result<Vec<NamedOffset>, OffsetsError> {
        match self.try_commit(scope, commit).await {
            Err(error) if error.is_topic_gone() => {
                for entry in &commit.offsets {
                    self.topics.forget(scope, &entry.topic).await;
                }
                self.try_commit(scope, commit).await
            }
            outcome => outcome,
        }
    }

    async fn try_commit(
        &self,
        scope: &Scope,
        commit: &GroupOffsets,
    ) -> Result<Vec<NamedOffset>, OffsetsError> {
        let (mut placed, missing) = place(&self.topics, scope, &commit.offsets).await?;
        if let Some(missing) = missing {
            return Err(missing);
        }
        let call = offset_commit(scope, commit, &placed);
        let outcome = Resend::SERVING.run(|| self.plane.commit_offsets(&call)).await;
        metrics::offsets_committed(match &outcome {
            Ok(_) => "stored",
            Err(Error::Rejected(OffsetsRejected::Fenced { .. })) => "fenced",
            Err(Error::Rejected(_)) => "refused",
            Err(_) => "failed",
        });
        let committed = match outcome.map_err(Error::into_rejection) {
            Ok(committed) => committed,
            Err(Ok(rejected)) => return Err(OffsetsError::Rejected(rejected)),
            Err(Err(failure)) => return Err(failure.into()),
        };
        for (id, offset) in committed {
            if let Some(entry) = placed.get_mut(&id) {
                entry.offset = offset;
            }
        }
        Ok(listed(placed))
    }

    /// Sets the offsets of a group without members, possibly backwards. The group is created if it does not
    /// exist.
    pub async fn reset_offsets(
        &self,
        scope: &Scope,
        group: &Name,
        resets: &[OffsetReset],
    ) -> Result<Vec<NamedOffset>, OffsetsError> {
        match self.try_reset(scope, group, resets).await {
            Err(error) if error.is_topic_gone() => {
                for reset in resets {
                    self.topics.forget(scope, &reset.topic).await;
                }
                self.try_reset(scope, group, resets).await
            }
            outcome => outcome,
        }
    }

    async fn try_reset(
        &self,
        scope: &Scope,
        group: &Name,
        resets: &[OffsetReset],
    ) -> Result<Vec<NamedOffset>, OffsetsError> {
        let placed = self.place_resets(scope, resets).await?;
        let offsets: Vec<(PartitionId, Offset)> = placed.iter().map(|(id, e)| (*id, e.offset)).collect();
        let outcome = Resend::SERVING.run(|| self.plane.reset_offsets(scope, group, &offsets)).await;
        match outcome.map_err(Error::into_rejection) {
            Ok(()) => Ok(listed(placed)),
            Err(Ok(rejected)) => Err(OffsetsError::ResetRejected(rejected)),
            Err(Err(failure)) => Err(failure.into()),
        }
    }

    /// The partition ids and offsets that resets stand for.
    async fn place_resets(
        &self,
        scope: &Scope,
        resets: &[OffsetReset],
    ) -> Result<PlacedOffsets, OffsetsError> {
        check_count(resets.len())?;
        let mut placed = PlacedOffsets::new();
        for reset in resets {
            let topic = match reset.partition {
                Some(partition) => {
                    let (topic, id) = self.topics.with_partition(scope, &reset.topic, partition).await?;
                    let (name, count) = (topic.name.clone(), topic.partition_count());
                    id.ok_or(OffsetsError::NoSuchPartition { topic: name, count, partition })?;
                    topic
                }
                None => self.topics.look_up(scope, &reset.topic).await?,
            };
            let found: Vec<(i32, PartitionId, Offset)> = match reset.to {
                ResetTo::Offset(offset) => {
                    (0..).zip(&topic.partitions).map(|(number, id)| (number, *id, offset)).collect()
                }
                ResetTo::Timestamp(timestamp) => {
                    self.fetch.offsets_at(scope, &topic, timestamp).await.map_err(OffsetsError::Read)?
                }
                ResetTo::Earliest | ResetTo::Latest => {
                    let at = |p: &PartitionStatus| match reset.to {
                        ResetTo::Latest => p.high_watermark,
                        _ => p.log_start_offset,
                    };
                    let status = self.plane.partitions(scope, topic.id).await?;
                    status.iter().map(|p| (p.partition, p.id, at(p))).collect()
                }
            };
            let is_selected = |partition: i32| reset.partition.is_none_or(|p| p == partition);
            for (partition, id, offset) in
                found.into_iter().filter(|(partition, _, _)| is_selected(*partition))
            {
                insert(&mut placed, id, NamedOffset { topic: reset.topic.clone(), partition, offset })?;
            }
        }
        Ok(placed)
    }
}

/// Resolves the group offsets that are committed together with records.
///
/// The second value is an error if a topic or partition does not exist. Whether it matters is decided by the
/// control plane: the retry of a request that succeeded is a success even if the topic was deleted since.
///
/// Offsets beyond a high watermark are refused here, before anything is sent. Otherwise a commit could first
/// be rejected and later, by a delayed attempt, be stored, because the log has grown since.
pub(crate) async fn resolve(
    topics: &Topics,
    plane: &dyn ControlPlane,
    scope: &Scope,
    commit: &GroupOffsets,
) -> Result<(OffsetCommit, Option<OffsetsError>), OffsetsError> {
    let (placed, missing) = place(topics, scope, &commit.offsets).await?;
    let ids: Vec<(Scope, PartitionId)> = placed.keys().map(|id| (scope.clone(), *id)).collect();
    let ends: BTreeMap<PartitionId, Offset> = plane.high_watermarks(&ids).await?.into_iter().collect();
    for (nth, (id, entry)) in placed.iter().enumerate() {
        if let Some(high_watermark) = ends.get(id).copied().filter(|end| entry.offset > *end) {
            let rejected = OffsetsRejected::BeyondHighWatermark { nth, high_watermark };
            return Err(OffsetsError::Rejected(rejected));
        }
    }
    Ok((offset_commit(scope, commit, &placed), missing))
}

fn offset_commit(scope: &Scope, commit: &GroupOffsets, placed: &PlacedOffsets) -> OffsetCommit {
    OffsetCommit {
        scope: scope.clone(),
        group: commit.group.clone(),
        member: commit.member,
        generation: commit.generation,
        offsets: placed.iter().map(|(id, entry)| (*id, entry.offset)).collect(),
    }
}

/// Finds the ids of partitions. A partition that does not exist gets a negative id, which no row has; the
/// second value then is the error that says so.
async fn place(
    topics: &Topics,
    scope: &Scope,
    entries: &[NamedOffset],
) -> Result<(PlacedOffsets, Option<OffsetsError>), OffsetsError> {
    check_count(entries.len())?;
    let (mut placed, mut missing) = (PlacedOffsets::new(), None);
    for (unused_id, entry) in (0..).map(|n: i64| PartitionId(-1 - n)).zip(entries) {
        let id = match topics.with_partition(scope, &entry.topic, entry.partition).await {
            Ok((_, Some(id))) => id,
            Ok((topic, None)) => {
                let (topic, count) = (entry.topic.clone(), topic.partition_count());
                let partition = entry.partition;
                missing.get_or_insert(OffsetsError::NoSuchPartition { topic, count, partition });
                unused_id
            }
            Err(TopicError::NoSuchTopic(topic)) => {
                missing.get_or_insert(OffsetsError::NoSuchTopic(topic));
                unused_id
            }
            Err(error) => return Err(error.into()),
        };
        insert(&mut placed, id, entry.clone())?;
    }
    Ok((placed, missing))
}

fn check_count(entries: usize) -> Result<(), OffsetsError> {
    if entries > limits::OFFSETS_PER_COMMIT { Err(OffsetsError::TooMany) } else { Ok(()) }
}

/// Adds an offset; an error if its partition is named twice.
fn insert(placed: &mut PlacedOffsets, id: PartitionId, entry: NamedOffset) -> Result<(), OffsetsError> {
    let (topic, partition) = (entry.topic.clone(), entry.partition);
    match placed.insert(id, entry) {
        None => Ok(()),
        Some(_) => Err(OffsetsError::NamedTwice { topic, partition }),
    }
}

/// The offsets by topic and partition number.
fn listed(placed: PlacedOffsets) -> Vec<NamedOffset> {
    let mut offsets: Vec<NamedOffset> = placed.into_values().collect();
    offsets.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    offsets
}
