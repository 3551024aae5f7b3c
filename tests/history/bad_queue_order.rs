//! One history for each way in which a queue can hand out the wrong record; the checker must report that
//! violation and no other.

use crate::shop::{LEASE_MS, Shop, ack, nack, renew, spec};
use millpond_tests::history::Status::{Acked, Released, Renewed};
use millpond_tests::history::{Kind, QueueAnswer, QueueCall, Rest, Seen, Spec};

#[test]
fn handed_out_twice_at_once() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    s.lease(2, &[(0, 2, 1)]);
    s.is(Kind::DoubleLease);
}

#[test]
fn handed_out_before_it_was_nacked() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    s.lease(2, &[(0, 2, 1)]);
    s.settle(0, 1, nack(), Released);
    s.is(Kind::DoubleLease);
}

#[test]
fn handed_out_before_it_was_acked() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    s.lease(2, &[(0, 2, 1)]);
    s.settle(0, 1, ack(), Acked);
    s.is(Kind::DoubleLease);
}

#[test]
fn an_ack_that_nobody_answered_frees_nothing() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    s.settle_in_vain(0, 1, ack());
    s.lease(2, &[(0, 2, 1)]);
    s.is(Kind::DoubleLease);
}

#[test]
fn expired_though_it_was_renewed() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    s.wait(LEASE_MS - 10);
    s.settle(0, 1, renew(LEASE_MS), Renewed);
    s.wait(LEASE_MS - 10);
    s.lease(2, &[(0, 2, 1)]);
    s.is(Kind::DoubleLease);
}

#[test]
fn one_attempt_twice() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    s.wait(LEASE_MS);
    s.lease(2, &[(0, 1, 0)]);
    assert!(s.kinds().contains(&Kind::Attempt));
}

#[test]
fn attempts_go_back() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 2, 1)]);
    s.wait(LEASE_MS);
    s.lease(2, &[(0, 1, 0)]);
    s.is(Kind::Attempt);
}

#[test]
fn never_delivered() {
    let mut s = Shop::new(2);
    s.lease(1, &[(0, 1, 0)]);
    s.settle(0, 1, ack(), Acked);
    s.rest(&[]);
    s.is(Kind::Undelivered);
}

#[test]
fn never_delivered_though_only_a_read_tells_of_it() {
    let mut s = Shop::new(0);
    let op = s.story.produce(1, &[("a0", (1, 0))], None, None);
    s.story.info(op);
    s.story.finally("a0", &[(1, 0)]);
    s.rest(&[]);
    s.is(Kind::Undelivered);
}

#[test]
fn nacked_and_forgotten() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    s.settle(0, 1, nack(), Released);
    s.rest(&[]);
    s.is(Kind::Undelivered);
}

#[test]
fn expired_and_forgotten() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    s.wait(LEASE_MS);
    s.rest(&[]);
    s.is(Kind::Undelivered);
}

#[test]
fn something_is_left() {
    let left = [
        Rest { ready: 1, ..Rest::default() },
        Rest { delayed: 1, ..Rest::default() },
        Rest { retrying: -1, ..Rest::default() },
        Rest { in_flight: 1, ..Rest::default() },
        Rest { in_flight_listed: 1, ..Rest::default() },
        Rest { waiting_listed: 1, ..Rest::default() },
    ];
    for rest in left {
        let mut s = Shop::new(0);
        s.rest_as(rest);
        s.is(Kind::Leftover);
    }
}

#[test]
fn acked_and_handed_out_again() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    s.settle(0, 1, ack(), Acked);
    s.wait(LEASE_MS);
    s.lease(2, &[(0, 2, 1)]);
    s.is(Kind::AckedAgain);
}

#[test]
fn handed_out_while_it_was_being_acked() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    let op = s.say(1, 0, 1, ack());
    s.wait(LEASE_MS);
    s.lease(2, &[(0, 2, 1)]);
    s.told(op, Acked);
    s.is(Kind::AckedAgain);
}

#[test]
fn purged_and_handed_out() {
    let mut s = Shop::new(1);
    s.call(3, QueueCall::Purge { queue: "q".to_owned() }, QueueAnswer::Cursors(vec![(0, 1)]));
    s.lease(2, &[(0, 1, 0)]);
    s.is(Kind::Dropped);
}

#[test]
fn handed_out_though_the_queue_begins_later() {
    let mut s = Shop::new(1);
    s.make(Spec { latest: true, ..spec("late") });
    s.lease_of(2, "late", &[(0, 1, 0)]);
    s.is(Kind::Dropped);
}

#[test]
fn handed_out_as_two_records() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    s.wait(LEASE_MS);
    let op = s.ask(1, "q", None);
    let mut leased = s.leased("q", &[(0, 2, 1)]);
    leased.records[0].seen = Seen::Foreign(7);
    s.end(op, QueueAnswer::Leased(leased));
    s.is(Kind::InconsistentOffset);
}

#[test]
fn handed_out_as_another_than_the_log_holds() {
    let mut s = Shop::new(1);
    let op = s.ask(1, "q", None);
    let mut leased = s.leased("q", &[(0, 1, 0)]);
    leased.records[0].seen = Seen::Foreign(7);
    s.end(op, QueueAnswer::Leased(leased));
    s.is(Kind::InconsistentOffset);
}

#[test]
fn handed_out_though_the_log_does_not_hold_it() {
    let mut s = Shop::new(1);
    s.lease(1, &[(1, 1, 0)]);
    s.story.finally("a0", &[(1, 0)]);
    s.is(Kind::Phantom);
}

#[test]
fn nobody_looked_in_the_end() {
    let mut s = Shop::new(1);
    s.options.require_rest = true;
    s.lease(1, &[(0, 1, 0)]);
    s.is(Kind::Unobserved);
}
