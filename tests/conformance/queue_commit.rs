//! Acks of queue records in the same commit as new records.

use millpond_core::control_plane::{Commit, Guard, Verdict};
use millpond_core::group::OffsetsRejected;
use millpond_core::queue::{Ack, Action, LeasePart, Listing, Mode, Outcome};
use millpond_core::{LeaseId, Offset, Scope};
use millpond_tests::queues::{Given, all, given, nack, offsets};
use millpond_tests::stage::{BOTH, Draft, PartKind, Stage, home, name};

suite!(
    are_acked_with_records,
    are_acked_without_records,
    are_all_acked_or_nothing_happens,
    are_acked_once,
    are_acked_in_many_queues_with_group_offsets,
    are_those_of_one_tenant,
    are_looked_at_after_the_key_and_before_the_rest,
    free_their_keys,
);

fn acks(parts: &[LeasePart]) -> Vec<Ack> {
    let of_part = |p: &LeasePart| -> Vec<Ack> {
        let ack = |offset| Ack {
            lease: p.lease,
            partition: p.partition,
            offset: Offset(offset),
            attempt: p.attempt,
        };
        p.ranges.iter().cloned().flatten().map(ack).collect()
    };
    parts.iter().flat_map(of_part).collect()
}

fn with(commit: Commit, acks: Vec<Ack>) -> Commit {
    Commit { guard: Some(Guard { offsets: None, acks: Some(acks) }), ..commit }
}

/// A commit of acks without records.
async fn alone(s: &Stage, draft: Draft, acks: Vec<Ack>) -> Commit {
    let commit = s.prepare(PartKind::Inline, &[draft]).await;
    with(Commit { parts: Vec::new(), ..commit }, acks)
}

async fn are_acked_with_records(s: &Stage) {
    let (q, _) = s.queue_of("q", 2, 4).await;
    let out = home(&s.topic("out", 1).await, 0);
    for (round, place) in (1..).zip(BOTH) {
        let parts = s.lease(&q, 3).await;
        let commit = with(s.prepare(place, &[Draft::new().to(out, &[round])]).await, acks(&parts));
        assert_eq!(s.commit(&commit).await.verdicts, [Verdict::Stored]);
        assert_eq!(s.settles(&q, &all(&parts, &nack(None))).await, []);
    }
    let ledger = s.ledger(&q).await;
    assert_eq!(ledger.acked, 6);
    assert_eq!(ledger.leased_rows, 0);
    assert_eq!(s.tags(out).await, [1, 2]);
    assert!(ledger.holds());
}

async fn are_acked_without_records(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 4).await;
    let parts = s.lease(&q, 4).await;
    let commit = alone(s, Draft::new(), acks(&parts)[1..3].to_vec()).await;
    assert_eq!(s.commit(&commit).await.verdicts, [Verdict::Stored]);
    assert_eq!(s.listed(&q, Listing::InFlight).await, [0, 3]);
    let outcomes = s.settles(&q, &all(&parts, &Action::Ack)).await;
    assert_eq!(outcomes, [(0, 0..1, Outcome::Acked), (0, 3..4, Outcome::Acked)]);
}

async fn are_all_acked_or_nothing_happens(s: &Stage) {
    let (q, _) = s.queue_of("q", 2, 4).await;
    let out = home(&s.topic("out", 1).await, 0);
    let (parts, others) = (s.lease(&q, 4).await, s.lease(&q, 4).await);
    s.settles(&q, &all(&others, &Action::Ack)).await;
    let held = acks(&parts);
    let forged = Ack { lease: LeaseId(s.uuid()), ..held[0] };
    let (attempt, beyond) = (Ack { attempt: 2, ..held[0] }, Ack { offset: Offset(9), ..held[0] });
    for place in BOTH {
        for (given, lost) in [
            (vec![held[0], forged], vec![1]),
            (vec![attempt, held[1], beyond, acks(&others)[0]], vec![0, 2, 3]),
            (vec![held[0], held[1], Ack { partition: out.id, ..held[2] }], vec![2]),
        ] {
            let commit = with(s.prepare(place, &[Draft::new().to(out, &[1]).key(1, 1)]).await, given);
            assert_eq!(s.commit(&commit).await.verdicts, [Verdict::LeaseLost(lost)]);
        }
    }
    assert!(s.tags(out).await.is_empty());
    assert_eq!(s.ledger(&q).await.acked, 4);
    assert_eq!(s.listed(&q, Listing::InFlight).await, [0, 1, 2, 3]);
    s.outlive().await;
    let late = with(s.prepare(PartKind::Inline, &[Draft::new().to(out, &[2])]).await, held);
    assert_eq!(s.commit(&late).await.verdicts, [Verdict::LeaseLost(vec![0, 1, 2, 3])]);
    assert!(s.tags(out).await.is_empty());
    assert_eq!(s.listed(&q, Listing::Waiting).await, [0, 1, 2, 3]);
}

async fn are_acked_once(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 4).await;
    let out = home(&s.topic("out", 1).await, 0);
    let mut sent = Vec::new();
    for (round, place) in (1..).zip(BOTH) {
        let parts = s.lease(&q, 2).await;
        let draft = Draft::new().to(out, &[round]).key(u128::from(round), 1);
        let commit = with(s.prepare(place, std::slice::from_ref(&draft)).await, acks(&parts));
        let committed = s.commit(&commit).await;
        assert_eq!(committed.verdicts, [Verdict::Stored]);
        sent.push((draft, place, commit, committed.pieces));
    }
    for (draft, place, commit, pieces) in sent {
        let again = s.commit(&commit).await;
        assert_eq!((again.verdicts, again.pieces), (vec![Verdict::Stored], pieces), "the same sending");
        let retry =
            with(s.prepare(place, &[draft]).await, commit.guard.expect("a guard").acks.expect("acks"));
        assert!(matches!(s.commit(&retry).await.verdicts[..], [Verdict::Duplicate(_)]), "its client's retry");
    }
    assert_eq!(s.tags(out).await, [1, 2]);
    assert_eq!(s.ledger(&q).await.acked, 4);
}

async fn are_acked_in_many_queues_with_group_offsets(s: &Stage) {
    let (q, homes) = s.queue_of("q", 1, 6).await;
    let (other, _) = s.queue_of("other", 1, 6).await;
    let a = s.join("g", &["q"]).await;
    let generation = s.generation("g").await;
    let both = [s.lease(&q, 3).await, s.lease(&other, 3).await];
    let mut given = acks(&both.concat());
    given.reverse();
    let commit = async |to, given: &[Ack], place| {
        let prepared = s.prepare(place, &[Draft::new().to(homes[0], &[9])]).await;
        let offsets = s.offsets("g", a, generation, &[(homes[0], to)]);
        Commit { guard: Some(Guard { offsets: Some(offsets), acks: Some(given.to_vec()) }), ..prepared }
    };
    let beyond = commit(99, &given[..4], PartKind::Inline).await;
    let rejected = OffsetsRejected::BeyondHighWatermark { nth: 0, high_watermark: Offset(6) };
    assert_eq!(s.commit(&beyond).await.verdicts, [Verdict::OffsetsRejected(rejected)]);
    assert_eq!(s.ledger(&q).await.acked, 0);
    assert_eq!(s.ledger(&other).await.acked, 0);
    assert_eq!(s.committed("g").await.len(), 0);
    let good = commit(4, &given[..4], PartKind::Inline).await;
    assert_eq!(s.commit(&good).await.verdicts, [Verdict::Stored]);
    assert_eq!(s.ledger(&q).await.acked, 1);
    assert_eq!(s.ledger(&other).await.acked, 3);
    assert_eq!(s.committed("g").await[&("q".to_owned(), 0)], 4);
    assert_eq!(s.tags(homes[0]).await.len(), 7);
    let lost = commit(5, &given[3..5], PartKind::Segment).await;
    assert_eq!(s.commit(&lost).await.verdicts, [Verdict::LeaseLost(vec![0])]);
    assert_eq!(s.committed("g").await[&("q".to_owned(), 0)], 4);
    assert_eq!(s.ledger(&q).await.acked, 1);
}

async fn are_those_of_one_tenant(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 2).await;
    let parts = s.lease(&q, 2).await;
    let mut commit = alone(s, Draft::new(), acks(&parts)).await;
    commit.requests[0].scope = Scope::anonymous(name("other"));
    assert_eq!(s.commit(&commit).await.verdicts, [Verdict::LeaseLost(vec![0, 1])]);
    assert_eq!(s.listed(&q, Listing::InFlight).await, [0, 1]);
}

async fn are_looked_at_after_the_key_and_before_the_rest(s: &Stage) {
    let (q, homes) = s.queue_of("q", 1, 4).await;
    let a = s.join("g", &["q"]).await;
    let parts = s.lease(&q, 2).await;
    let first = alone(s, Draft::new().key(1, 1), acks(&parts)).await;
    assert_eq!(s.commit(&first).await.verdicts, [Verdict::Stored]);
    let again = alone(s, Draft::new().key(1, 1), acks(&parts)).await;
    assert!(matches!(s.commit(&again).await.verdicts[..], [Verdict::Duplicate(_)]));
    let conflict = alone(s, Draft::new().key(1, 2), acks(&parts)).await;
    assert_eq!(s.commit(&conflict).await.verdicts, [Verdict::Conflict]);
    s.topic("gone", 1).await;
    let gone = home(&s.topic("gone", 1).await, 0);
    s.delete_topic("gone").await;
    let beyond = s.offsets("g", a, s.generation("g").await, &[(homes[0], 99)]);
    let commit = s.prepare(PartKind::Inline, &[Draft::new().to(gone, &[1]).key(2, 1)]).await;
    let guard = Guard { offsets: Some(beyond), acks: Some(acks(&parts)[..1].to_vec()) };
    let commit = Commit { guard: Some(guard), ..commit };
    assert_eq!(s.commit(&commit).await.verdicts, [Verdict::LeaseLost(vec![0])]);
    let held = s.lease(&q, 2).await;
    let commit =
        with(s.prepare(PartKind::Inline, &[Draft::new().to(gone, &[1]).key(3, 1)]).await, acks(&held));
    assert_eq!(s.commit(&commit).await.verdicts, [Verdict::PartitionGone]);
    assert_eq!(s.listed(&q, Listing::InFlight).await, offsets(&held));
}

async fn free_their_keys(s: &Stage) {
    let (q, homes) = s.queue_with("q", 1, 3, |c| c.mode = Some(Mode::Keyed)).await;
    s.admit_keys(&q, homes[0], 0, &[1, 1, 2]).await;
    let parts = s.lease(&q, 9).await;
    assert_eq!(given(&parts), [Given::first(0), Given::first(2)]);
    let commit = alone(s, Draft::new(), acks(&parts)).await;
    assert_eq!(s.commit(&commit).await.verdicts, [Verdict::Stored]);
    assert_eq!(given(&s.lease(&q, 9).await), [Given::first(1)]);
}
