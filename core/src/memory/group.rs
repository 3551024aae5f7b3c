//! Consumer groups of the in-memory control plane.

use super::{MemoryControlPlane, State};
use crate::control_plane::Groups;
use crate::error::Error;
use crate::group::{
    self, Assigned, Basis, DeleteGroupRejected, GenerationMoved, GroupState, GroupTopic, ListedGroup, Member,
    MemberState, NoSuchGroup, OffsetCommit, OffsetsRejected, Owner, Progress, Regroup, RenewRejected,
    Renewed, ResetRejected,
};
use crate::id::{Generation, GroupId, MemberId, Offset, PartitionId};
use crate::limits;
use crate::name::Name;
use crate::page::{Page, PageRequest};
use crate::scope::Scope;
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};

pub(super) struct GroupRow {
    id: GroupId,
    generation: Generation,
    basis: Basis,
    members: BTreeMap<MemberId, MemberRow>,
    owners: BTreeMap<PartitionId, Owner>,
    offsets: BTreeMap<PartitionId, Offset>,
    changed_ms: i64,
}

struct MemberRow {
    member: Member,
    seen_ms: i64,
}

impl MemberRow {
    fn expired(&self, now: i64) -> bool {
        self.seen_ms + self.member.session_ms <= now
    }
}

impl GroupRow {
    fn expired(&self, now: i64) -> Vec<MemberId> {
        self.members.iter().filter(|(_, m)| m.expired(now)).map(|(id, _)| *id).collect()
    }

    fn is_empty(&self, now: i64) -> bool {
        self.members.values().all(|m| m.expired(now))
    }

    fn remove(&mut self, members: &[MemberId], now: i64) {
        if members.is_empty() {
            return;
        }
        self.members.retain(|id, _| !members.contains(id));
        self.owners.retain(|_, owner| !members.contains(&owner.member));
        self.generation.0 += 1;
        self.changed_ms = now;
    }
}

impl State {
    fn group_by_id(&self, tenant: &Name, id: GroupId) -> Option<&GroupRow> {
        self.groups.iter().find(|((of, _), row)| of == tenant && row.id == id).map(|(_, row)| row)
    }

    fn group_topics<'n>(&self, tenant: &Name, names: impl Iterator<Item = &'n Name>) -> Vec<GroupTopic> {
        let names: BTreeSet<&Name> = names.collect();
        let topics = names.into_iter().filter_map(|name| self.topics.get(&(tenant.clone(), name.clone())));
        topics
            .map(|t| GroupTopic { name: t.name.clone(), id: t.id, partitions: t.partitions.clone() })
            .collect()
    }

    fn group(&self, tenant: &Name, name: &Name, also: &[Name], now: i64) -> Result<GroupState, NoSuchGroup> {
        let row = self.groups.get(&(tenant.clone(), name.clone())).ok_or(NoSuchGroup)?;
        let state = |m: &MemberRow| MemberState {
            member: m.member.clone(),
            seen_at_ms: m.seen_ms,
            expired: m.expired(now),
        };
        let names = row.members.values().flat_map(|m| &m.member.topics).chain(also);
        Ok(GroupState {
            id: row.id,
            generation: row.generation,
            basis: row.basis.clone(),
            members: row.members.values().map(state).collect(),
            topics: self.group_topics(tenant, names),
            owners: row.owners.clone(),
        })
    }

    fn make_group(&mut self, tenant: &Name, name: &Name, now: i64) {
        let key = (tenant.clone(), name.clone());
        if !self.groups.contains_key(&key) {
            let row = GroupRow {
                id: GroupId(self.new_id()),
                generation: Generation(0),
                basis: Vec::new(),
                members: BTreeMap::new(),
                owners: BTreeMap::new(),
                offsets: BTreeMap::new(),
                changed_ms: now,
            };
            self.groups.insert(key, row);
        }
    }

    fn progress(&self, tenant: &Name, id: GroupId) -> Vec<Progress> {
        let Some(row) = self.group_by_id(tenant, id) else { return Vec::new() };
        let partitions: BTreeSet<PartitionId> =
            row.owners.keys().chain(row.offsets.keys()).copied().collect();
        let mut progress: Vec<Progress> = partitions
            .into_iter()
            .filter_map(|partition| {
                let info = self.partition_info(tenant, partition)?;
                Some(Progress {
                    topic: info.0,
                    number: info.1,
                    partition,
                    owner: row.owners.get(&partition).map(|o| o.member),
                    committed: row.offsets.get(&partition).copied(),
                    log_start_offset: info.2,
                    high_watermark: info.3,
                })
            })
            .collect();
        progress.sort_by(|a, b| (&a.topic, a.number).cmp(&(&b.topic, b.number)));
        progress
    }

    /// Topic, number, log start offset and high watermark of a partition that is alive.
    fn partition_info(&self, tenant: &Name, partition: PartitionId) -> Option<(Name, i32, Offset, Offset)> {
        let row = self.alive_partition_of(tenant, partition)?;
        let topic = self.topics.values().find(|t| t.id == row.topic)?;
        Some((topic.name.clone(), row.number, row.log_start, row.high_watermark))
    }

    fn regroup(&mut self, change: &Regroup, now: i64) -> Result<Generation, GenerationMoved> {
        let is_it = |tenant: &Name, row: &GroupRow| {
            *tenant == change.scope.tenant && row.id == change.group && row.generation == change.generation
        };
        let found = self.groups.iter_mut().find(|((tenant, _), row)| is_it(tenant, row));
        let (_, row) = found.ok_or(GenerationMoved)?;
        row.generation.0 += 1;
        row.changed_ms = now;
        row.basis.clone_from(&change.basis);
        row.members.retain(|id, _| !change.remove.contains(id));
        if let Some(member) = &change.add {
            row.members.insert(member.id, MemberRow { member: member.clone(), seen_ms: now });
        }
        let since = row.generation;
        let before = std::mem::take(&mut row.owners);
        let owner = |(partition, member): &(PartitionId, MemberId)| {
            let kept = before.get(partition).filter(|o| o.member == *member);
            (*partition, kept.copied().unwrap_or(Owner { member: *member, since }))
        };
        row.owners = change.owners.iter().map(owner).collect();
        Ok(since)
    }

    fn is_stale(&self, tenant: &Name, row: &GroupRow, now: i64) -> bool {
        let topics = self.group_topics(tenant, row.members.values().flat_map(|m| &m.member.topics));
        let basis = group::basis(&topics, row.members.values().map(|m| &m.member));
        row.members.values().any(|m| m.expired(now)) || row.basis != basis
    }

    fn renew(
        &mut self,
        tenant: &Name,
        name: &Name,
        member: MemberId,
        now: i64,
    ) -> Result<Renewed, RenewRejected> {
        let row = self.groups.get_mut(&(tenant.clone(), name.clone())).ok_or(RenewRejected::NoSuchGroup)?;
        let own =
            row.members.get_mut(&member).filter(|m| !m.expired(now)).ok_or(RenewRejected::NoSuchMember)?;
        if own.seen_ms <= now - own.member.session_ms / limits::SESSION_NOTED_PARTS {
            own.seen_ms = now;
        }
        let (session_ms, from, noted_ms_ago) = (own.member.session_ms, own.member.from, now - own.seen_ms);
        let row = &self.groups[&(tenant.clone(), name.clone())];
        let assigned = |(partition, owner): (&PartitionId, &Owner)| {
            let (topic, number, log_start_offset, high_watermark) =
                self.partition_info(tenant, *partition)?;
            let committed = row.offsets.get(partition).copied();
            Some(Assigned {
                topic,
                number,
                partition: *partition,
                since: owner.since,
                committed,
                log_start_offset,
                high_watermark,
            })
        };
        let mut partitions: Vec<Assigned> =
            row.owners.iter().filter(|(_, o)| o.member == member).filter_map(assigned).collect();
        partitions.sort_by(|a, b| (&a.topic, a.number).cmp(&(&b.topic, b.number)));
        let stale = self.is_stale(tenant, row, now);
        Ok(Renewed {
            group: row.id,
            generation: row.generation,
            stale,
            session_ms,
            from,
            noted_ms_ago,
            partitions,
        })
    }

    fn generations(&self, groups: &[(Scope, GroupId)], now: i64) -> Vec<(GroupId, Generation, bool)> {
        let known = |(scope, id): &(Scope, GroupId)| {
            let row = self.group_by_id(&scope.tenant, *id)?;
            Some((row.id, row.generation, self.is_stale(&scope.tenant, row, now)))
        };
        groups.iter().filter_map(known).collect()
    }

    pub(super) fn judge_offsets(&self, commit: &OffsetCommit) -> Result<(), OffsetsRejected> {
        let row = self
            .groups
            .get(&(commit.scope.tenant.clone(), commit.group.clone()))
            .ok_or(OffsetsRejected::NoSuchGroup)?;
        let high_watermark =
            |p| self.alive_partition_of(&commit.scope.tenant, p).map(|row| row.high_watermark);
        group::judge(commit, high_watermark, |p| row.owners.get(&p).copied())
    }

    /// Commits offsets that [`Self::judge_offsets`] accepted. Returns the committed offsets.
    pub(super) fn apply_offsets(&mut self, commit: &OffsetCommit) -> Vec<(PartitionId, Offset)> {
        let Some(row) = self.groups.get_mut(&(commit.scope.tenant.clone(), commit.group.clone())) else {
            return Vec::new();
        };
        let apply = |(partition, offset): &(PartitionId, Offset)| {
            let committed = row.offsets.entry(*partition).or_insert(*offset);
            *committed = (*committed).max(*offset);
            (*partition, *committed)
        };
        commit.offsets.iter().map(apply).collect()
    }

    fn commit_offsets(
        &mut self,
        commit: &OffsetCommit,
    ) -> Result<Vec<(PartitionId, Offset)>, OffsetsRejected> {
        self.judge_offsets(commit)?;
        Ok(self.apply_offsets(commit))
    }

    fn reset_offsets(
        &mut self,
        tenant: &Name,
        name: &Name,
        offsets: &[(PartitionId, Offset)],
        now: i64,
    ) -> Result<(), ResetRejected> {
        self.make_group(tenant, name, now);
        let ends: Vec<Option<Offset>> = offsets
            .iter()
            .map(|(p, _)| self.alive_partition_of(tenant, *p).map(|row| row.high_watermark))
            .collect();
        let Some(row) = self.groups.get_mut(&(tenant.clone(), name.clone())) else { return Ok(()) };
        if !row.is_empty(now) {
            return Err(ResetRejected::NotEmpty);
        }
        if let Some(nth) = ends.iter().position(Option::is_none) {
            return Err(ResetRejected::PartitionGone { nth });
        }
        let beyond = offsets
            .iter()
            .zip(&ends)
            .enumerate()
            .find_map(|(nth, ((_, offset), end))| Some((nth, end.filter(|e| offset > e)?)));
        if let Some((nth, high_watermark)) = beyond {
            return Err(ResetRejected::BeyondHighWatermark { nth, high_watermark });
        }
        let dead = row.expired(now);
        row.remove(&dead, now);
        row.offsets.extend(offsets.iter().copied());
        row.changed_ms = now;
        Ok(())
    }

    fn delete_group(&mut self, tenant: &Name, name: &Name, now: i64) -> Result<(), DeleteGroupRejected> {
        let key = (tenant.clone(), name.clone());
        let row = self.groups.get(&key).ok_or(DeleteGroupRejected::NoSuchGroup)?;
        if !row.is_empty(now) {
            return Err(DeleteGroupRejected::NotEmpty);
        }
        self.groups.remove(&key);
        Ok(())
    }

    /// Removes long-expired members, offsets of deleted topics, and groups of which nothing is left. Returns
    /// the number of members.
    pub(super) fn forget_groups(&mut self, now: i64) -> usize {
        let alive: BTreeSet<PartitionId> =
            self.partitions.iter().filter(|(_, p)| p.alive).map(|(id, _)| *id).collect();
        let mut rows = 0;
        for row in self.groups.values_mut() {
            let long_dead =
                |m: &MemberRow| m.seen_ms + m.member.session_ms <= now - limits::MEMBER_FORGET_AFTER_MS;
            let dead: Vec<MemberId> =
                row.members.iter().filter(|(_, m)| long_dead(m)).map(|(id, _)| *id).collect();
            rows += dead.len();
            row.remove(&dead, now);
            row.offsets.retain(|partition, _| alive.contains(partition));
        }
        self.groups.retain(|_, row| {
            !row.members.is_empty()
                || !row.offsets.is_empty()
                || row.changed_ms > now - limits::GROUP_FORGET_AFTER_MS
        });
        rows
    }
}

#[async_trait]
impl Groups for MemoryControlPlane {
    async fn group(
        &self,
        scope: &Scope,
        name: &Name,
        also: &[Name],
    ) -> Result<GroupState, Error<NoSuchGroup>> {
        self.state.lock().group(&scope.tenant, name, also, self.clock.now_ms()).map_err(Error::Rejected)
    }

    async fn make_group(&self, scope: &Scope, name: &Name) -> Result<(), Error> {
        self.state.lock().make_group(&scope.tenant, name, self.clock.now_ms());
        Ok(())
    }

    async fn groups(&self, scope: &Scope, page: &PageRequest) -> Result<Page<ListedGroup>, Error> {
        let (state, now) = (self.state.lock(), self.clock.now_ms());
        let names = state.groups.keys().filter(|(tenant, _)| *tenant == scope.tenant).map(|(_, name)| name);
        let all = names.filter_map(|name| {
            let group = state.group(&scope.tenant, name, &[], now).ok()?;
            let progress = state.progress(&scope.tenant, group.id);
            Some(ListedGroup { name: name.clone(), state: group, progress })
        });
        Ok(page.cut(all, |group| &group.name, |group| group.progress.len()))
    }

    async fn progress(&self, scope: &Scope, group: GroupId) -> Result<Vec<Progress>, Error> {
        Ok(self.state.lock().progress(&scope.tenant, group))
    }

    async fn regroup(&self, change: &Regroup) -> Result<Generation, Error<GenerationMoved>> {
        self.state.lock().regroup(change, self.clock.now_ms()).map_err(Error::Rejected)
    }

    async fn renew(
        &self,
        scope: &Scope,
        group: &Name,
        member: MemberId,
    ) -> Result<Renewed, Error<RenewRejected>> {
        self.state.lock().renew(&scope.tenant, group, member, self.clock.now_ms()).map_err(Error::Rejected)
    }

    async fn renew_sessions(&self, members: &[(Scope, MemberId)]) -> Result<Vec<MemberId>, Error> {
        let (mut state, now) = (self.state.lock(), self.clock.now_ms());
        let mut renewed = Vec::new();
        for (scope, id) in members {
            let groups = state.groups.iter_mut().filter(|((tenant, _), _)| *tenant == scope.tenant);
            for own in groups.filter_map(|(_, row)| row.members.get_mut(id)).filter(|m| !m.expired(now)) {
                own.seen_ms = now;
                renewed.push(*id);
            }
        }
        Ok(renewed)
    }

    async fn generations(
        &self,
        groups: &[(Scope, GroupId)],
    ) -> Result<Vec<(GroupId, Generation, bool)>, Error> {
        Ok(self.state.lock().generations(groups, self.clock.now_ms()))
    }

    async fn commit_offsets(
        &self,
        commit: &OffsetCommit,
    ) -> Result<Vec<(PartitionId, Offset)>, Error<OffsetsRejected>> {
        self.state.lock().commit_offsets(commit).map_err(Error::Rejected)
    }

    async fn reset_offsets(
        &self,
        scope: &Scope,
        group: &Name,
        offsets: &[(PartitionId, Offset)],
    ) -> Result<(), Error<ResetRejected>> {
        self.state
            .lock()
            .reset_offsets(&scope.tenant, group, offsets, self.clock.now_ms())
            .map_err(Error::Rejected)
    }

    async fn delete_group(&self, scope: &Scope, group: &Name) -> Result<(), Error<DeleteGroupRejected>> {
        self.state.lock().delete_group(&scope.tenant, group, self.clock.now_ms()).map_err(Error::Rejected)
    }
}
