//! Limits of a queue: its rate, and the number of records in flight.

use millpond_core::queue::{Action, Grant, LimitedBy, QueueChange, Rate};
use millpond_core::{AgentId, limits};
use millpond_tests::queues::{NONE, all, nack, offsets};
use millpond_tests::stage::{MINUTE, Stage};
use uuid::Uuid;

suite!(
    by_rate_with_a_burst,
    by_rate_over_all_agents,
    by_rate_counts_retries_too,
    by_what_is_in_flight,
    by_the_tighter_of_the_two,
    are_lifted_by_a_change,
    are_not_told_of_where_nothing_is_left,
);

fn rate(limit: i32) -> impl FnOnce(&mut QueueChange) {
    move |c| c.rate = Some(Some(Rate { limit, per_ms: 100 * MINUTE }))
}

async fn by_rate_with_a_burst(s: &Stage) {
    let (q, _) = s.queue_with("q", 1, 99, rate(10)).await;
    assert_eq!(offsets(&s.lease(&q, 6).await), [0, 1, 2, 3, 4, 5]);
    let granted = s.grants(&q, &[6]).await;
    assert_eq!(offsets(&granted.parts), [6, 7, 8, 9]);
    let granted = s.grants(&q, &[6]).await;
    assert_eq!((granted.parts.len(), granted.limited_by), (0, Some(LimitedBy::Rate)));
    s.advance(35 * MINUTE).await;
    assert_eq!(offsets(&s.lease(&q, 6).await), [10, 11, 12]);
    s.advance(6 * MINUTE).await;
    assert_eq!(offsets(&s.lease(&q, 6).await), [13]);
    s.advance(100 * 100 * MINUTE).await;
    assert_eq!(offsets(&s.lease(&q, 50).await).len(), 10);
}

async fn by_rate_over_all_agents(s: &Stage) {
    let (q, _) = s.queue_with("q", 1, 99, rate(10)).await;
    let grants: [Grant; 3] = std::array::from_fn(|n| {
        let agent = AgentId(Uuid::from_u128(u128::try_from(n).expect("small")));
        Grant { agent, ..s.asking(&q, &[3, 3]) }
    });
    let (a, b, c) =
        tokio::join!(s.plane.grant(&grants[0]), s.plane.grant(&grants[1]), s.plane.grant(&grants[2]));
    let given: usize = [a, b, c].into_iter().map(|g| offsets(&g.expect("an answer").parts).len()).sum();
    assert_eq!(given, 10);
    assert_eq!(s.ledger(&q).await.passed, 10);
}

async fn by_rate_counts_retries_too(s: &Stage) {
    let (q, _) = s.queue_with("q", 1, 99, rate(10)).await;
    let parts = s.lease(&q, 4).await;
    s.settles(&q, &all(&parts, &nack(Some(0)))).await;
    assert_eq!(offsets(&s.lease(&q, 4).await), [0, 1, 4, 5]);
    let grant = s.asking(&q, &[1, 4]);
    assert_eq!(s.dealt(&grant).await, [vec![2], vec![6]]);
    assert_eq!(s.grants(&q, &[1]).await.limited_by, Some(LimitedBy::Rate));
}

async fn by_what_is_in_flight(s: &Stage) {
    let (q, _) = s.queue_with("q", 1, 99, |c| c.max_in_flight = Some(5)).await;
    let grant = s.asking(&q, &[3, 9]);
    assert_eq!(s.dealt(&grant).await, [vec![0, 1, 2], vec![3, 4]]);
    let granted = s.grants(&q, &[1]).await;
    assert_eq!((granted.parts.len(), granted.limited_by), (0, Some(LimitedBy::MaxInFlight)));
    let again = s.grant(&grant).await;
    assert_eq!(offsets(&again.parts), [0, 1, 2, 3, 4]);
    s.settles(&q, &all(&again.parts[..1], &Action::Ack)).await;
    assert_eq!(offsets(&s.lease(&q, 9).await), [5, 6, 7]);
    s.outlive().await;
    assert_eq!(offsets(&s.lease(&q, 9).await), [8, 9, 10, 11, 12]);
}

async fn by_the_tighter_of_the_two(s: &Stage) {
    let limits = |c: &mut QueueChange| {
        rate(6)(c);
        c.max_in_flight = Some(4);
    };
    let (q, _) = s.queue_with("q", 1, 99, limits).await;
    let parts = s.lease(&q, 9).await;
    assert_eq!(
        (offsets(&parts), s.grants(&q, &[9]).await.limited_by),
        (vec![0, 1, 2, 3], Some(LimitedBy::MaxInFlight))
    );
    s.ack(&q, &parts).await;
    assert_eq!(offsets(&s.lease(&q, 9).await), [4, 5]);
    assert_eq!(s.grants(&q, &[9]).await.limited_by, Some(LimitedBy::Rate));
}

async fn are_lifted_by_a_change(s: &Stage) {
    let (q, _) = s.queue_with("q", 1, 99, rate(2)).await;
    assert_eq!(offsets(&s.lease(&q, 9).await), [0, 1]);
    s.put_queue("q", &QueueChange { lease_ms: Some(5_000), ..QueueChange::default() }).await;
    assert_eq!(offsets(&s.lease(&q, 9).await), NONE);
    s.put_queue("q", &QueueChange { rate: Some(None), ..QueueChange::default() }).await;
    assert_eq!(offsets(&s.lease(&q, 2).await), [2, 3]);
    s.put_queue("q", &QueueChange { max_in_flight: Some(6), ..QueueChange::default() }).await;
    assert_eq!(offsets(&s.lease(&q, 9).await), [4, 5]);
    s.put_queue(
        "q",
        &QueueChange { max_in_flight: Some(limits::IN_FLIGHT_DEFAULT), ..QueueChange::default() },
    )
    .await;
    assert_eq!(offsets(&s.lease(&q, 3).await), [6, 7, 8]);
}

async fn are_not_told_of_where_nothing_is_left(s: &Stage) {
    let (q, _) = s.queue_with("q", 1, 4, rate(4)).await;
    assert_eq!(offsets(&s.lease(&q, 4).await), [0, 1, 2, 3]);
    assert_eq!(s.grants(&q, &[4]).await.limited_by, None);
}
