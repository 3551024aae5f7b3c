//! Correct histories of queues that look suspicious; the checker must accept them.

use crate::shop::{LEASE_MS, Shop, ack, delayed, died, nack, put_back, receipt, reject, renew, spec};
use millpond_tests::history::Status::{Acked, Dead, Lost, Released, Renewed, Untouched};
use millpond_tests::history::{Entry, QueueAnswer, QueueCall, Settle, Target, Token, Verdict};

#[test]
fn nothing_happened() {
    Shop::new(0).is_good();
}

#[test]
fn a_life_with_all_ends() {
    let mut s = Shop::new(4);
    s.options.require_rest = true;
    s.lease(1, &[(0, 1, 0), (1, 1, 0), (2, 1, 0), (3, 1, 0)]);
    s.settle(0, 1, ack(), Acked);
    s.settle(1, 1, delayed(100), Released);
    s.settle(2, 1, reject("schema"), Dead);
    s.wait(100);
    s.lease(2, &[(1, 2, 1)]);
    s.settle(1, 2, put_back(), Released);
    s.lease(2, &[(1, 3, 1)]);
    s.settle(1, 3, nack(), Released);
    s.wait(LEASE_MS - 100);
    s.lease(2, &[(1, 4, 2), (3, 2, 1)]);
    s.settle(1, 4, nack(), Dead);
    s.settle(3, 1, ack(), Lost);
    s.settle(3, 2, ack(), Acked);
    s.rest(&[died(1, 4, 3, None), died(2, 1, 0, Some("schema"))]);
    s.is_good();
}

#[test]
fn a_lease_call_without_an_answer_may_have_handed_out_nothing_or_something() {
    for (attempt, failures) in [(1, 0), (2, 1)] {
        let mut s = Shop::new(1);
        s.lease_in_vain(1);
        s.wait(LEASE_MS);
        s.lease(1, &[(0, attempt, failures)]);
        s.is_good();
    }
}

#[test]
fn records_die_that_nobody_saw() {
    let mut s = Shop::new(2);
    for _ in 0..3 {
        s.lease_in_vain(1);
    }
    s.lease(1, &[(1, 1, 0)]);
    s.rest(&[died(0, 3, 3, Some("lease expired")), died(1, 3, 3, Some("lease expired"))]);
    s.is_good();
}

#[test]
fn a_nack_without_an_answer_happened_or_not() {
    for (intent, wait_ms, failures) in
        [(delayed(10), 10, 1), (put_back(), 0, 0), (put_back(), LEASE_MS, 1), (ack(), LEASE_MS, 1)]
    {
        let mut s = Shop::new(1);
        s.lease(1, &[(0, 1, 0)]);
        s.settle_in_vain(0, 1, intent);
        s.wait(wait_ms);
        s.lease(1, &[(0, 2, failures)]);
        s.is_good();
    }
}

#[test]
fn an_ack_without_an_answer_may_have_been_the_end() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    s.settle_in_vain(0, 1, ack());
    s.rest(&[]);
    s.is_good();
}

#[test]
fn a_reject_without_an_answer_may_have_been_the_end() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    s.settle_in_vain(0, 1, reject("r"));
    s.rest(&[died(0, 1, 0, Some("r"))]);
    s.is_good();
}

#[test]
fn a_late_ack_counts_while_nobody_else_has_it() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    s.wait(10 * LEASE_MS);
    s.settle(0, 1, ack(), Acked);
    s.rest(&[]);
    s.is_good();
}

#[test]
fn a_settlement_and_the_next_lease_overlap() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    let op = s.say(1, 0, 1, nack());
    s.lease(2, &[(0, 2, 1)]);
    s.told(op, Released);
    s.is_good();
}

#[test]
fn renewed_leases_last_longer_or_shorter() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    s.wait(LEASE_MS - 10);
    s.settle(0, 1, renew(LEASE_MS), Renewed);
    s.wait(LEASE_MS);
    s.lease(1, &[(0, 2, 1)]);
    let op = s.say(1, 0, 2, renew(10));
    let verdict = Verdict { deadline_ms: Some(s.ms + 10), ..Verdict::new(Renewed) };
    s.end(op, QueueAnswer::Settled(vec![verdict]));
    s.wait(10);
    s.lease(1, &[(0, 3, 2)]);
    s.is_good();
}

#[test]
fn a_renewal_without_an_answer_may_have_made_it_shorter() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    s.settle_in_vain(0, 1, renew(10));
    s.wait(10);
    s.lease(1, &[(0, 2, 1)]);
    s.is_good();
}

#[test]
fn a_repeated_lease_is_the_same_lease() {
    let mut s = Shop::new(1);
    let op = s.ask(1, "q", Some("r"));
    s.story.info(op);
    for _ in 0..2 {
        let op = s.ask(1, "q", Some("r"));
        let mut leased = s.leased("q", &[(0, 1, 0)]);
        leased.deadline_ms = 50_000 + LEASE_MS;
        s.end(op, QueueAnswer::Leased(leased));
        s.wait(10);
    }
    s.settle(0, 1, ack(), Acked);
    s.is_good();
}

#[test]
fn a_repeated_settlement_is_told_the_same() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    let op = s.say_to(1, "q", receipt("q", 0, 1), nack(), Some("r"));
    s.story.info(op);
    s.lease(2, &[(0, 2, 1)]);
    for _ in 0..2 {
        let op = s.say_to(1, "q", receipt("q", 0, 1), nack(), Some("r"));
        s.told(op, Released);
    }
    s.is_good();
}

#[test]
fn queues_of_one_topic_do_not_know_each_other() {
    let mut s = Shop::new(1);
    s.make(spec("other"));
    s.lease(1, &[(0, 1, 0)]);
    s.lease_of(2, "other", &[(0, 1, 0)]);
    let op = s.say_to(1, "other", receipt("q", 0, 1), ack(), None);
    s.told(op, Lost);
    let op = s.say_to(1, "other", receipt("other", 0, 1), ack(), None);
    s.told(op, Acked);
    s.settle(0, 1, ack(), Acked);
    s.rest(&[]);
    s.is_good();
}

#[test]
fn foreign_and_forged_receipts_are_lost() {
    let mut s = Shop::new(1);
    for target in [Target::Receipt(Token(7)), Target::Lease(Token(7))] {
        let op = s.say_to(1, "q", target, ack(), None);
        s.told(op, Lost);
        let op = s.say_to(1, "nowhere", target, ack(), None);
        s.story.info(op);
    }
    s.lease(1, &[(0, 1, 0)]);
    s.settle(0, 1, ack(), Acked);
    s.settle(0, 1, ack(), Lost);
    s.is_good();
}

#[test]
fn whole_leases() {
    let mut s = Shop::new(3);
    let op = s.lease(1, &[(0, 1, 0), (1, 1, 0), (2, 1, 0)]);
    let lease = Target::Lease(s.lease_of_op(op));
    s.settle(0, 1, ack(), Acked);
    s.wait(LEASE_MS - 1);
    let op = s.say_to(1, "q", lease, renew(LEASE_MS), None);
    s.end(
        op,
        QueueAnswer::Settled(vec![Verdict {
            status: Renewed,
            deadline_ms: Some(s.ms + LEASE_MS),
            records: Some(2),
        }]),
    );
    s.settle(1, 1, nack(), Released);
    s.wait(LEASE_MS - 1);
    s.lease(2, &[(1, 2, 1)]);
    let op = s.say_to(1, "q", lease, ack(), None);
    s.told_of_lease(op, Acked, 1);
    let op = s.say_to(1, "q", lease, ack(), None);
    s.told(op, Lost);
    s.settle(2, 1, ack(), Lost);
    s.settle(1, 2, ack(), Acked);
    s.rest(&[]);
    s.is_good();
}

#[test]
fn a_part_of_a_lease_that_was_acked_is_unknown() {
    let mut s = Shop::new(2);
    let op = s.lease(1, &[(0, 1, 0), (1, 1, 0)]);
    let lease = Target::Lease(s.lease_of_op(op));
    s.wait(LEASE_MS);
    let op = s.say_to(1, "q", lease, ack(), None);
    s.told_of_lease(op, Acked, 1);
    s.lease(1, &[(1, 2, 1)]);
    s.settle(1, 2, ack(), Acked);
    s.rest(&[]);
    s.is_good();
}

#[test]
fn an_atomic_request_that_was_refused_settles_nothing() {
    let mut s = Shop::new(2);
    s.lease(1, &[(0, 1, 0), (1, 1, 0)]);
    s.settle(0, 1, ack(), Acked);
    let entries = (0..2).map(|offset| Entry { target: receipt("q", offset, 1), intent: ack() }).collect();
    let op = s.begin(1, QueueCall::Settle(Settle { queue: None, request: None, entries }));
    s.end(op, QueueAnswer::Settled(vec![Verdict::new(Lost), Verdict::new(Untouched)]));
    s.wait(LEASE_MS);
    s.lease(1, &[(1, 2, 1)]);
    s.is_good();
}
