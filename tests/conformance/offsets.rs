//! Offsets that consumer groups commit, alone and together with records.

use millpond_core::control_plane::{Answer, Commit, Guard, Verdict};
use millpond_core::group::{OffsetCommit, OffsetsRejected, ResetRejected};
use millpond_core::{Generation, Offset};
use millpond_tests::members::SESSION_MS;
use millpond_tests::stage::{BOTH, Draft, Home, MINUTE, PartKind, Stage, home};

suite!(
    never_go_back,
    are_fenced_unless_the_member_has_the_partition,
    are_all_committed_or_none,
    end_with_their_topic,
    are_set_while_nobody_is_there,
    are_committed_with_records_or_not_at_all,
    with_records_are_committed_once,
    without_records_are_committed_once,
    under_a_key_answer_the_same,
);

/// Creates a topic of two partitions with ten records each, and a member that owns both.
async fn filled(s: &Stage) -> (Home, Home) {
    let topic = s.topic("t", 2).await;
    let (p, q) = (home(&topic, 0), home(&topic, 1));
    for home in [p, q] {
        s.append(PartKind::Inline, home, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]).await;
    }
    (p, q)
}

fn at(offsets: &[(i32, i64)]) -> std::collections::BTreeMap<(String, i32), i64> {
    offsets.iter().map(|(number, offset)| (("t".to_owned(), *number), *offset)).collect()
}

async fn never_go_back(s: &Stage) {
    let (p, q) = filled(s).await;
    let a = s.join("g", &["t"]).await;
    let generation = s.generation("g").await;
    let commit =
        async |offsets: &[(Home, i64)]| s.commit_offsets(&s.offsets("g", a, generation, offsets)).await;
    assert_eq!(commit(&[(p, 4)]).await, Ok(vec![4]));
    assert_eq!(commit(&[(p, 2), (q, 0)]).await, Ok(vec![4, 0]));
    assert_eq!(commit(&[(p, 10), (q, 3)]).await, Ok(vec![10, 3]));
    assert_eq!(commit(&[]).await, Ok(vec![]));
    assert_eq!(s.committed("g").await, at(&[(0, 10), (1, 3)]));
    let renewed = s.renew("g", a).await.expect("a member");
    assert_eq!(
        renewed.partitions.iter().map(|p| p.committed).collect::<Vec<_>>(),
        [Some(Offset(10)), Some(Offset(3))]
    );
    assert!(
        renewed.partitions.iter().all(|p| (p.log_start_offset, p.high_watermark) == (Offset(0), Offset(10)))
    );
}

async fn are_fenced_unless_the_member_has_the_partition(s: &Stage) {
    let (p, q) = filled(s).await;
    let a = s.join("g", &["t"]).await;
    let first = s.generation("g").await;
    let b = s.join("g", &["t"]).await;
    let state = s.group("g").await;
    let (lost, kept) = if state.owners[&p.id].member == b { (p, q) } else { (q, p) };
    let commit = async |member, generation, home| {
        s.commit_offsets(&s.offsets("g", member, generation, &[(home, 5)])).await
    };
    let fenced = Err(OffsetsRejected::Fenced { nth: 0 });
    assert_eq!(commit(a, first, lost).await, fenced);
    assert_eq!(commit(a, state.generation, lost).await, fenced);
    assert_eq!(commit(b, first, lost).await, fenced, "not since then");
    assert_eq!(commit(b, state.generation, kept).await, fenced);
    assert!(s.committed("g").await.is_empty());
    assert_eq!(commit(a, first, kept).await, Ok(vec![5]), "it has that all the time");
    assert_eq!(commit(b, state.generation, lost).await, Ok(vec![5]));
    s.leave("g", b).await;
    assert_eq!(commit(b, state.generation, lost).await, fenced);
    assert_eq!(commit(a, state.generation, lost).await, fenced, "gone and come back");
    assert_eq!(commit(a, s.generation("g").await, lost).await, Ok(vec![5]));
    assert_eq!(
        s.commit_offsets(&s.offsets("none", a, first, &[(p, 1)])).await,
        Err(OffsetsRejected::NoSuchGroup)
    );
}

async fn are_all_committed_or_none(s: &Stage) {
    let (p, q) = filled(s).await;
    let other = home(&s.topic("other", 1).await, 0);
    let a = s.join("g", &["t"]).await;
    let generation = s.generation("g").await;
    let commit =
        async |offsets: &[(Home, i64)]| s.commit_offsets(&s.offsets("g", a, generation, offsets)).await;
    assert_eq!(
        commit(&[(p, 1), (q, 11)]).await,
        Err(OffsetsRejected::BeyondHighWatermark { nth: 1, high_watermark: Offset(10) })
    );
    assert_eq!(commit(&[(p, 1), (other, 0)]).await, Err(OffsetsRejected::Fenced { nth: 1 }));
    assert!(s.committed("g").await.is_empty());
}

async fn end_with_their_topic(s: &Stage) {
    let (p, _) = filled(s).await;
    let a = s.join("g", &["t"]).await;
    let generation = s.generation("g").await;
    s.commit_offsets(&s.offsets("g", a, generation, &[(p, 4)])).await.expect("committed");
    s.delete_topic("t").await;
    assert_eq!(
        s.commit_offsets(&s.offsets("g", a, generation, &[(p, 5)])).await,
        Err(OffsetsRejected::PartitionGone { nth: 0 })
    );
    assert!(s.committed("g").await.is_empty());
    s.topic("t", 2).await;
    s.settle("g").await;
    assert!(s.committed("g").await.is_empty());
    assert!(s.renew("g", a).await.expect("a member").partitions.iter().all(|p| p.committed.is_none()));
    s.retain().await;
    s.plane.forget(100).await.expect("an answer");
}

async fn are_set_while_nobody_is_there(s: &Stage) {
    let (p, q) = filled(s).await;
    assert_eq!(s.reset("g", &[(p, 7)]).await, Ok(()), "the group is made");
    assert_eq!(s.reset("g", &[(p, 3), (q, 9)]).await, Ok(()), "also backwards");
    assert_eq!(s.committed("g").await, at(&[(0, 3), (1, 9)]));
    let a = s.join("g", &["t"]).await;
    assert_eq!(s.reset("g", &[(p, 0)]).await, Err(ResetRejected::NotEmpty));
    assert_eq!(s.renew("g", a).await.expect("a member").partitions[0].committed, Some(Offset(3)));
    let generation = s.generation("g").await;
    s.advance(SESSION_MS + MINUTE).await;
    assert_eq!(
        s.reset("g", &[(p, 0), (q, 11)]).await,
        Err(ResetRejected::BeyondHighWatermark { nth: 1, high_watermark: Offset(10) })
    );
    assert_eq!(s.committed("g").await, at(&[(0, 3), (1, 9)]));
    assert_eq!(s.reset("g", &[(p, 0)]).await, Ok(()), "who has expired is not there");
    let state = s.group("g").await;
    assert!(state.members.is_empty() && state.owners.is_empty() && state.generation > generation);
    assert_eq!(
        s.commit_offsets(&s.offsets("g", a, generation, &[(p, 5)])).await,
        Err(OffsetsRejected::Fenced { nth: 0 })
    );
    s.delete_topic("t").await;
    assert_eq!(s.reset("g", &[(q, 0)]).await, Err(ResetRejected::PartitionGone { nth: 0 }));
}

fn guarded(commit: Commit, offsets: OffsetCommit) -> Commit {
    Commit { guard: Some(Guard { offsets: Some(offsets), acks: None }), ..commit }
}

/// A commit of offsets without records.
async fn alone(s: &Stage, draft: Draft, offsets: OffsetCommit) -> Commit {
    let commit = s.lay_out(PartKind::Inline, &[draft]);
    guarded(Commit { parts: Vec::new(), ..commit }, offsets)
}

async fn are_committed_with_records_or_not_at_all(s: &Stage) {
    let (p, q) = filled(s).await;
    let out = home(&s.topic("out", 1).await, 0);
    let a = s.join("g", &["t"]).await;
    let generation = s.generation("g").await;
    for (round, place) in (1..).zip(BOTH) {
        let commit = guarded(
            s.prepare(place, &[Draft::new().to(out, &[1, 2])]).await,
            s.offsets("g", a, generation, &[(p, round), (q, 2 * round)]),
        );
        let committed = s.commit(&commit).await;
        assert_eq!(
            (committed.verdicts, committed.pieces[0].base),
            (vec![Verdict::Stored], Some(Offset(2 * (round - 1))))
        );
        assert_eq!(s.committed("g").await, at(&[(0, round), (1, 2 * round)]));
    }
    let b = s.join("g", &["t"]).await;
    let lost = if s.group("g").await.owners[&p.id].member == b { p } else { q };
    for place in BOTH {
        for (offsets, rejected) in [
            (s.offsets("g", a, generation, &[(lost, 9)]), OffsetsRejected::Fenced { nth: 0 }),
            (s.offsets("none", a, generation, &[(lost, 9)]), OffsetsRejected::NoSuchGroup),
            (
                s.offsets("g", b, s.generation("g").await, &[(lost, 11)]),
                OffsetsRejected::BeyondHighWatermark { nth: 0, high_watermark: Offset(10) },
            ),
        ] {
            let commit = guarded(s.prepare(place, &[Draft::new().to(out, &[3]).key(1, 1)]).await, offsets);
            assert_eq!(s.commit(&commit).await.verdicts, [Verdict::OffsetsRejected(rejected)]);
        }
    }
    s.topic("gone", 1).await;
    let gone =
        home(&s.plane.topic(&s.scope, &millpond_tests::stage::name("gone")).await.expect("a topic"), 0);
    s.delete_topic("gone").await;
    let offsets = s.offsets("g", b, s.generation("g").await, &[(lost, 9)]);
    let commit =
        guarded(s.prepare(PartKind::Inline, &[Draft::new().to(out, &[3]).to(gone, &[4])]).await, offsets);
    assert_eq!(s.commit(&commit).await.verdicts, [Verdict::PartitionGone]);
    assert_eq!(s.tags(out).await, [1, 2, 1, 2]);
    assert_eq!(s.committed("g").await, at(&[(0, 2), (1, 4)]));
}

async fn with_records_are_committed_once(s: &Stage) {
    let (p, _) = filled(s).await;
    let out = home(&s.topic("out", 1).await, 0);
    let a = s.join("g", &["t"]).await;
    let generation = s.generation("g").await;
    let mut sent = Vec::new();
    for (round, place) in (1..).zip(BOTH) {
        let commit = guarded(
            s.prepare(place, &[Draft::new().to(out, &[round])]).await,
            s.offsets("g", a, generation, &[(p, 4)]),
        );
        sent.push((s.commit(&commit).await.pieces, commit));
    }
    s.leave("g", a).await;
    s.reset("g", &[(p, 0)]).await.expect("reset");
    for (pieces, commit) in sent {
        let again = s.commit(&commit).await;
        assert_eq!(
            (again.verdicts, again.pieces),
            (vec![Verdict::Stored], pieces),
            "it is known, though the member is gone"
        );
    }
    assert_eq!((s.tags(out).await.len(), s.committed("g").await), (2, at(&[(0, 0)])));
}

async fn without_records_are_committed_once(s: &Stage) {
    let (p, _) = filled(s).await;
    let a = s.join("g", &["t"]).await;
    let generation = s.generation("g").await;
    let commit = alone(s, Draft::new(), s.offsets("g", a, generation, &[(p, 4)])).await;
    assert_eq!(s.commit(&commit).await.verdicts, [Verdict::Stored]);
    assert_eq!(s.committed("g").await, at(&[(0, 4)]));
    s.leave("g", a).await;
    s.reset("g", &[(p, 0)]).await.expect("reset");
    assert_eq!(s.commit(&commit).await.verdicts, [Verdict::Stored]);
    assert_eq!(s.committed("g").await, at(&[(0, 0)]));
    let late = alone(s, Draft::new(), s.offsets("g", a, generation, &[(p, 5)])).await;
    assert_eq!(
        s.commit(&late).await.verdicts,
        [Verdict::OffsetsRejected(OffsetsRejected::Fenced { nth: 0 })]
    );
}

async fn under_a_key_answer_the_same(s: &Stage) {
    let (p, _) = filled(s).await;
    let out = home(&s.topic("out", 1).await, 0);
    let a = s.join("g", &["t"]).await;
    let generation = s.generation("g").await;
    let mut keys = Vec::new();
    for (key, place) in (1..).zip(BOTH) {
        let commit = guarded(
            s.prepare(place, &[Draft::new().to(out, &[1]).key(key, 1)]).await,
            s.offsets("g", a, generation, &[(p, 4)]),
        );
        keys.push((Draft::new().to(out, &[1]).key(key, 1), s.commit(&commit).await.pieces, commit));
    }
    let lone = alone(s, Draft::new().key(9, 1), s.offsets("g", a, generation, &[(p, 5)])).await;
    assert_eq!(s.commit(&lone).await.verdicts, [Verdict::Stored]);
    s.leave("g", a).await;
    let late = s.offsets("g", a, Generation(generation.0 + 1), &[(p, 9)]);
    for (draft, pieces, first) in keys {
        let answer = Verdict::Duplicate(Answer { context: first.requests[0].context.clone(), pieces });
        for place in BOTH {
            let again = guarded(s.prepare(place, std::slice::from_ref(&draft)).await, late.clone());
            assert_eq!(
                s.commit(&again).await.verdicts.first(),
                Some(&answer),
                "the key is looked at before the offsets"
            );
            let other =
                guarded(s.prepare(place, &[Draft::new().to(out, &[2]).key(9, 2)]).await, late.clone());
            assert_eq!(s.commit(&other).await.verdicts, [Verdict::Conflict]);
        }
    }
    let again = alone(s, Draft::new().key(9, 1), late).await;
    assert!(matches!(s.commit(&again).await.verdicts[..], [Verdict::Duplicate(_)]));
    assert_eq!((s.tags(out).await, s.committed("g").await), (vec![1, 1], at(&[(0, 5)])));
}
