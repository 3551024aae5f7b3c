//! Consumer groups: members, their assignment, committed offsets.

use crate::error::Error;
use crate::group::{
    DeleteGroupRejected, GenerationMoved, GroupState, NoSuchGroup, OffsetCommit, OffsetsRejected, Progress,
    Regroup, RenewRejected, Renewed, ResetRejected,
};
use crate::id::{Generation, GroupId, MemberId, Offset, PartitionId};
use crate::name::Name;
use crate::scope::Scope;
use async_trait::async_trait;

/// Consumer groups of a tenant. The rules of generations are those of [`crate::group`].
#[async_trait]
pub trait Groups: Send + Sync + 'static {
    /// The group, with the topics that its members subscribe to and those named in `also`. Written to by
    /// [`Self::regroup`] only.
    async fn group(
        &self,
        scope: &Scope,
        name: &Name,
        also: &[Name],
    ) -> Result<GroupState, Error<NoSuchGroup>>;
    /// Makes a group without members, if there is none of the name.
    async fn make_group(&self, scope: &Scope, name: &Name) -> Result<(), Error>;
    /// All groups of the tenant by name.
    async fn groups(&self, scope: &Scope) -> Result<Vec<Name>, Error>;
    /// Partitions that are assigned or committed and alive, by topic name and number.
    async fn progress(&self, scope: &Scope, group: GroupId) -> Result<Vec<Progress>, Error>;
    /// Answers the generation that it made. Who loses to another reads the group again; so does who sends a
    /// change twice.
    async fn regroup(&self, change: &Regroup) -> Result<Generation, Error<GenerationMoved>>;
    /// A member's sign of life, noted if the last one is older than a part of the session.
    async fn renew(
        &self,
        scope: &Scope,
        group: &Name,
        member: MemberId,
    ) -> Result<Renewed, Error<RenewRejected>>;
    /// Generation of each group that is there, and whether a new one is due; cheap, for those who wait.
    /// Precondition: a group is asked for in one scope only, that in which its id was found.
    async fn generations(
        &self,
        groups: &[(Scope, GroupId)],
    ) -> Result<Vec<(GroupId, Generation, bool)>, Error>;
    /// What is committed then, by partition: the greater of what was and what comes. All or nothing.
    async fn commit_offsets(
        &self,
        commit: &OffsetCommit,
    ) -> Result<Vec<(PartitionId, Offset)>, Error<OffsetsRejected>>;
    /// Sets offsets, also backwards, by partition, each once; in a group without living members, which is
    /// made if there is none.
    async fn reset_offsets(
        &self,
        scope: &Scope,
        group: &Name,
        offsets: &[(PartitionId, Offset)],
    ) -> Result<(), Error<ResetRejected>>;
    async fn delete_group(&self, scope: &Scope, group: &Name) -> Result<(), Error<DeleteGroupRejected>>;
}
