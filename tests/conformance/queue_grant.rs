//! Grants: which records they hand out, and to which caller.

use millpond_core::queue::{Action, Grant, Listed, Listing};
use millpond_core::{AgentId, Offset};
use millpond_tests::queues::{BASE_MS, Given, LEASE_MS, NONE, all, given, nack, offsets, places, run, whole};
use millpond_tests::stage::{MINUTE, Stage};
use std::collections::BTreeSet;
use uuid::Uuid;

suite!(
    gives_each_record_once,
    begins_with_a_partition_and_goes_around,
    lays_callers_along_a_line,
    answers_a_lease_again_with_what_is_left,
    gives_no_part_to_who_comes_too_late,
    is_half_retries_while_fresh_work_waits,
    leaves_the_odd_one_to_chance,
    fills_up_with_retries_when_little_is_fresh,
    gives_retries_by_time_and_place,
    leaves_what_it_cuts_as_it_was,
    makes_a_part_of_each_history,
    says_when_more_is_due,
    counts_attempts_and_failures_apart,
    never_gives_two_the_same,
);

fn later(grant: Grant, random: f64) -> Grant {
    Grant { random, ..grant }
}

async fn gives_each_record_once(s: &Stage) {
    let (q, homes) = s.queue_of("q", 1, 10).await;
    let parts = s.lease(&q, 4).await;
    assert_eq!(given(&parts), [Given::first(0), Given::first(1), Given::first(2), Given::first(3)]);
    assert_eq!((parts.len(), parts[0].partition), (1, homes[0].id));
    assert_eq!(offsets(&s.lease(&q, 4).await), [4, 5, 6, 7]);
    assert_eq!(offsets(&s.lease(&q, 4).await), [8, 9]);
    assert_eq!(offsets(&s.lease(&q, 4).await), NONE);
    assert_eq!(s.ledger(&q).await.leased_rows, 10);
    assert_eq!(s.ledger(&q).await.passed, 10);
    s.fill(homes[0], 1).await;
    assert_eq!(offsets(&s.lease(&q, 4).await), [10]);
}

async fn begins_with_a_partition_and_goes_around(s: &Stage) {
    let (q, homes) = s.queue_of("q", 3, 2).await;
    let grant = Grant { from: homes[1].id, ..s.asking(&q, &[5]) };
    let parts = s.grant(&grant).await.parts;
    let places = places(&parts);
    assert_eq!(places, [(homes[1].id, vec![0, 1]), (homes[2].id, vec![0, 1]), (homes[0].id, vec![0])]);
}

async fn lays_callers_along_a_line(s: &Stage) {
    let (q, _) = s.queue_of("q", 2, 4).await;
    let grant = s.asking(&q, &[3, 2, 9]);
    assert_eq!(s.dealt(&grant).await, [vec![0, 1, 2], vec![3, 0], vec![1, 2, 3]]);
}

async fn answers_a_lease_again_with_what_is_left(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 10).await;
    let grant = s.asking(&q, &[4, 3]);
    let parts = s.grant(&grant).await.parts;
    assert_eq!(s.grant(&grant).await.parts, parts);
    s.settles(&q, &[run(&parts[0], 1..3, Action::Ack)]).await;
    let more = s.want(9);
    let again = Grant { wants: vec![grant.wants[1], more, grant.wants[0]], ..grant.clone() };
    assert_eq!(s.dealt(&again).await, [vec![4, 5, 6], vec![7, 8, 9], vec![0, 3]]);
    assert_eq!(s.cursor(&q, millpond_tests::stage::home(&s.topic("q", 1).await, 0)).await, 10);
}

async fn gives_no_part_to_who_comes_too_late(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 5).await;
    let grant = s.asking(&q, &[5, 1, 1]);
    assert_eq!(s.dealt(&grant).await, [vec![0, 1, 2, 3, 4], vec![], vec![]]);
    let granted = s.grants(&q, &[5]).await;
    assert_eq!(granted.parts, []);
    assert_eq!(granted.limited_by, None);
    assert_eq!(granted.unadmitted.len(), 0);
    assert!(!granted.contended);
}

async fn is_half_retries_while_fresh_work_waits(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 40).await;
    let parts = s.lease(&q, 10).await;
    s.settles(&q, &all(&parts, &nack(Some(0)))).await;
    assert_eq!(offsets(&s.lease(&q, 6).await), [0, 1, 2, 10, 11, 12]);
    let grant = s.asking(&q, &[2, 6]);
    assert_eq!(s.dealt(&grant).await, [vec![3, 4], vec![5, 6, 13, 14, 15, 16]]);
    assert_eq!(offsets(&s.lease(&q, 8).await), [7, 8, 9, 17, 18, 19, 20, 21]);
}

async fn leaves_the_odd_one_to_chance(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 40).await;
    let parts = s.lease(&q, 10).await;
    s.settles(&q, &all(&parts, &nack(Some(0)))).await;
    for (random, given) in [(0.4, vec![10]), (0.6, vec![0])] {
        let grant = later(s.asking(&q, &[1]), random);
        assert_eq!(s.dealt(&grant).await, [given]);
    }
    for (random, given) in [(0.4, vec![1, 11, 12]), (0.6, vec![2, 3, 13])] {
        let grant = later(s.asking(&q, &[3]), random);
        assert_eq!(s.dealt(&grant).await, [given]);
    }
}

async fn fills_up_with_retries_when_little_is_fresh(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 12).await;
    let parts = s.lease(&q, 10).await;
    s.settles(&q, &all(&parts, &nack(Some(0)))).await;
    assert_eq!(offsets(&s.lease(&q, 7).await), [0, 1, 2, 3, 4, 10, 11]);
    assert_eq!(offsets(&s.lease(&q, 7).await), [5, 6, 7, 8, 9]);
}

async fn gives_retries_by_time_and_place(s: &Stage) {
    let (q, homes) = s.queue_of("q", 2, 4).await;
    let parts = s.lease(&q, 8).await;
    let entries = [
        run(&parts[1], 2..4, nack(Some(MINUTE))),
        run(&parts[0], 3..4, nack(Some(2 * MINUTE))),
        run(&parts[1], 0..1, nack(Some(2 * MINUTE))),
        run(&parts[0], 0..2, nack(Some(3 * MINUTE))),
    ];
    s.settles(&q, &entries).await;
    s.advance(5 * MINUTE).await;
    let parts = s.lease(&q, 9).await;
    let places = places(&parts);
    assert_eq!(places, [(homes[1].id, vec![0, 2, 3]), (homes[0].id, vec![0, 1, 3])]);
}

async fn leaves_what_it_cuts_as_it_was(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 6).await;
    let parts = s.lease(&q, 6).await;
    s.settles(&q, &[whole(parts[0].lease, millpond_tests::queues::nack_because("busy"))]).await;
    assert_eq!(offsets(&s.lease(&q, 2).await), [0, 1]);
    let waiting = s.list(&q, Listing::Waiting).await;
    assert_eq!(waiting.len(), 4);
    for (offset, row) in (2..).map(Offset).zip(waiting) {
        let reason = Some("busy".to_owned());
        assert_eq!(row, Listed { offset, attempt: 1, failures: 1, reason, ..row.clone() });
    }
    assert_eq!(
        given(&s.lease(&q, 9).await),
        [2, 3, 4, 5].map(|offset| Given { offset, attempt: 2, failures: 1 })
    );
}

async fn makes_a_part_of_each_history(s: &Stage) {
    let (q, homes) = s.queue_of("q", 1, 12).await;
    let parts = s.lease(&q, 6).await;
    let back = Action::Nack { delay_ms: None, counts: false, reason: None };
    s.settles(
        &q,
        &[
            run(&parts[0], 0..1, nack(Some(0))),
            run(&parts[0], 2..3, back.clone()),
            run(&parts[0], 4..5, nack(Some(0))),
        ],
    )
    .await;
    let parts = s.lease(&q, 6).await;
    assert_eq!(parts.len(), 3);
    assert_eq!(given(&parts[..1]), [0, 4].map(|offset| Given { offset, attempt: 2, failures: 1 }));
    assert_eq!(given(&parts[1..2]), [Given { offset: 2, attempt: 2, failures: 0 }]);
    assert_eq!(given(&parts[2..]), [6, 7, 8].map(Given::first));
    assert!(parts.iter().all(|p| p.partition == homes[0].id
        && p.lease == parts[0].lease
        && p.deadline_ms == parts[0].deadline_ms));
}

async fn says_when_more_is_due(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 4).await;
    let grant = s.asking(&q, &[4]);
    let granted = s.grant(&grant).await;
    assert_eq!((granted.next_due_ms, granted.parts[0].deadline_ms >= granted.at_ms - 100), (None, true));
    assert!(granted.parts[0].deadline_ms <= granted.at_ms + LEASE_MS);
    let settled = s
        .settled(&s.settling(
            &q,
            &[run(&granted.parts[0], 0..1, nack(Some(MINUTE))), run(&granted.parts[0], 2..4, nack(None))],
        ))
        .await;
    let granted = s.grants(&q, &[1]).await;
    assert_eq!((granted.parts.len(), granted.next_due_ms), (0, Some(settled.at_ms + MINUTE)));
    s.advance(2 * MINUTE).await;
    let granted = s.grants(&q, &[1]).await;
    assert_eq!(offsets(&granted.parts), [0]);
    let in_ms = granted.next_due_ms.expect("a retry") - granted.at_ms;
    assert!((BASE_MS - 3 * MINUTE..=BASE_MS - 2 * MINUTE).contains(&in_ms), "{in_ms}");
}

async fn counts_attempts_and_failures_apart(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 1).await;
    let back = Action::Nack { delay_ms: None, counts: false, reason: None };
    let mut expected = [(1, 0), (2, 1), (3, 1), (3, 1), (4, 2)].into_iter();
    for action in [nack(Some(0)), back, Action::Release, nack(Some(0)), Action::Ack] {
        let parts = s.lease(&q, 1).await;
        let (attempt, failures) = expected.next().expect("one");
        assert_eq!(given(&parts), [Given { offset: 0, attempt, failures }]);
        s.settles(&q, &all(&parts, &action)).await;
    }
}

async fn never_gives_two_the_same(s: &Stage) {
    let (q, homes) = s.queue_of("q", 2, 30).await;
    let parts = s.lease(&q, 20).await;
    s.settles(&q, &all(&parts, &nack(Some(0)))).await;
    let mut seen = BTreeSet::new();
    for _ in 0..8 {
        let mut grants =
            (0..4).map(|n| Grant { agent: AgentId(Uuid::from_u128(n)), ..s.asking(&q, &[3, 2]) });
        let grants: [Grant; 4] = std::array::from_fn(|_| grants.next().expect("four"));
        let (a, b, c, d) = tokio::join!(
            s.plane.grant(&grants[0]),
            s.plane.grant(&grants[1]),
            s.plane.grant(&grants[2]),
            s.plane.grant(&grants[3])
        );
        for granted in [a, b, c, d] {
            for part in granted.expect("an answer").parts {
                assert!(
                    part.ranges.iter().cloned().flatten().all(|o| seen.insert((part.partition, o))),
                    "{part:?}"
                );
            }
        }
    }
    assert_eq!(seen.len(), 60);
    let ledger = s.ledger(&q).await;
    assert_eq!(ledger.leased_rows, 60);
    assert!(ledger.holds());
    assert!(homes.iter().all(|home| seen.contains(&(home.id, 0)) && seen.contains(&(home.id, 29))));
    assert_eq!(
        s.plane.cursors(&s.scope, q.id).await.expect("cursors"),
        homes.iter().map(|h| (h.id, Offset(30))).collect::<Vec<_>>()
    );
}
