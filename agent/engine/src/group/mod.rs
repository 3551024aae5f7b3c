//! Consumer groups: joining, leaving, polling, sessions, offsets.
//!
//! Owns: the loop that changes a group: it reads the group's state, lets `core` compute the next generation,
//! and writes that. Invariants: the agent holds no state of a group; a call that failed is sent again for
//! some seconds, since every call is idempotent.

pub mod offsets;
pub mod poll;
pub mod position;
pub mod sessions;
pub mod watcher;

use crate::fetch::Fetch;
use crate::keyed_lock::KeyedLocks;
use crate::metrics;
use crate::pulse::Pulse;
use crate::resend::Resend;
use crate::topics::{TopicError, Topics};
use millpond_core::group::{
    DeleteGroupRejected, GroupState, ListedGroup, Member, NoSuchGroup, Owner, Progress, RenewRejected,
    Renewed,
};
use millpond_core::{ControlPlane, Error, Generation, MemberId, Name, Page, PageRequest, PartitionId, Scope};
use sessions::Sessions;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use watcher::GroupWatcher;

/// Attempts of a change, each of which fails if another agent has changed the group meanwhile.
const CHANGE_ATTEMPTS_MAX: u32 = 100;
/// How long a change waits for the lock of its group in this agent.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(10);

/// Consumer groups, as doors use them.
pub struct Groups {
    plane: Arc<dyn ControlPlane>,
    topics: Arc<Topics>,
    fetch: Arc<Fetch>,
    watcher: Arc<GroupWatcher>,
    sessions: Arc<Sessions>,
    /// Lock per tenant and group: one change at a time in this agent, so that its members do not make one
    /// another retry.
    changes: KeyedLocks<(Name, Name)>,
}

/// Partition numbers by topic, in order.
pub type Assignments = BTreeMap<Name, Vec<i32>>;

/// A group with the offsets of its partitions.
#[derive(Debug)]
pub struct DescribedGroup {
    pub state: GroupState,
    /// Partitions that are assigned or have a committed offset, by topic and number.
    pub progress: Vec<Progress>,
}

/// The error of a change that never got its turn.
fn contention_error<R>() -> Error<R> {
    Error::NotApplied("the group is changed too often by others".into())
}

/// The partitions that are assigned to a member.
fn assignments(state: &GroupState, member: MemberId) -> Assignments {
    let mut assignments = Assignments::new();
    for topic in &state.topics {
        let own = |p: &PartitionId| state.owners.get(p).is_some_and(|o| o.member == member);
        let numbers: Vec<i32> =
            (0..).zip(&topic.partitions).filter(|(_, p)| own(p)).map(|(number, _)| number).collect();
        if !numbers.is_empty() {
            assignments.insert(topic.name.clone(), numbers);
        }
    }
    assignments
}

impl Groups {
    #[must_use]
    pub fn new(
        plane: Arc<dyn ControlPlane>,
        pulse: &Arc<Pulse>,
        topics: Arc<Topics>,
        fetch: Arc<Fetch>,
    ) -> Self {
        let watcher = GroupWatcher::start(Arc::clone(&plane), Arc::clone(pulse));
        let sessions = Sessions::new(Arc::clone(&plane));
        Self { plane, topics, fetch, watcher, sessions, changes: KeyedLocks::default() }
    }

    /// Adds a member to a group, which is created if it does not exist, and assigns it a share of the
    /// partitions of its topics. A join whose answer is lost leaves a member without a client, until its
    /// session ends.
    pub async fn join(
        &self,
        scope: &Scope,
        group: &Name,
        member: &Member,
    ) -> Result<(Generation, Assignments), TopicError> {
        for topic in &member.topics {
            self.topics.get_or_create(scope, topic).await?;
        }
        let is_in = |state: &GroupState| state.member(member.id).is_some() && state.is_settled();
        loop {
            match self.change(scope, group, Some(member), None, is_in).await.map_err(Error::into_rejection) {
                Ok(state) => return Ok((state.generation, assignments(&state, member.id))),
                Err(Ok(NoSuchGroup)) => {
                    let made = Resend::SERVING.run(|| self.plane.make_group(scope, group)).await;
                    made.map_err(TopicError::ControlPlane)?;
                }
                Err(Err(failure)) => return Err(TopicError::ControlPlane(failure)),
            }
        }
    }

    /// Removes a member; its partitions are assigned to the others.
    pub async fn leave(
        &self,
        scope: &Scope,
        group: &Name,
        member: MemberId,
    ) -> Result<(), Error<RenewRejected>> {
        let to_renew_error = |error: Error<NoSuchGroup>| error.map_rejection(|_| RenewRejected::NoSuchGroup);
        let state =
            Resend::SERVING.run(|| self.plane.group(scope, group, &[])).await.map_err(to_renew_error)?;
        if state.member(member).is_none() {
            return Err(Error::Rejected(RenewRejected::NoSuchMember));
        }
        let is_out = |state: &GroupState| state.members.iter().all(|m| m.member.id != member);
        self.change(scope, group, None, Some(member), is_out).await.map(|_| ()).map_err(to_renew_error)
    }

    /// Writes next generations until `is_done` holds for the group, and returns the group as it is then.
    async fn change(
        &self,
        scope: &Scope,
        group: &Name,
        add: Option<&Member>,
        leave: Option<MemberId>,
        is_done: impl Fn(&GroupState) -> bool,
    ) -> Result<GroupState, Error<NoSuchGroup>> {
        let key = (scope.tenant.clone(), group.clone());
        let lock = tokio::time::timeout(LOCK_WAIT_MAX, self.changes.lock(key)).await;
        let _lock = lock.map_err(|_| contention_error())?;
        let member_topics = add.map_or(&[][..], |m| &m.topics);
        let mut attempts = Resend::SERVING.start();
        for _ in 0..CHANGE_ATTEMPTS_MAX {
            let state = Resend::SERVING.run(|| self.plane.group(scope, group, member_topics)).await?;
            if is_done(&state) {
                return Ok(state);
            }
            // An earlier attempt may have been applied although its answer was lost.
            let has_joined = |m: &&Member| state.members.iter().any(|known| known.member.id == m.id);
            if add.filter(has_joined).is_some_and(|m| state.member(m.id).is_none()) {
                return Err(Error::NotApplied(
                    "the session of the member ended before its join was answered".into(),
                ));
            }
            let change = state.next(scope, add.filter(|m| !has_joined(m)).cloned(), leave);
            match self.plane.regroup(&change).await.map_err(Error::into_rejection) {
                Ok(generation) => {
                    metrics::regrouped(state.moved(&change));
                    self.watcher.changed(state.id, generation);
                    return Ok(with_change(state, change, generation));
                }
                Err(Ok(_)) => {}
                Err(Err(failure)) => {
                    if !attempts.pause().await {
                        return Err(Error::from_infallible(failure));
                    }
                }
            }
        }
        Err(contention_error())
    }

    /// Renews the session of a member. If the group needs a new generation, that is written, too.
    pub async fn renew(
        &self,
        scope: &Scope,
        group: &Name,
        member: MemberId,
    ) -> Result<Renewed, Error<RenewRejected>> {
        let renewed = Resend::SERVING.run(|| self.plane.renew(scope, group, member)).await?;
        if !renewed.stale {
            return Ok(renewed);
        }
        match self.change(scope, group, None, None, GroupState::is_settled).await {
            Ok(_) | Err(Error::Rejected(NoSuchGroup)) => {
                Resend::SERVING.run(|| self.plane.renew(scope, group, member)).await
            }
            Err(error) => {
                let error = crate::error_chain(&error);
                tracing::warn!(%error, %group, "writing a generation failed; the next poll tries again");
                Ok(renewed)
            }
        }
    }

    /// Deletes a group without members, and its committed offsets.
    pub async fn delete(&self, scope: &Scope, group: &Name) -> Result<(), Error<DeleteGroupRejected>> {
        let mut attempts = 0;
        let outcome = Resend::SERVING
            .run(|| {
                attempts += 1;
                self.plane.delete_group(scope, group)
            })
            .await;
        match outcome {
            // An earlier attempt deleted the group, but its answer was lost.
            Err(Error::Rejected(DeleteGroupRejected::NoSuchGroup)) if attempts > 1 => Ok(()),
            outcome => outcome,
        }
    }

    /// A page of the tenant's groups, in the order of their names.
    pub async fn list(
        &self,
        scope: &Scope,
        page: &PageRequest,
    ) -> Result<Page<(Name, DescribedGroup)>, Error> {
        let page = Resend::SERVING.run(|| self.plane.groups(scope, page)).await?;
        Ok(page.map(|ListedGroup { name, state, progress }| (name, DescribedGroup { state, progress })))
    }

    /// The state of a group, with its offsets.
    pub async fn describe(&self, scope: &Scope, group: &Name) -> Result<DescribedGroup, Error<NoSuchGroup>> {
        let state = Resend::SERVING.run(|| self.plane.group(scope, group, &[])).await?;
        let progress = Resend::SERVING.run(|| self.plane.progress(scope, state.id)).await;
        Ok(DescribedGroup { state, progress: progress.map_err(Error::from_infallible)? })
    }
}

impl DescribedGroup {
    /// The partitions that are assigned to a member.
    #[must_use]
    pub fn assignments(&self, member: MemberId) -> Assignments {
        assignments(&self.state, member)
    }
}

/// The state of a group after a change was written as a generation.
fn with_change(
    state: GroupState,
    change: millpond_core::group::Regroup,
    generation: Generation,
) -> GroupState {
    let mut state = state;
    state.generation = generation;
    state.members.retain(|m| !change.remove.contains(&m.member.id));
    let before = std::mem::take(&mut state.owners);
    let owner = |(partition, member): (PartitionId, MemberId)| {
        let kept = before.get(&partition).filter(|o| o.member == member);
        (partition, kept.copied().unwrap_or(Owner { member, since: generation }))
    };
    state.owners = change.owners.into_iter().map(owner).collect();
    state
}
