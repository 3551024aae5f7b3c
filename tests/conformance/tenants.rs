//! Ids of one tenant in calls of another: answered as if there were nothing of that id, and nothing changes.

use millpond_core::control_plane::{Commit, FindRequest, Guard, Verdict};
use millpond_core::group::{
    GenerationMoved, NoSuchGroup, OffsetCommit, OffsetsRejected, Regroup, RenewRejected, ResetRejected,
};
use millpond_core::queue::change::SeekTo;
use millpond_core::queue::{
    Ack, Action, Admit, DeadFilter, DeadRejected, Grant, Listing, NoSuchQueue, PutQueueRejected, QueueChange,
    Settle,
};
use millpond_core::topic::NoSuchTopic;
use millpond_core::{Error, MemberId, Offset, Scope};
use millpond_tests::queues::{NONE, all, offsets, purge_dead, redrive, reject, seek};
use millpond_tests::stage::{BOTH, Draft, PartKind, Stage, home, name};
use std::fmt::Debug;
use uuid::Uuid;

suite!(
    names_are_those_of_one_tenant,
    partitions_of_another_are_none,
    commit_to_another_finds_the_partition_gone,
    commit_tells_nothing_of_a_part_of_another,
    dedup_offsets_of_another_are_unknown,
    find_in_another_finds_nothing,
    high_watermarks_of_another_are_left_out,
    offsets_at_of_another_are_none,
    progress_of_another_is_none,
    regroup_of_another_finds_it_moved,
    regroup_to_partitions_of_another_assigns_none,
    renew_in_another_finds_no_group,
    generations_of_another_are_left_out,
    commit_offsets_of_another_finds_the_partition_gone,
    reset_offsets_of_another_finds_the_partition_gone,
    pause_queue_of_another_finds_none,
    grant_of_another_finds_none,
    admit_in_another_finds_none,
    settle_in_another_finds_nothing_held,
    acks_of_another_are_lost,
    looks_at_queues_of_another_find_none,
    redrive_and_purge_of_another_find_none,
    seek_in_another_finds_none,
);

/// Another tenant than the stage's.
fn them() -> Scope {
    Scope::anonymous(name("them"))
}

fn rejected<T: Debug, R: Debug>(outcome: Result<T, Error<R>>) -> R {
    match outcome {
        Err(Error::Rejected(rejected)) => rejected,
        other => panic!("{other:?} instead of a rejection"),
    }
}

/// A group of theirs with one member.
async fn their_group(s: &Stage, group: &str) -> MemberId {
    let (them, member) = (them(), s.member(&["t"]));
    s.plane.make_group(&them, &name(group)).await.expect("made");
    loop {
        let state = s.plane.group(&them, &name(group), &[]).await.expect("a group");
        if state.member(member.id).is_some() {
            return member.id;
        }
        let change = state.next(&them, Some(member.clone()), None);
        assert!(matches!(s.plane.regroup(&change).await, Ok(_) | Err(Error::Rejected(GenerationMoved))));
    }
}

async fn names_are_those_of_one_tenant(s: &Stage) {
    let (t, them) = (s.topic("t", 1).await, them());
    s.queue_of("q", 1, 1).await;
    s.join("g", &["t"]).await;
    assert_eq!(rejected(s.plane.topic(&them, &t.name).await), NoSuchTopic);
    assert!(!s.plane.delete_topic(&them, &t.name).await.expect("an answer"));
    assert_eq!(s.topics(&them).await, []);
    assert_eq!(rejected(s.plane.group(&them, &name("g"), &[]).await), NoSuchGroup);
    assert!(s.plane.delete_group(&them, &name("g")).await.is_err());
    assert_eq!(s.groups(&them).await, []);
    assert_eq!(rejected(s.plane.queue(&them, &name("q")).await), NoSuchQueue);
    assert!(!s.plane.delete_queue(&them, &name("q")).await.expect("an answer"));
    assert_eq!(s.queues(&them).await, []);
    let over = QueueChange { topic: Some(t.name), ..QueueChange::default() };
    let put = s.plane.put_queue(&them, &name("over"), &over).await;
    assert_eq!(rejected(put), PutQueueRejected::NoSuchTopic);
    assert_eq!(s.topics(&s.scope).await.len(), 2);
    assert_eq!((s.group("g").await.members.len(), s.queues(&s.scope).await.len()), (1, 1));
}

async fn partitions_of_another_are_none(s: &Stage) {
    let t = s.topic("t", 2).await;
    assert_eq!(s.plane.partitions(&them(), t.id).await.expect("a list"), []);
    assert_eq!(s.plane.partitions(&s.scope, t.id).await.expect("a list").len(), 2);
}

async fn commit_to_another_finds_the_partition_gone(s: &Stage) {
    let t = s.topic("t", 2).await;
    let (p, q) = (home(&t, 0), home(&t, 1));
    for place in BOTH {
        for draft in
            [Draft::new().to(p, &[1]), Draft::new().to(p, &[1]).to(q, &[2]), Draft::new().once(p, 1, 7)]
        {
            let verdict = loop {
                let mut commit = s.prepare(place, std::slice::from_ref(&draft)).await;
                commit.requests[0].scope = them();
                let verdict = s.commit(&commit).await.verdicts.remove(0);
                if verdict != Verdict::Unknown || !s.resends() {
                    break verdict;
                }
            };
            assert_eq!(verdict, Verdict::PartitionGone);
        }
        let expecting = Draft::new().to(p, &[1]).expect(0);
        let mut commit = s.prepare(place, &[expecting]).await;
        commit.requests[0].scope = them();
        crate::assert_refused(s, &s.commit(&commit).await.verdicts[0], &Verdict::PartitionGone);
    }
    assert_eq!((s.tags(p).await.len(), s.tags(q).await.len()), (0, 0));
    // Another request of the same commit is stored.
    let mut commit = s.prepare(PartKind::Inline, &[Draft::new().to(p, &[1]), Draft::new().to(q, &[2])]).await;
    commit.requests[1].scope = them();
    let committed = s.commit(&commit).await;
    assert_eq!(committed.verdicts[0], Verdict::Stored);
    crate::assert_refused(s, &committed.verdicts[1], &Verdict::PartitionGone);
    assert_eq!((s.tags(p).await, s.tags(q).await.len()), (vec![1], 0));
}

async fn commit_tells_nothing_of_a_part_of_another(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    for place in BOTH {
        let mut commit = s.send(place, &[Draft::new().to(p, &[1])]).await.commit;
        commit.requests[0].scope = them();
        assert_eq!(s.commit(&commit).await.verdicts, [Verdict::Unknown]);
    }
    assert_eq!(s.tags(p).await, [1, 1]);
}

async fn dedup_offsets_of_another_are_unknown(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    s.send(PartKind::Inline, &[Draft::new().once(p, 1, 7)]).await;
    let id = [Uuid::from_u128(7)];
    assert_eq!(s.plane.dedup_offsets(&them(), p.topic, &id).await.expect("an answer"), [None]);
    let ours = s.plane.dedup_offsets(&s.scope, p.topic, &id).await.expect("an answer");
    assert_eq!(ours, [Some((0, Offset(0)))]);
}

async fn find_in_another_finds_nothing(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    s.append(PartKind::Inline, p, &[1]).await;
    let ours = s.finding(p.id, 0, 1);
    let asked = [FindRequest { scope: them(), ..ours.clone() }, ours];
    let found = s.plane.find(&asked).await.expect("found");
    assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true]);
}

async fn high_watermarks_of_another_are_left_out(s: &Stage) {
    let t = s.topic("t", 2).await;
    let asked = [(them(), t.partitions[0]), (s.scope.clone(), t.partitions[1])];
    let told = s.plane.high_watermarks(&asked).await.expect("a list");
    assert_eq!(told, [(t.partitions[1], Offset(0))]);
}

async fn offsets_at_of_another_are_none(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    s.append(PartKind::Inline, p, &[1]).await;
    assert_eq!(s.plane.offsets_at(&them(), p.topic, 0).await.expect("a list"), []);
}

async fn progress_of_another_is_none(s: &Stage) {
    s.topic("t", 2).await;
    s.join("g", &["t"]).await;
    let id = s.group("g").await.id;
    assert_eq!(s.plane.progress(&s.scope, id).await.expect("a list").len(), 2);
    assert_eq!(s.plane.progress(&them(), id).await.expect("a list"), []);
}

async fn regroup_of_another_finds_it_moved(s: &Stage) {
    s.topic("t", 2).await;
    s.join("g", &["t"]).await;
    let before = s.group("g").await;
    let change = before.next(&them(), Some(s.member(&["t"])), None);
    assert_eq!(rejected(s.plane.regroup(&change).await), GenerationMoved);
    let after = s.group("g").await;
    assert_eq!((after.generation, after.owners), (before.generation, before.owners));
}

async fn regroup_to_partitions_of_another_assigns_none(s: &Stage) {
    let (t, them) = (s.topic("t", 1).await, them());
    let member = their_group(s, "g").await;
    loop {
        let state = s.plane.group(&them, &name("g"), &[]).await.expect("a group");
        if state.owners.contains_key(&t.partitions[0]) {
            break;
        }
        let change = Regroup { owners: vec![(t.partitions[0], member)], ..state.next(&them, None, None) };
        assert!(matches!(s.plane.regroup(&change).await, Ok(_) | Err(Error::Rejected(GenerationMoved))));
    }
    let renewed = s.plane.renew(&them, &name("g"), member).await.expect("a member");
    assert_eq!(renewed.partitions, []);
    assert_eq!(s.plane.progress(&them, renewed.group).await.expect("a list"), []);
}

async fn renew_in_another_finds_no_group(s: &Stage) {
    s.topic("t", 1).await;
    let member = s.join("g", &["t"]).await;
    let renewed = s.plane.renew(&them(), &name("g"), member).await;
    assert_eq!(rejected(renewed), RenewRejected::NoSuchGroup);
}

async fn generations_of_another_are_left_out(s: &Stage) {
    s.topic("t", 1).await;
    s.join("g", &["t"]).await;
    s.join("h", &["t"]).await;
    let (g, h) = (s.group("g").await, s.group("h").await);
    let told = s.plane.generations(&[(them(), g.id), (s.scope.clone(), h.id)]).await.expect("a list");
    assert_eq!(told, [(h.id, h.generation, false)]);
}

async fn commit_offsets_of_another_finds_the_partition_gone(s: &Stage) {
    let t = s.topic("t", 1).await;
    let ours = s.join("g", &["t"]).await;
    let commit = s.offsets("g", ours, s.generation("g").await, &[(home(&t, 0), 0)]);
    let theirs = OffsetCommit { scope: them(), ..commit };
    assert_eq!(rejected(s.plane.commit_offsets(&theirs).await), OffsetsRejected::NoSuchGroup);
    let member = their_group(s, "g").await;
    let gone = OffsetsRejected::PartitionGone { nth: 0 };
    let theirs = OffsetCommit { member, ..theirs };
    assert_eq!(rejected(s.plane.commit_offsets(&theirs).await), gone);
    let commit = s.prepare(PartKind::Inline, &[Draft::new()]).await;
    let guard = Guard { offsets: Some(theirs), acks: None };
    let mut commit = Commit { parts: Vec::new(), guard: Some(guard), ..commit };
    commit.requests[0].scope = them();
    assert_eq!(s.commit(&commit).await.verdicts, [Verdict::OffsetsRejected(gone)]);
    assert!(s.committed("g").await.is_empty());
}

async fn reset_offsets_of_another_finds_the_partition_gone(s: &Stage) {
    let t = s.topic("t", 1).await;
    let reset = s.plane.reset_offsets(&them(), &name("g"), &[(t.partitions[0], Offset(0))]).await;
    assert_eq!(rejected(reset), ResetRejected::PartitionGone { nth: 0 });
}

async fn pause_queue_of_another_finds_none(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 1).await;
    assert_eq!(rejected(s.plane.pause_queue(&them(), q.id, true).await), NoSuchQueue);
    assert_eq!(offsets(&s.lease(&q, 1).await), [0]);
}

async fn grant_of_another_finds_none(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 2).await;
    let ours = s.asking(&q, &[1]);
    assert_eq!(rejected(s.plane.grant(&Grant { scope: them(), ..ours.clone() }).await), NoSuchQueue);
    assert_eq!(s.ledger(&q).await.passed, 0);
    s.grant(&ours).await;
    let again = Grant { scope: them(), ..ours };
    assert_eq!(rejected(s.plane.grant(&again).await), NoSuchQueue, "nor a lease that is alive");
    assert_eq!(offsets(&s.lease(&q, 1).await), [1]);
}

async fn admit_in_another_finds_none(s: &Stage) {
    let (q, homes) = s.queue_of("q", 1, 0).await;
    s.fill_delayed(homes[0], 2).await;
    let admit = Admit { scope: them(), ..s.admitting(&q, homes[0], &[(0..2, None)]).await };
    assert_eq!(rejected(s.plane.admit(&admit).await), NoSuchQueue);
    assert_eq!(s.cursor(&q, homes[0]).await, 0);
}

async fn settle_in_another_finds_nothing_held(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 2).await;
    let parts = s.lease(&q, 2).await;
    for keep in [false, true] {
        for action in [Action::Ack, reject("no"), Action::Renew { lease_ms: 1 }] {
            let settle = Settle { scope: them(), keep, ..s.settling(&q, &all(&parts, &action)) };
            assert_eq!(s.plane.settle(&settle).await.expect("an answer").verdicts, []);
        }
    }
    assert_eq!(s.listed(&q, Listing::InFlight).await, [0, 1]);
    // What was settled is not told to them either.
    let ours = s.settling(&q, &all(&parts, &Action::Ack));
    assert_eq!(s.settled(&ours).await.verdicts.len(), 1);
    let theirs = Settle { scope: them(), ..ours };
    assert_eq!(s.plane.settle(&theirs).await.expect("an answer").verdicts, []);
}

async fn acks_of_another_are_lost(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 1).await;
    let part = s.lease(&q, 1).await.remove(0);
    let ack = Ack { lease: part.lease, partition: part.partition, offset: Offset(0), attempt: part.attempt };
    let commit = s.prepare(PartKind::Inline, &[Draft::new()]).await;
    let guard = Guard { offsets: None, acks: Some(vec![ack]) };
    let mut commit = Commit { parts: Vec::new(), guard: Some(guard), ..commit };
    commit.requests[0].scope = them();
    assert_eq!(s.commit(&commit).await.verdicts, [Verdict::LeaseLost(vec![0])]);
    assert_eq!(s.listed(&q, Listing::InFlight).await, [0]);
}

async fn looks_at_queues_of_another_find_none(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 2).await;
    s.lease(&q, 1).await;
    let them = them();
    assert_eq!(rejected(s.plane.queue_counts(&them, q.id).await), NoSuchQueue);
    assert_eq!(rejected(s.plane.ledger(&them, q.id).await), NoSuchQueue);
    assert_eq!(rejected(s.plane.cursors(&them, q.id).await), NoSuchQueue);
    for listing in [Listing::InFlight, Listing::Waiting, Listing::Dead] {
        assert_eq!(rejected(s.plane.list_queue(&them, q.id, listing, None, 9).await), NoSuchQueue);
    }
}

async fn redrive_and_purge_of_another_find_none(s: &Stage) {
    let (q, homes) = s.queue_of("q", 1, 2).await;
    let parts = s.lease(&q, 2).await;
    s.settles(&q, &all(&parts, &reject("no"))).await;
    let them = them();
    let named = DeadFilter::Offsets(vec![(homes[0].id, Offset(0))]);
    for filter in [DeadFilter::All, DeadFilter::Reason("%".to_owned()), named] {
        assert_eq!(rejected(redrive(&*s.plane, &them, q.id, &filter, None).await), DeadRejected::NoSuchQueue);
        assert_eq!(rejected(purge_dead(&*s.plane, &them, q.id, &filter).await), DeadRejected::NoSuchQueue);
    }
    assert_eq!(s.listed(&q, Listing::Dead).await, [0, 1]);
    assert_eq!(offsets(&s.lease(&q, 2).await), NONE);
}

async fn seek_in_another_finds_none(s: &Stage) {
    let (q, homes) = s.queue_of("q", 1, 2).await;
    assert_eq!(rejected(seek(&*s.plane, &them(), q.id, &SeekTo::Latest).await), NoSuchQueue);
    assert_eq!(s.cursor(&q, homes[0]).await, 0);
}
