//! Consumer groups: members, the assignment of partitions to members, committed offsets, and the decisions
//! about them as pure functions.
//!
//! Invariants: each change of the members or of their assignment makes a new generation. A member that has
//! expired never comes back. A committed offset never decreases, except by a reset, which needs a group
//! without living members.

pub mod assignor;

use crate::id::{Generation, GroupId, MemberId, Offset, PartitionId, TopicId};
use crate::name::Name;
use crate::number::saturated;
use crate::scope::Scope;
use assignor::{Assignor, Subscriber};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Where reading starts in a partition without a committed offset, or after retention has deleted the records
/// at the position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    #[default]
    Earliest,
    Latest,
}

/// A member of a group, as it joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: MemberId,
    /// Subscribed topics, each once. A topic need not exist yet.
    pub topics: Vec<Name>,
    pub session_ms: i64,
    pub from: Start,
    pub client_id: Option<String>,
}

/// A member and its heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberState {
    pub member: Member,
    /// Time of the last stored heartbeat, by the clock of the control plane.
    pub seen_at_ms: i64,
    /// Its session is over. It stays a member until the next generation.
    pub expired: bool,
}

/// A topic with its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupTopic {
    pub name: Name,
    pub id: TopicId,
    /// Ids by partition number.
    pub partitions: Vec<PartitionId>,
}

/// Owner of a partition, without interruption since the generation `since`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub member: MemberId,
    pub since: Generation,
}

/// The topics, by id, and their numbers of partitions from which an assignment was made.
pub type Basis = Vec<(TopicId, i32)>;

/// A group with everything that an assignment is made from. None of it is older than the generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupState {
    pub id: GroupId,
    pub generation: Generation,
    /// Basis of the current assignment.
    pub basis: Basis,
    /// Ordered by id, which is the order of joining.
    pub members: Vec<MemberState>,
    /// The topics that members subscribe to and those that were asked for, if they exist.
    pub topics: Vec<GroupTopic>,
    pub owners: BTreeMap<PartitionId, Owner>,
}

/// A group in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedGroup {
    pub name: Name,
    pub state: GroupState,
    /// Partitions that are assigned or have a committed offset, by topic and number.
    pub progress: Vec<Progress>,
}

/// A change of the members, of the assignment, or of both. It is applied only if the group is still at
/// `generation`, and makes the next generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regroup {
    pub scope: Scope,
    pub group: GroupId,
    pub generation: Generation,
    pub add: Option<Member>,
    pub remove: Vec<MemberId>,
    /// The complete assignment, by partition.
    pub owners: Vec<(PartitionId, MemberId)>,
    pub basis: Basis,
}

/// Answer of a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewed {
    pub group: GroupId,
    pub generation: Generation,
    /// A member has expired, or the topics differ from those of the assignment: a new generation is needed.
    pub stale: bool,
    pub session_ms: i64,
    pub from: Start,
    /// Age of the stored heartbeat, in milliseconds.
    pub noted_ms_ago: i64,
    /// Partitions of the member, by topic name and partition number.
    pub partitions: Vec<Assigned>,
}

/// A partition of a member at the time of the heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    pub topic: Name,
    pub number: i32,
    pub partition: PartitionId,
    pub since: Generation,
    pub committed: Option<Offset>,
    pub log_start_offset: Offset,
    pub high_watermark: Offset,
}

/// Progress of a group in a partition that is assigned or has a committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    pub topic: Name,
    pub number: i32,
    pub partition: PartitionId,
    pub owner: Option<MemberId>,
    pub committed: Option<Offset>,
    pub log_start_offset: Offset,
    pub high_watermark: Offset,
}

/// Offsets that a member commits. Each is the offset of the next record to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetCommit {
    pub scope: Scope,
    pub group: Name,
    pub member: MemberId,
    pub generation: Generation,
    /// One per partition, ordered by partition.
    pub offsets: Vec<(PartitionId, Offset)>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("there is no such group")]
pub struct NoSuchGroup;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the group has moved to another generation, or is gone")]
pub struct GenerationMoved;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RenewRejected {
    #[error("there is no such group")]
    NoSuchGroup,
    #[error("there is no such member: its session has ended")]
    NoSuchMember,
}

/// `nth`: index into the offsets of the commit.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum OffsetsRejected {
    #[error("there is no such group")]
    NoSuchGroup,
    #[error("the partition is gone: its topic was deleted")]
    PartitionGone { nth: usize },
    #[error("the member does not own the partition, or has owned it only since a later generation")]
    Fenced { nth: usize },
    #[error("the offset is beyond the high watermark {high_watermark}")]
    BeyondHighWatermark { nth: usize, high_watermark: Offset },
}

/// `nth`: index into the offsets of the reset.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ResetRejected {
    #[error("the group has members")]
    NotEmpty,
    #[error("the partition is gone: its topic was deleted")]
    PartitionGone { nth: usize },
    #[error("the offset is beyond the high watermark {high_watermark}")]
    BeyondHighWatermark { nth: usize, high_watermark: Offset },
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DeleteGroupRejected {
    #[error("there is no such group")]
    NoSuchGroup,
    #[error("the group has members")]
    NotEmpty,
}

impl GroupState {
    /// Whether no new generation is needed.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.members.iter().all(|m| !m.expired)
            && self.basis == basis(&self.topics, self.members.iter().map(|m| &m.member))
    }

    /// The member with this id, unless it has expired.
    #[must_use]
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.members.iter().find(|m| m.member.id == id && !m.expired).map(|m| &m.member)
    }

    /// The change to the next generation: removes members that have expired and the one that leaves, adds the
    /// one that joins. Moves as few partitions as possible.
    #[must_use]
    pub fn next(&self, scope: &Scope, add: Option<Member>, leave: Option<MemberId>) -> Regroup {
        let goes = |m: &MemberState| m.expired || Some(m.member.id) == leave;
        let stay: Vec<&Member> =
            self.members.iter().filter(|m| !goes(m)).map(|m| &m.member).chain(&add).collect();
        let subscribers = stay.iter().map(|m| Subscriber {
            member: m.id,
            topics: self.topics.iter().filter(|t| m.topics.contains(&t.name)).map(|t| t.id).collect(),
        });
        let topics = self.topics.iter().map(|t| (t.id, t.partitions.clone())).collect();
        let owners = self.owners.iter().map(|(partition, owner)| (*partition, owner.member)).collect();
        let owners = Assignor::new(subscribers.collect(), &topics, &owners).assign();
        let basis = basis(&self.topics, stay.iter().copied());
        let remove = self.members.iter().filter(|m| goes(m)).map(|m| m.member.id).collect();
        Regroup {
            scope: scope.clone(),
            group: self.id,
            generation: self.generation,
            add,
            remove,
            owners: owners.into_iter().collect(),
            basis,
        }
    }

    /// Number of partitions that a change takes from their owners.
    #[must_use]
    pub fn moved(&self, to: &Regroup) -> usize {
        let owners: BTreeMap<_, _> = to.owners.iter().copied().collect();
        self.owners.iter().filter(|(partition, owner)| owners.get(partition) != Some(&owner.member)).count()
    }
}

/// The basis of an assignment to these members.
pub fn basis<'m>(topics: &[GroupTopic], members: impl Iterator<Item = &'m Member>) -> Basis {
    let names: BTreeSet<&Name> = members.flat_map(|m| &m.topics).collect();
    let subscribed = topics.iter().filter(|t| names.contains(&t.name));
    let mut basis: Basis = subscribed.map(|t| (t.id, saturated::<i32, _>(t.partitions.len()))).collect();
    basis.sort_unstable();
    basis
}

/// Decides whether a member may commit its offsets: all of them or none. `high_watermark` returns `None` for
/// a partition that is gone; `owner` returns the owner of a partition.
pub fn judge(
    commit: &OffsetCommit,
    high_watermark: impl Fn(PartitionId) -> Option<Offset>,
    owner: impl Fn(PartitionId) -> Option<Owner>,
) -> Result<(), OffsetsRejected> {
    let offsets = || commit.offsets.iter().enumerate();
    if let Some((nth, _)) = offsets().find(|(_, (partition, _))| high_watermark(*partition).is_none()) {
        return Err(OffsetsRejected::PartitionGone { nth });
    }
    let owns = |partition| {
        owner(partition).is_some_and(|o| o.member == commit.member && o.since <= commit.generation)
    };
    if let Some((nth, _)) = offsets().find(|(_, (partition, _))| !owns(*partition)) {
        return Err(OffsetsRejected::Fenced { nth });
    }
    let beyond = |partition, offset| high_watermark(partition).filter(|end| offset > *end);
    match offsets().find_map(|(nth, (partition, offset))| Some((nth, beyond(*partition, *offset)?))) {
        Some((nth, high_watermark)) => Err(OffsetsRejected::BeyondHighWatermark { nth, high_watermark }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
