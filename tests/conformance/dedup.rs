//! Records with a dedup id, which are stored only if the id is new to the topic.

use millpond_core::Offset;
use millpond_core::control_plane::{PieceOutcome, Verdict};
use millpond_tests::stage::{BOTH, Draft, MINUTE, PartKind, REMEMBERED_MS, Stage, home};
use uuid::Uuid;

suite!(
    is_stored_once_in_a_request,
    is_stored_once_in_a_fold,
    is_stored_once_over_commits,
    is_stored_once_over_partitions_and_not_over_topics,
    past_its_window_is_new,
    of_a_refused_request_is_not_taken,
    request_may_lose_all_its_records,
    is_found_where_it_lies,
);

fn outcome(base: impl Into<Option<i64>>, dropped: &[i32]) -> PieceOutcome {
    PieceOutcome { base: base.into().map(Offset), dropped: dropped.to_vec() }
}

async fn is_stored_once_in_a_request(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    for (id, place) in (1..).zip(BOTH) {
        let draft = Draft::new()
            .to(p, &[1])
            .once(p, 2, id)
            .once(p, 3, id)
            .once(p, 4, id + 10)
            .once(p, 5, id)
            .to(p, &[6]);
        let before = s.log(p).await.expect("a partition").end;
        let sent = s.send(place, &[draft]).await;
        assert_eq!(*sent.outcome(0, p), outcome(before, &[2, 4]));
        assert_eq!(s.find(p.id, before, 1).await.expect("a partition").batches[0].skip, [2..3, 4..5]);
    }
    assert_eq!(s.tags(p).await, [1, 2, 4, 6, 1, 2, 4, 6]);
}

async fn is_stored_once_in_a_fold(s: &Stage) {
    let topic = s.topic("t", 2).await;
    let (p, q) = (home(&topic, 0), home(&topic, 1));
    let drafts = [
        Draft::new().once(q, 1, 5),
        Draft::new().once(p, 2, 5).once(p, 3, 6),
        Draft::new().once(p, 4, 6).to(p, &[5]).to(q, &[6]),
    ];
    let sent = s.send(PartKind::Segment, &drafts).await;
    assert_eq!(s.tags(p).await, [2, 3, 5]);
    assert_eq!(s.tags(q).await, [6]);
    assert_eq!(*sent.outcome(0, q), outcome(None, &[0]));
    assert_eq!(*sent.outcome(1, p), outcome(0, &[]));
    assert_eq!(*sent.outcome(2, p), outcome(2, &[0]));
    assert_eq!(*sent.outcome(2, q), outcome(0, &[]));
}

async fn is_stored_once_over_commits(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    s.send(PartKind::Inline, &[Draft::new().once(p, 1, 1).once(p, 2, 2)]).await;
    for place in BOTH {
        let sent = s.send(place, &[Draft::new().once(p, 3, 2), Draft::new().once(p, 4, 1).to(p, &[5])]).await;
        assert_eq!(*sent.outcome(0, p), outcome(None, &[0]));
        assert_eq!(sent.outcome(1, p).dropped, [0]);
    }
    assert_eq!(s.tags(p).await, [1, 2, 5, 5]);
}

async fn is_stored_once_over_partitions_and_not_over_topics(s: &Stage) {
    let (t, u) = (s.topic("t", 2).await, s.topic("u", 1).await);
    let (p, q, other) = (home(&t, 0), home(&t, 1), home(&u, 0));
    s.send(PartKind::Inline, &[Draft::new().once(q, 1, 1)]).await;
    let sent = s.send(PartKind::Segment, &[Draft::new().once(p, 2, 1).to(p, &[3]).once(other, 4, 1)]).await;
    assert_eq!(sent.outcome(0, p).dropped, [0]);
    assert_eq!(s.tags(p).await, [3]);
    assert_eq!(s.tags(q).await, [1]);
    assert_eq!(s.tags(other).await, [4]);
}

async fn past_its_window_is_new(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    let draft = [Draft::new().once(p, 1, 1)];
    for forgets in [false, true] {
        s.send(PartKind::Inline, &draft).await;
        s.advance(REMEMBERED_MS - MINUTE).await;
        s.plane.forget(100).await.expect("an answer");
        assert_eq!(s.send(PartKind::Inline, &draft).await.outcome(0, p).dropped, [0]);
        s.advance(2 * MINUTE).await;
        if forgets {
            s.plane.forget(100).await.expect("an answer");
        }
        assert_eq!(
            s.plane.dedup_offsets(&s.scope, p.topic, &[Uuid::from_u128(1)]).await.expect("an answer"),
            [None]
        );
        let before = s.log(p).await.expect("a partition").end;
        assert_eq!(*s.send(PartKind::Segment, &draft).await.outcome(0, p), outcome(before, &[]));
        let found = s.plane.dedup_offsets(&s.scope, p.topic, &[Uuid::from_u128(1)]).await.expect("an answer");
        assert_eq!(found, [Some((0, Offset(before)))]);
        s.advance(2 * REMEMBERED_MS).await;
    }
}

async fn of_a_refused_request_is_not_taken(s: &Stage) {
    let (p, g) = (home(&s.topic("t", 1).await, 0), home(&s.topic("gone", 1).await, 0));
    s.delete_topic("gone").await;
    let drafts = [Draft::new().once(p, 1, 1).to(g, &[2]), Draft::new().once(p, 3, 1)];
    let sent = s.send(PartKind::Inline, &drafts).await;
    crate::assert_refused(s, sent.verdict(0), &Verdict::PartitionGone);
    assert_eq!(*sent.outcome(1, p), outcome(0, &[]));
    assert_eq!(s.tags(p).await, [3]);
}

async fn request_may_lose_all_its_records(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    s.send(PartKind::Inline, &[Draft::new().once(p, 1, 1).once(p, 2, 2)]).await;
    for place in BOTH {
        let sent = s.send(place, &[Draft::new().once(p, 3, 2).once(p, 4, 1)]).await;
        assert_eq!(*sent.outcome(0, p), outcome(None, &[0, 1]));
        assert_eq!(s.commit(&sent.commit).await.pieces, sent.committed.pieces);
    }
    assert_eq!(s.tags(p).await, [1, 2]);
    assert_eq!(s.parts_in_use(&[p]).await.len(), 1);
}

async fn is_found_where_it_lies(s: &Stage) {
    let topic = s.topic("t", 3).await;
    let (p, q) = (home(&topic, 0), home(&topic, 2));
    s.append(PartKind::Inline, q, &[0, 0]).await;
    s.send(PartKind::Segment, &[Draft::new().once(q, 1, 1)]).await;
    let draft = Draft::new()
        .to(p, &[2])
        .to(q, &[3])
        .once(q, 4, 1)
        .once(q, 5, 2)
        .once(q, 6, 2)
        .to(q, &[7])
        .once(q, 8, 3)
        .once(p, 9, 4);
    s.send(PartKind::Inline, &[Draft::new().to(q, &[10]), draft]).await;
    let ids = [4, 99, 3, 2, 1].map(Uuid::from_u128);
    let found = s.plane.dedup_offsets(&s.scope, topic.id, &ids).await.expect("an answer");
    let tags = [(s.tags(p).await, 1), (s.tags(q).await, 7)];
    assert_eq!(tags, [(vec![2, 9], 1), (vec![0, 0, 1, 10, 3, 5, 7, 8], 7)]);
    let expected = [Some((0, 1)), None, Some((2, 7)), Some((2, 5)), Some((2, 2))];
    assert_eq!(found, expected.map(|place| place.map(|(number, offset)| (number, Offset(offset)))));
    assert_eq!(s.plane.dedup_offsets(&s.scope, topic.id, &[]).await.expect("an answer"), []);
}
