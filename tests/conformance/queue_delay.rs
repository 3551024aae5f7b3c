//! Delayed records: batches with such records have to be admitted before they are handed out.

use millpond_core::Offset;
use millpond_core::PartitionId;
use millpond_core::queue::{Action, Admit, Granted, Listing, QueueCounts};
use millpond_tests::queues::{Given, NONE, all, given, offsets};
use millpond_tests::stage::{DAY, HOUR, MINUTE, PartKind, Stage};
use std::ops::Range;

suite!(
    stops_before_a_batch_that_has_to_be_looked_at,
    gives_admitted_records_when_their_time_has_come,
    are_admitted_once,
    wait_whatever_the_horizon,
    do_not_hold_up_what_follows,
    are_told_of_in_the_order_of_partitions,
    stay_so_when_batches_are_joined,
);

/// Partition and offsets of the batches that have to be admitted.
fn unadmitted(granted: &Granted) -> Vec<(PartitionId, Range<i64>)> {
    granted.unadmitted.iter().map(|u| (u.partition, u.from.0..u.end.0)).collect()
}

async fn stops_before_a_batch_that_has_to_be_looked_at(s: &Stage) {
    let (q, homes) = s.queue_of("q", 1, 3).await;
    s.fill_delayed(homes[0], 4).await;
    s.fill(homes[0], 2).await;
    let granted = s.grants(&q, &[2]).await;
    assert_eq!(offsets(&granted.parts), [0, 1]);
    assert_eq!(granted.unadmitted.len(), 0);
    let granted = s.grants(&q, &[9]).await;
    assert_eq!((offsets(&granted.parts), granted.limited_by), (vec![2], None));
    assert_eq!(unadmitted(&granted), [(homes[0].id, 3..7)]);
    let admit = s.admitting(&q, homes[0], &[(3..5, None)]).await;
    assert!(s.admit(&admit).await || s.resends());
    let granted = s.grants(&q, &[9]).await;
    assert_eq!(offsets(&granted.parts), [3, 4]);
    assert_eq!(unadmitted(&granted), [(homes[0].id, 5..7)]);
    let admit = s.admitting(&q, homes[0], &[(5..7, None)]).await;
    assert!(s.admit(&admit).await || s.resends());
    let granted = s.grants(&q, &[9]).await;
    assert_eq!(given(&granted.parts), [5, 6, 7, 8].map(Given::first));
    assert_eq!(granted.unadmitted.len(), 0);
    assert_eq!(granted.parts.len(), 1);
}

async fn gives_admitted_records_when_their_time_has_come(s: &Stage) {
    let (q, homes) = s.queue_of("q", 1, 0).await;
    s.fill_delayed(homes[0], 4).await;
    let admit = s
        .admitting(&q, homes[0], &[(0..1, Some(20 * MINUTE)), (1..3, None), (3..4, Some(10 * MINUTE))])
        .await;
    assert!(s.admit(&admit).await || s.resends());
    let counts = s.counts(&q).await;
    assert_eq!(counts, QueueCounts { ready: 2, delayed: 2, retrying: 0, ..counts.clone() });
    assert_eq!(s.listed(&q, Listing::Waiting).await, [0, 1, 2, 3]);
    let granted = s.grants(&q, &[9]).await;
    assert_eq!((offsets(&granted.parts), granted.next_due_ms), (vec![1, 2], admit.runs[2].1));
    s.advance(9 * MINUTE).await;
    assert_eq!(offsets(&s.lease(&q, 9).await), NONE);
    s.advance(2 * MINUTE).await;
    assert_eq!(given(&s.lease(&q, 9).await), [Given::first(3)]);
    s.advance(10 * MINUTE).await;
    assert_eq!(offsets(&s.lease(&q, 9).await), [0]);
}

async fn are_admitted_once(s: &Stage) {
    let (q, homes) = s.queue_of("q", 1, 0).await;
    s.fill_delayed(homes[0], 4).await;
    let admit = s.admitting(&q, homes[0], &[(0..2, Some(HOUR))]).await;
    assert!(!s.admit(&Admit { from: Offset(1), ..admit.clone() }).await);
    assert!(s.admit(&admit).await || s.resends());
    assert!(!s.admit(&admit).await);
    assert_eq!(s.cursor(&q, homes[0]).await, 2);
    assert_eq!(s.ledger(&q).await.waiting, 2);
    assert!(matches!(
        s.plane.admit(&Admit { queue: millpond_core::QueueId(-1), ..admit }).await,
        Err(millpond_core::Error::Rejected(millpond_core::queue::NoSuchQueue))
    ));
}

async fn wait_whatever_the_horizon(s: &Stage) {
    let (q, homes) = s.queue_of("q", 1, 0).await;
    s.fill_delayed(homes[0], 2).await;
    let admit = s.admitting(&q, homes[0], &[(0..1, Some(4_000 * DAY)), (1..2, Some(-DAY))]).await;
    assert!(s.admit(&admit).await || s.resends());
    let parts = s.lease(&q, 9).await;
    assert_eq!(offsets(&parts), [1]);
    s.ack(&q, &parts).await;
    s.advance(3_999 * DAY).await;
    assert_eq!(offsets(&s.lease(&q, 9).await), NONE);
    s.advance(2 * DAY).await;
    assert_eq!(offsets(&s.lease(&q, 9).await), [0]);
}

async fn do_not_hold_up_what_follows(s: &Stage) {
    let (q, homes) = s.queue_of("q", 2, 0).await;
    s.fill_delayed(homes[0], 2).await;
    s.fill(homes[1], 2).await;
    s.fill(homes[0], 1).await;
    let parts = s.lease(&q, 9).await;
    assert_eq!((offsets(&parts), parts[0].partition), (vec![0, 1], homes[1].id));
    let admit = s.admitting(&q, homes[0], &[(0..2, Some(HOUR))]).await;
    assert!(s.admit(&admit).await || s.resends());
    let parts = s.lease(&q, 9).await;
    assert_eq!((offsets(&parts), parts[0].partition), (vec![2], homes[0].id));
}

async fn are_told_of_in_the_order_of_partitions(s: &Stage) {
    let (q, homes) = s.queue_of("q", 3, 0).await;
    for home in &homes {
        s.fill_delayed(*home, 1).await;
    }
    let grant = millpond_core::queue::Grant { from: homes[1].id, ..s.asking(&q, &[1]) };
    let told: Vec<_> = s.grant(&grant).await.unadmitted.iter().map(|u| u.partition).collect();
    assert_eq!(told, [homes[1].id, homes[2].id, homes[0].id]);
    s.pause(&q, true).await;
    assert_eq!(s.grant(&grant).await.unadmitted, []);
}

async fn stay_so_when_batches_are_joined(s: &Stage) {
    let (q, homes) = s.queue_of("q", 1, 2).await;
    s.fill_delayed(homes[0], 2).await;
    let parts = s.lease(&q, 9).await;
    s.settles(&q, &all(&parts, &Action::Ack)).await;
    s.append(PartKind::Inline, homes[0], &[7]).await;
    s.advance(MINUTE).await;
    s.drain(i64::MAX).await;
    let granted = s.grants(&q, &[9]).await;
    assert_eq!(offsets(&granted.parts), NONE);
    assert_eq!(unadmitted(&granted), [(homes[0].id, 2..5)]);
}
