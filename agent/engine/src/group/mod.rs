//! Consumer groups on the agent's side: makes generations, keeps sessions, and sends again what failed.
//!
//! Owns: the loop that reads a group, lets `core` decide, and writes. Invariants: no state of a group lives
//! here; a call that failed is sent again for some seconds, since every one of them may arrive twice.

pub mod offsets;
pub mod poll;
pub mod position;
pub mod watcher;

use crate::fetch::Fetch;
use crate::keyed_lock::KeyedLocks;
use crate::metrics;
use crate::resend::Resend;
use crate::topics::{TopicError, Topics};
use millpond_core::group::{
    DeleteGroupRejected, GroupState, Member, NoSuchGroup, Owner, Progress, RenewRejected, Renewed,
};
use millpond_core::{ControlPlane, Error, Generation, MemberId, Name, PartitionId, Scope};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use watcher::GroupWatcher;

/// How often in a row another agent may get its change in before ours.
const CHANGE_ATTEMPTS: u32 = 100;
/// How long a change waits for others of the same group in this agent.
const TURN_WAIT_MAX: Duration = Duration::from_secs(10);

/// Consumer groups as doors use them.
pub struct Groups {
    plane: Arc<dyn ControlPlane>,
    topics: Arc<Topics>,
    fetch: Arc<Fetch>,
    watcher: Arc<GroupWatcher>,
    /// One change of a group at a time in this agent, so that its members do not get in one another's way.
    changes: KeyedLocks<(Name, Name)>,
}

/// Partitions of each topic, both in order.
pub type Assignments = BTreeMap<Name, Vec<i32>>;

/// A group with the offsets of its partitions.
#[derive(Debug)]
pub struct DescribedGroup {
    pub state: GroupState,
    /// Partitions that are assigned or committed, by topic and number.
    pub progress: Vec<Progress>,
}

fn changing<R>() -> Error<R> {
    Error::NotApplied("the group changes all the time".into())
}

/// What a member has, by topic.
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
    pub fn new(plane: Arc<dyn ControlPlane>, topics: Arc<Topics>, fetch: Arc<Fetch>) -> Self {
        let watcher = GroupWatcher::start(Arc::clone(&plane));
        Self { plane, topics, fetch, watcher, changes: KeyedLocks::new() }
    }

    /// Adds a member to the group, which is made if there is none, and gives it its share of the partitions of
    /// its topics. A join whose answer was lost leaves a member that nobody speaks for, until its session ends.
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

    /// Ends a membership; its partitions go to the others.
    pub async fn leave(
        &self,
        scope: &Scope,
        group: &Name,
        member: MemberId,
    ) -> Result<(), Error<RenewRejected>> {
        let lift = |error: Error<NoSuchGroup>| error.map_rejection(|_| RenewRejected::NoSuchGroup);
        let state = Resend::SERVING.run(|| self.plane.group(scope, group, &[])).await.map_err(lift)?;
        if state.member(member).is_none() {
            return Err(Error::Rejected(RenewRejected::NoSuchMember));
        }
        let is_out = |state: &GroupState| state.members.iter().all(|m| m.member.id != member);
        self.change(scope, group, None, Some(member), is_out).await.map(|_| ()).map_err(lift)
    }

    /// Makes the next generation until the group is as wanted; the group as it is then.
    async fn change(
        &self,
        scope: &Scope,
        group: &Name,
        add: Option<&Member>,
        leave: Option<MemberId>,
        is_done: impl Fn(&GroupState) -> bool,
    ) -> Result<GroupState, Error<NoSuchGroup>> {
        let key = (scope.tenant.clone(), group.clone());
        let turn = tokio::time::timeout(TURN_WAIT_MAX, self.changes.lock(key)).await;
        let _turn = turn.map_err(|_| changing())?;
        let also = add.map_or(&[][..], |m| &m.topics);
        let mut attempts = Resend::SERVING.start();
        for _ in 0..CHANGE_ATTEMPTS {
            let state = Resend::SERVING.run(|| self.plane.group(scope, group, also)).await?;
            if is_done(&state) {
                return Ok(state);
            }
            // An earlier sending may have been applied although its answer was lost.
            let has_joined = |m: &&Member| state.members.iter().any(|known| known.member.id == m.id);
            if add.filter(has_joined).is_some_and(|m| state.member(m.id).is_none()) {
                return Err(Error::NotApplied("the member's session ended before it was answered".into()));
            }
            let change = state.next(scope, add.filter(|m| !has_joined(m)).cloned(), leave);
            match self.plane.regroup(&change).await.map_err(Error::into_rejection) {
                Ok(generation) => {
                    metrics::regrouped(state.moved(&change));
                    self.watcher.changed(state.id, generation);
                    return Ok(after(state, change, generation));
                }
                Err(Ok(_)) => {}
                Err(Err(failure)) => {
                    if !attempts.pause().await {
                        return Err(Error::from_infallible(failure));
                    }
                }
            }
        }
        Err(changing())
    }

    /// A member's sign of life. If the group needs another generation, that is made first.
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
                tracing::warn!(%error, %group, "no next generation of a group; the next poll tries again");
                Ok(renewed)
            }
        }
    }

    /// Forgets a group without members, and all that it has committed.
    pub async fn delete(&self, scope: &Scope, group: &Name) -> Result<(), Error<DeleteGroupRejected>> {
        let mut sendings = 0;
        let outcome = Resend::SERVING
            .run(|| {
                sendings += 1;
                self.plane.delete_group(scope, group)
            })
            .await;
        match outcome {
            // The first sending did it, and its answer was lost.
            Err(Error::Rejected(DeleteGroupRejected::NoSuchGroup)) if sendings > 1 => Ok(()),
            outcome => outcome,
        }
    }

    /// All groups of the tenant by name.
    pub async fn list(&self, scope: &Scope) -> Result<Vec<(Name, DescribedGroup)>, Error> {
        let mut groups = Vec::new();
        for name in Resend::SERVING.run(|| self.plane.groups(scope)).await? {
            match self.describe(scope, &name).await.map_err(Error::into_rejection) {
                Ok(described) => groups.push((name, described)),
                // Forgotten since.
                Err(Ok(NoSuchGroup)) => {}
                Err(Err(failure)) => return Err(failure),
            }
        }
        Ok(groups)
    }

    pub async fn describe(&self, scope: &Scope, group: &Name) -> Result<DescribedGroup, Error<NoSuchGroup>> {
        let state = Resend::SERVING.run(|| self.plane.group(scope, group, &[])).await?;
        let progress = Resend::SERVING.run(|| self.plane.progress(scope, state.id)).await;
        Ok(DescribedGroup { state, progress: progress.map_err(Error::from_infallible)? })
    }
}

impl DescribedGroup {
    /// What a member has.
    #[must_use]
    pub fn assignments(&self, member: MemberId) -> Assignments {
        assignments(&self.state, member)
    }
}

/// The group once a change was written.
fn after(state: GroupState, change: millpond_core::group::Regroup, generation: Generation) -> GroupState {
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
