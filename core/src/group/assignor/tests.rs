use super::*;
use proptest::prelude::*;
use uuid::Uuid;

type Topics = BTreeMap<TopicId, Vec<PartitionId>>;
type Owners = BTreeMap<PartitionId, MemberId>;

fn member(n: u32) -> MemberId {
    MemberId(Uuid::from_u128(u128::from(n)))
}

/// Partition `p` of topic `t` is `100 * t + p`.
fn topics(counts: &[usize]) -> Topics {
    let partitions = |(topic, count): (i64, &usize)| {
        (0..).take(*count).map(|p: i64| PartitionId(100 * topic + p)).collect()
    };
    (1..).zip(counts).map(|(topic, count)| (TopicId(topic), partitions((topic, count)))).collect()
}

fn subscribers(of: &[(u32, &[i64])]) -> Vec<Subscriber> {
    of.iter()
        .map(|(m, topics)| Subscriber {
            member: member(*m),
            topics: topics.iter().copied().map(TopicId).collect(),
        })
        .collect()
}

fn assign(subscribers: Vec<Subscriber>, topics: &Topics, owners: &Owners) -> Owners {
    Assignor::new(subscribers, topics, owners).assign()
}

fn loads(owners: &Owners) -> BTreeMap<MemberId, usize> {
    let mut loads = BTreeMap::new();
    for owner in owners.values() {
        *loads.entry(*owner).or_default() += 1;
    }
    loads
}

/// Partitions that were taken from a member who is still there.
fn taken(before: &Owners, after: &Owners, members: &[Subscriber]) -> usize {
    let stays = |m: &MemberId| members.iter().any(|s| s.member == *m);
    before.iter().filter(|(partition, owner)| stays(owner) && after.get(partition) != Some(owner)).count()
}

#[test]
fn the_first_member_has_all() {
    let topics = topics(&[3, 2]);
    let all = assign(subscribers(&[(1, &[1, 2])]), &topics, &Owners::new());
    assert_eq!(all.len(), 5);
    assert!(all.values().all(|m| *m == member(1)));
    assert!(assign(vec![], &topics, &all).is_empty());
    assert!(assign(subscribers(&[(1, &[7])]), &topics, &all).is_empty());
}

#[test]
fn a_second_member_takes_half_and_gives_it_back() {
    let topics = topics(&[8]);
    let one = assign(subscribers(&[(1, &[1])]), &topics, &Owners::new());
    let two = assign(subscribers(&[(1, &[1]), (2, &[1])]), &topics, &one);
    assert_eq!(loads(&two), BTreeMap::from([(member(1), 4), (member(2), 4)]));
    assert_eq!(taken(&one, &two, &subscribers(&[(1, &[1])])), 4);
    assert_eq!(assign(subscribers(&[(1, &[1])]), &topics, &two), one);
}

#[test]
fn a_member_that_dies_moves_its_own_partitions_only() {
    let topics = topics(&[9]);
    let three = assign(subscribers(&[(1, &[1]), (2, &[1]), (3, &[1])]), &topics, &Owners::new());
    let left = subscribers(&[(1, &[1]), (3, &[1])]);
    let two = assign(left.clone(), &topics, &three);
    assert_eq!(taken(&three, &two, &left), 0);
    assert_eq!(two.len(), 9);
    let back = subscribers(&[(1, &[1]), (3, &[1]), (4, &[1])]);
    let again = assign(back.clone(), &topics, &two);
    assert_eq!((taken(&two, &again, &back), loads(&again)[&member(4)]), (3, 3));
}

#[test]
fn a_topic_that_grows_moves_nothing() {
    let members = subscribers(&[(1, &[1]), (2, &[1])]);
    let small = assign(members.clone(), &topics(&[4]), &Owners::new());
    let large = assign(members.clone(), &topics(&[6]), &small);
    assert_eq!(
        (taken(&small, &large, &members), loads(&large)),
        (0, BTreeMap::from([(member(1), 3), (member(2), 3)]))
    );
}

#[test]
fn subscriptions_that_overlap_are_balanced_through_the_one_between() {
    let members = subscribers(&[(1, &[1]), (2, &[1, 2]), (3, &[2])]);
    let topics = topics(&[6, 1]);
    // Member 2 owns all partitions of its two topics. Member 3 can only get the one partition of the second
    // topic.
    let before: Owners = topics.values().flatten().map(|p| (*p, member(2))).collect();
    let after = assign(members.clone(), &topics, &before);
    assert_eq!(loads(&after), BTreeMap::from([(member(1), 3), (member(2), 3), (member(3), 1)]));
    assert_eq!(taken(&before, &after, &members), 4);
}

#[test]
fn a_chain_relieves_who_has_no_direct_neighbour_with_less() {
    let topics = topics(&[2, 1]);
    let before: Owners = [(100, 1), (101, 1), (200, 2)].map(|(p, m)| (PartitionId(p), member(m))).into();
    let after = assign(subscribers(&[(1, &[1]), (2, &[1, 2]), (3, &[2])]), &topics, &before);
    assert_eq!(loads(&after), BTreeMap::from([(member(1), 1), (member(2), 1), (member(3), 1)]));
}

/// Members with subscriptions to up to four topics, and previous owners, some of whom may be gone.
fn case() -> impl Strategy<Value = (Vec<Subscriber>, Topics, Owners)> {
    let subscribers =
        prop::collection::btree_map(1_u32..12, prop::collection::btree_set(1_i64..5, 1..4), 0..8);
    (subscribers, prop::collection::vec(0_usize..9, 4), prop::collection::vec(0_u32..14, 36)).prop_map(
        |(members, counts, had)| {
            let topics = topics(&counts);
            let owners = topics
                .values()
                .flatten()
                .zip(had)
                .filter(|(_, m)| *m > 0)
                .map(|(p, m)| (*p, member(m)))
                .collect();
            let of = |(m, t): (u32, BTreeSet<i64>)| Subscriber {
                member: member(m),
                topics: t.into_iter().map(TopicId).collect(),
            };
            (members.into_iter().map(of).collect(), topics, owners)
        },
    )
}

/// Whether some member could give a partition to one with at least two fewer, found by trying all chains of
/// moves.
fn can_be_evened_out(subscribers: &[Subscriber], topics: &Topics, owners: &Owners) -> bool {
    let topic_of: BTreeMap<PartitionId, TopicId> =
        topics.iter().flat_map(|(t, all)| all.iter().map(|p| (*p, *t))).collect();
    let loads = loads(owners);
    let load = |m: &MemberId| loads.get(m).copied().unwrap_or(0);
    subscribers.iter().any(|from| {
        let mut reached = BTreeSet::from([from.member]);
        loop {
            let takes = |s: &Subscriber| {
                let has = owners
                    .iter()
                    .any(|(p, owner)| reached.contains(owner) && s.topics.contains(&topic_of[p]));
                has && !reached.contains(&s.member)
            };
            match subscribers.iter().find(|s| takes(s)) {
                Some(s) => reached.insert(s.member),
                None => break reached.iter().any(|m| load(m) + 2 <= load(&from.member)),
            };
        }
    })
}

proptest! {
    #[test]
    fn everything_is_assigned_evenly_and_stays((subscribers, topics, owners) in case()) {
        let after = assign(subscribers.clone(), &topics, &owners);
        for (topic, partitions) in &topics {
            let wanted = subscribers.iter().any(|s| s.topics.contains(topic));
            for partition in partitions {
                let subscriber = |m| subscribers.iter().find(|s| s.member == m).expect("a member");
                let owner = after.get(partition).copied().map(subscriber);
                prop_assert_eq!(owner.is_some(), wanted);
                prop_assert!(owner.is_none_or(|s| s.topics.contains(topic)));
            }
        }
        prop_assert!(!can_be_evened_out(&subscribers, &topics, &after));
        prop_assert_eq!(&assign(subscribers.clone(), &topics, &after), &after, "what is even stays as it is");
        let reversed: Vec<Subscriber> = subscribers.into_iter().rev().collect();
        prop_assert_eq!(assign(reversed, &topics, &owners), after);
    }

    #[test]
    fn among_equals_no_more_moves_than_must((subscribers, topics, owners) in case()) {
        let all: BTreeSet<TopicId> = topics.keys().copied().collect();
        let equal = |s: &Subscriber| Subscriber { topics: all.clone(), ..s.clone() };
        let equals: Vec<Subscriber> = subscribers.iter().map(equal).collect();
        if equals.is_empty() {
            return Ok(());
        }
        let after = assign(equals.clone(), &topics, &owners);
        let total: usize = topics.values().map(Vec::len).sum();
        let (share, larger) = (total / equals.len(), total % equals.len());
        let had = |s: &Subscriber| owners.values().filter(|m| **m == s.member).count();
        let kept: usize = equals.iter().map(|s| had(s).min(share)).sum();
        let above = equals.iter().filter(|s| had(s) > share).count().min(larger);
        let must = equals.iter().map(had).sum::<usize>() - kept - above;
        prop_assert_eq!(taken(&owners, &after, &equals), must);
    }
}
