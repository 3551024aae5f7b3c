//! Idempotency keys.

use crate::other;
use millpond_core::control_plane::{Answer, Verdict};
use millpond_tests::stage::{BOTH, Draft, MINUTE, PartKind, REMEMBERED_MS, Sent, Stage, home};

suite!(
    used_again_answers_the_same,
    used_with_another_body_is_a_conflict,
    past_its_time_is_free,
    of_a_refused_request_is_not_remembered,
    in_a_fold_refuses_its_request_only,
    outlives_the_end_of_its_topic,
    with_dedup_ids_answers_the_same,
);

fn answer_of(sent: &Sent, request: usize) -> Verdict {
    let context = sent.commit.requests[request].context.clone();
    Verdict::Duplicate(Answer { context, pieces: sent.outcomes(request) })
}

async fn used_again_answers_the_same(s: &Stage) {
    let topic = s.topic("t", 2).await;
    let (p, q) = (home(&topic, 0), home(&topic, 1));
    for (key, place) in (1..).zip(BOTH) {
        let draft = Draft::new().to(p, &[1, 2]).to(q, &[3]).key(key, 1);
        let first = s.send(place, &[Draft::new().to(p, &[4]), draft.clone()]).await;
        for place in [place, other(place)] {
            s.append(PartKind::Inline, p, &[5]).await;
            let again = s.send(place, std::slice::from_ref(&draft)).await;
            assert_eq!(*again.verdict(0), answer_of(&first, 1));
        }
    }
    assert_eq!(s.tags(p).await, [4, 1, 2, 5, 5, 4, 1, 2, 5, 5]);
    assert_eq!(s.tags(q).await, [3, 3]);
}

async fn used_with_another_body_is_a_conflict(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    for (key, place) in (1..).zip(BOTH) {
        s.send(place, &[Draft::new().to(p, &[1]).key(key, 1)]).await;
        assert_eq!(s.refusal(place, &Draft::new().to(p, &[2]).key(key, 2)).await, Verdict::Conflict);
        assert!(matches!(
            s.refusal(place, &Draft::new().to(p, &[2]).key(key, 1)).await,
            Verdict::Duplicate(_)
        ));
    }
    assert_eq!(s.tags(p).await, [1, 1]);
}

async fn past_its_time_is_free(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    for forgets in [false, true] {
        let draft = Draft::new().to(p, &[1]).key(1, 1);
        let first = s.send(PartKind::Inline, std::slice::from_ref(&draft)).await;
        s.advance(REMEMBERED_MS - MINUTE).await;
        s.plane.forget(100).await.expect("an answer");
        assert_eq!(s.refusal(PartKind::Inline, &draft).await, answer_of(&first, 0));
        s.advance(2 * MINUTE).await;
        if forgets {
            s.plane.forget(100).await.expect("an answer");
        }
        let other = Draft::new().to(p, &[2]).key(1, 2);
        let second = s.send(PartKind::Inline, std::slice::from_ref(&other)).await;
        assert_eq!(second.base(0, p), Some(first.base(0, p).expect("a base") + 1));
        assert_eq!(s.refusal(PartKind::Inline, &other).await, answer_of(&second, 0));
        assert_eq!(s.refusal(PartKind::Inline, &draft).await, Verdict::Conflict);
        s.advance(2 * REMEMBERED_MS).await;
    }
}

async fn of_a_refused_request_is_not_remembered(s: &Stage) {
    let (p, g) = (home(&s.topic("t", 1).await, 0), home(&s.topic("gone", 1).await, 0));
    s.delete_topic("gone").await;
    for (key, place) in (1..).zip(BOTH) {
        assert_eq!(
            s.refusal(place, &Draft::new().to(p, &[1]).to(g, &[2]).key(key, 1)).await,
            Verdict::PartitionGone
        );
        assert!(matches!(
            s.refusal(place, &Draft::new().to(p, &[1]).expect(9).key(key, 1)).await,
            Verdict::OffsetMismatch { .. }
        ));
        assert_eq!(*s.send(place, &[Draft::new().to(p, &[3]).key(key, 2)]).await.verdict(0), Verdict::Stored);
    }
    assert_eq!(s.tags(p).await, [3, 3]);
}

async fn in_a_fold_refuses_its_request_only(s: &Stage) {
    let topic = s.topic("t", 2).await;
    let (p, q) = (home(&topic, 0), home(&topic, 1));
    for (round, place) in (0..).zip(BOTH) {
        let known = u128::try_from(round).expect("small");
        let first = s.send(place, &[Draft::new().to(p, &[1]).key(known, 1)]).await;
        let drafts = [
            Draft::new().to(p, &[2]).key(known + 10, 1),
            Draft::new().to(p, &[1]).key(known, 1),
            Draft::new().to(p, &[3]).to(q, &[4]).key(known + 20, 1),
            Draft::new().to(q, &[5]),
        ];
        let sent = s.send(place, &drafts).await;
        assert_eq!(*sent.verdict(1), answer_of(&first, 0));
        assert_eq!((sent.base(0, p), sent.base(2, p)), (Some(3 * round + 1), Some(3 * round + 2)));
        assert_eq!((sent.base(2, q), sent.base(3, q)), (Some(2 * round), Some(2 * round + 1)));
        for (n, draft) in drafts.iter().enumerate().take(3).filter(|(n, _)| *n != 1) {
            assert_eq!(s.refusal(place, draft).await, answer_of(&sent, n));
        }
    }
    assert_eq!(s.tags(p).await, [1, 2, 3, 1, 2, 3]);
}

async fn outlives_the_end_of_its_topic(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    let draft = Draft::new().to(p, &[1]).key(1, 1);
    let first = s.send(PartKind::Inline, std::slice::from_ref(&draft)).await;
    s.delete_topic("t").await;
    assert_eq!(s.refusal(PartKind::Segment, &draft).await, answer_of(&first, 0));
    assert_eq!(s.refusal(PartKind::Segment, &Draft::new().to(p, &[1]).key(1, 2)).await, Verdict::Conflict);
    assert_eq!(
        s.refusal(PartKind::Segment, &Draft::new().to(p, &[1]).key(2, 1)).await,
        Verdict::PartitionGone
    );
}

async fn with_dedup_ids_answers_the_same(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    for (key, place) in (1..).zip(BOTH) {
        let id = key * 100;
        s.send(place, &[Draft::new().once(p, 1, id)]).await;
        let draft = Draft::new().once(p, 2, id + 1).once(p, 3, id).once(p, 4, id + 1).to(p, &[5]).key(key, 1);
        let first = s.send(place, std::slice::from_ref(&draft)).await;
        assert_eq!(first.outcome(0, p).dropped, [1, 2]);
        assert_eq!(s.refusal(place, &draft).await, answer_of(&first, 0));
    }
    assert_eq!(s.tags(p).await, [1, 2, 5, 1, 2, 5]);
}
