//! The control plane as the agent uses it: every call bounded in time and counted.
//!
//! A database that is silent, not broken, would otherwise hold its callers for ever. A mutation that ran out
//! of time may have been applied.

mod queue;

use crate::metrics;
use async_trait::async_trait;
use bytes::Bytes;
use millpond_core::control_plane::{
    Beat, Commit, Committed, DrainBatch, FindRequest, Found, PayloadRange, Swap, SwapRejected,
};
use millpond_core::group::{
    DeleteGroupRejected, GenerationMoved, GroupState, NoSuchGroup, OffsetCommit, OffsetsRejected, Progress,
    Regroup, RenewRejected, Renewed, ResetRejected,
};
use millpond_core::topic::{NoSuchTopic, PartitionStatus, PutTopicRejected};
use millpond_core::{
    AgentId, ControlPlane, Error, Generation, GroupId, MemberId, Name, Offset, PartId, PartitionId, Topic,
    TopicChange, TopicId,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// Callers wait for these: they are told within seconds.
const SERVING: Duration = Duration::from_secs(6);
/// Beyond the server's own time limit of a statement: what is still silent then is a connection that is dead
/// without saying so.
const STATEMENT: Duration = Duration::from_secs(35);

pub struct Timed {
    inner: Arc<dyn ControlPlane>,
}

impl Timed {
    pub fn around(inner: Arc<dyn ControlPlane>) -> Arc<dyn ControlPlane> {
        Arc::new(Self { inner })
    }
}

async fn bounded<T, R>(
    call: &'static str,
    limit: Duration,
    work: impl Future<Output = Result<T, Error<R>>>,
) -> Result<T, Error<R>> {
    let start = Instant::now();
    let late = || Err(Error::MaybeApplied(format!("{call}: no answer within {} s", limit.as_secs()).into()));
    let outcome = tokio::time::timeout(limit, work).await.unwrap_or_else(|_| late());
    let failed = matches!(outcome, Err(Error::NotApplied(_) | Error::MaybeApplied(_)));
    metrics::control_plane_call(call, start.elapsed(), failed);
    outcome
}

#[async_trait]
impl ControlPlane for Timed {
    async fn put_topic(
        &self,
        tenant: &Name,
        name: &Name,
        change: &TopicChange,
        default_partitions: i32,
    ) -> Result<(Topic, bool), Error<PutTopicRejected>> {
        bounded("put_topic", STATEMENT, self.inner.put_topic(tenant, name, change, default_partitions)).await
    }

    async fn topic(&self, tenant: &Name, name: &Name) -> Result<Topic, Error<NoSuchTopic>> {
        bounded("topic", SERVING, self.inner.topic(tenant, name)).await
    }

    async fn topics(&self, tenant: &Name) -> Result<Vec<Topic>, Error> {
        bounded("topics", SERVING, self.inner.topics(tenant)).await
    }

    async fn partitions(&self, topic: TopicId) -> Result<Vec<PartitionStatus>, Error> {
        bounded("partitions", SERVING, self.inner.partitions(topic)).await
    }

    async fn delete_topic(&self, tenant: &Name, name: &Name) -> Result<bool, Error> {
        bounded("delete_topic", STATEMENT, self.inner.delete_topic(tenant, name)).await
    }

    async fn register_parts(&self, agent: AgentId, ids: &[PartId]) -> Result<(), Error> {
        bounded("register_parts", SERVING, self.inner.register_parts(agent, ids)).await
    }

    async fn commit(&self, commit: &Commit) -> Result<Committed, Error> {
        bounded("commit", STATEMENT, self.inner.commit(commit)).await
    }

    async fn dedup_offsets(
        &self,
        topic: TopicId,
        id_hashes: &[Uuid],
    ) -> Result<Vec<Option<(i32, Offset)>>, Error> {
        bounded("dedup_offsets", SERVING, self.inner.dedup_offsets(topic, id_hashes)).await
    }

    async fn find(&self, requests: &[FindRequest]) -> Result<Vec<Option<Found>>, Error> {
        bounded("find", SERVING, self.inner.find(requests)).await
    }

    async fn payloads(&self, ranges: &[PayloadRange]) -> Result<Vec<Option<Bytes>>, Error> {
        bounded("payloads", SERVING, self.inner.payloads(ranges)).await
    }

    async fn high_watermarks(&self, partitions: &[PartitionId]) -> Result<Vec<(PartitionId, Offset)>, Error> {
        bounded("high_watermarks", SERVING, self.inner.high_watermarks(partitions)).await
    }

    async fn offsets_at(
        &self,
        topic: TopicId,
        timestamp_ms: i64,
    ) -> Result<Vec<(i32, PartitionId, Offset)>, Error> {
        bounded("offsets_at", SERVING, self.inner.offsets_at(topic, timestamp_ms)).await
    }

    async fn group(
        &self,
        tenant: &Name,
        name: &Name,
        also: &[Name],
    ) -> Result<GroupState, Error<NoSuchGroup>> {
        bounded("group", SERVING, self.inner.group(tenant, name, also)).await
    }

    async fn make_group(&self, tenant: &Name, name: &Name) -> Result<(), Error> {
        bounded("make_group", SERVING, self.inner.make_group(tenant, name)).await
    }

    async fn groups(&self, tenant: &Name) -> Result<Vec<Name>, Error> {
        bounded("groups", SERVING, self.inner.groups(tenant)).await
    }

    async fn progress(&self, group: GroupId) -> Result<Vec<Progress>, Error> {
        bounded("progress", SERVING, self.inner.progress(group)).await
    }

    async fn regroup(&self, change: &Regroup) -> Result<Generation, Error<GenerationMoved>> {
        bounded("regroup", SERVING, self.inner.regroup(change)).await
    }

    async fn renew(
        &self,
        tenant: &Name,
        group: &Name,
        member: MemberId,
    ) -> Result<Renewed, Error<RenewRejected>> {
        bounded("renew", SERVING, self.inner.renew(tenant, group, member)).await
    }

    async fn generations(&self, groups: &[GroupId]) -> Result<Vec<(GroupId, Generation, bool)>, Error> {
        bounded("generations", SERVING, self.inner.generations(groups)).await
    }

    async fn commit_offsets(
        &self,
        commit: &OffsetCommit,
    ) -> Result<Vec<(PartitionId, Offset)>, Error<OffsetsRejected>> {
        bounded("commit_offsets", SERVING, self.inner.commit_offsets(commit)).await
    }

    async fn reset_offsets(
        &self,
        tenant: &Name,
        group: &Name,
        offsets: &[(PartitionId, Offset)],
    ) -> Result<(), Error<ResetRejected>> {
        bounded("reset_offsets", SERVING, self.inner.reset_offsets(tenant, group, offsets)).await
    }

    async fn delete_group(&self, tenant: &Name, group: &Name) -> Result<(), Error<DeleteGroupRejected>> {
        bounded("delete_group", SERVING, self.inner.delete_group(tenant, group)).await
    }

    async fn beat(&self, agent: AgentId) -> Result<Beat, Error> {
        bounded("beat", SERVING, self.inner.beat(agent)).await
    }

    async fn drain_plan(&self, max_bytes: i64) -> Result<Vec<DrainBatch>, Error> {
        bounded("drain_plan", STATEMENT, self.inner.drain_plan(max_bytes)).await
    }

    async fn swap(&self, swap: &Swap) -> Result<(), Error<SwapRejected>> {
        bounded("swap", STATEMENT, self.inner.swap(swap)).await
    }

    async fn retain(&self, limit: i64) -> Result<i64, Error> {
        bounded("retain", STATEMENT, self.inner.retain(limit)).await
    }

    async fn forget(&self, limit: i64) -> Result<i64, Error> {
        bounded("forget", STATEMENT, self.inner.forget(limit)).await
    }

    async fn sweep_plan(&self, limit: i64) -> Result<Vec<PartId>, Error> {
        bounded("sweep_plan", STATEMENT, self.inner.sweep_plan(limit)).await
    }

    async fn swept(&self, parts: &[PartId]) -> Result<(), Error> {
        bounded("swept", STATEMENT, self.inner.swept(parts)).await
    }

    async fn ping(&self) -> Result<(), Error> {
        bounded("ping", SERVING, self.inner.ping()).await
    }
}
