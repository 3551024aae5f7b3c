//! Settlements: their effects and their answers.

use millpond_core::queue::{Action, Claim, Entry, Ledger, Listing, Outcome, Settle};
use millpond_core::{AgentId, LeaseId, Offset, limits};
use millpond_tests::queues::{BASE_MS, Given, LEASE_MS, all, given, nack, offsets, reject, run, whole};
use millpond_tests::stage::{MINUTE, Stage};
use uuid::Uuid;

suite!(
    of_a_whole_lease_leaves_nothing,
    takes_parts_in_any_order,
    of_a_whole_lease_means_what_others_leave,
    does_not_touch_another_queue,
    does_not_touch_other_attempts,
    happens_once,
    sent_again_answers_the_same,
    is_kept_for_as_long_as_is_said,
    counts_late_as_long_as_nobody_ended_the_lease,
    is_lost_when_the_lease_has_ended,
    is_lost_when_another_has_the_record,
    renews_a_whole_lease,
    renews_some_of_a_lease,
    releases_as_if_it_had_not_been_handed_out,
    expires_what_is_too_old,
    mixes_everything_in_one,
);

async fn of_a_whole_lease_leaves_nothing(s: &Stage) {
    let (q, _) = s.queue_of("q", 2, 3).await;
    let parts = s.lease(&q, 5).await;
    let acked = s.settles(&q, &[whole(parts[0].lease, Action::Ack)]).await;
    assert_eq!(acked, [(0, 0..3, Outcome::Acked), (0, 0..2, Outcome::Acked)]);
    let ledger = s.ledger(&q).await;
    assert_eq!(
        ledger,
        Ledger { acked: 5, passed: 5, leased_rows: 0, waiting_rows: 0, dead_rows: 0, ..ledger }
    );
    s.outlive().await;
    assert_eq!(offsets(&s.lease(&q, 9).await), [2]);
}

async fn takes_parts_in_any_order(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 8).await;
    let p = s.lease(&q, 8).await.remove(0);
    assert_eq!(s.settles(&q, &[run(&p, 5..6, Action::Ack)]).await, [(0, 5..6, Outcome::Acked)]);
    let acked = s.settles(&q, &[run(&p, 4..8, Action::Ack), run(&p, 0..2, Action::Ack)]).await;
    assert_eq!(acked, [(0, 4..5, Outcome::Acked), (0, 6..8, Outcome::Acked), (1, 0..2, Outcome::Acked)]);
    assert_eq!(s.listed(&q, Listing::InFlight).await, [2, 3]);
    assert_eq!(s.settles(&q, &[run(&p, 0..8, Action::Ack)]).await, [(0, 2..4, Outcome::Acked)]);
    assert_eq!(s.ledger(&q).await.acked, 8);
}

async fn of_a_whole_lease_means_what_others_leave(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 6).await;
    let p = s.lease(&q, 6).await.remove(0);
    let entries = [whole(p.lease, Action::Ack), run(&p, 1..3, nack(None)), run(&p, 5..6, reject("no"))];
    let outcomes = s.settles(&q, &entries).await;
    let acked = [(0, 0..1, Outcome::Acked), (0, 3..5, Outcome::Acked)];
    assert_eq!(outcomes, [&acked[..], &[(1, 1..3, Outcome::Released), (2, 5..6, Outcome::Dead)]].concat());
    assert_eq!(s.listed(&q, Listing::Waiting).await, [1, 2]);
    assert_eq!(s.listed(&q, Listing::Dead).await, [5]);
}

async fn does_not_touch_another_queue(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 3).await;
    let (other, _) = s.queue_of("other", 1, 3).await;
    let parts = s.lease(&q, 3).await;
    s.lease(&other, 3).await;
    for action in
        [Action::Ack, nack(None), reject("no"), Action::Renew { lease_ms: 9 * LEASE_MS }, Action::Release]
    {
        assert_eq!(s.settles(&other, &all(&parts, &action)).await, []);
        assert_eq!(s.settles(&other, &[whole(parts[0].lease, action.clone())]).await, []);
        assert_eq!(s.settles(&q, &[whole(LeaseId(s.uuid()), action)]).await, []);
    }
    assert_eq!(s.listed(&q, Listing::InFlight).await, [0, 1, 2]);
    assert_eq!(s.listed(&other, Listing::InFlight).await, [0, 1, 2]);
}

async fn does_not_touch_other_attempts(s: &Stage) {
    let (q, homes) = s.queue_of("q", 2, 3).await;
    let p = s.lease(&q, 3).await.remove(0);
    let claim = |partition, attempt, lo, hi| Entry {
        lease: p.lease,
        claim: Claim::Run { partition, attempt, lo: Offset(lo), hi: Offset(hi) },
        action: Action::Ack,
    };
    assert_eq!(s.settles(&q, &[claim(homes[0].id, 2, 0, 3)]).await, []);
    assert_eq!(s.settles(&q, &[claim(homes[1].id, 1, 0, 3)]).await, []);
    assert_eq!(s.settles(&q, &[claim(homes[0].id, 1, 3, 9)]).await, []);
    assert_eq!(s.settles(&q, &[claim(homes[0].id, 1, 2, 9)]).await, [(0, 2..3, Outcome::Acked)]);
}

async fn happens_once(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 4).await;
    let parts = s.lease(&q, 4).await;
    for action in [Action::Ack, nack(None), reject("no"), Action::Release, Action::Expire] {
        let entry = run(&parts[0], 0..2, action);
        let first = s.settles(&q, std::slice::from_ref(&entry)).await;
        assert_eq!(first.len(), usize::from(entry.action == Action::Ack));
        assert_eq!(s.settles(&q, &[entry]).await, []);
    }
    assert_eq!(s.ledger(&q).await.acked, 2);
    assert_eq!(s.listed(&q, Listing::InFlight).await, [2, 3]);
}

async fn sent_again_answers_the_same(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 9).await;
    let parts = s.lease(&q, 6).await;
    let first = s.settling(&q, &[run(&parts[0], 0..2, Action::Ack), run(&parts[0], 3..4, nack(Some(0)))]);
    let answer = s.settled(&first).await;
    assert_eq!(answer.verdicts.len(), 2);
    assert_eq!(s.settled(&first).await, answer);
    s.lease(&q, 9).await;
    assert_eq!(s.settled(&first).await, answer);
    // Settlements of another agent have their own identities.
    let other =
        Settle { agent: AgentId(Uuid::from_u128(7)), ..s.settling(&q, &[run(&parts[0], 2..3, Action::Ack)]) };
    let others = s.settled(&other).await;
    assert_eq!((s.settled(&first).await, s.settled(&other).await), (answer, others));
    assert_eq!(s.ledger(&q).await.acked, 3);
}

async fn is_kept_for_as_long_as_is_said(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 9).await;
    let parts = s.lease(&q, 9).await;
    let kept = Settle { keep: true, ..s.settling(&q, &[run(&parts[0], 0..2, Action::Ack)]) };
    let last = s.settling(&q, &[run(&parts[0], 2..3, Action::Ack)]);
    let (answer, lasts) = (s.settled(&kept).await, s.settled(&last).await);
    for n in 3..5 {
        s.settled(&Settle { keep: true, ..s.settling(&q, &[run(&parts[0], n..n + 1, Action::Ack)]) }).await;
        s.settled(&Settle {
            agent: AgentId(s.uuid()),
            ..s.settling(&q, &[run(&parts[0], n + 2..n + 3, Action::Ack)])
        })
        .await;
    }
    s.advance(limits::OPERATION_TTL_MS - MINUTE).await;
    s.plane.forget(1_000).await.expect("an answer");
    let again = s.settled(&Settle { agent: AgentId(s.uuid()), ..kept.clone() }).await;
    assert_eq!((again.verdicts, s.settled(&last).await.verdicts), (answer.verdicts, lasts.verdicts));
    s.advance(2 * MINUTE).await;
    s.plane.forget(1_000).await.expect("an answer");
    assert_eq!(s.settled(&kept).await.verdicts, []);
    assert_eq!(s.ledger(&q).await.acked, 7);
    assert_eq!(s.listed(&q, Listing::InFlight).await, [7, 8]);
}

async fn counts_late_as_long_as_nobody_ended_the_lease(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 4).await;
    let parts = s.lease(&q, 4).await;
    s.advance(LEASE_MS + MINUTE).await;
    assert_eq!(s.settles(&q, &[run(&parts[0], 0..1, Action::Ack)]).await, [(0, 0..1, Outcome::Acked)]);
    let renewal = Action::Renew { lease_ms: LEASE_MS };
    assert_eq!(s.settles(&q, &[whole(parts[0].lease, renewal)]).await, [(0, 1..4, Outcome::Renewed)]);
    assert_eq!(s.expire().await, 0);
    assert_eq!(s.settles(&q, &all(&parts, &Action::Ack)).await, [(0, 1..4, Outcome::Acked)]);
}

async fn is_lost_when_the_lease_has_ended(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 3).await;
    let parts = s.lease(&q, 3).await;
    s.outlive().await;
    for action in [Action::Ack, nack(None), Action::Renew { lease_ms: LEASE_MS }, reject("no")] {
        assert_eq!(s.settles(&q, &all(&parts, &action)).await, []);
    }
    assert_eq!(s.listed(&q, Listing::Waiting).await, [0, 1, 2]);
}

async fn is_lost_when_another_has_the_record(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 1).await;
    let late = s.lease(&q, 1).await;
    s.outlive().await;
    s.advance(BASE_MS).await;
    let holder = s.lease(&q, 1).await;
    assert_eq!(given(&holder), [Given { offset: 0, attempt: 2, failures: 1 }]);
    assert_eq!(s.settles(&q, &all(&late, &Action::Ack)).await, []);
    assert_eq!(s.settles(&q, &all(&late, &reject("no"))).await, []);
    assert_eq!(s.settles(&q, &all(&holder, &Action::Ack)).await, [(0, 0..1, Outcome::Acked)]);
}

async fn renews_a_whole_lease(s: &Stage) {
    let (q, _) = s.queue_of("q", 2, 2).await;
    let grant = s.asking(&q, &[4]);
    let parts = s.grant(&grant).await.parts;
    for _ in 0..3 {
        s.advance(LEASE_MS - MINUTE).await;
        let settle = s.settling(&q, &[whole(parts[0].lease, Action::Renew { lease_ms: LEASE_MS })]);
        let settled = s.settled(&settle).await;
        assert_eq!(settled.verdicts.len(), 2);
        assert_eq!(s.expire().await, 0);
        let deadlines: Vec<i64> = s.grant(&grant).await.parts.iter().map(|p| p.deadline_ms).collect();
        assert_eq!(deadlines, [settled.at_ms + LEASE_MS; 2]);
    }
    s.settles(&q, &[whole(parts[0].lease, Action::Renew { lease_ms: MINUTE })]).await;
    s.advance(2 * MINUTE).await;
    assert!(s.expire().await == 2 || s.resends());
    assert_eq!(s.listed(&q, Listing::Waiting).await, [0, 1, 0, 1]);
}

async fn renews_some_of_a_lease(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 6).await;
    let grant = s.asking(&q, &[6]);
    let p = s.grant(&grant).await.parts.remove(0);
    let renew = |lease_ms| Action::Renew { lease_ms };
    let entries =
        [run(&p, 0..2, renew(3 * LEASE_MS)), run(&p, 4..5, renew(2 * LEASE_MS)), run(&p, 5..6, Action::Ack)];
    let outcomes = [(0, 0..2, Outcome::Renewed), (1, 4..5, Outcome::Renewed), (2, 5..6, Outcome::Acked)];
    assert_eq!(s.settles(&q, &entries).await, outcomes);
    let ranges: Vec<_> =
        s.grant(&grant).await.parts.iter().map(|p| offsets(std::slice::from_ref(p))).collect();
    assert_eq!(ranges, [vec![2, 3], vec![0, 1], vec![4]]);
    s.outlive().await;
    assert_eq!(s.listed(&q, Listing::Waiting).await, [2, 3]);
    assert_eq!(s.listed(&q, Listing::InFlight).await, [0, 1, 4]);
    s.outlive().await;
    assert_eq!(s.listed(&q, Listing::InFlight).await, [0, 1]);
    // A receipt keeps naming the record, whichever part the record is in.
    assert_eq!(s.settles(&q, &[run(&p, 0..6, Action::Ack)]).await, [(0, 0..2, Outcome::Acked)]);
}

async fn releases_as_if_it_had_not_been_handed_out(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 3).await;
    let parts = s.lease(&q, 3).await;
    assert_eq!(
        s.settles(&q, &[whole(parts[0].lease, Action::Release)]).await,
        [(0, 0..3, Outcome::Released)]
    );
    assert_eq!(s.counts(&q).await.ready, 3);
    let parts = s.lease(&q, 3).await;
    assert_eq!(given(&parts), [0, 1, 2].map(Given::first));
    s.outlive().await;
    s.advance(BASE_MS).await;
    let grant = s.asking(&q, &[3, 3]);
    let parts = s.grant(&grant).await.parts;
    assert_eq!(
        given(&parts),
        [
            Given { offset: 0, attempt: 2, failures: 1 },
            Given { offset: 1, attempt: 2, failures: 1 },
            Given { offset: 2, attempt: 2, failures: 1 }
        ]
    );
    s.settles(&q, &all(&parts, &Action::Release)).await;
    assert_eq!(
        given(&s.lease(&q, 9).await),
        [
            Given { offset: 0, attempt: 2, failures: 1 },
            Given { offset: 1, attempt: 2, failures: 1 },
            Given { offset: 2, attempt: 2, failures: 1 }
        ],
        "no longer apart"
    );
}

async fn expires_what_is_too_old(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 4).await;
    let parts = s.lease(&q, 4).await;
    let entries = [run(&parts[0], 1..3, Action::Expire), run(&parts[0], 3..4, Action::Ack)];
    assert_eq!(s.settles(&q, &entries).await, [(0, 1..3, Outcome::Expired), (1, 3..4, Outcome::Acked)]);
    let ledger = s.ledger(&q).await;
    assert_eq!(ledger, Ledger { expired: 2, acked: 1, leased_rows: 1, ..ledger });
}

async fn mixes_everything_in_one(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 20).await;
    let (a, b) = (s.lease(&q, 8).await.remove(0), s.lease(&q, 8).await.remove(0));
    let entries = [
        run(&b, 8..10, Action::Ack),
        run(&a, 6..8, nack(None)),
        run(&a, 0..2, Action::Renew { lease_ms: 2 * LEASE_MS }),
        run(&b, 12..13, reject("no")),
        run(&a, 3..4, Action::Release),
        run(&b, 14..99, Action::Expire),
        whole(LeaseId(s.uuid()), Action::Ack),
        run(&a, 4..5, Action::Ack),
    ];
    let outcomes = s.settles(&q, &entries).await;
    let plain: Vec<(usize, i64, Outcome)> =
        outcomes.into_iter().map(|(e, r, o)| (e, r.end - r.start, o)).collect();
    let expected = [
        (0, 2, Outcome::Acked),
        (1, 2, Outcome::Released),
        (2, 2, Outcome::Renewed),
        (3, 1, Outcome::Dead),
        (4, 1, Outcome::Released),
        (5, 2, Outcome::Expired),
        (7, 1, Outcome::Acked),
    ];
    assert_eq!(plain, expected);
    assert_eq!(s.listed(&q, Listing::InFlight).await, [0, 1, 2, 5, 10, 11, 13]);
    assert_eq!(s.listed(&q, Listing::Waiting).await, [3, 6, 7]);
    assert_eq!(s.listed(&q, Listing::Dead).await, [12]);
}
