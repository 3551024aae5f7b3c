//! Control plane calls for consumer groups: members, their assignment, committed offsets.

use crate::error::Error;
use crate::group::{
    DeleteGroupRejected, GenerationMoved, GroupState, ListedGroup, NoSuchGroup, OffsetCommit,
    OffsetsRejected, Progress, Regroup, RenewRejected, Renewed, ResetRejected,
};
use crate::id::{Generation, GroupId, MemberId, Offset, PartitionId};
use crate::name::Name;
use crate::page::{Page, PageRequest};
use crate::scope::Scope;
use async_trait::async_trait;

/// Consumer groups of a tenant. The rules of generations are those of [`crate::group`].
#[async_trait]
pub trait Groups: Send + Sync + 'static {
    /// The group, with the topics that its members subscribe to and those that `also` names. It is changed by
    /// [`Self::regroup`].
    async fn group(
        &self,
        scope: &Scope,
        name: &Name,
        also: &[Name],
    ) -> Result<GroupState, Error<NoSuchGroup>>;
    /// Creates a group without members, if there is none of this name.
    async fn make_group(&self, scope: &Scope, name: &Name) -> Result<(), Error>;
    /// A page of the tenant's groups, by name.
    async fn groups(&self, scope: &Scope, page: &PageRequest) -> Result<Page<ListedGroup>, Error>;
    /// Partitions that are assigned or have a committed offset, and are alive; by topic name and partition
    /// number.
    async fn progress(&self, scope: &Scope, group: GroupId) -> Result<Vec<Progress>, Error>;
    /// Changes a group and returns the new generation. A caller that loses against another change reads the
    /// group again. So does a caller that sends its change twice.
    async fn regroup(&self, change: &Regroup) -> Result<Generation, Error<GenerationMoved>>;
    /// Heartbeat of a member. It is stored if the stored one is older than a part of the session.
    async fn renew(
        &self,
        scope: &Scope,
        group: &Name,
        member: MemberId,
    ) -> Result<Renewed, Error<RenewRejected>>;
    /// Stores the heartbeats of members whose sessions are not over. Returns those whose heartbeat was
    /// stored; for the others, [`renew`](Self::renew) tells why.
    async fn renew_sessions(&self, members: &[(Scope, MemberId)]) -> Result<Vec<MemberId>, Error>;
    /// The generation of each group that exists, and whether a new one is needed. Cheap enough for callers
    /// that poll. Precondition: each group is asked for in one scope only, the one in which its id was found.
    async fn generations(
        &self,
        groups: &[(Scope, GroupId)],
    ) -> Result<Vec<(GroupId, Generation, bool)>, Error>;
    /// Commits offsets: all or none. Returns the committed offset of each partition, which is the greater of
    /// the old and the new one.
    async fn commit_offsets(
        &self,
        commit: &OffsetCommit,
    ) -> Result<Vec<(PartitionId, Offset)>, Error<OffsetsRejected>>;
    /// Sets offsets, also backwards, by partition, each partition once. The group must not have living
    /// members; it is created if there is none.
    async fn reset_offsets(
        &self,
        scope: &Scope,
        group: &Name,
        offsets: &[(PartitionId, Offset)],
    ) -> Result<(), Error<ResetRejected>>;
    /// Deletes a group that has no living members.
    async fn delete_group(&self, scope: &Scope, group: &Name) -> Result<(), Error<DeleteGroupRejected>>;
}
