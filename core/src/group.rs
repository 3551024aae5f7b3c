//! Consumer groups: who reads which partition, how far the group has come, and the decisions about both,
//! pure.
//!
//! Invariants: whatever changes members or their assignment makes a new generation. A member that has expired
//! stays so. A committed offset never goes back, but by a reset, for which nobody may be alive in the group.

pub mod assignor;

use crate::id::{Generation, GroupId, MemberId, Offset, PartitionId, TopicId};
use crate::name::Name;
use crate::number::saturated;
use crate::scope::Scope;
use assignor::{Assignor, Subscriber};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Where reading starts in a partition that has no committed offset, or whose position retention has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    #[default]
    Earliest,
    Latest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: MemberId,
    /// None twice. A name without a topic is waited for.
    pub topics: Vec<Name>,
    pub session_ms: i64,
    pub from: Start,
    pub client_id: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberState {
    pub member: Member,
    /// The sign of life noted last, by the control plane's clock.
    pub seen_at_ms: i64,
    /// Its session is over; it is a member until the next generation.
    pub expired: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupTopic {
    pub name: Name,
    pub id: TopicId,
    /// By number.
    pub partitions: Vec<PartitionId>,
}

/// Since `since` the member has had the partition without interruption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub member: MemberId,
    pub since: Generation,
}

/// Topics and how many partitions each had when an assignment was made, by id.
pub type Basis = Vec<(TopicId, i32)>;

/// A group and all that an assignment is made from, not older than its generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupState {
    pub id: GroupId,
    pub generation: Generation,
    /// Of the assignment that stands.
    pub basis: Basis,
    /// By id, which is in the order of joining.
    pub members: Vec<MemberState>,
    /// Those that are subscribed to, and those that were asked for, as far as they exist.
    pub topics: Vec<GroupTopic>,
    pub owners: BTreeMap<PartitionId, Owner>,
}

/// Another set of members, another assignment, or both: written if the generation is still the one named,
/// which it then is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regroup {
    pub scope: Scope,
    pub group: GroupId,
    pub generation: Generation,
    pub add: Option<Member>,
    pub remove: Vec<MemberId>,
    /// The whole assignment, by partition.
    pub owners: Vec<(PartitionId, MemberId)>,
    pub basis: Basis,
}

/// What a sign of life found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewed {
    pub group: GroupId,
    pub generation: Generation,
    /// A member has expired or the topics are not those of the assignment: a new generation is due.
    pub stale: bool,
    pub session_ms: i64,
    pub from: Start,
    /// How long ago the sign of life was noted that stands now.
    pub noted_ms_ago: i64,
    /// By topic name and number.
    pub partitions: Vec<Assigned>,
}

/// A partition that a member has, as it was at the sign of life.
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

/// How far a group has come in a partition that it has committed or that is assigned.
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

/// A member's offsets; each is the next record to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetCommit {
    pub scope: Scope,
    pub group: Name,
    pub member: MemberId,
    pub generation: Generation,
    /// By partition, each once.
    pub offsets: Vec<(PartitionId, Offset)>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("there is no such group")]
pub struct NoSuchGroup;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the group has another generation by now, or is gone")]
pub struct GenerationMoved;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RenewRejected {
    #[error("there is no such group")]
    NoSuchGroup,
    #[error("there is no such member: its session has ended")]
    NoSuchMember,
}

/// `nth` counts the offsets of the commit.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum OffsetsRejected {
    #[error("there is no such group")]
    NoSuchGroup,
    #[error("the partition is gone: its topic was deleted")]
    PartitionGone { nth: usize },
    #[error("the member does not have the partition, or not since the generation named")]
    Fenced { nth: usize },
    #[error("the offset is beyond the high watermark {high_watermark}")]
    BeyondHighWatermark { nth: usize, high_watermark: Offset },
}

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
    /// Whether nothing asks for a new generation.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.members.iter().all(|m| !m.expired)
            && self.basis == basis(&self.topics, self.members.iter().map(|m| &m.member))
    }

    #[must_use]
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.members.iter().find(|m| m.member.id == id && !m.expired).map(|m| &m.member)
    }

    /// The next generation: without those who have expired or leave, with the one who joins. Partitions move
    /// only where they must.
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

    /// Partitions that a new generation takes from somebody.
    #[must_use]
    pub fn moved(&self, to: &Regroup) -> usize {
        let owners: BTreeMap<_, _> = to.owners.iter().copied().collect();
        self.owners.iter().filter(|(partition, owner)| owners.get(partition) != Some(&owner.member)).count()
    }
}

/// What an assignment to these members is made from.
pub fn basis<'m>(topics: &[GroupTopic], members: impl Iterator<Item = &'m Member>) -> Basis {
    let names: BTreeSet<&Name> = members.flat_map(|m| &m.topics).collect();
    let subscribed = topics.iter().filter(|t| names.contains(&t.name));
    let mut basis: Basis = subscribed.map(|t| (t.id, saturated::<i32, _>(t.partitions.len()))).collect();
    basis.sort_unstable();
    basis
}

/// Whether a member may commit: all offsets or none. What the control plane knows of a partition is asked
/// for: its high watermark while it is alive, and who has it.
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
