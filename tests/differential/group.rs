//! Operations on consumer groups in two worlds.

use crate::generate::{Call, GROUPS, GroupOperation, Offsets};
use crate::pair::{Pair, topic_name};
use millpond_core::control_plane::{Commit, Guard};
use millpond_core::group::{GroupState, NoSuchGroup, OffsetCommit};
use millpond_core::{Error, MemberId, Offset, PartitionId};
use millpond_tests::stage::{Draft, MINUTE, PartKind, Stage};
use std::collections::BTreeMap;

fn group_name(n: usize) -> &'static str {
    ["g", "h"][n]
}

/// An outcome with only those parts of a failure that must agree.
fn known<T, R: std::fmt::Debug>(outcome: Result<T, Error<R>>) -> Result<T, String> {
    outcome.map_err(|error| match error {
        Error::Rejected(rejected) => format!("{rejected:?}"),
        other => panic!("{other:?}"),
    })
}

async fn state_of(stage: &Stage, group: usize) -> Option<GroupState> {
    match stage.plane.group(&stage.scope, &millpond_tests::stage::name(group_name(group)), &[]).await {
        Ok(state) => Some(state),
        Err(Error::Rejected(NoSuchGroup)) => None,
        Err(error) => panic!("{error:?}"),
    }
}

type Places = Vec<(PartitionId, Offset)>;
type Row = (String, i32, Option<MemberId>, Option<Offset>, Offset, Offset);

/// Visible state of a group: generation, members, whether no new generation is due, progress.
type Plain = (i64, Vec<(MemberId, Vec<String>, bool)>, bool, Vec<Row>);

async fn plain(stage: &Stage, group: usize) -> Option<Plain> {
    let state = state_of(stage, group).await?;
    let member = |m: &millpond_core::group::MemberState| {
        (m.member.id, m.member.topics.iter().map(ToString::to_string).collect(), m.expired)
    };
    let progress = stage.plane.progress(&stage.scope, state.id).await.expect("a list");
    let rows = progress
        .iter()
        .map(|p| (p.topic.to_string(), p.number, p.owner, p.committed, p.log_start_offset, p.high_watermark));
    let generations = stage.plane.generations(&[(stage.scope.clone(), state.id)]).await.expect("a list");
    assert_eq!(generations, [(state.id, state.generation, !state.is_settled())]);
    let theirs = stage.plane.generations(&[(crate::them(), state.id)]).await.expect("a list");
    assert_eq!(theirs, []);
    assert_eq!(stage.plane.progress(&crate::them(), state.id).await.expect("a list"), []);
    Some((state.generation.0, state.members.iter().map(member).collect(), state.is_settled(), rows.collect()))
}

pub async fn compare(pair: &Pair) {
    for group in 0..GROUPS {
        assert_eq!(
            plain(&pair.memory, group).await,
            plain(&pair.postgres, group).await,
            "group {}",
            group_name(group)
        );
    }
    let left = pair.memory.groups(&pair.memory.scope).await;
    assert_eq!(left, pair.postgres.groups(&pair.postgres.scope).await);
}

impl Pair {
    fn member(&self, nth: usize) -> Option<(usize, MemberId)> {
        self.members.iter().rev().nth(nth).copied()
    }

    pub async fn apply_to_group(&mut self, operation: GroupOperation) {
        match operation {
            GroupOperation::Join { group, names } => {
                let names: Vec<String> = names.into_iter().map(|n| topic_name(n).to_string()).collect();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let member = self.memory.join(group_name(group), &names).await;
                assert_eq!(member, self.postgres.join(group_name(group), &names).await);
                self.members.push((group, member));
                self.count("joined");
            }
            GroupOperation::Leave { member } => {
                let Some((group, member)) = self.member(member) else { return };
                if state_of(&self.memory, group).await.is_some() {
                    self.memory.leave(group_name(group), member).await;
                    self.postgres.leave(group_name(group), member).await;
                }
            }
            GroupOperation::Settle { group } => {
                if state_of(&self.memory, group).await.is_some() {
                    self.memory.settle(group_name(group)).await;
                    self.postgres.settle(group_name(group)).await;
                }
            }
            GroupOperation::Renew { member } => self.renew(member).await,
            GroupOperation::Commit(offsets) => {
                let Some((memory, postgres)) = self.offsets(&offsets).await else { return };
                let left = known(self.memory.plane.commit_offsets(&memory).await);
                let right = known(self.postgres.plane.commit_offsets(&postgres).await);
                let values = |kept: Vec<(PartitionId, Offset)>| {
                    kept.into_iter().map(|(_, offset)| offset).collect::<Vec<_>>()
                };
                self.count(if left.is_ok() { "offsets committed" } else { "offsets refused" });
                assert_eq!(left.map(values), right.map(values));
            }
            GroupOperation::Guarded { place, call, offsets } => self.guarded(place, &call, &offsets).await,
            GroupOperation::Reset { group, offsets } => {
                let (memory, postgres) = self.places(&offsets);
                let name = millpond_tests::stage::name(group_name(group));
                let left = known(self.memory.plane.reset_offsets(&self.memory.scope, &name, &memory).await);
                assert_eq!(
                    left,
                    known(self.postgres.plane.reset_offsets(&self.postgres.scope, &name, &postgres).await)
                );
                self.count(if left.is_ok() { "reset" } else { "reset refused" });
            }
            GroupOperation::Delete { group } => {
                let name = millpond_tests::stage::name(group_name(group));
                let left = known(self.memory.plane.delete_group(&self.memory.scope, &name).await);
                assert_eq!(left, known(self.postgres.plane.delete_group(&self.postgres.scope, &name).await));
                self.count(if left.is_ok() { "group deleted" } else { "group not deleted" });
            }
        }
    }

    async fn renew(&mut self, nth: usize) {
        let Some((group, member)) = self.member(nth) else { return };
        let plain = |renewed: millpond_core::group::Renewed| {
            let partitions: Vec<_> = renewed
                .partitions
                .into_iter()
                .map(|p| (p.topic, p.number, p.since, p.committed, p.log_start_offset, p.high_watermark))
                .collect();
            (
                renewed.generation,
                renewed.stale,
                renewed.session_ms,
                renewed.from,
                renewed.noted_ms_ago / MINUTE,
                partitions,
            )
        };
        let left = self.memory.renew(group_name(group), member).await.map(plain);
        let right = self.postgres.renew(group_name(group), member).await.map(plain);
        self.count(if left.is_ok() { "renewed" } else { "not renewed" });
        assert_eq!(left, right);
    }

    fn places(&self, offsets: &[(usize, i32, i64)]) -> (Places, Places) {
        let mut both: BTreeMap<PartitionId, (PartitionId, Offset)> = BTreeMap::new();
        for (slot, partition, offset) in offsets {
            let (m, p) = self.homes(*slot, *partition);
            both.insert(m.id, (p.id, Offset(*offset)));
        }
        (both.iter().map(|(m, (_, offset))| (*m, *offset)).collect(), both.into_values().collect())
    }

    /// The commit in either world, under a generation that exists in both.
    async fn offsets(&self, offsets: &Offsets) -> Option<(OffsetCommit, OffsetCommit)> {
        let (group, member) = self.member(offsets.member)?;
        let mut generation = state_of(&self.memory, group)
            .await
            .map_or(millpond_core::Generation(1), |state| state.generation);
        generation.0 -= offsets.before;
        let (memory, postgres) = self.places(&offsets.offsets);
        let commit = |stage: &Stage, offsets| OffsetCommit {
            offsets,
            ..stage.offsets(group_name(group), member, generation, &[])
        };
        Some((commit(&self.memory, memory), commit(&self.postgres, postgres)))
    }

    async fn guarded(&mut self, place: PartKind, call: &Call, offsets: &Offsets) {
        let Some(guards) = self.offsets(offsets).await else { return };
        let (memory, postgres) = self.drafts(std::slice::from_ref(call));
        let memory = guard(&self.memory, place, &memory, guards.0).await;
        let postgres = guard(&self.postgres, place, &postgres, guards.1).await;
        self.keep(&memory, &postgres);
        self.send(memory, postgres).await;
    }
}

async fn guard(stage: &Stage, place: PartKind, drafts: &[Draft], offsets: OffsetCommit) -> Commit {
    let guard = Some(Guard { offsets: Some(offsets), acks: None });
    let commit = stage.lay_out(place, drafts);
    if commit.runs.is_empty() {
        return Commit { parts: Vec::new(), guard, ..commit };
    }
    if place == PartKind::Segment {
        stage.register(&[commit.parts[0].id]).await;
    }
    Commit { guard, ..commit }
}
