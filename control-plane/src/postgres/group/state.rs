//! Reads the states of consumer groups: members, assignment, topics, progress. Each is one statement for any
//! number of groups.

use crate::postgres::PostgresControlPlane;
use crate::postgres::connection::retried;
use millpond_core::group::{GroupState, GroupTopic, Member, MemberState, Owner, Progress, Start};
use millpond_core::{Error, Generation, GroupId, MemberId, Name, Offset, PartitionId, Scope, TopicId};
use std::collections::{BTreeMap, BTreeSet, HashMap};

pub(super) fn start(latest: bool) -> Start {
    if latest { Start::Latest } else { Start::Earliest }
}

fn names(texts: &[String]) -> Vec<Name> {
    texts.iter().filter_map(|t| Name::new(t).ok()).collect()
}

/// The row of a group.
pub(super) struct Listed {
    pub id: i64,
    pub generation: i64,
    pub topic_ids: Vec<i64>,
    pub partition_counts: Vec<i32>,
}

/// Reads what belongs to groups whose rows were read. What is read here may be newer than the generation, but
/// never older, and a change that is based on it fails if the group has changed since.
pub(super) async fn states(
    plane: &PostgresControlPlane,
    scope: &Scope,
    groups: Vec<Listed>,
    also: &[Name],
) -> Result<Vec<GroupState>, Error> {
    let ids: Vec<i64> = groups.iter().map(|group| group.id).collect();
    let rows = retried!(plane, c => sqlx::query_file!("queries/group/members.sql", &ids).fetch_all(c))?;
    let subscribed = rows.iter().flat_map(|m| m.topics.iter().cloned());
    let wanted: BTreeSet<String> = also.iter().map(ToString::to_string).chain(subscribed).collect();
    let wanted: Vec<String> = wanted.into_iter().collect();
    let topics = retried!(
        plane,
        c => sqlx::query_file!("queries/group/topics.sql", scope.tenant.as_str(), &wanted).fetch_all(c)
    )?;
    let topics: BTreeMap<Name, GroupTopic> = topics
        .into_iter()
        .filter_map(|t| {
            let name = Name::new(&t.name).ok()?;
            let partitions = t.partitions.into_iter().map(PartitionId).collect();
            Some((name.clone(), GroupTopic { name, id: TopicId(t.topic_id), partitions }))
        })
        .collect();
    let mut members: HashMap<i64, Vec<MemberState>> = HashMap::new();
    for m in rows {
        let member = Member {
            id: MemberId(m.member_id),
            topics: names(&m.topics),
            session_ms: m.session_ms,
            from: start(m.latest),
            client_id: m.client_id,
        };
        let state = MemberState { member, seen_at_ms: m.seen_at_ms, expired: m.expired };
        members.entry(m.group_id).or_default().push(state);
    }
    let mut owners: HashMap<i64, BTreeMap<PartitionId, Owner>> = HashMap::new();
    for o in retried!(plane, c => sqlx::query_file!("queries/group/owners.sql", &ids).fetch_all(c))? {
        let owner = Owner { member: MemberId(o.member_id), since: Generation(o.since) };
        owners.entry(o.group_id).or_default().insert(PartitionId(o.partition_id), owner);
    }
    let state = |group: Listed| {
        let members = members.remove(&group.id).unwrap_or_default();
        let wanted: BTreeSet<&Name> = members.iter().flat_map(|m| &m.member.topics).chain(also).collect();
        GroupState {
            id: GroupId(group.id),
            generation: Generation(group.generation),
            basis: group.topic_ids.into_iter().map(TopicId).zip(group.partition_counts).collect(),
            topics: wanted.into_iter().filter_map(|name| topics.get(name).cloned()).collect(),
            members,
            owners: owners.remove(&group.id).unwrap_or_default(),
        }
    };
    Ok(groups.into_iter().map(state).collect())
}

/// The progress of groups, by id.
pub(super) async fn progress_of(
    plane: &PostgresControlPlane,
    scope: &Scope,
    groups: &[i64],
) -> Result<HashMap<i64, Vec<Progress>>, Error> {
    let rows = retried!(
        plane,
        c => sqlx::query_file!("queries/group/progress.sql", groups, scope.tenant.as_str()).fetch_all(c)
    )?;
    let mut progress: HashMap<i64, Vec<Progress>> = HashMap::new();
    for row in rows {
        let Ok(topic) = Name::new(&row.name) else { continue };
        progress.entry(row.group_id).or_default().push(Progress {
            topic,
            number: row.number,
            partition: PartitionId(row.partition_id),
            owner: row.member_id.map(MemberId),
            committed: row.committed.map(Offset),
            log_start_offset: Offset(row.log_start_offset),
            high_watermark: Offset(row.high_watermark),
        });
    }
    Ok(progress)
}
