//! Wrappers of a control plane: code that runs around every call, for example metrics, retries or injected
//! faults, written once for all calls.

use super::{
    Beat, Cluster, Commit, Committed, ControlPlane, DeletionsRejected, DrainBatch, FindRequest, Found,
    Groups, Identity, Job, Jobs, Log, PayloadRange, Queues, RetainPlan, RowKind, Snapshot, Swap,
    SwapRejected, Topics, Unlink,
};
use crate::error::Error;
use crate::group::{
    DeleteGroupRejected, GenerationMoved, GroupState, ListedGroup, NoSuchGroup, OffsetCommit,
    OffsetsRejected, Progress, Regroup, RenewRejected, Renewed, ResetRejected,
};
use crate::id::{AgentId, Generation, GroupId, MemberId, Offset, PartId, PartitionId, QueueId, TopicId};
use crate::name::Name;
use crate::page::{Page, PageRequest};
use crate::queue::change::{DeadDone, DeadStep, SeekStep, SeekTo};
use crate::queue::{
    Admit, DeadFilter, DeadRejected, Grant, Granted, Ledger, Listed, Listing, NoSuchQueue, Outlook,
    OutlookRequest, PutQueueRejected, Queue, QueueChange, QueueCounts, Settle, Settled,
};
use crate::scope::Scope;
use crate::topic::{NoSuchTopic, PartitionStatus, PutTopicRejected, Topic, TopicChange};
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use uuid::Uuid;

/// Description of a call for wrappers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallInfo {
    /// Name of the method, for metrics and messages.
    pub name: &'static str,
    pub class: Class,
}

/// Class of a call, which decides how long it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Reads and changes of a few rows, for which a caller waits. The call is answered within seconds or
    /// given up.
    Serving,
    /// Commits, background work, and calls that touch all rows of a topic or queue. May run as long as the
    /// server lets a statement run.
    Heavy,
}

/// All methods of the control plane, each with its class, its arguments (`&` before the name of an argument
/// that is passed by reference) and its answer. Passes them to the macro `$callback!`.
macro_rules! calls {
    ($callback:ident) => {
        $callback! {
            Topics {
                Heavy put_topic(&scope: Scope, &name: Name, &change: TopicChange, default_partitions: i32)
                    -> Result<(Topic, bool), Error<PutTopicRejected>>;
                Serving topic(&scope: Scope, &name: Name) -> Result<Topic, Error<NoSuchTopic>>;
                Serving topics(&scope: Scope, &page: PageRequest)
                    -> Result<Page<(Topic, Vec<PartitionStatus>)>, Error>;
                Serving partitions(&scope: Scope, topic: TopicId) -> Result<Vec<PartitionStatus>, Error>;
                Heavy delete_topic(&scope: Scope, &name: Name) -> Result<bool, Error>;
            }
            Log {
                Serving register_parts(agent: AgentId, &ids: [PartId]) -> Result<(), Error>;
                Heavy commit(&commit: Commit) -> Result<Committed, Error>;
                Serving dedup_offsets(&scope: Scope, topic: TopicId, &id_hashes: [Uuid])
                    -> Result<Vec<Option<(i32, Offset)>>, Error>;
                Serving find(&requests: [FindRequest]) -> Result<Vec<Option<Found>>, Error>;
                Serving payloads(&ranges: [PayloadRange]) -> Result<Vec<Option<Bytes>>, Error>;
                Serving snapshot() -> Result<Snapshot, Error>;
                Serving high_watermarks(&partitions: [(Scope, PartitionId)])
                    -> Result<Vec<(PartitionId, Offset)>, Error>;
                Serving offsets_at(&scope: Scope, topic: TopicId, timestamp_ms: i64)
                    -> Result<Vec<(i32, PartitionId, Offset)>, Error>;
            }
            Groups {
                Serving group(&scope: Scope, &name: Name, &also: [Name])
                    -> Result<GroupState, Error<NoSuchGroup>>;
                Serving make_group(&scope: Scope, &name: Name) -> Result<(), Error>;
                Serving groups(&scope: Scope, &page: PageRequest) -> Result<Page<ListedGroup>, Error>;
                Serving progress(&scope: Scope, group: GroupId) -> Result<Vec<Progress>, Error>;
                Serving regroup(&change: Regroup) -> Result<Generation, Error<GenerationMoved>>;
                Serving renew(&scope: Scope, &group: Name, member: MemberId)
                    -> Result<Renewed, Error<RenewRejected>>;
                Serving renew_sessions(&members: [(Scope, MemberId)]) -> Result<Vec<MemberId>, Error>;
                Serving generations(&groups: [(Scope, GroupId)])
                    -> Result<Vec<(GroupId, Generation, bool)>, Error>;
                Serving commit_offsets(&commit: OffsetCommit)
                    -> Result<Vec<(PartitionId, Offset)>, Error<OffsetsRejected>>;
                Serving reset_offsets(&scope: Scope, &group: Name, &offsets: [(PartitionId, Offset)])
                    -> Result<(), Error<ResetRejected>>;
                Serving delete_group(&scope: Scope, &group: Name) -> Result<(), Error<DeleteGroupRejected>>;
            }
            Queues {
                Heavy put_queue(&scope: Scope, &name: Name, &change: QueueChange)
                    -> Result<(Queue, bool), Error<PutQueueRejected>>;
                Serving queue(&scope: Scope, &name: Name) -> Result<Queue, Error<NoSuchQueue>>;
                Heavy queues(&scope: Scope, &page: PageRequest)
                    -> Result<Page<(Queue, QueueCounts)>, Error>;
                Heavy delete_queue(&scope: Scope, &name: Name) -> Result<bool, Error>;
                Heavy pause_queue(&scope: Scope, queue: QueueId, paused: bool)
                    -> Result<(), Error<NoSuchQueue>>;
                Serving grant(&grant: Grant) -> Result<Granted, Error<NoSuchQueue>>;
                Serving outlook(&requests: [OutlookRequest]) -> Result<Vec<Outlook>, Error>;
                Serving admit(&admit: Admit) -> Result<bool, Error<NoSuchQueue>>;
                Serving settle(&settle: Settle) -> Result<Settled, Error>;
                Heavy queue_counts(&scope: Scope, queue: QueueId) -> Result<QueueCounts, Error<NoSuchQueue>>;
                Serving ledger(&scope: Scope, queue: QueueId) -> Result<Ledger, Error<NoSuchQueue>>;
                Serving cursors(&scope: Scope, queue: QueueId)
                    -> Result<Vec<(PartitionId, Offset)>, Error<NoSuchQueue>>;
                Serving list_queue(&scope: Scope, queue: QueueId, listing: Listing,
                    after: Option<(PartitionId, Offset)>, limit: i64)
                    -> Result<Vec<Listed>, Error<NoSuchQueue>>;
                Heavy redrive(&scope: Scope, queue: QueueId, &filter: DeadFilter, max_rate: Option<f64>,
                    &step: DeadStep) -> Result<DeadDone, Error<DeadRejected>>;
                Heavy purge_dead(&scope: Scope, queue: QueueId, &filter: DeadFilter, &step: DeadStep)
                    -> Result<DeadDone, Error<DeadRejected>>;
                Heavy begin_seek(&scope: Scope, queue: QueueId, &to: SeekTo)
                    -> Result<Vec<(PartitionId, Offset)>, Error<NoSuchQueue>>;
                Heavy step_seek(&scope: Scope, queue: QueueId) -> Result<SeekStep, Error<NoSuchQueue>>;
            }
            Jobs {
                Serving beat(agent: AgentId, &busy: [Job]) -> Result<Beat, Error>;
                Heavy drain_plan(slice: Option<u8>, max_bytes: i64) -> Result<Vec<DrainBatch>, Error>;
                Heavy set_aside(&payloads: [PartId]) -> Result<(), Error>;
                Heavy mark_drained(&payloads: [PartId]) -> Result<(), Error>;
                Heavy swap(&swap: Swap) -> Result<(), Error<SwapRejected>>;
                Heavy retain_plan(begun: Option<i64>) -> Result<RetainPlan, Error>;
                Heavy unlink(&plan: [Unlink], limit: i64) -> Result<i64, Error>;
                Heavy forget_rows(kind: RowKind, limit: i64) -> Result<i64, Error>;
                Heavy sweep_plan(limit: i64) -> Result<Vec<PartId>, Error>;
                Heavy swept(&parts: [PartId]) -> Result<(), Error>;
                Heavy undeleted(&parts: [PartId]) -> Result<(), Error>;
                Heavy expire(limit: i64, random: f64) -> Result<i64, Error>;
                Heavy clamp(&partitions: [PartitionId]) -> Result<i64, Error>;
                Serving ping() -> Result<(), Error>;
            }
            Cluster {
                Serving identity() -> Result<Identity, Error>;
                Serving adopt_nonce(nonce: Uuid) -> Result<(), Error>;
                Heavy count_deletions(epoch: i64, beat: i64) -> Result<(), Error<DeletionsRejected>>;
                Serving begin_epoch(epoch: i64, beat: i64, hold_ms: i64) -> Result<(), Error>;
            }
        }
    };
}

/// Makes a method of [`Around`] for each call, which passes the call on unchanged.
macro_rules! pass_on {
    ($($noun:ident {
        $($class:ident $name:ident($($(&$by_ref:ident)? $($by_value:ident)?: $type:ty),*) -> $answer:ty;)*
    })*) => {
        $($(
            #[doc = concat!("Sends a call of `", stringify!($noun), "::", stringify!($name), "`.")]
            fn $name(
                &self,
                next: &Arc<dyn ControlPlane>,
                $($($by_ref: &$type)? $($by_value: $type)?),*
            ) -> impl Future<Output = $answer> + Send {
                async move { next.$name($($($by_ref)? $($by_value)?),*).await }
            }
        )*)*
    };
}

/// A wrapper of a control plane. [`Around::around`] runs around every call. In addition, each call is a
/// method here, with the wrapped control plane as its first argument. It passes the call on unless a wrapper
/// overrides it to change the call.
pub trait Around: Send + Sync + 'static {
    /// Makes a call. `send` makes it with the borrowed arguments of the caller; `detached` makes it with
    /// copies of them, for a call that may outlive its caller. Neither does anything before its future is
    /// awaited, and both may be called any number of times.
    fn around<T, R, F, G>(
        &self,
        call: CallInfo,
        send: impl Fn() -> F + Send + Sync,
        detached: impl Fn() -> G + Send + Sync,
    ) -> impl Future<Output = Result<T, Error<R>>> + Send
    where
        T: Send + 'static,
        R: Send + 'static,
        F: Future<Output = Result<T, Error<R>>> + Send,
        G: Future<Output = Result<T, Error<R>>> + Send + 'static,
    {
        let _ = (call, detached);
        send()
    }

    calls!(pass_on);
}

/// A control plane inside a wrapper.
pub struct Wrapped<A> {
    next: Arc<dyn ControlPlane>,
    around: Arc<A>,
}

impl<A: Around> Wrapped<A> {
    pub fn new(next: Arc<dyn ControlPlane>, around: Arc<A>) -> Self {
        Self { next, around }
    }
}

macro_rules! wrapped {
    ($($noun:ident {
        $($class:ident $name:ident($($(&$by_ref:ident)? $($by_value:ident)?: $type:ty),*) -> $answer:ty;)*
    })*) => {
        $(
            #[async_trait]
            impl<A: Around> $noun for Wrapped<A> {
                $(async fn $name(&self, $($($by_ref: &$type)? $($by_value: $type)?),*) -> $answer {
                    let call = CallInfo { name: stringify!($name), class: Class::$class };
                    let send = || A::$name(&self.around, &self.next, $($($by_ref)? $($by_value)?),*);
                    let detached = || {
                        let (around, next) = (Arc::clone(&self.around), Arc::clone(&self.next));
                        $($(let $by_ref = $by_ref.to_owned();)?)*
                        async move { A::$name(&around, &next, $($(&$by_ref)? $($by_value)?),*).await }
                    };
                    self.around.around(call, send, detached).await
                })*
            }
        )*
    };
}

calls!(wrapped);
