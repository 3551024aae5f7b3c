//! How queues hold back retention, and their state when records are deleted nevertheless.

use millpond_core::queue::{Action, DeadFilter, Listing, Mode, Queue, QueueChange};
use millpond_core::{Offset, Topic, TopicChange};
use millpond_tests::queues::{all, nack, offsets, plain, reject, run};
use millpond_tests::stage::{HOUR, Home, MINUTE, PartKind, SECOND, Stage, home, name};

suite!(
    holds_what_is_not_settled,
    holds_from_the_lowest_on,
    ends_after_a_time,
    holds_against_size_too,
    ends_with_the_queue,
    does_not_hold_a_deleted_topic,
    lets_cursors_pass_what_is_gone,
    shows_the_dead_as_gone,
);

const HOLD: i64 = 10 * HOUR;

/// A queue over five batches of two records; the topic retains them for an hour and holds them for queues for
/// ten.
async fn some(s: &Stage, change: TopicChange, keyed: bool) -> (Queue, Topic, Home) {
    let change = TopicChange { partitions: Some(1), retention_hold_ms: Some(HOLD), ..change };
    let topic = s.topic_with("t", change).await;
    let mode = if keyed { Mode::Keyed } else { Mode::Shared };
    let q = s.put_queue("q", &QueueChange { mode: Some(mode), ..plain(&topic) }).await;
    let p = home(&topic, 0);
    for n in 0..5 {
        s.append(PartKind::Inline, p, &[2 * n, 2 * n + 1]).await;
        s.advance(SECOND).await;
    }
    (q, topic, p)
}

fn hour() -> TopicChange {
    TopicChange { retention_ms: Some(Some(HOUR)), ..TopicChange::default() }
}

async fn start(s: &Stage, p: Home) -> i64 {
    s.retain().await;
    s.log(p).await.expect("a partition").start
}

async fn holds_what_is_not_settled(s: &Stage) {
    let (q, _, p) = some(s, hour(), false).await;
    s.advance(2 * HOUR).await;
    assert_eq!(start(s, p).await, 0, "the cursor");
    let parts = s.lease(&q, 5).await;
    assert_eq!(start(s, p).await, 0, "a lease");
    s.settles(&q, &[run(&parts[0], 0..3, Action::Ack)]).await;
    assert_eq!(start(s, p).await, 2);
    s.settles(&q, &[run(&parts[0], 3..5, nack(None))]).await;
    assert_eq!(start(s, p).await, 2, "what waits");
    s.advance(5 * MINUTE).await;
    let parts = s.lease(&q, 10).await;
    assert_eq!(offsets(&parts), [3, 4, 5, 6, 7, 8, 9]);
    s.settles(&q, &[run(&parts[0], 3..5, reject("no")), run(&parts[1], 5..9, Action::Ack)]).await;
    assert_eq!(start(s, p).await, 2, "the dead");
    s.purge_dead(&q, &DeadFilter::All).await.expect("purged");
    assert_eq!(start(s, p).await, 8);
    s.settles(&q, &[run(&parts[1], 9..10, Action::Ack)]).await;
    assert_eq!(start(s, p).await, 10);
    assert!(s.ledger(&q).await.holds());
}

async fn holds_from_the_lowest_on(s: &Stage) {
    let (q, _, p) = some(s, hour(), true).await;
    s.admit_keys(&q, p, 0, &[1, 1, 2, 2, 3, 3, 4, 4, 5, 5]).await;
    let parts = s.lease(&q, 9).await;
    assert_eq!(offsets(&parts), [0, 2, 4, 6, 8]);
    s.settles(&q, &all(&parts[..1], &Action::Ack)).await;
    s.advance(2 * HOUR).await;
    assert_eq!(start(s, p).await, 0);
    let parts = s.lease(&q, 9).await;
    s.settles(&q, &[run(&parts[0], 1..4, Action::Ack)]).await;
    assert_eq!(start(s, p).await, 4);
}

async fn ends_after_a_time(s: &Stage) {
    let (q, _, p) = some(s, hour(), false).await;
    s.advance(HOUR + HOLD - 10 * MINUTE).await;
    s.append(PartKind::Inline, p, &[10]).await;
    assert_eq!(start(s, p).await, 0);
    s.advance(20 * MINUTE).await;
    assert_eq!(start(s, p).await, 10);
    assert_eq!(s.cursor(&q, p).await, 0);
}

async fn holds_against_size_too(s: &Stage) {
    let by_size =
        TopicChange { retention_ms: Some(None), retention_bytes: Some(Some(40)), ..TopicChange::default() };
    let (q, _, p) = some(s, by_size, false).await;
    assert_eq!(start(s, p).await, 0);
    let parts = s.lease(&q, 2).await;
    s.ack(&q, &parts).await;
    assert_eq!(start(s, p).await, 2);
    s.advance(HOLD - MINUTE).await;
    assert_eq!(start(s, p).await, 2);
    s.advance(2 * MINUTE).await;
    assert_eq!(start(s, p).await, 4);
}

async fn ends_with_the_queue(s: &Stage) {
    let (q, topic, p) = some(s, hour(), false).await;
    let other = s.put_queue("other", &plain(&topic)).await;
    let parts = s.lease(&other, 4).await;
    s.ack(&other, &parts).await;
    s.advance(2 * HOUR).await;
    assert_eq!(start(s, p).await, 0);
    let deleted = s.plane.delete_queue(&s.scope, &name("q")).await.expect("an answer");
    assert!(deleted || s.resends());
    assert_eq!(start(s, p).await, 4);
    assert!(s.plane.ledger(&s.scope, q.id).await.is_err());
}

async fn does_not_hold_a_deleted_topic(s: &Stage) {
    let (_, _, _) = some(s, hour(), false).await;
    s.delete_topic("t").await;
    let gone = s.retain().await;
    assert!(gone == 5 || s.resends());
}

async fn lets_cursors_pass_what_is_gone(s: &Stage) {
    let (q, _, p) = some(s, hour(), false).await;
    let parts = s.lease(&q, 1).await;
    s.settles(&q, &all(&parts, &nack(Some(20 * HOUR)))).await;
    let leased = s.lease(&q, 1).await;
    assert_eq!(s.plane.clamp(&[]).await.expect("an answer"), 0);
    s.advance(HOUR + HOLD - 2 * SECOND).await;
    let gone = start(s, p).await;
    assert!((4..10).contains(&gone), "{gone}");
    let passed = s.plane.clamp(&[]).await.expect("an answer");
    assert!(passed == gone - 2 || s.resends());
    assert_eq!((s.cursor(&q, p).await, s.plane.clamp(&[]).await.expect("an answer")), (gone, 0));
    let ledger = s.ledger(&q).await;
    assert!(ledger.holds() && ledger.expired == gone - 2);
    // Leased and waiting records remain listed; a reader finds that they are gone.
    assert_eq!(s.listed(&q, Listing::InFlight).await, [1]);
    assert_eq!(s.listed(&q, Listing::Waiting).await, [0]);
    assert!(s.list(&q, Listing::Waiting).await[0].gone);
    s.settles(&q, &all(&leased, &Action::Expire)).await;
    assert_eq!(s.ledger(&q).await.expired, gone - 1);
    assert_eq!(s.seek(&q, &[(p, 0)]).await.0, [gone]);
}

async fn shows_the_dead_as_gone(s: &Stage) {
    let (q, _, p) = some(s, hour(), false).await;
    let parts = s.lease(&q, 3).await;
    s.settles(&q, &all(&parts, &reject("no"))).await;
    s.advance(2 * HOUR + HOLD).await;
    assert_eq!(start(s, p).await, 10);
    s.append(PartKind::Inline, p, &[10]).await;
    let dead: Vec<_> = s.list(&q, Listing::Dead).await.iter().map(|l| (l.offset.0, l.gone)).collect();
    assert_eq!(dead, [(0, true), (1, true), (2, true)]);
    assert_eq!(s.redrive(&q, &DeadFilter::All, None).await, Ok(0));
    assert_eq!(s.redrive(&q, &DeadFilter::Offsets(vec![(p.id, Offset(1))]), None).await, Ok(0));
    assert_eq!(s.ledger(&q).await.dead, 3);
    let purged = s.purge_dead(&q, &DeadFilter::All).await;
    assert!(purged == Ok(3) || s.resends());
}
