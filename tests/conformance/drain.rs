//! The drain moves inline payloads into segments, without any difference for readers.

use millpond_core::control_plane::{PayloadRange, Swap, SwapRejected};
use millpond_core::{PartId, TopicChange, limits};
use millpond_tests::stage::{BOTH, DAY, Draft, HOUR, Home, MINUTE, PartKind, SECOND, Stage, home};
use std::collections::BTreeSet;

suite!(
    moves_what_is_old_enough,
    plans_payloads_whole_and_within_bounds,
    leaves_what_commits_passed_over,
    sent_twice_swaps_once,
    with_changed_input_is_refused,
    into_an_unknown_segment_is_refused,
    into_an_abandoned_segment_is_refused,
    forgets_a_payload_after_the_last_plan,
    skips_a_payload_that_holds_nothing,
    joins_segments_and_lets_the_old_go,
    sets_aside_what_cannot_be_read,
    marks_only_payloads_that_hold_nothing,
    swaps_into_one_segment_in_steps,
);

async fn payload_is_there(s: &Stage, part: PartId) -> bool {
    s.plane.payloads(&[PayloadRange { part, byte_offset: 0, byte_length: 1 }]).await.expect("an answer")[0]
        .is_some()
}

/// Inline batches that the next drain would move.
async fn planned(s: &Stage) -> usize {
    s.plane.drain_plan(None, i64::MAX).await.expect("a plan").len()
}

async fn moves_what_is_old_enough(s: &Stage) {
    let topic = s.topic("t", 2).await;
    let (p, q) = (home(&topic, 0), home(&topic, 1));
    for n in 0..5 {
        s.send(PartKind::Inline, &[Draft::new().to(p, &[n, n + 10]), Draft::new().to(q, &[n])]).await;
    }
    s.append(PartKind::Segment, p, &[99]).await;
    let before = [s.log(p).await, s.log(q).await];
    assert_eq!(s.drain(i64::MAX).await, 0);
    s.advance(MINUTE).await;
    s.append(PartKind::Inline, p, &[100]).await;
    assert_eq!(s.drain(i64::MAX).await, 10);
    assert_eq!(s.drain(i64::MAX).await, 0);
    let after = s.log(p).await.expect("a partition");
    assert_eq!(after.records[..11], before[0].as_ref().expect("a partition").records[..]);
    assert_eq!(s.log(q).await, before[1]);
    let found = s.find(p.id, 0, i64::MAX).await.expect("a partition");
    let seen: Vec<_> = found.batches.iter().map(|b| (b.base.0, b.records, b.inline)).collect();
    assert_eq!(seen, [(0, 10, false), (10, 1, false), (11, 1, true)]);
    let status = s.plane.partitions(&s.scope, topic.id).await.expect("a list");
    assert_eq!(status.iter().map(|p| p.bytes).collect::<Vec<_>>(), [96, 40]);
}

async fn plans_payloads_whole_and_within_bounds(s: &Stage) {
    let topic = s.topic("t", 2).await;
    let (p, q) = (home(&topic, 0), home(&topic, 1));
    for n in 0..4 {
        s.send(PartKind::Inline, &[Draft::new().to(q, &[n]).to(p, &[n])]).await;
        s.advance(SECOND).await;
    }
    s.advance(MINUTE).await;
    for (max_bytes, batches) in [(0, 2), (15, 2), (16, 2), (31, 2), (32, 4), (47, 4), (48, 6), (1_000, 8)] {
        let plan = s.plane.drain_plan(None, max_bytes).await.expect("a plan");
        assert_eq!(plan.len(), batches, "within {max_bytes}");
        let places: Vec<_> = plan.iter().map(|d| (d.partition_id, d.batch.base)).collect();
        assert!(places.is_sorted());
        let oldest: BTreeSet<i64> = plan.iter().map(|d| d.batch.base.0).collect();
        assert_eq!(oldest, (0..).take(batches / 2).collect());
    }
    let plan = s.plane.drain_plan(None, 0).await.expect("a plan");
    let label = &plan[1].topic;
    assert_eq!(
        (&label.tenant, &label.topic, label.topic_id, label.partition),
        (&s.scope.tenant, &topic.name, topic.id, 1)
    );
    assert_eq!(plan[0].bytes.len(), 8);
    assert!(plan[0].batch.inline);
    assert_eq!(plan[0].expires_at_ms, None);
}

async fn leaves_what_commits_passed_over(s: &Stage) {
    let (p, g) = (home(&s.topic("t", 1).await, 0), home(&s.topic("gone", 1).await, 0));
    s.delete_topic("gone").await;
    let drafts = [
        Draft::new().once(p, 1, 1).once(p, 2, 1),
        Draft::new().to(p, &[3]).to(g, &[4]),
        Draft::new().to(p, &[5]),
    ];
    s.send(PartKind::Inline, &drafts).await;
    let before = s.log(p).await;
    s.advance(MINUTE).await;
    assert_eq!(s.drain(i64::MAX).await, 1);
    assert_eq!(s.log(p).await, before);
    assert_eq!(s.find(p.id, 0, 1).await.expect("a partition").batches[0].skip, []);
}

async fn sent_twice_swaps_once(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    s.append(PartKind::Inline, p, &[1, 2]).await;
    s.advance(MINUTE).await;
    let plan = s.plane.drain_plan(None, i64::MAX).await.expect("a plan");
    let swap = s.rewrite(&plan).await;
    for _ in 0..3 {
        assert_eq!(s.swap(&swap).await, Ok(()));
        assert_eq!(s.tags(p).await, [1, 2]);
    }
    assert_eq!(s.plane.partitions(&s.scope, p.topic).await.expect("a list")[0].bytes, 16);
}

async fn with_changed_input_is_refused(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    s.append(PartKind::Inline, p, &[1, 2]).await;
    s.append(PartKind::Inline, p, &[3]).await;
    s.advance(MINUTE).await;
    let plan = s.plane.drain_plan(None, i64::MAX).await.expect("a plan");
    let (first, second) = (s.rewrite(&plan).await, s.rewrite(&plan).await);
    let mut wrong = s.rewrite(&plan).await;
    wrong.inputs[1].records += 1;
    assert_eq!(s.swap(&wrong).await, Err(SwapRejected));
    assert_eq!(s.swap(&first).await, Ok(()));
    assert_eq!(s.swap(&second).await, Err(SwapRejected));
    assert_eq!(s.tags(p).await, [1, 2, 3]);
    assert_eq!(s.parts_in_use(&[p]).await, [first.segment].into());
}

async fn into_an_unknown_segment_is_refused(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    let sent = s.send(PartKind::Inline, &[Draft::new().to(p, &[1])]).await;
    s.advance(MINUTE).await;
    let plan = s.plane.drain_plan(None, i64::MAX).await.expect("a plan");
    let mut swap = s.rewrite(&plan).await;
    swap.segment = PartId(s.uuid());
    assert_eq!(s.swap(&swap).await, Err(SwapRejected));
    assert_eq!(s.parts_in_use(&[p]).await, [sent.commit.parts[0].id].into());
}

async fn into_an_abandoned_segment_is_refused(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    s.append(PartKind::Inline, p, &[1]).await;
    s.advance(MINUTE).await;
    let plan = s.plane.drain_plan(None, i64::MAX).await.expect("a plan");
    let swap = s.rewrite(&plan).await;
    s.advance(2 * HOUR).await;
    assert_eq!(s.sweep_plan().await, [swap.segment].into());
    assert_eq!(s.swap(&swap).await, Err(SwapRejected));
    assert_eq!(s.tags(p).await, [1]);
}

async fn forgets_a_payload_after_the_last_plan(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    let part = s.send(PartKind::Inline, &[Draft::new().to(p, &[1])]).await.commit.parts[0].id;
    s.advance(MINUTE).await;
    s.plane.forget(100).await.expect("an answer");
    assert_eq!(s.drain(i64::MAX).await, 1);
    s.plane.forget(100).await.expect("an answer");
    assert!(payload_is_there(s, part).await);
    s.advance(limits::INLINE_PLAN_TTL_MS + SECOND).await;
    assert!(payload_is_there(s, part).await);
    s.plane.forget(100).await.expect("an answer");
    assert!(!payload_is_there(s, part).await);
    assert_eq!(s.tags(p).await, [1]);
}

async fn skips_a_payload_that_holds_nothing(s: &Stage) {
    let p = home(
        &s.topic_with("t", TopicChange { retention_ms: Some(Some(HOUR)), ..TopicChange::default() }).await,
        0,
    );
    let unlinked = s.send(PartKind::Inline, &[Draft::new().to(p, &[1])]).await.commit.parts[0].id;
    let refused = s.send(PartKind::Inline, &[Draft::new().to(p, &[2]).expect(9)]).await.commit.parts[0].id;
    s.advance(DAY).await;
    s.retain().await;
    assert_eq!(s.drain(i64::MAX).await, 0);
    s.advance(2 * MINUTE).await;
    s.plane.forget(100).await.expect("an answer");
    assert!(!payload_is_there(s, unlinked).await && !payload_is_there(s, refused).await);
    assert_eq!(
        s.plane.beat(millpond_tests::stage::AGENT, &[]).await.expect("an answer").inline_live_bytes,
        0
    );
}

async fn joins_segments_and_lets_the_old_go(s: &Stage) {
    let topic = s.topic("t", 2).await;
    let (p, q) = (home(&topic, 0), home(&topic, 1));
    let mut old = Vec::new();
    for n in 0..3 {
        old.push(
            s.send(BOTH[1], &[Draft::new().to(p, &[n]), Draft::new().to(q, &[n])]).await.commit.parts[0].id,
        );
    }
    let before = [s.log(p).await, s.log(q).await];
    let (first, second) = (s.compaction(p, 0).await, s.compaction(q, 1).await);
    assert_eq!(s.swap(&first).await, Ok(()));
    assert_eq!(s.swap(&second).await, Ok(()));
    assert_eq!(s.swap(&first).await, Ok(()));
    assert_eq!([s.log(p).await, s.log(q).await], before);
    assert!(s.sweep_plan().await.is_empty());
    s.advance(limits::PLAN_TTL_MS + SECOND).await;
    assert_eq!(s.sweep_plan().await, [old[1], old[2]].into());
    assert_eq!(s.parts_in_use(&[p, q]).await, [old[0], first.segment, second.segment].into());
}

async fn sets_aside_what_cannot_be_read(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    let mut parts = Vec::new();
    for n in 0..3 {
        parts.push(s.send(PartKind::Inline, &[Draft::new().to(p, &[n])]).await.commit.parts[0].id);
    }
    s.advance(MINUTE).await;
    s.plane.set_aside(&[parts[1], PartId(s.uuid())]).await.expect("an answer");
    assert_eq!(s.drain(i64::MAX).await, 2);
    assert_eq!(s.drain(i64::MAX).await, 0);
    let beat = s.plane.beat(millpond_tests::stage::AGENT, &[]).await.expect("an answer");
    assert_eq!((beat.inline_live_bytes, beat.set_aside_bytes), (0, 8));
    s.advance(DAY).await;
    s.plane.forget(100).await.expect("an answer");
    let there = [payload_is_there(s, parts[0]).await, payload_is_there(s, parts[1]).await];
    assert_eq!(there, [false, true]);
    assert_eq!(s.tags(p).await, [0, 1, 2]);
}

async fn swaps_into_one_segment_in_steps(s: &Stage) {
    let hour = TopicChange { partitions: Some(1), retention_ms: Some(Some(HOUR)), ..TopicChange::default() };
    let (p, q) = (home(&s.topic("t", 1).await, 0), home(&s.topic_with("old", hour).await, 0));
    for n in 0..3 {
        s.send(PartKind::Inline, &[Draft::new().to(p, &[n]).to(q, &[n])]).await;
    }
    s.advance(MINUTE).await;
    let plan = s.plane.drain_plan(None, i64::MAX).await.expect("a plan");
    let whole = s.rewrite(&plan).await;
    let of = |home: Home| Swap {
        inputs: whole.inputs.iter().filter(|i| i.partition == home.id).cloned().collect(),
        outputs: whole.outputs.iter().filter(|o| o.partition == home.id).cloned().collect(),
        drained: Vec::new(),
        ..whole.clone()
    };
    let (first, last) = (of(p), Swap { drained: whole.drained.clone(), ..of(q) });
    assert_eq!(s.swap(&first).await, Ok(()));
    assert_eq!(planned(s).await, 3);
    assert_eq!(s.swap(&last).await, Ok(()));
    assert_eq!(s.swap(&first).await, Ok(()));
    assert_eq!(s.swap(&last).await, Ok(()));
    assert_eq!(planned(s).await, 0);
    assert_eq!((s.tags(p).await, s.tags(q).await), (vec![0, 1, 2], vec![0, 1, 2]));
    assert_eq!(s.parts_in_use(&[p, q]).await, [whole.segment].into());
    // The segment stays until the batches of both are gone.
    s.advance(DAY).await;
    s.retain().await;
    s.advance(DAY).await;
    assert!(s.tags(q).await.is_empty() && s.sweep_plan().await.is_empty());
    s.delete_topic("t").await;
    s.retain().await;
    s.advance(DAY).await;
    assert_eq!(s.sweep_plan().await, [whole.segment].into());
}

async fn marks_only_payloads_that_hold_nothing(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    let first = s.send(PartKind::Inline, &[Draft::new().to(p, &[1])]).await.commit.parts[0].id;
    s.advance(MINUTE).await;
    let plan = s.plane.drain_plan(None, i64::MAX).await.expect("a plan");
    let swap = Swap { drained: Vec::new(), ..s.rewrite(&plan).await };
    assert_eq!(s.swap(&swap).await, Ok(()));
    let second = s.send(PartKind::Inline, &[Draft::new().to(p, &[2])]).await.commit.parts[0].id;
    s.plane.mark_drained(&[first, second]).await.expect("an answer");
    s.advance(2 * MINUTE).await;
    s.plane.forget(100).await.expect("an answer");
    assert_eq!([payload_is_there(s, first).await, payload_is_there(s, second).await], [false, true]);
}
