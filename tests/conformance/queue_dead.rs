//! Dead records: redriven or purged.

use millpond_core::Offset;
use millpond_core::queue::{DeadFilter, DeadRejected, Ledger, Listing, Queue};
use millpond_tests::queues::{Given, NONE, all, given, nack_because, offsets, places, redrive, reject, run};
use millpond_tests::stage::{Home, MINUTE, Stage};

suite!(
    come_back_with_no_failures,
    come_back_by_offset_all_or_none,
    come_back_by_reason,
    come_back_at_a_rate,
    are_forgotten,
    can_die_again,
);

/// Six records in each of two partitions, of which 0, 2 and 4 are dead.
async fn some(s: &Stage) -> (Queue, Vec<Home>) {
    let (q, homes) = s.queue_of("q", 2, 6).await;
    for _ in &homes {
        let p = s.lease(&q, 6).await.remove(0);
        let reasons = [(0, Some("smtp 451")), (2, Some("100% full")), (4, None)];
        let entries = reasons.map(|(o, reason)| {
            run(&p, o..o + 1, reason.map_or(millpond_core::queue::Action::Reject { reason: None }, reject))
        });
        s.settles(&q, &entries).await;
    }
    (q, homes)
}

fn at(home: Home, offset: i64) -> (millpond_core::PartitionId, Offset) {
    (home.id, Offset(offset))
}

async fn come_back_with_no_failures(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 3).await;
    for _ in 0..4 {
        let parts = s.lease(&q, 3).await;
        s.settles(&q, &all(&parts, &nack_because("no"))).await;
    }
    assert_eq!(s.listed(&q, Listing::Dead).await, [0, 1, 2]);
    let redriven = s.redrive(&q, &DeadFilter::All, None).await;
    assert!(redriven == Ok(3) || s.resends());
    assert_eq!(s.redrive(&q, &DeadFilter::All, None).await, Ok(0));
    assert_eq!(s.listed(&q, Listing::Dead).await, NONE);
    assert_eq!(s.counts(&q).await.ready, 3);
    assert_eq!(
        given(&s.lease(&q, 9).await),
        [0, 1, 2].map(|offset| Given { offset, attempt: 5, failures: 0 })
    );
    let nowhere = millpond_core::QueueId(-1);
    let gone = redrive(&*s.plane, &s.scope, nowhere, &DeadFilter::All, None).await;
    assert!(matches!(gone, Err(millpond_core::Error::Rejected(DeadRejected::NoSuchQueue))));
}

async fn come_back_by_offset_all_or_none(s: &Stage) {
    let (q, homes) = some(s).await;
    let bad = DeadFilter::Offsets(vec![at(homes[1], 4), at(homes[0], 1), at(homes[0], 3)]);
    assert_eq!(s.redrive(&q, &bad, None).await, Err(DeadRejected::NotDead { nth: 1 }));
    assert_eq!(s.purge_dead(&q, &bad).await, Err(DeadRejected::NotDead { nth: 1 }));
    assert_eq!(s.ledger(&q).await.dead, 6);
    let good = DeadFilter::Offsets(vec![at(homes[1], 4), at(homes[0], 2)]);
    let redriven = s.redrive(&q, &good, None).await;
    assert!(redriven == Ok(2) || s.resends());
    let parts = s.lease(&q, 9).await;
    let places = places(&parts);
    assert_eq!(places, [(homes[0].id, vec![2]), (homes[1].id, vec![4])]);
}

async fn come_back_by_reason(s: &Stage) {
    let (q, _) = some(s).await;
    for (pattern, count) in
        [("smtp", 0), ("SMTP%", 0), ("%1", 2), ("", 0), ("1_\\% full", 0), ("100\\%%", 2), ("%", 0)]
    {
        let redriven = s.redrive(&q, &DeadFilter::Reason(pattern.to_owned()), None).await;
        assert!(redriven == Ok(count) || s.resends(), "{pattern}");
    }
    assert_eq!(s.listed(&q, Listing::Dead).await, [4, 4]);
    assert_eq!(offsets(&s.lease(&q, 9).await), [0, 2, 0, 2]);
}

async fn come_back_at_a_rate(s: &Stage) {
    let (q, _) = some(s).await;
    // One record in two minutes.
    let redriven = s.redrive(&q, &DeadFilter::All, Some(1.0 / 120.0)).await;
    assert!(redriven == Ok(6) || s.resends());
    let mut given = Vec::new();
    for _ in 0..6 {
        given.push(offsets(&s.lease(&q, 9).await));
        s.advance(2 * MINUTE).await;
    }
    assert_eq!(given, [vec![0], vec![2], vec![4], vec![0], vec![2], vec![4]]);
}

async fn are_forgotten(s: &Stage) {
    let (q, homes) = some(s).await;
    let purged = s.purge_dead(&q, &DeadFilter::Offsets(vec![at(homes[0], 0)])).await;
    assert!(purged == Ok(1) || s.resends());
    let purged = s.purge_dead(&q, &DeadFilter::Reason("smtp%".to_owned())).await;
    assert!(purged == Ok(1) || s.resends());
    let purged = s.purge_dead(&q, &DeadFilter::All).await;
    assert!(purged == Ok(4) || s.resends());
    let ledger = s.ledger(&q).await;
    assert_eq!(ledger, Ledger { dead_rows: 0, purged: 6, passed: 12, ..ledger });
    assert_eq!(s.redrive(&q, &DeadFilter::All, None).await, Ok(0));
}

async fn can_die_again(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 1).await;
    for attempt in 1..4 {
        let parts = s.lease(&q, 1).await;
        assert_eq!(given(&parts), [Given { offset: 0, attempt, failures: 0 }]);
        s.settles(&q, &all(&parts, &reject("again"))).await;
        s.redrive(&q, &DeadFilter::All, None).await.expect("redriven");
    }
    assert_eq!(s.ledger(&q).await.dead, 0);
    assert_eq!(s.counts(&q).await.ready, 1);
}
