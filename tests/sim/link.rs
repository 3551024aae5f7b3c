//! An agent's way to the control plane: calls are lost, late, doubled; a dead agent's calls lead nowhere.

use crate::fate::{Fates, Fault, Step};
use async_trait::async_trait;
use bytes::Bytes;
use millpond_core::control_plane::{
    Beat, Commit, Committed, ControlPlane, DrainBatch, FindRequest, Found, PayloadRange, Swap, SwapRejected,
};
use millpond_core::group::{
    DeleteGroupRejected, GenerationMoved, GroupState, NoSuchGroup, OffsetCommit, OffsetsRejected, Progress,
    Regroup, RenewRejected, Renewed, ResetRejected,
};
use millpond_core::queue::plane::QueuePlane;
use millpond_core::queue::{
    Admit, DeadFilter, DeadRejected, Grant, Granted, Ledger, Listed, Listing, NoSuchQueue, PutQueueRejected,
    Queue, QueueChange, QueueCounts, Settle, Settled,
};
use millpond_core::topic::{NoSuchTopic, PartitionStatus, PutTopicRejected};
use millpond_core::{
    AgentId, Error, Generation, GroupId, MemberId, Name, Offset, PartId, PartitionId, QueueId, Topic,
    TopicChange, TopicId,
};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub struct Link {
    pub plane: Arc<dyn ControlPlane>,
    pub fates: Arc<Fates>,
    pub agent: usize,
    pub dead: CancellationToken,
}

/// Counts a call as under way while it lives.
pub struct UnderWay(Arc<Fates>, usize, Step);

impl UnderWay {
    pub fn new(fates: &Arc<Fates>, agent: usize, step: Step) -> Self {
        fates.enter(agent, step);
        Self(Arc::clone(fates), agent, step)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.leave(self.1, self.2);
    }
}

impl Link {
    async fn call<T, R, F>(
        &self,
        step: Step,
        send: impl Fn(Arc<dyn ControlPlane>) -> F,
    ) -> Result<T, Error<R>>
    where
        T: Send + 'static,
        R: Send + 'static,
        F: Future<Output = Result<T, Error<R>>> + Send + 'static,
    {
        if self.dead.is_cancelled() {
            return std::future::pending().await;
        }
        let _under_way = UnderWay::new(&self.fates, self.agent, step);
        let fate = self.fates.plane(self.agent, step);
        let deliver = |after| {
            let call = send(Arc::clone(&self.plane));
            async move {
                tokio::time::sleep(after).await;
                call.await
            }
        };
        let maybe = |what: &str| Err(Error::MaybeApplied(format!("injected: {what}").into()));
        let outcome = match fate.fault {
            Some(Fault::LostCall) => {
                tokio::time::sleep(fate.before).await;
                Err(Error::NotApplied("injected: the call was lost".into()))
            }
            Some(Fault::LostSilently) => {
                tokio::time::sleep(fate.before + fate.after).await;
                maybe("the call was lost")
            }
            Some(Fault::Late) => {
                tokio::spawn(deliver(fate.later));
                tokio::time::sleep(fate.before).await;
                maybe("the call is late")
            }
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::HangApplied) => {
                tokio::spawn(deliver(fate.before));
                std::future::pending().await
            }
            fault => {
                // What is on its way arrives, though the caller may be gone by then.
                let outcome = tokio::spawn(deliver(fate.before))
                    .await
                    .expect("a call of the control plane ended in a panic");
                tokio::time::sleep(fate.after).await;
                match fault {
                    Some(Fault::LostAnswer) => maybe("the answer was lost"),
                    Some(Fault::Twice) => {
                        tokio::spawn(deliver(fate.later));
                        outcome
                    }
                    _ => outcome,
                }
            }
        };
        if self.dead.is_cancelled() { std::future::pending().await } else { outcome }
    }
}

/// A method whose arguments are cloned, so that the call can outlive its caller.
macro_rules! methods {
    (@of $seam:ident; $($name:ident($($argument:ident: $type:ty => $owned:ident),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl $seam for Link {
            $(async fn $name(&self, $($argument: $type),*) -> $answer {
                $(let $argument = $argument.$owned();)*
                self.call(stringify!($name), move |plane| {
                    $(let $argument = $argument.clone();)*
                    async move { plane.$name($(methods!(@pass $argument $owned)),*).await }
                }).await
            })*
        }
    };
    (@pass $argument:ident to_owned) => { &$argument };
    (@pass $argument:ident to_vec) => { &$argument };
    (@pass $argument:ident clone) => { $argument };
}

methods! {
    @of ControlPlane;
    put_topic(tenant: &Name => to_owned, name: &Name => to_owned, change: &TopicChange => to_owned, default_partitions: i32 => clone)
        -> Result<(Topic, bool), Error<PutTopicRejected>>;
    topic(tenant: &Name => to_owned, name: &Name => to_owned) -> Result<Topic, Error<NoSuchTopic>>;
    topics(tenant: &Name => to_owned) -> Result<Vec<Topic>, Error>;
    partitions(topic: TopicId => clone) -> Result<Vec<PartitionStatus>, Error>;
    delete_topic(tenant: &Name => to_owned, name: &Name => to_owned) -> Result<bool, Error>;
    register_parts(agent: AgentId => clone, ids: &[PartId] => to_vec) -> Result<(), Error>;
    commit(commit: &Commit => to_owned) -> Result<Committed, Error>;
    dedup_offsets(topic: TopicId => clone, id_hashes: &[Uuid] => to_vec) -> Result<Vec<Option<(i32, Offset)>>, Error>;
    find(requests: &[FindRequest] => to_vec) -> Result<Vec<Option<Found>>, Error>;
    payloads(ranges: &[PayloadRange] => to_vec) -> Result<Vec<Option<Bytes>>, Error>;
    high_watermarks(partitions: &[PartitionId] => to_vec) -> Result<Vec<(PartitionId, Offset)>, Error>;
    offsets_at(topic: TopicId => clone, timestamp_ms: i64 => clone) -> Result<Vec<(i32, PartitionId, Offset)>, Error>;
    group(tenant: &Name => to_owned, name: &Name => to_owned, also: &[Name] => to_vec) -> Result<GroupState, Error<NoSuchGroup>>;
    make_group(tenant: &Name => to_owned, name: &Name => to_owned) -> Result<(), Error>;
    groups(tenant: &Name => to_owned) -> Result<Vec<Name>, Error>;
    progress(group: GroupId => clone) -> Result<Vec<Progress>, Error>;
    regroup(change: &Regroup => to_owned) -> Result<Generation, Error<GenerationMoved>>;
    renew(tenant: &Name => to_owned, group: &Name => to_owned, member: MemberId => clone) -> Result<Renewed, Error<RenewRejected>>;
    generations(groups: &[GroupId] => to_vec) -> Result<Vec<(GroupId, Generation, bool)>, Error>;
    commit_offsets(commit: &OffsetCommit => to_owned) -> Result<Vec<(PartitionId, Offset)>, Error<OffsetsRejected>>;
    reset_offsets(tenant: &Name => to_owned, group: &Name => to_owned, offsets: &[(PartitionId, Offset)] => to_vec)
        -> Result<(), Error<ResetRejected>>;
    delete_group(tenant: &Name => to_owned, group: &Name => to_owned) -> Result<(), Error<DeleteGroupRejected>>;
    beat(agent: AgentId => clone) -> Result<Beat, Error>;
    drain_plan(max_bytes: i64 => clone) -> Result<Vec<DrainBatch>, Error>;
    swap(swap: &Swap => to_owned) -> Result<(), Error<SwapRejected>>;
    retain(limit: i64 => clone) -> Result<i64, Error>;
    forget(limit: i64 => clone) -> Result<i64, Error>;
    sweep_plan(limit: i64 => clone) -> Result<Vec<PartId>, Error>;
    swept(parts: &[PartId] => to_vec) -> Result<(), Error>;
    ping() -> Result<(), Error>;
}

macro_rules! queue_methods {
    ($($calls:tt)*) => {
        methods! { @of QueuePlane; $($calls)* }
    };
}

millpond_core::queue_plane_calls!(queue_methods);
