//! One history for each way in which a settlement can be answered wrongly; the checker must report that
//! violation and no other.

use crate::shop::{LEASE_MS, Shop, ack, nack, receipt, reject, renew, spec};
use millpond_tests::history::Status::{Acked, Dead, Lost, Released, Renewed};
use millpond_tests::history::{Kind, Outcome, QueueAnswer, Target, Token};

#[test]
fn a_late_worker_settles_what_is_anothers() {
    for intent in [(ack(), Acked), (nack(), Released), (reject("r"), Dead)] {
        let mut s = Shop::new(1);
        s.lease(1, &[(0, 1, 0)]);
        s.wait(LEASE_MS);
        s.lease(2, &[(0, 2, 1)]);
        s.settle(0, 1, intent.0, intent.1);
        s.is(Kind::StaleReceipt);
    }
}

#[test]
fn settled_twice() {
    for (intent, status) in [(ack(), Acked), (nack(), Released), (reject("r"), Dead), (renew(50), Renewed)] {
        let mut s = Shop::new(1);
        s.lease(1, &[(0, 1, 0)]);
        s.settle(0, 1, nack(), Released);
        s.settle(0, 1, intent, status);
        s.is(Kind::SettledTwice);
    }
}

#[test]
fn another_queues_receipt() {
    let mut s = Shop::new(1);
    s.make(spec("other"));
    s.lease(1, &[(0, 1, 0)]);
    let op = s.say_to(1, "other", receipt("q", 0, 1), ack(), None);
    s.told(op, Acked);
    s.is(Kind::ForeignReceipt);
}

#[test]
fn a_forged_receipt() {
    for target in [Target::Receipt(Token(7)), Target::Lease(Token(7))] {
        let mut s = Shop::new(1);
        let op = s.say_to(1, "q", target, ack(), None);
        s.told(op, Acked);
        s.is(Kind::ForeignReceipt);
    }
}

#[test]
fn a_receipt_is_handed_out_twice() {
    let mut s = Shop::new(2);
    let op = s.ask(1, "q", None);
    let mut leased = s.leased("q", &[(0, 1, 0), (1, 1, 0)]);
    leased.records[1].receipt = leased.records[0].receipt;
    s.end(op, QueueAnswer::Leased(leased));
    s.is(Kind::ForeignReceipt);
}

#[test]
fn lost_though_it_was_valid() {
    let mut s = Shop::new(2);
    s.lease(1, &[(0, 1, 0)]);
    s.wait(LEASE_MS - 1);
    s.settle(0, 1, ack(), Lost);
    s.lease(1, &[(1, 1, 0)]);
    s.is(Kind::WronglyLost);
}

#[test]
fn lost_though_it_was_renewed() {
    let mut s = Shop::new(2);
    s.lease(1, &[(0, 1, 0)]);
    s.wait(LEASE_MS - 1);
    s.settle(0, 1, renew(LEASE_MS), Renewed);
    s.wait(LEASE_MS - 1);
    s.settle(0, 1, ack(), Lost);
    s.lease(1, &[(1, 1, 0)]);
    s.is(Kind::WronglyLost);
}

#[test]
fn told_what_was_not_asked() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    s.settle(0, 1, ack(), Released);
    s.is(Kind::WrongVerdict);
}

#[test]
fn a_repeated_settlement_is_told_otherwise() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    for status in [Acked, Lost] {
        let op = s.say_to(1, "q", receipt("q", 0, 1), ack(), Some("r"));
        s.told(op, status);
    }
    s.is(Kind::WrongVerdict);
}

#[test]
fn more_of_a_lease_is_settled_than_was_left() {
    let mut s = Shop::new(2);
    let op = s.lease(1, &[(0, 1, 0), (1, 1, 0)]);
    s.settle(0, 1, ack(), Acked);
    let lease = s.lease_of_op(op);
    let op = s.say_to(1, "q", Target::Lease(lease), ack(), None);
    s.told_of_lease(op, Acked, 2);
    s.is(Kind::WrongVerdict);
}

#[test]
fn a_refused_settlement_changes_nothing() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    let op = s.say(1, 0, 1, nack());
    s.story.end(op, Outcome::Fail { current: None });
    s.lease(1, &[(0, 2, 1)]);
    s.is(Kind::DoubleLease);
}
