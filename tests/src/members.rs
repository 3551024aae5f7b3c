//! Steps on members of consumer groups: joining, leaving, and the partitions that each member has.

use crate::draft::{Home, name};
use crate::stage::Stage;
use millpond_core::group::{
    GroupState, Member, OffsetCommit, OffsetsRejected, RenewRejected, Renewed, ResetRejected, Start,
};
use millpond_core::{Error, Generation, MemberId, Offset, PartitionId};
use std::collections::BTreeMap;

/// Session length of test members; longer than an agent allows, so that a test can let much time pass.
pub const SESSION_MS: i64 = 90 * 60_000;

impl Stage {
    #[must_use]
    pub fn member(&self, topics: &[&str]) -> Member {
        let topics = topics.iter().map(|t| name(t)).collect();
        Member {
            id: MemberId(self.uuid()),
            topics,
            session_ms: SESSION_MS,
            from: Start::Earliest,
            client_id: None,
        }
    }

    pub async fn group(&self, group: &str) -> GroupState {
        self.plane.group(&self.scope, &name(group), &[]).await.expect("a group")
    }

    /// Adds a member, as an agent does.
    pub async fn join(&self, group: &str, topics: &[&str]) -> MemberId {
        let member = self.member(topics);
        self.plane.make_group(&self.scope, &name(group)).await.expect("made");
        self.change(group, Some(&member), None).await;
        member.id
    }

    pub async fn leave(&self, group: &str, member: MemberId) {
        self.change(group, None, Some(member)).await;
    }

    /// Makes the next generation, if one is due.
    pub async fn settle(&self, group: &str) {
        self.change(group, None, None).await;
    }

    async fn change(&self, group: &str, add: Option<&Member>, leave: Option<MemberId>) {
        let also = add.map_or(&[][..], |m| &m.topics);
        loop {
            let state = self.plane.group(&self.scope, &name(group), also).await.expect("a group");
            let is_member = |id: MemberId| state.member(id).is_some();
            if add.is_none_or(|m| is_member(m.id))
                && leave.is_none_or(|m| !is_member(m))
                && state.is_settled()
            {
                return;
            }
            let change = state.next(&self.scope, add.filter(|m| !is_member(m.id)).cloned(), leave);
            match self.plane.regroup(&change).await {
                Ok(_) | Err(Error::Rejected(_)) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    pub async fn renew(&self, group: &str, member: MemberId) -> Result<Renewed, RenewRejected> {
        match self.plane.renew(&self.scope, &name(group), member).await {
            Ok(renewed) => Ok(renewed),
            Err(Error::Rejected(rejected)) => Err(rejected),
            Err(error) => panic!("{error:?}"),
        }
    }

    /// Number of partitions of each member.
    pub async fn shares(&self, group: &str) -> BTreeMap<MemberId, usize> {
        let mut shares = BTreeMap::new();
        for owner in self.group(group).await.owners.values() {
            *shares.entry(owner.member).or_default() += 1;
        }
        shares
    }

    pub async fn generation(&self, group: &str) -> Generation {
        self.group(group).await.generation
    }

    #[must_use]
    pub fn offsets(
        &self,
        group: &str,
        member: MemberId,
        generation: Generation,
        offsets: &[(Home, i64)],
    ) -> OffsetCommit {
        let mut offsets: Vec<(PartitionId, Offset)> =
            offsets.iter().map(|(home, offset)| (home.id, Offset(*offset))).collect();
        offsets.sort_unstable();
        OffsetCommit { scope: self.scope.clone(), group: name(group), member, generation, offsets }
    }

    /// Commits offsets; returns the committed offset of each partition afterwards.
    pub async fn commit_offsets(&self, commit: &OffsetCommit) -> Result<Vec<i64>, OffsetsRejected> {
        match self.plane.commit_offsets(commit).await {
            Ok(kept) => Ok(kept.into_iter().map(|(_, offset)| offset.0).collect()),
            Err(Error::Rejected(rejected)) => Err(rejected),
            Err(error) => panic!("{error:?}"),
        }
    }

    pub async fn reset(&self, group: &str, offsets: &[(Home, i64)]) -> Result<(), ResetRejected> {
        let offsets: Vec<(PartitionId, Offset)> =
            offsets.iter().map(|(home, offset)| (home.id, Offset(*offset))).collect();
        match self.plane.reset_offsets(&self.scope, &name(group), &offsets).await {
            Ok(()) => Ok(()),
            Err(Error::Rejected(rejected)) => Err(rejected),
            Err(error) => panic!("{error:?}"),
        }
    }

    /// Committed offsets by topic and partition.
    pub async fn committed(&self, group: &str) -> BTreeMap<(String, i32), i64> {
        let id = self.group(group).await.id;
        let progress = self.plane.progress(&self.scope, id).await.expect("a list");
        progress.into_iter().filter_map(|p| Some(((p.topic.to_string(), p.number), p.committed?.0))).collect()
    }
}
