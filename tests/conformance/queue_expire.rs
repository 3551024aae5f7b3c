//! Leases whose deadline has passed.

use millpond_core::Offset;
use millpond_core::queue::{Listed, Listing, QueueChange};
use millpond_tests::queues::{BASE_MS, Given, LEASE_MS, all, given, nack, offsets};
use millpond_tests::stage::{MINUTE, SECOND, Stage};

suite!(
    ends_only_what_is_past_its_deadline,
    ends_the_oldest_first_and_so_many,
    comes_back_in_halves_and_ends_alone,
    dies_alone_with_a_reason,
    gives_what_expired_apart,
    gives_what_expired_to_half_of_the_callers,
    cuts_what_expired_to_what_is_wanted,
    waits_as_the_policy_says,
);

/// Lengths of the runs in which waiting records are granted, to as many callers as needed, longest first.
async fn runs(s: &Stage, q: &millpond_core::queue::Queue) -> Vec<usize> {
    let grant = s.asking(q, &[50; 20]);
    let mut lengths: Vec<usize> = s.dealt(&grant).await.iter().map(Vec::len).filter(|n| *n > 0).collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    lengths
}

async fn ends_only_what_is_past_its_deadline(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 4).await;
    s.lease(&q, 2).await;
    s.advance(LEASE_MS / 2).await;
    s.lease(&q, 2).await;
    assert_eq!(s.expire().await, 0);
    s.advance(LEASE_MS / 2 + MINUTE).await;
    assert!(s.expire().await == 1 || s.resends());
    assert_eq!(s.listed(&q, Listing::Waiting).await, [0, 1]);
    assert_eq!(s.listed(&q, Listing::InFlight).await, [2, 3]);
    assert_eq!(s.ledger(&q).await.waiting, 2);
}

async fn ends_the_oldest_first_and_so_many(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 6).await;
    for _ in 0..3 {
        s.lease(&q, 2).await;
        s.advance(SECOND).await;
    }
    s.advance(LEASE_MS).await;
    if s.resends() {
        return;
    }
    assert_eq!(s.plane.expire(2, 0.0).await.expect("an answer"), 2);
    assert_eq!(s.listed(&q, Listing::InFlight).await, [4, 5]);
    assert_eq!(s.expire().await, 1);
    assert_eq!(s.expire().await, 0);
}

async fn comes_back_in_halves_and_ends_alone(s: &Stage) {
    let (q, _) = s.queue_with("q", 1, 13, |c| c.max_failures = Some(5)).await;
    assert_eq!(runs(s, &q).await, [13]);
    for lengths in [vec![7, 6], vec![4, 3, 3, 3], vec![2, 2, 2, 2, 2, 1, 1, 1], vec![1; 13]] {
        s.outlive().await;
        s.advance(16 * BASE_MS).await;
        assert_eq!(runs(s, &q).await, lengths);
    }
}

async fn dies_alone_with_a_reason(s: &Stage) {
    let (q, _) = s.queue_with("q", 1, 4, |c| c.max_failures = Some(2)).await;
    s.lease(&q, 4).await;
    s.outlive().await;
    s.advance(BASE_MS).await;
    let grant = s.asking(&q, &[9; 4]);
    let parts = s.grant(&grant).await.parts;
    assert_eq!(given(&parts), [0, 1, 2, 3].map(|offset| Given { offset, attempt: 2, failures: 1 }));
    s.ack(&q, &parts[..3]).await;
    s.outlive().await;
    let dead = s.list(&q, Listing::Dead).await;
    let reason = Some("lease expired".to_owned());
    assert_eq!(dead, [Listed { offset: Offset(3), attempt: 2, failures: 2, reason, ..dead[0].clone() }]);
    assert_eq!(s.ledger(&q).await.waiting, 0);
}

async fn gives_what_expired_apart(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 8).await;
    let (expired, nacked) = (s.lease(&q, 4).await, s.lease(&q, 2).await);
    s.settles(&q, &all(&nacked, &nack(Some(2 * LEASE_MS)))).await;
    s.outlive().await;
    s.advance(LEASE_MS).await;
    let grant = s.asking(&q, &[9, 9, 9, 9]);
    assert_eq!(s.dealt(&grant).await, [vec![0, 1], vec![2, 3], vec![4, 5, 6, 7], vec![]]);
    assert_eq!(offsets(&expired), [0, 1, 2, 3]);
}

async fn gives_what_expired_to_half_of_the_callers(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 30).await;
    for _ in 0..4 {
        s.lease(&q, 2).await;
    }
    s.outlive().await;
    s.advance(BASE_MS).await;
    let grant = s.asking(&q, &[2]);
    assert_eq!(s.dealt(&grant).await, [vec![8, 9]]);
    let grant = millpond_core::queue::Grant { random: 0.5, ..s.asking(&q, &[2]) };
    assert_eq!(s.dealt(&grant).await, [vec![0]]);
    let grant = s.asking(&q, &[2, 2, 2, 2, 2]);
    assert_eq!(s.dealt(&grant).await, [vec![1], vec![2], vec![10, 11], vec![12, 13], vec![14, 15]]);
    assert_eq!(offsets(&s.lease(&q, 30).await).len(), 14);
    let grant = s.asking(&q, &[2, 2, 2, 2, 2, 2]);
    assert_eq!(s.dealt(&grant).await, [vec![3], vec![4], vec![5], vec![6], vec![7], vec![]]);
}

async fn cuts_what_expired_to_what_is_wanted(s: &Stage) {
    let (q, _) = s.queue_with("q", 1, 16, |c| c.max_failures = Some(9)).await;
    s.lease(&q, 16).await;
    s.outlive().await;
    s.advance(BASE_MS).await;
    let grant = s.asking(&q, &[3, 9]);
    assert_eq!(s.dealt(&grant).await, [vec![0, 1, 2], vec![8, 9, 10, 11, 12, 13, 14, 15]]);
    let grant = s.asking(&q, &[9, 9]);
    assert_eq!(s.dealt(&grant).await, [vec![3, 4, 5, 6, 7], vec![]]);
}

async fn waits_as_the_policy_says(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 2).await;
    s.lease(&q, 2).await;
    s.outlive().await;
    s.advance(BASE_MS - 2 * MINUTE).await;
    assert!(runs(s, &q).await.is_empty());
    assert_eq!(s.counts(&q).await.retrying, 2);
    s.advance(3 * MINUTE).await;
    assert_eq!(runs(s, &q).await, [1, 1]);
    s.put_queue("q", &QueueChange { base_ms: Some(MINUTE), ..QueueChange::default() }).await;
    s.outlive().await;
    let parts = s.list(&q, Listing::Waiting).await;
    assert!(
        parts
            .iter()
            .all(|l| l.failures == 2 && l.attempt == 2 && l.reason.as_deref() == Some("lease expired"))
    );
    s.advance(3 * MINUTE).await;
    assert_eq!(runs(s, &q).await, [1, 1]);
    assert_eq!(s.settles(&q, &all(&[], &nack(None))).await, []);
}
