//! Consumer groups on the agent's side: makes generations, keeps sessions, and sends again what failed.
//!
//! Owns: the loop that reads a group, lets `core` decide, and writes. Invariants: no state of a group lives
//! here; a call that failed is sent again for some seconds, since every one of them may arrive twice.

pub mod position;
pub mod watcher;

use crate::metrics;
use millpond_core::group::{
    DeleteGroupRejected, GroupState, Member, NoSuchGroup, OffsetCommit, OffsetsRejected, Owner, Progress,
    RenewRejected, Renewed, ResetRejected,
};
use millpond_core::{ControlPlane, Error, Generation, MemberId, Name, Offset, PartitionId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::Instant;
use watcher::GroupWatcher;

/// Changes that another agent got in before, in a row.
const ATTEMPTS: u32 = 100;
/// Of a group that others in this agent are changing.
const TURN_WAIT: Duration = Duration::from_secs(10);
const RESEND_FOR: Duration = Duration::from_secs(3);
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);

pub struct Groups {
    plane: Arc<dyn ControlPlane>,
    pub watcher: Arc<GroupWatcher>,
    turns: Mutex<Turns>,
}

/// Who changes which group just now.
type Turns = HashMap<(Name, Name), Weak<tokio::sync::Mutex<()>>>;

/// Partitions of each topic, both in order.
pub type Assignments = BTreeMap<Name, Vec<i32>>;

/// A group as it was found or made.
#[derive(Debug)]
pub struct Regrouped {
    pub state: GroupState,
    pub progress: Vec<Progress>,
}

/// Sends a call again while it fails in a way that leaves it open or changed nothing.
pub async fn resend<T, R, F: Future<Output = Result<T, Error<R>>>>(
    call: impl Fn() -> F,
) -> Result<T, Error<R>> {
    let start = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        match call().await {
            Err(Error::NotApplied(_) | Error::MaybeApplied(_)) if start.elapsed() < RESEND_FOR => {}
            outcome => return outcome,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
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
    pub fn new(plane: Arc<dyn ControlPlane>) -> Self {
        let watcher = GroupWatcher::start(Arc::clone(&plane));
        Self { plane, watcher, turns: Mutex::new(HashMap::new()) }
    }

    /// One change of a group at a time in this agent, so that its members do not get in one another's way.
    async fn turn(&self, tenant: &Name, group: &Name) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut turns = self.turns.lock();
            if turns.len() > 1_024 {
                turns.retain(|_, lock| lock.strong_count() > 0);
            }
            let key = (tenant.clone(), group.clone());
            let known = turns.get(&key).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let lock = Arc::new(tokio::sync::Mutex::new(()));
                turns.insert(key, Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }

    /// Adds a member to the group, which is made if there is none, and gives it its share.
    pub async fn join(
        &self,
        tenant: &Name,
        group: &Name,
        member: &Member,
    ) -> Result<(Generation, Assignments), Error> {
        let done = |state: &GroupState| state.member(member.id).is_some() && state.is_settled();
        loop {
            match self.change(tenant, group, Some(member), None, done).await {
                Ok(state) => return Ok((state.generation, assignments(&state, member.id))),
                Err(Error::Rejected(NoSuchGroup)) => resend(|| self.plane.make_group(tenant, group)).await?,
                Err(Error::NotApplied(source)) => return Err(Error::NotApplied(source)),
                Err(Error::MaybeApplied(source)) => return Err(Error::MaybeApplied(source)),
            }
        }
    }

    /// Ends a membership; its partitions go to the others.
    pub async fn leave(
        &self,
        tenant: &Name,
        group: &Name,
        member: MemberId,
    ) -> Result<(), Error<RenewRejected>> {
        let lift = |error| match error {
            Error::Rejected(NoSuchGroup) => Error::Rejected(RenewRejected::NoSuchGroup),
            Error::NotApplied(source) => Error::NotApplied(source),
            Error::MaybeApplied(source) => Error::MaybeApplied(source),
        };
        let state = resend(|| self.plane.group(tenant, group, &[])).await.map_err(lift)?;
        if state.member(member).is_none() {
            return Err(Error::Rejected(RenewRejected::NoSuchMember));
        }
        let gone = |state: &GroupState| state.members.iter().all(|m| m.member.id != member);
        self.change(tenant, group, None, Some(member), gone).await.map(|_| ()).map_err(lift)
    }

    /// Makes the next generation until the group is as wanted; the group as it is then.
    async fn change(
        &self,
        tenant: &Name,
        group: &Name,
        add: Option<&Member>,
        leave: Option<MemberId>,
        done: impl Fn(&GroupState) -> bool,
    ) -> Result<GroupState, Error<NoSuchGroup>> {
        let turn = tokio::time::timeout(TURN_WAIT, self.turn(tenant, group)).await;
        let _turn = turn.map_err(|_| changing())?;
        let also = add.map_or(&[][..], |m| &m.topics);
        let start = Instant::now();
        let mut pause = PAUSE_MIN;
        for _ in 0..ATTEMPTS {
            let state = resend(|| self.plane.group(tenant, group, also)).await?;
            if done(&state) {
                return Ok(state);
            }
            // An earlier sending may have been applied although its answer was lost.
            let joined = |m: &&Member| state.members.iter().any(|known| known.member.id == m.id);
            if add.filter(joined).is_some_and(|m| state.member(m.id).is_none()) {
                return Err(Error::NotApplied("the member's session ended before it was answered".into()));
            }
            let change = state.next(add.filter(|m| !joined(m)).cloned(), leave);
            match self.plane.regroup(&change).await {
                Ok(generation) => {
                    metrics::regrouped(state.moved(&change));
                    self.watcher.changed(state.id, generation);
                    return Ok(after(state, change, generation));
                }
                Err(Error::Rejected(_)) => {}
                Err(Error::NotApplied(source)) if start.elapsed() >= RESEND_FOR => {
                    return Err(Error::NotApplied(source));
                }
                Err(Error::MaybeApplied(source)) if start.elapsed() >= RESEND_FOR => {
                    return Err(Error::MaybeApplied(source));
                }
                Err(_) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
        Err(changing())
    }

    /// A member's sign of life. What asked for a new generation is seen to first.
    pub async fn renew(
        &self,
        tenant: &Name,
        group: &Name,
        member: MemberId,
    ) -> Result<Renewed, Error<RenewRejected>> {
        let renewed = resend(|| self.plane.renew(tenant, group, member)).await?;
        if !renewed.stale {
            return Ok(renewed);
        }
        match self.change(tenant, group, None, None, GroupState::is_settled).await {
            Ok(_) | Err(Error::Rejected(NoSuchGroup)) => {
                resend(|| self.plane.renew(tenant, group, member)).await
            }
            Err(error) => {
                tracing::warn!(error = %crate::error_chain(&error), %group, "a group could not be given its next generation; the next poll tries again");
                Ok(renewed)
            }
        }
    }

    pub async fn commit(
        &self,
        commit: &OffsetCommit,
    ) -> Result<Vec<(PartitionId, Offset)>, Error<OffsetsRejected>> {
        let outcome = resend(|| self.plane.commit_offsets(commit)).await;
        metrics::offsets_committed(match &outcome {
            Ok(_) => "stored",
            Err(Error::Rejected(OffsetsRejected::Fenced { .. })) => "fenced",
            Err(Error::Rejected(_)) => "refused",
            Err(_) => "failed",
        });
        outcome
    }

    pub async fn reset(
        &self,
        tenant: &Name,
        group: &Name,
        offsets: &[(PartitionId, Offset)],
    ) -> Result<(), Error<ResetRejected>> {
        resend(|| self.plane.reset_offsets(tenant, group, offsets)).await
    }

    pub async fn delete(&self, tenant: &Name, group: &Name) -> Result<(), Error<DeleteGroupRejected>> {
        let sent = Mutex::new(0);
        let outcome = resend(|| {
            *sent.lock() += 1;
            self.plane.delete_group(tenant, group)
        })
        .await;
        match outcome {
            // The first sending did it, and its answer was lost.
            Err(Error::Rejected(DeleteGroupRejected::NoSuchGroup)) if *sent.lock() > 1 => Ok(()),
            outcome => outcome,
        }
    }

    pub async fn list(&self, tenant: &Name) -> Result<Vec<Name>, Error> {
        resend(|| self.plane.groups(tenant)).await
    }

    pub async fn describe(&self, tenant: &Name, group: &Name) -> Result<Regrouped, Error<NoSuchGroup>> {
        let state = resend(|| self.plane.group(tenant, group, &[])).await?;
        let progress = resend(|| self.plane.progress(state.id)).await.map_err(Error::from_infallible)?;
        Ok(Regrouped { state, progress })
    }

    /// What a member of a described group has.
    #[must_use]
    pub fn assigned(state: &GroupState, member: MemberId) -> Assignments {
        assignments(state, member)
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
