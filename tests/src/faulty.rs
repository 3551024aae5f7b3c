//! A control plane that fails as networks do, and the caller's answer to it.
//!
//! [`Faulty`] loses calls before they arrive (`NotApplied`), loses answers (`MaybeApplied` although applied),
//! delivers calls twice, and delivers some late, when the caller has long sent them again. [`Resending`]
//! sends the same call until its outcome is known.

mod queue;

use async_trait::async_trait;
use bytes::Bytes;
use millpond_core::control_plane::{
    Beat, Commit, Committed, ControlPlane, DrainBatch, FindRequest, Found, PayloadRange, Swap, SwapRejected,
};
use millpond_core::group::{
    DeleteGroupRejected, GenerationMoved, GroupState, NoSuchGroup, OffsetCommit, OffsetsRejected, Progress,
    Regroup, RenewRejected, Renewed, ResetRejected,
};
use millpond_core::topic::{NoSuchTopic, PartitionStatus, PutTopicRejected};
use millpond_core::{
    AgentId, Error, Generation, GroupId, MemberId, Name, Offset, PartId, PartitionId, Topic, TopicChange,
    TopicId,
};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// Sendings after which [`Resending`] gives up: faults are independent, so that many in a row mean a defect.
const SENDINGS_MAX: usize = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    LostCall,
    LostAnswer,
    Twice,
    /// The call arrives after its caller was told that its outcome is open.
    Late,
}

pub struct Faulty {
    inner: Arc<dyn ControlPlane>,
    rng: Mutex<StdRng>,
    late: Mutex<Vec<JoinHandle<()>>>,
    injected: Mutex<BTreeMap<Fault, usize>>,
}

impl Faulty {
    #[must_use]
    pub fn new(inner: Arc<dyn ControlPlane>, seed: u64) -> Self {
        Self {
            inner,
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            late: Mutex::new(Vec::new()),
            injected: Mutex::new(BTreeMap::new()),
        }
    }

    /// How often each fault was injected.
    #[must_use]
    pub fn injected(&self) -> BTreeMap<Fault, usize> {
        self.injected.lock().clone()
    }

    /// Waits until every late call has arrived.
    pub async fn settle(&self) {
        loop {
            let Some(call) = self.late.lock().pop() else { return };
            call.await.expect("a late call ended in a panic");
        }
    }

    fn draw(&self, can_be_late: bool) -> Option<Fault> {
        let fault = match self.rng.lock().random_range(0..100) {
            0..15 => Fault::LostCall,
            15..30 => Fault::LostAnswer,
            30..40 => Fault::Twice,
            40..50 if can_be_late => Fault::Late,
            _ => return None,
        };
        *self.injected.lock().entry(fault).or_default() += 1;
        Some(fault)
    }

    async fn call<T, R, F>(&self, fault: Option<Fault>, send: impl Fn() -> F) -> Result<T, Error<R>>
    where
        F: Future<Output = Result<T, Error<R>>>,
    {
        match fault {
            None => send().await,
            Some(Fault::LostCall) => Err(Error::NotApplied("injected: the call was lost".into())),
            Some(Fault::LostAnswer | Fault::Late) => {
                drop(send().await);
                Err(Error::MaybeApplied("injected: the answer was lost".into()))
            }
            Some(Fault::Twice) => {
                drop(send().await);
                send().await
            }
        }
    }

    fn deliver_late<T, F>(&self, call: F) -> Error<T>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let delay = Duration::from_millis(self.rng.lock().random_range(0..3));
        let task = tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            call.await;
        });
        self.late.lock().push(task);
        Error::MaybeApplied("injected: the call is late".into())
    }
}

/// Implements the seam for a wrapper: every call goes through `self.$via(call)`, apart from those that are
/// given.
macro_rules! forward {
    ($wrapper:ty, $via:ident, { $($own:tt)* }) => {
        #[async_trait]
        impl ControlPlane for $wrapper {
            async fn put_topic(
                &self,
                tenant: &Name,
                name: &Name,
                change: &TopicChange,
                default_partitions: i32,
            ) -> Result<(Topic, bool), Error<PutTopicRejected>> {
                self.$via(|| self.inner.put_topic(tenant, name, change, default_partitions)).await
            }
            async fn topic(&self, tenant: &Name, name: &Name) -> Result<Topic, Error<NoSuchTopic>> {
                self.$via(|| self.inner.topic(tenant, name)).await
            }
            async fn topics(&self, tenant: &Name) -> Result<Vec<Topic>, Error> {
                self.$via(|| self.inner.topics(tenant)).await
            }
            async fn partitions(&self, topic: TopicId) -> Result<Vec<PartitionStatus>, Error> {
                self.$via(|| self.inner.partitions(topic)).await
            }
            async fn delete_topic(&self, tenant: &Name, name: &Name) -> Result<bool, Error> {
                self.$via(|| self.inner.delete_topic(tenant, name)).await
            }
            async fn dedup_offsets(&self, topic: TopicId, id_hashes: &[Uuid]) -> Result<Vec<Option<(i32, Offset)>>, Error> {
                self.$via(|| self.inner.dedup_offsets(topic, id_hashes)).await
            }
            async fn find(&self, requests: &[FindRequest]) -> Result<Vec<Option<Found>>, Error> {
                self.$via(|| self.inner.find(requests)).await
            }
            async fn payloads(&self, ranges: &[PayloadRange]) -> Result<Vec<Option<Bytes>>, Error> {
                self.$via(|| self.inner.payloads(ranges)).await
            }
            async fn high_watermarks(&self, partitions: &[PartitionId]) -> Result<Vec<(PartitionId, Offset)>, Error> {
                self.$via(|| self.inner.high_watermarks(partitions)).await
            }
            async fn offsets_at(&self, topic: TopicId, timestamp_ms: i64) -> Result<Vec<(i32, PartitionId, Offset)>, Error> {
                self.$via(|| self.inner.offsets_at(topic, timestamp_ms)).await
            }
            async fn group(&self, tenant: &Name, name: &Name, also: &[Name]) -> Result<GroupState, Error<NoSuchGroup>> {
                self.$via(|| self.inner.group(tenant, name, also)).await
            }
            async fn make_group(&self, tenant: &Name, name: &Name) -> Result<(), Error> {
                self.$via(|| self.inner.make_group(tenant, name)).await
            }
            async fn groups(&self, tenant: &Name) -> Result<Vec<Name>, Error> {
                self.$via(|| self.inner.groups(tenant)).await
            }
            async fn progress(&self, group: GroupId) -> Result<Vec<Progress>, Error> {
                self.$via(|| self.inner.progress(group)).await
            }
            async fn regroup(&self, change: &Regroup) -> Result<Generation, Error<GenerationMoved>> {
                self.$via(|| self.inner.regroup(change)).await
            }
            async fn renew(&self, tenant: &Name, group: &Name, member: MemberId) -> Result<Renewed, Error<RenewRejected>> {
                self.$via(|| self.inner.renew(tenant, group, member)).await
            }
            async fn generations(&self, groups: &[GroupId]) -> Result<Vec<(GroupId, Generation, bool)>, Error> {
                self.$via(|| self.inner.generations(groups)).await
            }
            async fn commit_offsets(&self, commit: &OffsetCommit) -> Result<Vec<(PartitionId, Offset)>, Error<OffsetsRejected>> {
                self.$via(|| self.inner.commit_offsets(commit)).await
            }
            async fn reset_offsets(&self, tenant: &Name, group: &Name, offsets: &[(PartitionId, Offset)]) -> Result<(), Error<ResetRejected>> {
                self.$via(|| self.inner.reset_offsets(tenant, group, offsets)).await
            }
            async fn delete_group(&self, tenant: &Name, group: &Name) -> Result<(), Error<DeleteGroupRejected>> {
                self.$via(|| self.inner.delete_group(tenant, group)).await
            }
            async fn beat(&self, agent: AgentId) -> Result<Beat, Error> {
                self.$via(|| self.inner.beat(agent)).await
            }
            async fn drain_plan(&self, max_bytes: i64) -> Result<Vec<DrainBatch>, Error> {
                self.$via(|| self.inner.drain_plan(max_bytes)).await
            }
            async fn retain(&self, limit: i64) -> Result<i64, Error> {
                self.$via(|| self.inner.retain(limit)).await
            }
            async fn forget(&self, limit: i64) -> Result<i64, Error> {
                self.$via(|| self.inner.forget(limit)).await
            }
            async fn sweep_plan(&self, limit: i64) -> Result<Vec<PartId>, Error> {
                self.$via(|| self.inner.sweep_plan(limit)).await
            }
            async fn swept(&self, parts: &[PartId]) -> Result<(), Error> {
                self.$via(|| self.inner.swept(parts)).await
            }
            async fn ping(&self) -> Result<(), Error> {
                self.$via(|| self.inner.ping()).await
            }
            $($own)*
        }
    };
}

impl Faulty {
    async fn fail<T, R, F>(&self, send: impl Fn() -> F) -> Result<T, Error<R>>
    where
        F: Future<Output = Result<T, Error<R>>>,
    {
        let fault = self.draw(false);
        self.call(fault, send).await
    }
}

forward!(Faulty, fail, {
    async fn register_parts(&self, agent: AgentId, ids: &[PartId]) -> Result<(), Error> {
        let fault = self.draw(true);
        if fault == Some(Fault::Late) {
            let (inner, ids) = (Arc::clone(&self.inner), ids.to_vec());
            return Err(self.deliver_late(async move { drop(inner.register_parts(agent, &ids).await) }));
        }
        self.call(fault, || self.inner.register_parts(agent, ids)).await
    }

    async fn commit(&self, commit: &Commit) -> Result<Committed, Error> {
        let fault = self.draw(true);
        if fault == Some(Fault::Late) {
            let (inner, commit) = (Arc::clone(&self.inner), commit.clone());
            return Err(self.deliver_late(async move { drop(inner.commit(&commit).await) }));
        }
        self.call(fault, || self.inner.commit(commit)).await
    }

    async fn swap(&self, swap: &Swap) -> Result<(), Error<SwapRejected>> {
        let fault = self.draw(true);
        if fault == Some(Fault::Late) {
            let (inner, swap) = (Arc::clone(&self.inner), swap.clone());
            return Err(self.deliver_late(async move { drop(inner.swap(&swap).await) }));
        }
        self.call(fault, || self.inner.swap(swap)).await
    }
});

/// Sends a call again, unchanged, until it is known what became of it.
pub struct Resending {
    inner: Arc<dyn ControlPlane>,
}

impl Resending {
    #[must_use]
    pub fn new(inner: Arc<dyn ControlPlane>) -> Self {
        Self { inner }
    }

    async fn resend<T, R, F>(&self, send: impl Fn() -> F) -> Result<T, Error<R>>
    where
        F: Future<Output = Result<T, Error<R>>>,
    {
        for _ in 1..SENDINGS_MAX {
            match send().await {
                Err(Error::NotApplied(_) | Error::MaybeApplied(_)) => tokio::task::yield_now().await,
                known => return known,
            }
        }
        send().await
    }
}

forward!(Resending, resend, {
    async fn register_parts(&self, agent: AgentId, ids: &[PartId]) -> Result<(), Error> {
        self.resend(|| self.inner.register_parts(agent, ids)).await
    }

    async fn commit(&self, commit: &Commit) -> Result<Committed, Error> {
        self.resend(|| self.inner.commit(commit)).await
    }

    async fn swap(&self, swap: &Swap) -> Result<(), Error<SwapRejected>> {
        self.resend(|| self.inner.swap(swap)).await
    }
});
