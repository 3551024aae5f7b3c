//! Seeks: setting the cursors of a queue.

use millpond_core::Offset;
use millpond_core::queue::change::SeekTo;
use millpond_core::queue::{Action, Listing};
use millpond_tests::queues::{Given, NONE, all, given, nack, offsets, reject, run, seek};
use millpond_tests::stage::Stage;

suite!(
    begins_again_while_leased,
    passes_over_what_is_to_be_done,
    stays_within_the_log,
    leaves_other_partitions_alone,
    forgets_the_dead_from_there_on,
    ends_leases_even_where_it_is,
    cannot_be_settled_over,
    goes_to_both_ends_of_all_partitions,
    is_over_before_a_grant,
);

async fn begins_again_while_leased(s: &Stage) {
    let (q, homes) = s.queue_of("q", 1, 6).await;
    let old = s.lease(&q, 4).await;
    s.settles(&q, &[run(&old[0], 0..1, Action::Ack), run(&old[0], 1..2, nack(None))]).await;
    assert_eq!(s.seek(&q, &[(homes[0], 0)]).await, (vec![0], 0));
    assert_eq!(s.listed(&q, Listing::InFlight).await, NONE);
    assert_eq!(s.listed(&q, Listing::Waiting).await, NONE);
    assert_eq!(s.settles(&q, &all(&old, &Action::Ack)).await, []);
    assert_eq!(given(&s.lease(&q, 9).await), [0, 1, 2, 3, 4, 5].map(Given::first));
    assert_eq!(s.settles(&q, &all(&old, &Action::Ack)).await, []);
    s.outlive().await;
    assert_eq!(s.listed(&q, Listing::Waiting).await, [0, 1, 2, 3, 4, 5]);
}

async fn passes_over_what_is_to_be_done(s: &Stage) {
    let (q, homes) = s.queue_of("q", 1, 10).await;
    let parts = s.lease(&q, 6).await;
    s.settles(
        &q,
        &[
            run(&parts[0], 0..1, Action::Ack),
            run(&parts[0], 2..4, nack(None)),
            run(&parts[0], 5..6, reject("no")),
        ],
    )
    .await;
    // Records 1 and 4 are leased, 2 and 3 wait, 6 to 8 were never handed out.
    let (cursors, skipped) = s.seek(&q, &[(homes[0], 9)]).await;
    assert_eq!(cursors, [9]);
    assert!(skipped == 7 || s.resends());
    assert_eq!(offsets(&s.lease(&q, 9).await), [9]);
    assert_eq!(s.listed(&q, Listing::Dead).await, [5]);
    assert_eq!(s.counts(&q).await.ready, 0);
}

async fn stays_within_the_log(s: &Stage) {
    let (q, homes) = s.queue_of("q", 2, 3).await;
    assert_eq!(s.seek(&q, &[(homes[1], 99), (homes[0], 2)]).await.0, [2, 3]);
    let cursors = s.plane.cursors(&s.scope, q.id).await.expect("cursors");
    assert_eq!(cursors, [(homes[0].id, Offset(2)), (homes[1].id, Offset(3))]);
    s.fill(homes[1], 1).await;
    assert_eq!(offsets(&s.lease(&q, 9).await), [2, 3]);
}

async fn leaves_other_partitions_alone(s: &Stage) {
    let (q, homes) = s.queue_of("q", 2, 3).await;
    let parts = s.lease(&q, 6).await;
    s.settles(&q, &[run(&parts[1], 0..1, nack(Some(0)))]).await;
    assert_eq!(s.seek(&q, &[(homes[0], 3)]).await.0, [3]);
    let outcomes = s.settles(&q, &all(&parts, &Action::Ack)).await;
    assert_eq!(outcomes, [(1, 1..3, millpond_core::queue::Outcome::Acked)]);
    assert_eq!(given(&s.lease(&q, 9).await), [Given { offset: 0, attempt: 2, failures: 1 }]);
    assert_eq!(s.seek(&q, &[]).await, (vec![], 0));
}

async fn forgets_the_dead_from_there_on(s: &Stage) {
    let (q, homes) = s.queue_of("q", 1, 6).await;
    let parts = s.lease(&q, 6).await;
    s.settles(&q, &all(&parts, &reject("no"))).await;
    assert_eq!(s.seek(&q, &[(homes[0], 4)]).await, (vec![4], 0));
    assert_eq!(s.listed(&q, Listing::Dead).await, [0, 1, 2, 3]);
    assert_eq!(s.seek(&q, &[(homes[0], 2)]).await.0, [2]);
    assert_eq!(s.listed(&q, Listing::Dead).await, [0, 1]);
    assert_eq!(offsets(&s.lease(&q, 9).await), [2, 3, 4, 5]);
}

async fn ends_leases_even_where_it_is(s: &Stage) {
    let (q, homes) = s.queue_of("q", 1, 4).await;
    let parts = s.lease(&q, 4).await;
    let (cursors, skipped) = s.seek(&q, &[(homes[0], 4)]).await;
    assert!(cursors == [4] && (skipped == 4 || s.resends()));
    assert_eq!(s.settles(&q, &all(&parts, &nack(None))).await, []);
    assert_eq!(offsets(&s.lease(&q, 9).await), NONE);
    s.fill(homes[0], 1).await;
    assert_eq!(offsets(&s.lease(&q, 9).await), [4]);
}

async fn cannot_be_settled_over(s: &Stage) {
    let (q, homes) = s.queue_of("q", 1, 20).await;
    for round in 0..5 {
        let parts = s.lease(&q, 20).await;
        let settle = s.settling(&q, &all(&parts, &if round % 2 == 0 { nack(None) } else { reject("no") }));
        let to = SeekTo::Offsets(vec![(homes[0].id, Offset(round))]);
        let (settled, sought) = tokio::join!(s.plane.settle(&settle), seek(&*s.plane, &s.scope, q.id, &to));
        settled.expect("an answer");
        sought.expect("an answer");
        assert!(s.ledger(&q).await.holds());
        let left = [Listing::InFlight, Listing::Waiting].map(|listing| s.listed(&q, listing));
        for left in left {
            assert_eq!(left.await, NONE);
        }
        assert!(s.listed(&q, Listing::Dead).await.iter().all(|o| *o < round));
        assert_eq!(s.cursor(&q, homes[0]).await, round);
    }
}

async fn goes_to_both_ends_of_all_partitions(s: &Stage) {
    let (q, homes) = s.queue_of("q", 2, 5).await;
    let parts = s.lease(&q, 7).await;
    s.settles(&q, &[run(&parts[0], 0..1, Action::Ack), run(&parts[0], 1..2, nack(None))]).await;
    let to_end = seek(&*s.plane, &s.scope, q.id, &SeekTo::Latest).await.expect("a seek");
    assert_eq!(to_end.0, [(homes[0].id, Offset(5)), (homes[1].id, Offset(5))]);
    assert!(to_end.1 == 9 || s.resends());
    assert_eq!(offsets(&s.lease(&q, 9).await), NONE);
    s.fill(homes[1], 1).await;
    assert_eq!(offsets(&s.lease(&q, 9).await), [5]);
    let to_start = seek(&*s.plane, &s.scope, q.id, &SeekTo::Earliest).await.expect("a seek");
    assert_eq!(to_start, (vec![(homes[0].id, Offset(0)), (homes[1].id, Offset(0))], 0));
    assert_eq!(offsets(&s.lease(&q, 99).await).len(), 11);
    assert!(s.ledger(&q).await.holds());
}

/// The caller of the seek is gone: whoever leases next goes on with it.
async fn is_over_before_a_grant(s: &Stage) {
    let (q, homes) = s.queue_of("q", 2, 5).await;
    let parts = s.lease(&q, 4).await;
    s.settles(&q, &[run(&parts[0], 0..1, nack(Some(0))), run(&parts[0], 1..2, reject("no"))]).await;
    let to = SeekTo::Offsets(vec![(homes[0].id, Offset(1))]);
    s.plane.begin_seek(&s.scope, q.id, &to).await.expect("begun");
    assert!(s.ledger(&q).await.holds());
    assert_eq!(s.settles(&q, &all(&parts[1..], &Action::Ack)).await, []);
    let places = millpond_tests::queues::places(&s.lease(&q, 99).await);
    assert_eq!(places, [(homes[0].id, vec![1, 2, 3, 4]), (homes[1].id, vec![0, 1, 2, 3, 4])]);
    assert_eq!(s.listed(&q, Listing::Dead).await, NONE);
    assert!(s.ledger(&q).await.holds());
    let step = s.plane.step_seek(&s.scope, q.id).await.expect("a step");
    assert!(step.done && (step.skipped == 1 || s.resends()), "{step:?}");
}
