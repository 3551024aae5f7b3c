//! Failed records: handed out again later, or dead.

use millpond_core::queue::{Action, Entry, Listed, Listing, Outcome, QueueChange, Settle};
use millpond_core::{Offset, retry};
use millpond_tests::queues::{
    BASE_MS, Given, LEASE_MS, NONE, all, given, nack, nack_because, offsets, reject, run,
};
use millpond_tests::stage::{MINUTE, Stage};

suite!(
    nacks_by_the_policy,
    spreads_retries_as_the_policy_does,
    nacks_with_a_delay,
    nacks_without_counting,
    is_dead_exactly_at_the_limit,
    rejects_at_once,
);

async fn nacks_by_the_policy(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 1).await;
    for delay in [BASE_MS, 2 * BASE_MS, 4 * BASE_MS] {
        let parts = s.lease(&q, 1).await;
        let settled = s.settled(&s.settling(&q, &all(&parts, &nack(None)))).await;
        assert_eq!(s.list(&q, Listing::Waiting).await[0].at_ms, Some(settled.at_ms + delay));
        s.advance(delay - MINUTE).await;
        assert_eq!(offsets(&s.lease(&q, 1).await), NONE);
        assert_eq!(s.counts(&q).await.retrying, 1);
        s.advance(2 * MINUTE).await;
    }
    assert_eq!(given(&s.lease(&q, 1).await), [Given { offset: 0, attempt: 4, failures: 3 }]);
}

async fn spreads_retries_as_the_policy_does(s: &Stage) {
    let change =
        |c: &mut QueueChange| (c.jitter, c.factor, c.cap_ms) = (Some(0.37), Some(1.7), Some(3 * BASE_MS));
    let (q, _) = s.queue_with("q", 1, 40, change).await;
    let policy = q.config.retry;
    let mut in_flight = s.lease(&q, 40).await;
    for (failures, random) in [(1, 0.0), (2, 0.123_456_789), (3, 0.999_999)] {
        // Every other record is nacked alone, so that each is its own run; the rest expire.
        let nacked: Vec<Entry> = in_flight
            .iter()
            .flat_map(|p| p.ranges.iter().cloned().flatten().map(move |o| (p, o)))
            .filter(|(_, o)| o % 2 == 0)
            .map(|(p, o)| run(p, o..o + 1, nack(None)))
            .collect();
        let settled = s.settled(&Settle { random, ..s.settling(&q, &nacked) }).await;
        let waiting = s.list(&q, Listing::Waiting).await;
        assert_eq!(waiting.len(), 20);
        for l in &waiting {
            let delay = retry::delay_ms(&policy.ladder(), policy.jitter, failures, l.offset.0, random);
            assert_eq!((l.failures, l.at_ms), (failures, Some(settled.at_ms + delay)), "{}", l.offset);
        }
        s.advance(LEASE_MS + MINUTE).await;
        while s.plane.expire(1_000, random).await.expect("an answer") > 0 {}
        let waiting: Vec<_> =
            s.list(&q, Listing::Waiting).await.into_iter().filter(|l| l.offset.0 % 2 == 1).collect();
        assert_eq!(waiting.len(), 20);
        let delay =
            |l: &Listed| retry::delay_ms(&policy.ladder(), policy.jitter, failures, l.offset.0, random);
        let ended: std::collections::BTreeSet<i64> =
            waiting.iter().map(|l| l.at_ms.expect("a time") - delay(l)).collect();
        assert_eq!(ended.len(), 1, "all at one instant");
        s.advance(5 * BASE_MS).await;
        let grant = s.asking(&q, &[40; 40]);
        in_flight = s.grant(&grant).await.parts;
        assert_eq!(offsets(&in_flight).len(), 40);
    }
}

async fn nacks_with_a_delay(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 2).await;
    let parts = s.lease(&q, 2).await;
    s.settles(&q, &[run(&parts[0], 0..1, nack(Some(30 * MINUTE))), run(&parts[0], 1..2, nack(Some(0)))])
        .await;
    assert_eq!(given(&s.lease(&q, 2).await), [Given { offset: 1, attempt: 2, failures: 1 }]);
    s.advance(29 * MINUTE).await;
    assert_eq!(offsets(&s.lease(&q, 2).await), NONE);
    s.advance(2 * MINUTE).await;
    assert_eq!(given(&s.lease(&q, 2).await), [Given { offset: 0, attempt: 2, failures: 1 }]);
}

async fn nacks_without_counting(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 1).await;
    for n in 1..8 {
        let parts = s.lease(&q, 1).await;
        assert_eq!(given(&parts), [Given { offset: 0, attempt: n, failures: 0 }]);
        let delay_ms = (n % 2 == 0).then_some(MINUTE);
        let uncounted = Action::Nack { delay_ms, counts: false, reason: Some("later".to_owned()) };
        assert_eq!(s.settles(&q, &all(&parts, &uncounted)).await, [(0, 0..1, Outcome::Released)]);
        assert_eq!(s.list(&q, Listing::Waiting).await[0].reason.as_deref(), Some("later"));
        s.advance(delay_ms.map_or(0, |ms| ms + MINUTE)).await;
    }
}

async fn is_dead_exactly_at_the_limit(s: &Stage) {
    let (q, homes) = s.queue_of("q", 1, 1).await;
    for failures in 0..4 {
        let parts = s.lease(&q, 1).await;
        assert_eq!(given(&parts), [Given { offset: 0, attempt: failures + 1, failures }]);
        let outcome = if failures == 3 { Outcome::Dead } else { Outcome::Released };
        assert_eq!(s.settles(&q, &all(&parts, &nack_because("smtp 451"))).await, [(0, 0..1, outcome)]);
    }
    assert_eq!(offsets(&s.lease(&q, 1).await), NONE);
    let dead = s.list(&q, Listing::Dead).await;
    let expected = Listed {
        partition: homes[0].id,
        offset: Offset(0),
        attempt: 4,
        failures: 4,
        at_ms: dead[0].at_ms,
        reason: Some("smtp 451".to_owned()),
        gone: false,
    };
    assert_eq!(dead, [expected]);
}

async fn rejects_at_once(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 2).await;
    let parts = s.lease(&q, 2).await;
    assert_eq!(s.settles(&q, &[run(&parts[0], 0..1, reject("schema"))]).await, [(0, 0..1, Outcome::Dead)]);
    assert_eq!(
        s.settles(&q, &[run(&parts[0], 1..2, Action::Reject { reason: None })]).await,
        [(0, 1..2, Outcome::Dead)]
    );
    let dead = s.list(&q, Listing::Dead).await;
    assert_eq!(dead.len(), 2);
    for (row, reason) in dead.into_iter().zip([Some("schema".to_owned()), None]) {
        assert_eq!(row, Listed { attempt: 1, failures: 0, reason, ..row.clone() });
    }
}
