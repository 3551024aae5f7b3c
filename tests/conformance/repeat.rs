//! A commit that is sent again: it gets the same answer and stores nothing more.

use millpond_core::control_plane::Verdict;
use millpond_tests::stage::{BOTH, Draft, PartKind, REMEMBERED_MS, Sent, Stage, home};

suite!(
    answers_the_same,
    answers_the_same_with_keys,
    answers_the_same_with_dedup_ids,
    answers_the_same_beside_refused_neighbours,
    answers_the_same_to_duplicates_and_conflicts,
    answers_the_same_after_others,
    of_a_refused_request_never_stores_it,
    with_a_key_answers_the_same_after_the_drain,
    with_a_key_that_others_use_now_keeps_its_answer,
    without_a_key_stores_nothing_after_the_drain,
);

async fn assert_repeats(s: &Stage, sent: &Sent) {
    for _ in 0..2 {
        let again = s.commit(&sent.commit).await;
        assert_eq!(again.verdicts, sent.committed.verdicts);
        for (piece, (then, now)) in
            sent.commit.pieces.iter().zip(sent.committed.pieces.iter().zip(&again.pieces))
        {
            if again.verdicts[piece.request] == Verdict::Stored {
                assert_eq!(then, now);
            }
        }
    }
}

async fn answers_the_same(s: &Stage) {
    let topic = s.topic("t", 2).await;
    let (p, q) = (home(&topic, 0), home(&topic, 1));
    for place in BOTH {
        let five = [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]].map(|tags| Draft::new().to(p, &tags));
        let sent = s.send(place, &[&five[..], &[Draft::new().to(q, &[11]).to(p, &[12])]].concat()).await;
        assert_eq!(*sent.verdict(5), Verdict::Stored);
        assert_repeats(s, &sent).await;
    }
    assert_eq!(s.tags(p).await.len(), 22);
    assert_eq!(s.tags(q).await.len(), 2);
}

async fn answers_the_same_with_keys(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    for (key, place) in (1..).zip(BOTH) {
        let sent = s
            .send(
                place,
                &[
                    Draft::new().to(p, &[1]).key(key, 1),
                    Draft::new().to(p, &[2]),
                    Draft::new().to(p, &[3]).key(key + 9, 1),
                ],
            )
            .await;
        assert_repeats(s, &sent).await;
    }
    assert_eq!(s.tags(p).await, [1, 2, 3, 1, 2, 3]);
}

async fn answers_the_same_with_dedup_ids(s: &Stage) {
    let topic = s.topic("t", 2).await;
    let (p, q) = (home(&topic, 0), home(&topic, 1));
    for (id, place) in (1..).zip(BOTH) {
        s.send(PartKind::Inline, &[Draft::new().once(q, 1, id)]).await;
        let drafts = [
            Draft::new().once(p, 2, id).to(p, &[3]).once(q, 4, id),
            Draft::new().once(p, 5, id + 9).once(p, 6, id + 9).key(id, 1),
            Draft::new().to(p, &[7]),
        ];
        let sent = s.send(place, &drafts).await;
        assert_eq!(sent.outcome(0, q).base, None);
        assert_repeats(s, &sent).await;
    }
    assert_eq!(s.tags(p).await, [3, 5, 7, 3, 5, 7]);
    assert_eq!(s.tags(q).await, [1, 1]);
}

async fn answers_the_same_beside_refused_neighbours(s: &Stage) {
    let (p, g) = (home(&s.topic("t", 1).await, 0), home(&s.topic("gone", 1).await, 0));
    s.delete_topic("gone").await;
    for place in BOTH {
        let drafts =
            [Draft::new().to(p, &[1]), Draft::new().to(p, &[2]).to(g, &[3]), Draft::new().to(p, &[4])];
        let sent = s.send(place, &drafts).await;
        let again = s.commit(&sent.commit).await;
        assert_eq!([&again.verdicts[0], &again.verdicts[2]], [&Verdict::Stored; 2]);
        assert!(matches!(again.verdicts[1], Verdict::PartitionGone | Verdict::Unknown));
        assert_eq!(
            (again.pieces[0].base, again.pieces[2].base),
            (sent.committed.pieces[0].base, sent.committed.pieces[2].base)
        );
    }
    assert_eq!(s.tags(p).await, [1, 4, 1, 4]);
}

async fn answers_the_same_to_duplicates_and_conflicts(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    for (key, place) in (1..).zip(BOTH) {
        s.send(place, &[Draft::new().to(p, &[1]).key(key, 1), Draft::new().to(p, &[2]).key(key + 9, 1)])
            .await;
        let drafts = [
            Draft::new().to(p, &[3]).key(key, 1),
            Draft::new().to(p, &[4]).key(key + 9, 2),
            Draft::new().to(p, &[5]),
        ];
        let sent = s.send(place, &drafts).await;
        assert!(matches!(sent.verdict(0), Verdict::Duplicate(_)));
        assert_eq!([sent.verdict(1), sent.verdict(2)], [&Verdict::Conflict, &Verdict::Stored]);
        assert_repeats(s, &sent).await;
    }
    assert_eq!(s.tags(p).await, [1, 2, 5, 1, 2, 5]);
}

async fn answers_the_same_after_others(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    for place in BOTH {
        let first = s.send(place, &[Draft::new().to(p, &[1]), Draft::new().to(p, &[2])]).await;
        for tag in 3..20 {
            s.append(place, p, &[tag]).await;
        }
        assert_repeats(s, &first).await;
    }
    assert_eq!(s.tags(p).await.len(), 38);
}

async fn of_a_refused_request_never_stores_it(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    for (key, place) in (1..).zip(BOTH) {
        let end = s.log(p).await.expect("a partition").end;
        let sent = s.send(place, &[Draft::new().to(p, &[1]).expect(end + 1).key(key, 1)]).await;
        s.append(place, p, &[2]).await;
        let again = s.commit(&sent.commit).await;
        assert!(matches!(again.verdicts[0], Verdict::Unknown | Verdict::OffsetMismatch { .. }));
    }
    assert_eq!(s.tags(p).await, [2, 2]);
}

async fn with_a_key_answers_the_same_after_the_drain(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    let sent =
        s.send(PartKind::Inline, &[Draft::new().to(p, &[1]).key(1, 1), Draft::new().once(p, 2, 1)]).await;
    s.advance(60_000).await;
    assert_eq!(s.drain(i64::MAX).await, 1);
    assert_repeats(s, &sent).await;
    assert_eq!(s.tags(p).await, [1, 2]);
}

async fn with_a_key_that_others_use_now_keeps_its_answer(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    for place in BOTH {
        let first = s.send(place, &[Draft::new().to(p, &[1]).key(1, 1)]).await;
        s.advance(2 * REMEMBERED_MS).await;
        s.send(place, &[Draft::new().to(p, &[2]).key(1, 2)]).await;
        assert_repeats(s, &first).await;
        s.advance(2 * REMEMBERED_MS).await;
    }
    assert_eq!(s.tags(p).await, [1, 2, 1, 2]);
}

async fn without_a_key_stores_nothing_after_the_drain(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    let sent = s.send(PartKind::Inline, &[Draft::new().to(p, &[1])]).await;
    s.advance(60_000).await;
    assert_eq!(s.drain(i64::MAX).await, 1);
    assert_eq!(s.commit(&sent.commit).await.verdicts, [Verdict::Unknown]);
    assert_eq!(s.tags(p).await, [1]);
}
