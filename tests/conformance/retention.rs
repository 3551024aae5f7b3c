//! Batches that are unlinked by age, by size or with their topic, and segments that are no longer referenced.

use millpond_core::control_plane::Unlink;
use millpond_core::{Offset, TopicChange, limits};
use millpond_tests::stage::{BOTH, DAY, Draft, HOUR, MINUTE, PartKind, SECOND, Stage, home};
use millpond_tests::world::PostgresWorld;
use std::ops::Range;

suite!(
    lets_go_by_age,
    keeps_for_ever_without_limits,
    lets_go_by_bytes,
    by_bytes_keeps_the_rest_without_an_age,
    by_bytes_takes_the_oldest_of_all_partitions,
    by_bytes_keeps_what_the_limit_allows,
    an_age_beyond_the_calendar_stops_nobody,
    topics_that_cannot_give_starve_nobody,
    lets_a_deleted_topic_go,
    goes_in_bounded_steps,
    deletes_a_segment_twice_and_forgets_it,
    deletes_a_segment_that_holds_nothing,
    keeps_a_segment_while_a_batch_lives,
    an_object_that_cannot_be_deleted_holds_up_no_other,
    a_plan_that_waited_takes_no_more_than_planned,
);

fn retention(partitions: i32, ms: Option<i64>, bytes: Option<i64>) -> TopicChange {
    TopicChange {
        partitions: Some(partitions),
        retention_ms: Some(ms),
        retention_bytes: Some(bytes),
        ..TopicChange::default()
    }
}

/// Offsets that a partition holds: from its log start to its high watermark.
async fn kept(s: &Stage, home: millpond_tests::stage::Home) -> Range<i64> {
    let log = s.log(home).await.expect("a partition");
    log.start..log.end
}

async fn lets_go_by_age(s: &Stage) {
    let t = s.topic_with("t", retention(2, Some(HOUR), None)).await;
    let (p, q) = (home(&t, 0), home(&t, 1));
    for place in BOTH {
        s.append(place, p, &[1, 2]).await;
        s.append(place, q, &[1]).await;
        s.advance(40 * MINUTE).await;
    }
    s.retain().await;
    assert_eq!(kept(s, p).await, 2..4);
    assert_eq!(kept(s, q).await, 1..2);
    s.advance(30 * MINUTE).await;
    s.retain().await;
    assert_eq!(kept(s, p).await, 4..4);
    assert_eq!(kept(s, q).await, 2..2);
    assert_eq!(s.append(PartKind::Inline, p, &[3]).await, 4);
    assert_eq!(s.tags(p).await, [3]);
    assert_eq!(
        s.plane.partitions(&s.scope, t.id).await.expect("a list").iter().map(|p| p.bytes).collect::<Vec<_>>(),
        [8, 0]
    );
}

async fn keeps_for_ever_without_limits(s: &Stage) {
    let p = home(&s.topic_with("t", retention(1, None, None)).await, 0);
    s.append(PartKind::Inline, p, &[1]).await;
    s.advance(4_000 * DAY).await;
    assert_eq!(s.retain().await, 0);
    assert_eq!(s.tags(p).await, [1]);
}

async fn lets_go_by_bytes(s: &Stage) {
    let p = home(&s.topic_with("t", retention(1, Some(HOUR), Some(40))).await, 0);
    for n in 0..10 {
        s.append(BOTH[usize::from(n % 2 == 0)], p, &[n]).await;
    }
    s.retain().await;
    assert_eq!(kept(s, p).await, 5..10);
    s.append(PartKind::Inline, p, &[10, 11]).await;
    s.retain().await;
    assert_eq!(s.tags(p).await, [7, 8, 9, 10, 11]);
}

async fn by_bytes_keeps_the_rest_without_an_age(s: &Stage) {
    let p = home(&s.topic_with("t", retention(1, None, Some(40))).await, 0);
    for n in 0..10 {
        s.append(PartKind::Segment, p, &[n]).await;
    }
    s.retain().await;
    assert_eq!(s.tags(p).await, [5, 6, 7, 8, 9]);
}

async fn by_bytes_takes_the_oldest_of_all_partitions(s: &Stage) {
    let t = s.topic_with("t", retention(3, None, Some(48))).await;
    let (p, q) = (home(&t, 0), home(&t, 1));
    for n in 0..4 {
        s.append(PartKind::Inline, q, &[n]).await;
        s.advance(SECOND).await;
    }
    for n in 0..4 {
        s.append(PartKind::Inline, p, &[n]).await;
        s.advance(SECOND).await;
    }
    s.retain().await;
    assert_eq!(kept(s, q).await, 2..4);
    assert_eq!(kept(s, p).await, 0..4);
}

/// As in Kafka, the records that are kept never amount to less than the limit.
async fn by_bytes_keeps_what_the_limit_allows(s: &Stage) {
    let t = s.topic_with("t", retention(4, None, Some(100))).await;
    let homes = [0, 1, 2, 3].map(|n| home(&t, n));
    for p in homes {
        s.append(PartKind::Inline, p, &[1, 2, 3]).await;
        s.advance(SECOND).await;
    }
    assert_eq!(s.retain().await, 0);
    s.append(PartKind::Inline, homes[0], &[4, 5]).await;
    s.retain().await;
    let mut all = Vec::new();
    for p in homes {
        all.push(kept(s, p).await);
    }
    assert_eq!(all, [0..5, 0..3, 0..3, 0..3]);
    s.append(PartKind::Inline, homes[3], &[6, 7]).await;
    s.retain().await;
    assert_eq!(kept(s, homes[0]).await, 3..5);
}

async fn an_age_beyond_the_calendar_stops_nobody(s: &Stage) {
    let old = home(&s.topic_with("old", retention(1, Some(i64::MAX / 2_000), None)).await, 0);
    let young = home(&s.topic_with("young", retention(1, Some(HOUR), None)).await, 0);
    s.append(PartKind::Inline, old, &[1]).await;
    s.append(PartKind::Inline, young, &[2]).await;
    s.advance(2 * HOUR).await;
    s.retain().await;
    assert_eq!(s.tags(old).await, [1]);
    assert!(s.tags(young).await.is_empty());
}

/// These topics are over their size, but by less than their oldest batch, so that they have nothing to
/// unlink.
async fn topics_that_cannot_give_starve_nobody(s: &Stage) {
    let stuck = s.topic_with("stuck", retention(6, None, Some(90))).await;
    for number in 0..6 {
        s.append(PartKind::Inline, home(&stuck, number), &[1, 2]).await;
    }
    let young = home(&s.topic_with("young", retention(1, Some(HOUR), None)).await, 0);
    s.append(PartKind::Inline, young, &[3]).await;
    s.advance(2 * HOUR).await;
    while s.plane.retain(2).await.expect("an answer") > 0 {}
    assert!(s.tags(young).await.is_empty());
    assert_eq!(s.tags(home(&stuck, 0)).await, [1, 2]);
}

async fn lets_a_deleted_topic_go(s: &Stage) {
    let (t, kept) = (s.topic("t", 2).await, home(&s.topic("kept", 1).await, 0));
    for place in BOTH {
        s.send(place, &[Draft::new().to(home(&t, 0), &[1]).to(home(&t, 1), &[2])]).await;
    }
    let shared = s
        .send(PartKind::Segment, &[Draft::new().to(home(&t, 0), &[3]), Draft::new().to(kept, &[4])])
        .await
        .commit
        .parts[0]
        .id;
    let own = s.parts_in_use(&[home(&t, 1)]).await;
    assert_eq!(s.retain().await, 0);
    s.delete_topic("t").await;
    let gone = s.retain().await;
    assert!(gone == 5 || s.resends());
    s.plane.forget(100).await.expect("an answer");
    assert!(!s.plane.delete_topic(&s.scope, &t.name).await.expect("an answer"));
    s.advance(limits::PLAN_TTL_MS + SECOND).await;
    let doomed = s.sweep_plan().await;
    assert!(doomed.len() == 1 && doomed.is_subset(&own) && !doomed.contains(&shared));
    assert_eq!(s.tags(kept).await, [4]);
}

async fn goes_in_bounded_steps(s: &Stage) {
    let t = s.topic_with("t", retention(2, Some(HOUR), None)).await;
    let (p, q) = (home(&t, 0), home(&t, 1));
    for n in 0..6 {
        s.append(PartKind::Segment, p, &[n]).await;
        s.append(PartKind::Inline, q, &[n]).await;
    }
    s.advance(DAY).await;
    let mut left = 12;
    while left > 0 {
        let gone = s.plane.retain(5).await.expect("an answer");
        assert!((0..=5).contains(&gone));
        let now: i64 = [kept(s, p).await, kept(s, q).await].iter().map(|kept| kept.end - kept.start).sum();
        assert!(now < left);
        left = now;
    }
}

async fn deletes_a_segment_twice_and_forgets_it(s: &Stage) {
    let p = home(&s.topic_with("t", retention(1, Some(HOUR), None)).await, 0);
    let part = s.send(PartKind::Segment, &[Draft::new().to(p, &[1])]).await.commit.parts[0].id;
    s.advance(DAY).await;
    s.retain().await;
    assert!(s.sweep_plan().await.is_empty());
    s.advance(limits::PLAN_TTL_MS - MINUTE).await;
    assert!(s.sweep_plan().await.is_empty());
    s.advance(2 * MINUTE).await;
    let doomed = s.sweep_plan().await;
    assert_eq!(doomed, [part].into());
    s.swept(&doomed).await;
    s.swept(&doomed).await;
    assert!(s.sweep_plan().await.is_empty());
    s.advance(limits::OBJECT_FORGET_AFTER_MS - MINUTE).await;
    s.swept(&doomed).await;
    assert!(s.sweep_plan().await.is_empty());
    s.advance(2 * MINUTE).await;
    assert_eq!(s.sweep_plan().await, doomed);
    s.swept(&doomed).await;
    s.advance(10 * DAY).await;
    assert!(s.sweep_plan().await.is_empty());
}

async fn deletes_a_segment_that_holds_nothing(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    s.send(PartKind::Inline, &[Draft::new().once(p, 1, 1)]).await;
    let mut expected = std::collections::BTreeSet::new();
    for draft in [Draft::new().once(p, 2, 1), Draft::new().to(p, &[3]).expect(9)] {
        expected.insert(s.send(PartKind::Segment, &[draft]).await.commit.parts[0].id);
    }
    assert_eq!(s.sweep_plan().await, expected);
    assert_eq!(s.tags(p).await, [1]);
}

async fn keeps_a_segment_while_a_batch_lives(s: &Stage) {
    let (old, young) = (
        home(&s.topic_with("old", retention(1, Some(HOUR), None)).await, 0),
        home(&s.topic("young", 1).await, 0),
    );
    let part =
        s.send(PartKind::Segment, &[Draft::new().to(old, &[1]).to(young, &[2])]).await.commit.parts[0].id;
    s.advance(DAY).await;
    s.retain().await;
    s.advance(DAY).await;
    assert_eq!(kept(s, old).await, 1..1);
    assert_eq!(s.tags(young).await, [2]);
    assert!(s.sweep_plan().await.is_empty());
    s.delete_topic("young").await;
    s.retain().await;
    s.advance(DAY).await;
    assert_eq!(s.sweep_plan().await, [part].into());
}

async fn an_object_that_cannot_be_deleted_holds_up_no_other(s: &Stage) {
    let p = home(&s.topic_with("t", retention(1, Some(HOUR), None)).await, 0);
    let mut parts = std::collections::BTreeSet::new();
    for n in 0..3 {
        parts.insert(s.send(PartKind::Segment, &[Draft::new().to(p, &[n])]).await.commit.parts[0].id);
    }
    s.advance(DAY).await;
    s.retain().await;
    s.advance(DAY).await;
    assert_eq!(s.sweep_plan().await, parts);
    let failing = parts.pop_last().expect("three");
    s.swept(&parts).await;
    for minutes in [1, 2, 4, 8] {
        s.plane.undeleted(&[failing]).await.expect("an answer");
        if s.resends() {
            return;
        }
        assert!(s.sweep_plan().await.is_empty());
        s.advance(minutes * MINUTE - SECOND * 10).await;
        assert!(s.sweep_plan().await.is_empty(), "before {minutes} minutes");
        s.advance(SECOND * 20).await;
        assert_eq!(s.sweep_plan().await, [failing].into(), "after {minutes} minutes");
    }
    // A deletion that succeeds ends it.
    s.swept(&[failing].into()).await;
    assert!(s.sweep_plan().await.is_empty());
}

/// Batches are replaced by a larger one between plan and unlinking: the larger one stays as long as its
/// youngest record.
async fn a_plan_that_waited_takes_no_more_than_planned(s: &Stage) {
    let p = home(&s.topic_with("t", retention(1, Some(HOUR), None)).await, 0);
    for n in 0..3 {
        s.append(PartKind::Inline, p, &[n]).await;
        s.advance(20 * MINUTE).await;
    }
    s.advance(15 * MINUTE).await;
    let plan = s.plane.retain_plan(None).await.expect("a plan").unlink;
    assert_eq!(plan, [Unlink { partition: p.id, until: Offset(1) }]);
    s.append(PartKind::Inline, p, &[3]).await;
    s.drain(i64::MAX).await;
    assert_eq!(s.plane.unlink(&plan, 100).await.expect("an answer"), 0);
    assert_eq!(kept(s, p).await, 0..4);
}

/// A topic is looked at when its oldest batch comes of age, or when its settings change, and not before.
#[tokio::test]
async fn looks_at_topics_that_are_due() {
    let s = Stage::on(Box::new(PostgresWorld::new().await));
    let p = home(&s.topic_with("t", retention(1, Some(HOUR), None)).await, 0);
    let looks = async || s.plane.retain_plan(None).await.expect("a plan").more;
    assert!(looks().await, "a new topic");
    assert!(!looks().await);
    s.advance(30 * MINUTE).await;
    s.append(PartKind::Inline, p, &[1]).await;
    s.advance(20 * MINUTE).await;
    assert!(!looks().await, "an empty partition cannot have anything that old");
    s.advance(15 * MINUTE).await;
    assert!(looks().await);
    s.advance(20 * MINUTE).await;
    assert!(!looks().await, "its batch is not of age yet");
    s.topic_with("t", retention(1, Some(2 * HOUR), None)).await;
    assert!(looks().await, "the settings changed");
    assert!(!looks().await);
    s.topic_with("t", retention(1, None, Some(100))).await;
    assert!(looks().await && looks().await, "sizes are compared every time");
    s.delete_topic("t").await;
    assert_eq!(s.retain().await, 1);
    assert!(!looks().await, "nothing is left");
    s.close().await;
}
