use super::*;
use uuid::Uuid;

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn member(n: u128, topics: &[&str]) -> Member {
    let topics = topics.iter().map(|t| name(t)).collect();
    Member {
        id: MemberId(Uuid::from_u128(n)),
        topics,
        session_ms: 1_000,
        from: Start::Earliest,
        client_id: None,
    }
}

fn state(members: &[(Member, bool)], partitions: i64) -> GroupState {
    let topics = vec![GroupTopic {
        name: name("t"),
        id: TopicId(1),
        partitions: (0..partitions).map(PartitionId).collect(),
    }];
    let members: Vec<MemberState> = members
        .iter()
        .map(|(member, expired)| MemberState { member: member.clone(), seen_at_ms: 0, expired: *expired })
        .collect();
    let basis = basis(&topics, members.iter().map(|m| &m.member));
    GroupState { id: GroupId(1), generation: Generation(7), basis, members, topics, owners: BTreeMap::new() }
}

/// The state after a control plane has applied the change.
fn written(state: &GroupState, change: &Regroup) -> GroupState {
    let generation = Generation(change.generation.0 + 1);
    let mut after = GroupState { generation, basis: change.basis.clone(), ..state.clone() };
    after.members.retain(|m| !change.remove.contains(&m.member.id));
    after.members.extend(change.add.clone().map(|member| MemberState {
        member,
        seen_at_ms: 0,
        expired: false,
    }));
    let owner = |(partition, member): &(PartitionId, MemberId)| {
        let before = state.owners.get(partition).filter(|o| o.member == *member);
        (*partition, before.copied().unwrap_or(Owner { member: *member, since: generation }))
    };
    after.owners = change.owners.iter().map(owner).collect();
    after
}

#[test]
fn joining_leaving_and_expiring_make_the_next_generation() {
    let empty = state(&[], 4);
    let first = empty.next(&Scope::unauthenticated(), Some(member(1, &["t"])), None);
    assert_eq!((first.owners.len(), first.remove.len(), &first.basis), (4, 0, &vec![(TopicId(1), 4)]));
    let one = written(&empty, &first);
    assert!(one.is_settled());
    let two = written(&one, &one.next(&Scope::unauthenticated(), Some(member(2, &["t", "unknown"])), None));
    assert_eq!(one.moved(&one.next(&Scope::unauthenticated(), Some(member(2, &["t"])), None)), 2);
    let since: Vec<i64> = two.owners.values().map(|o| o.since.0).collect();
    assert_eq!(since.iter().filter(|g| **g == 8).count(), 2, "who keeps a partition has it since before");

    let left = two.next(&Scope::unauthenticated(), None, Some(member(1, &[]).id));
    assert_eq!(
        (left.remove.len(), left.owners.iter().filter(|(_, m)| m.0 == Uuid::from_u128(2)).count()),
        (1, 4)
    );

    let mut dying = two.clone();
    dying.members[1].expired = true;
    assert!(!dying.is_settled() && dying.member(dying.members[1].member.id).is_none());
    assert_eq!(dying.next(&Scope::unauthenticated(), None, None).remove, [dying.members[1].member.id]);
}

#[test]
fn topics_that_change_ask_for_a_generation() {
    let settled = state(&[(member(1, &["t"]), false)], 2);
    assert!(settled.is_settled());
    let mut grown = settled.clone();
    grown.topics[0].partitions.push(PartitionId(9));
    assert!(!grown.is_settled());
    let mut gone = settled.clone();
    gone.topics.clear();
    assert!(!gone.is_settled() && gone.next(&Scope::unauthenticated(), None, None).owners.is_empty());
    let mut other = settled;
    other.topics.push(GroupTopic { name: name("u"), id: TopicId(2), partitions: vec![PartitionId(5)] });
    assert!(other.is_settled(), "a topic that nobody subscribes to is none of the group's");
}

#[test]
fn a_commit_is_judged_whole() {
    let owner = |p: PartitionId| {
        (p.0 < 3)
            .then(|| Owner { member: MemberId(Uuid::from_u128(u128::from(p.0 == 2))), since: Generation(5) })
    };
    let high_watermark = |p: PartitionId| (p.0 < 4).then_some(Offset(10));
    let judged = |generation, offsets: &[(i64, i64)]| {
        let offsets = offsets.iter().map(|(p, o)| (PartitionId(*p), Offset(*o))).collect();
        let commit = OffsetCommit {
            scope: Scope::unauthenticated(),
            group: name("g"),
            member: MemberId(Uuid::from_u128(0)),
            generation: Generation(generation),
            offsets,
        };
        judge(&commit, high_watermark, owner)
    };
    assert_eq!(judged(5, &[(0, 0), (1, 10)]), Ok(()));
    assert_eq!(judged(9, &[(0, 1)]), Ok(()));
    assert_eq!(judged(4, &[(0, 1)]), Err(OffsetsRejected::Fenced { nth: 0 }));
    assert_eq!(judged(5, &[(0, 1), (2, 1)]), Err(OffsetsRejected::Fenced { nth: 1 }));
    assert_eq!(judged(5, &[(0, 1), (3, 1)]), Err(OffsetsRejected::Fenced { nth: 1 }));
    assert_eq!(judged(5, &[(0, 11), (4, 1)]), Err(OffsetsRejected::PartitionGone { nth: 1 }));
    assert_eq!(
        judged(5, &[(0, 1), (1, 11)]),
        Err(OffsetsRejected::BeyondHighWatermark { nth: 1, high_watermark: Offset(10) })
    );
}
