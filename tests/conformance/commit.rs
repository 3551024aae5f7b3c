//! Commits: offsets, joined batches, refusals, conditions.

use crate::{assert_refused, other};
use millpond_core::control_plane::Verdict;
use millpond_core::{Offset, PartId};
use millpond_tests::stage::{BOTH, Draft, HOUR, MINUTE, PartKind, Stage, home};

suite!(
    gives_dense_offsets,
    folds_requests_of_several_partitions,
    carries_several_parts,
    passes_over_a_refused_neighbour,
    finds_its_partition_gone,
    is_stored_whole_or_not_at_all,
    with_the_expected_offset_is_stored,
    with_another_offset_is_refused,
    with_a_known_key_is_a_duplicate_whatever_it_expects,
    of_an_unknown_segment_stores_nothing,
    of_an_abandoned_segment_stores_nothing,
    before_the_sweep_wins,
    after_its_time_stores_nothing,
    that_was_applied_is_recognised_after_its_time,
);

async fn gives_dense_offsets(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    assert_eq!(s.append(PartKind::Inline, p, &[1, 2]).await, 0);
    assert_eq!(s.append(PartKind::Segment, p, &[3]).await, 2);
    assert_eq!(s.append(PartKind::Inline, p, &[4, 5, 6]).await, 3);
    let log = s.log(p).await.expect("a partition");
    assert_eq!(log.start, 0);
    assert_eq!(log.end, 6);
    assert_eq!(log.tags(), [1, 2, 3, 4, 5, 6]);
}

async fn folds_requests_of_several_partitions(s: &Stage) {
    let (a, b) = (s.topic("a", 2).await, s.topic("b", 1).await);
    let (p, q, r) = (home(&a, 0), home(&a, 1), home(&b, 0));
    for (round, place) in (0..).zip(BOTH) {
        let drafts = [
            Draft::new().to(p, &[1, 2]).to(r, &[3]),
            Draft::new().to(q, &[4]),
            Draft::new().to(p, &[5]).to(q, &[6, 7]).to(r, &[8]),
            Draft::new().to(p, &[9]),
            Draft::new().to(p, &[10]),
        ];
        let sent = s.send(place, &drafts).await;
        let in_p = [0, 2, 3, 4].map(|request| sent.base(request, p));
        assert_eq!(in_p, [0, 2, 3, 4].map(|base| Some(base + 5 * round)));
        assert_eq!((sent.base(1, q), sent.base(2, q)), (Some(3 * round), Some(3 * round + 1)));
        assert_eq!((sent.base(0, r), sent.base(2, r)), (Some(round * 2), Some(round * 2 + 1)));
    }
    assert_eq!(s.tags(p).await, [1, 2, 5, 9, 10, 1, 2, 5, 9, 10]);
    assert_eq!(s.tags(q).await, [4, 6, 7, 4, 6, 7]);
    assert_eq!(s.tags(r).await, [3, 8, 3, 8]);
}

async fn carries_several_parts(s: &Stage) {
    let topic = s.topic("t", 2).await;
    let (p, q) = (home(&topic, 0), home(&topic, 1));
    let mut whole = s.prepare(PartKind::Inline, &[Draft::new().to(p, &[1])]).await;
    for (place, records) in [(PartKind::Segment, [2, 3]), (PartKind::Inline, [4, 5])] {
        let more = s.prepare(place, &[Draft::new().to(p, &records[..1]).to(q, &records[1..])]).await;
        let (parts, runs, requests) = (whole.parts.len(), whole.runs.len(), whole.requests.len());
        whole.parts.extend(more.parts);
        whole.requests.extend(more.requests);
        whole.runs.extend(more.runs.into_iter().map(|mut run| {
            run.part += parts;
            run
        }));
        whole.pieces.extend(more.pieces.into_iter().map(|mut piece| {
            piece.run += runs;
            piece.request += requests;
            piece
        }));
    }
    let committed = s.commit(&whole).await;
    assert_eq!(committed.verdicts, vec![Verdict::Stored; 3]);
    assert_eq!(s.tags(p).await, [1, 2, 4]);
    assert_eq!(s.tags(q).await, [3, 5]);
    assert_eq!(s.parts_in_use(&[p]).await.len(), 3);
}

async fn passes_over_a_refused_neighbour(s: &Stage) {
    let (t, gone) = (s.topic("t", 1).await, s.topic("gone", 1).await);
    let (p, g) = (home(&t, 0), home(&gone, 0));
    s.delete_topic("gone").await;
    for place in BOTH {
        let before = s.log(p).await.expect("a partition").end;
        let drafts = [
            Draft::new().to(p, &[1, 2]),
            Draft::new().to(p, &[3, 4]).to(g, &[5]),
            Draft::new().to(p, &[6]),
            Draft::new().to(g, &[7]),
        ];
        let sent = s.send(place, &drafts).await;
        assert_refused(s, sent.verdict(1), &Verdict::PartitionGone);
        assert_refused(s, sent.verdict(3), &Verdict::PartitionGone);
        assert_eq!((sent.base(0, p), sent.base(2, p)), (Some(before), Some(before + 2)));
        let found = s.find(p.id, before, 1).await.expect("a partition");
        let skip: Vec<(i32, i32)> = found.batches[0].skip.iter().map(|r| (r.start, r.end)).collect();
        assert_eq!((found.batches[0].records, skip), (3, vec![(2, 4)]));
    }
    assert_eq!(s.tags(p).await, [1, 2, 6, 1, 2, 6]);
}

async fn finds_its_partition_gone(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    s.append(PartKind::Segment, p, &[1]).await;
    s.delete_topic("t").await;
    for place in BOTH {
        assert_eq!(s.refusal(place, &Draft::new().to(p, &[2])).await, Verdict::PartitionGone);
    }
}

async fn is_stored_whole_or_not_at_all(s: &Stage) {
    let (t, gone) = (s.topic("t", 1).await, s.topic("gone", 1).await);
    let (p, g) = (home(&t, 0), home(&gone, 0));
    s.delete_topic("gone").await;
    for place in BOTH {
        let draft = Draft::new().to(p, &[1]).to(g, &[2]).once(p, 3, 9).key(1, 1);
        assert_eq!(s.refusal(place, &draft).await, Verdict::PartitionGone);
        let log = s.log(p).await.expect("a partition");
        assert_eq!(log.end, 0);
        assert_eq!(log.records.len(), 0);
        assert_eq!(
            s.plane.dedup_offsets(&s.scope, t.id, &[uuid::Uuid::from_u128(9)]).await.expect("an answer"),
            [None]
        );
    }
}

async fn with_the_expected_offset_is_stored(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    for (round, place) in (0..).zip(BOTH) {
        let sent = s.send(place, &[Draft::new().to(p, &[1, 2]).expect(round * 2)]).await;
        assert_eq!(sent.base(0, p), Some(round * 2));
    }
}

async fn with_another_offset_is_refused(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    s.append(PartKind::Inline, p, &[1, 2]).await;
    for place in BOTH {
        for expected in [0, 1, 3] {
            let verdict = s.refusal(place, &Draft::new().to(p, &[3]).expect(expected)).await;
            assert_eq!(verdict, Verdict::OffsetMismatch { current: Offset(2) });
        }
    }
    assert_eq!(s.tags(p).await, [1, 2]);
}

async fn with_a_known_key_is_a_duplicate_whatever_it_expects(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    for (round, place) in (0..).zip(BOTH) {
        let key = u128::try_from(round).expect("small");
        let draft = Draft::new().to(p, &[1]).expect(round).key(key, 1);
        let first = s.send(place, std::slice::from_ref(&draft)).await;
        assert_eq!(first.base(0, p), Some(round));
        let second = s.send(other(place), &[draft]).await;
        assert!(
            matches!(second.verdict(0), Verdict::Duplicate(a) if a.pieces == first.outcomes(0)),
            "{:?}",
            second.verdict(0)
        );
        let refused = Draft::new().to(p, &[2]).expect(99).key(key + 50, 1);
        assert_eq!(s.refusal(place, &refused).await, Verdict::OffsetMismatch { current: Offset(round + 1) });
    }
}

async fn of_an_unknown_segment_stores_nothing(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    let commit = s.lay_out(PartKind::Segment, &[Draft::new().to(p, &[1]).key(1, 1)]);
    assert_eq!(s.commit(&commit).await.verdicts, [Verdict::Unknown]);
    assert!(s.tags(p).await.is_empty());
    assert_eq!(s.send(PartKind::Segment, &[Draft::new().to(p, &[2]).key(1, 2)]).await.base(0, p), Some(0));
}

async fn of_an_abandoned_segment_stores_nothing(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    let late = s.prepare(PartKind::Segment, &[Draft::new().to(p, &[1])]).await;
    let part = late.parts[0].id;
    s.advance(HOUR - MINUTE).await;
    assert!(s.sweep_plan().await.is_empty());
    s.advance(2 * MINUTE).await;
    assert_eq!(s.sweep_plan().await, [part].into());
    assert_eq!(s.commit(&late).await.verdicts, [Verdict::Unknown]);
    s.register(&[part]).await;
    assert_eq!(s.commit(&late).await.verdicts, [Verdict::Unknown]);
    assert!(s.tags(p).await.is_empty());
}

async fn before_the_sweep_wins(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    let commit = s.prepare(PartKind::Segment, &[Draft::new().to(p, &[1])]).await;
    s.advance(2 * HOUR).await;
    assert_eq!(s.commit(&commit).await.verdicts, [Verdict::Stored]);
    assert!(s.sweep_plan().await.is_empty());
    s.plane.swept(&[commit.parts[0].id, PartId(s.uuid())]).await.expect("an answer");
    assert_eq!(s.tags(p).await, [1]);
}

async fn after_its_time_stores_nothing(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    for (n, place) in (1..).zip(BOTH) {
        for draft in
            [Draft::new().to(p, &[2]), Draft::new().key(n, 1).to(p, &[2]), Draft::new().once(p, 2, n)]
        {
            let now = s.send(place, &[Draft::new().to(p, &[1])]).await.committed.at_ms;
            let before = s.tags(p).await.len();
            let mut commit = s.prepare(place, &[draft]).await;
            commit.not_after_ms = Some(now - 1);
            assert_eq!(s.commit(&commit).await.verdicts, [Verdict::TooLate]);
            assert_eq!(s.tags(p).await.len(), before);
            commit.not_after_ms = Some(now + HOUR);
            assert_eq!(s.commit(&commit).await.verdicts, [Verdict::Stored]);
        }
    }
}

async fn that_was_applied_is_recognised_after_its_time(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    for (key, place) in (1..).zip(BOTH) {
        let mut commit =
            s.prepare(place, &[Draft::new().to(p, &[1]), Draft::new().key(key, 1).to(p, &[2, 3])]).await;
        let first = s.commit(&commit).await;
        commit.not_after_ms = Some(first.at_ms - 1);
        let again = s.commit(&commit).await;
        assert_eq!(again.verdicts, [Verdict::Stored, Verdict::Stored]);
        assert_eq!(again.pieces, first.pieces);
    }
    assert_eq!(s.tags(p).await, [1, 2, 3, 1, 2, 3]);
}
