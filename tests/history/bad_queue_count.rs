//! One history for each way in which failures and dead records can be miscounted; the checker must report
//! that violation and no other.

use crate::shop::{LEASE_MS, Shop, ack, died, nack, put_back, reject};
use millpond_tests::history::Status::{Acked, Dead, Released};
use millpond_tests::history::{Kind, QueueAnswer, QueueCall, Rest, Status, Which};

#[test]
fn a_failure_is_not_counted() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    s.settle(0, 1, nack(), Released);
    s.lease(1, &[(0, 2, 0)]);
    s.is(Kind::Failures);
}

#[test]
fn an_expiry_is_not_counted() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    s.wait(LEASE_MS);
    s.lease(1, &[(0, 2, 0)]);
    s.is(Kind::Failures);
}

#[test]
fn an_expiry_that_nobody_saw_is_not_counted() {
    let mut s = Shop::new(1);
    s.lease_in_vain(1);
    s.wait(LEASE_MS);
    s.lease(1, &[(0, 2, 0)]);
    s.is(Kind::Failures);
}

#[test]
fn what_was_put_back_is_counted() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    s.settle(0, 1, put_back(), Released);
    s.lease(1, &[(0, 2, 1)]);
    s.is(Kind::Failures);
}

#[test]
fn a_fresh_record_has_failures() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 1)]);
    s.is(Kind::Failures);
}

#[test]
fn a_redriven_record_keeps_its_failures() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    s.settle(0, 1, reject("r"), Dead);
    s.call(3, QueueCall::Redrive { queue: "q".to_owned(), which: Which::Any }, QueueAnswer::Done);
    s.lease(1, &[(0, 2, 1)]);
    s.is(Kind::Failures);
}

/// A record that was leased and nacked this number of times; the last nack got this verdict.
fn failed(times: u32, verdict: Status) -> Shop {
    let mut s = Shop::new(1);
    for n in 1..=times {
        s.lease(1, &[(0, n, n - 1)]);
        s.settle(0, n, nack(), if n == times { verdict } else { Released });
    }
    s
}

#[test]
fn dead_too_early() {
    let mut s = failed(2, Dead);
    s.rest(&[died(0, 2, 2, None)]);
    s.is(Kind::DeadEarly);
}

#[test]
fn dead_too_early_by_expiry() {
    let mut s = failed(1, Released);
    s.lease(1, &[(0, 2, 1)]);
    s.wait(LEASE_MS);
    s.rest(&[died(0, 2, 2, Some("lease expired"))]);
    s.is(Kind::DeadEarly);
}

#[test]
fn dead_though_it_did_not_count() {
    let mut s = failed(2, Released);
    s.lease(1, &[(0, 3, 2)]);
    s.settle(0, 3, put_back(), Dead);
    assert!(s.kinds().contains(&Kind::DeadEarly));
}

#[test]
fn dead_though_nobody_was_handed_it() {
    let mut s = Shop::new(1);
    s.rest(&[died(0, 1, 1, None)]);
    s.is(Kind::DeadEarly);
}

#[test]
fn not_dead_at_the_limit() {
    failed(3, Released).is(Kind::DeadLate);
}

#[test]
fn handed_out_beyond_the_limit() {
    let mut s = failed(3, Dead);
    s.lease(1, &[(0, 4, 3)]);
    assert!(
        s.kinds().iter().all(|kind| matches!(kind, Kind::DeadLate | Kind::DeadAgain))
            && !s.kinds().is_empty()
    );
}

#[test]
fn dead_and_handed_out_again() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    s.settle(0, 1, reject("r"), Dead);
    s.lease(1, &[(0, 2, 0)]);
    s.is(Kind::DeadAgain);
}

#[test]
fn dead_by_expiry_and_handed_out_again() {
    let mut s = failed(2, Released);
    s.lease(1, &[(0, 3, 2)]);
    s.wait(LEASE_MS);
    s.lease(1, &[(0, 4, 2)]);
    s.is(Kind::DeadAgain);
}

#[test]
fn redriven_was_another() {
    let mut s = Shop::new(2);
    s.lease(1, &[(0, 1, 0)]);
    s.settle(0, 1, reject("r"), Dead);
    s.call(
        3,
        QueueCall::Redrive { queue: "q".to_owned(), which: Which::Offsets(vec![(0, 1)]) },
        QueueAnswer::Done,
    );
    s.lease(1, &[(0, 2, 0)]);
    s.is(Kind::DeadAgain);
}

#[test]
fn the_dead_are_wrong() {
    let wrong = [vec![], vec![died(0, 2, 3, None)], vec![died(0, 3, 3, None), died(0, 3, 3, None)]];
    for dead in wrong {
        let mut s = failed(3, Dead);
        s.rest(&dead);
        assert!(s.kinds().contains(&Kind::DeadList), "{dead:?}");
    }
}

#[test]
fn dead_beyond_the_limit() {
    let mut s = failed(3, Dead);
    s.rest(&[died(0, 3, 4, None)]);
    s.is(Kind::DeadLate);
}

#[test]
fn the_dead_are_counted_wrong() {
    let mut s = failed(3, Dead);
    s.rest_as(Rest { dead: 2, dead_listed: vec![died(0, 3, 3, None)], ..Rest::default() });
    s.is(Kind::DeadList);
}

#[test]
fn dead_for_another_reason() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    s.settle(0, 1, reject("schema"), Dead);
    s.rest(&[died(0, 1, 0, Some("smtp"))]);
    s.is(Kind::DeadList);
}

#[test]
fn acked_and_dead() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    s.settle(0, 1, ack(), Acked);
    s.rest(&[died(0, 1, 3, None)]);
    s.is(Kind::DeadList);
}
