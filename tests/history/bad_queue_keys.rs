//! One history for each way in which a queue can ignore keys, delays and times to live; the checker must
//! report that violation and no other.

use crate::shop::{LEASE_MS, Shop, ack, delayed, nack, reject, spec};
use millpond_tests::history::Status::{Acked, Dead, Released};
use millpond_tests::history::{
    Call, Kind, Produce, QueueAnswer, QueueCall, RecordId, Sent, Spec, Timing, Which,
};

#[test]
fn a_nack_with_delay_comes_back_at_once() {
    let mut s = Shop::new(1);
    s.lease(1, &[(0, 1, 0)]);
    s.settle(0, 1, delayed(500), Released);
    s.wait(499);
    s.lease(1, &[(0, 2, 1)]);
    s.is(Kind::TooEarly);
}

#[test]
fn a_nack_comes_back_before_the_policy_says() {
    let mut s = Shop::with(Spec { backoff_ms: vec![100, 200], ..spec("q") }, 1);
    s.lease(1, &[(0, 1, 0)]);
    s.settle(0, 1, nack(), Released);
    s.wait(100);
    s.lease(1, &[(0, 2, 1)]);
    s.settle(0, 2, nack(), Released);
    s.wait(199);
    s.lease(1, &[(0, 3, 2)]);
    s.is(Kind::TooEarly);
}

#[test]
fn what_expired_comes_back_before_the_policy_says() {
    let mut s = Shop::with(Spec { backoff_ms: vec![100], ..spec("q") }, 1);
    s.lease(1, &[(0, 1, 0)]);
    s.wait(LEASE_MS + 99);
    s.lease(1, &[(0, 2, 1)]);
    s.is(Kind::TooEarly);
}

fn put(s: &mut Shop, offset: i64, timing: Timing) {
    let id = RecordId { client: 1, counter: u64::try_from(offset).expect("an offset") };
    let sent = Sent { timing, ..Sent::new("a", Some(0), id) };
    let op = s.story.begin(1, Call::Produce(Produce { records: vec![sent], key: None, expect: None }));
    s.story.placed(op, &[offset]);
}

#[test]
fn a_delayed_record_comes_early() {
    for timing in [
        Timing { delay_ms: Some(500), ..Timing::default() },
        Timing { deliver_at_ms: Some(50_600), ..Timing::default() },
    ] {
        let mut s = Shop::new(1);
        s.lease(1, &[(0, 1, 0)]);
        put(&mut s, 1, timing);
        s.wait(499);
        s.lease(1, &[(1, 1, 0)]);
        s.is(Kind::TooEarly);
    }
}

#[test]
fn an_expired_record_is_handed_out() {
    let mut s = Shop::new(1);
    put(&mut s, 1, Timing { ttl_ms: Some(500), ..Timing::default() });
    s.lease(1, &[(0, 1, 0)]);
    s.wait(501);
    s.lease(1, &[(1, 1, 0)]);
    s.is(Kind::Expired);
}

#[test]
fn two_of_a_key_together() {
    let mut s = Shop::keyed(3);
    s.lease(1, &[(0, 1, 0), (1, 1, 0)]);
    s.lease(2, &[(2, 1, 0)]);
    s.is(Kind::KeyTogether);
}

#[test]
fn two_of_a_key_in_one_answer() {
    let mut s = Shop::keyed(3);
    s.lease(1, &[(0, 1, 0), (2, 1, 0)]);
    s.is(Kind::KeyTogether);
}

#[test]
fn two_of_a_key_after_a_redrive() {
    let mut s = Shop::keyed(3);
    s.lease(1, &[(0, 1, 0)]);
    s.settle(0, 1, reject("r"), Dead);
    s.lease(1, &[(2, 1, 0)]);
    s.call(3, QueueCall::Redrive { queue: "q".to_owned(), which: Which::Any }, QueueAnswer::Done);
    s.lease(2, &[(0, 2, 0)]);
    s.is(Kind::KeyTogether);
}

#[test]
fn a_key_is_handed_out_behind_its_retry() {
    let mut s = Shop::keyed(3);
    s.lease(1, &[(0, 1, 0)]);
    s.settle(0, 1, nack(), Released);
    s.lease(2, &[(2, 1, 0)]);
    s.settle(2, 1, ack(), Acked);
    s.lease(1, &[(0, 2, 1)]);
    s.settle(0, 2, ack(), Acked);
    s.is(Kind::KeyOrder);
}

#[test]
fn a_key_begins_in_the_middle() {
    let mut s = Shop::keyed(3);
    s.lease(2, &[(2, 1, 0)]);
    s.settle(2, 1, ack(), Acked);
    s.lease(1, &[(0, 1, 0)]);
    s.settle(0, 1, ack(), Acked);
    s.is(Kind::KeyOrder);
}

#[test]
fn a_key_goes_on_while_its_record_waits_to_be_handed_out_again() {
    let mut s = Shop::keyed(3);
    s.lease(1, &[(0, 1, 0)]);
    s.wait(LEASE_MS);
    s.lease(2, &[(2, 1, 0)]);
    s.is(Kind::KeyOrder);
}
