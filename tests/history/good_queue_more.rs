//! Correct histories of queues with seeks, redrives, keys and delays that look suspicious; the checker must
//! accept them.

use crate::shop::{LEASE_MS, Shop, ack, died, nack, receipt, reject, spec};
use millpond_tests::history::Status::{Acked, Dead, Lost, Released};
use millpond_tests::history::{
    Call, Produce, QueueAnswer, QueueCall, QueueOptions, RecordId, Sent, Spec, Timing, Which,
};

#[test]
fn dead_records_are_redriven_and_purged() {
    let mut s = Shop::new(3);
    s.lease(1, &[(0, 1, 0), (1, 1, 0), (2, 1, 0)]);
    s.settle(0, 1, reject("r"), Dead);
    s.settle(1, 1, reject("r"), Dead);
    s.settle(2, 1, reject("r"), Dead);
    s.call(
        3,
        QueueCall::Redrive { queue: "q".to_owned(), which: Which::Offsets(vec![(0, 0)]) },
        QueueAnswer::Done,
    );
    s.call(
        3,
        QueueCall::PurgeDead { queue: "q".to_owned(), which: Which::Offsets(vec![(0, 1)]) },
        QueueAnswer::Done,
    );
    s.lease(1, &[(0, 2, 0)]);
    s.settle(0, 2, nack(), Released);
    s.lease(1, &[(0, 3, 1)]);
    s.settle(0, 3, ack(), Acked);
    s.rest(&[died(2, 1, 0, Some("r"))]);
    s.is_good();
}

#[test]
fn what_was_sought_back_begins_anew() {
    let mut s = Shop::new(2);
    s.lease(1, &[(0, 1, 0), (1, 1, 0)]);
    s.settle(0, 1, ack(), Acked);
    let seek = || QueueCall::Seek { queue: "q".to_owned(), partitions: None };
    s.call(3, seek(), QueueAnswer::Cursors(vec![(0, 0)]));
    s.settle(1, 1, ack(), Lost);
    s.lease(1, &[(0, 1, 0), (1, 1, 0)]);
    s.call(3, seek(), QueueAnswer::Cursors(vec![(0, 1)]));
    s.lease(1, &[(1, 1, 0)]);
    s.settle(1, 1, ack(), Acked);
    s.rest(&[]);
    // Receipts in these histories are derived from offset and attempt, which a seek repeats: make them
    // distinct.
    s.part_receipts();
    s.is_good();
}

#[test]
fn a_purge_is_no_loss() {
    let mut s = Shop::new(2);
    s.lease(1, &[(0, 1, 0)]);
    s.call(3, QueueCall::Purge { queue: "q".to_owned() }, QueueAnswer::Cursors(vec![(0, 2)]));
    s.settle(0, 1, ack(), Lost);
    s.put(2);
    s.lease(1, &[(2, 1, 0)]);
    s.settle(2, 1, ack(), Acked);
    s.rest(&[]);
    s.is_good();
}

#[test]
fn a_seek_without_an_answer_may_happen_at_any_time() {
    let mut s = Shop::new(1);
    let op = s.begin(3, QueueCall::Seek { queue: "q".to_owned(), partitions: None });
    s.story.info(op);
    s.lease(1, &[(0, 1, 0)]);
    s.settle(0, 1, ack(), Acked);
    s.lease(1, &[(0, 1, 0)]);
    s.rest(&[]);
    s.part_receipts();
    s.is_good();
}

#[test]
fn keys_one_after_the_other() {
    let mut s = Shop::keyed(5);
    s.lease(1, &[(0, 1, 0), (1, 1, 0)]);
    s.settle(0, 1, ack(), Acked);
    s.lease(2, &[(2, 1, 0)]);
    s.settle(2, 1, nack(), Released);
    s.lease(2, &[(2, 2, 1)]);
    s.wait(LEASE_MS);
    s.lease(2, &[(1, 2, 1), (2, 3, 2)]);
    s.settle(2, 3, nack(), Dead);
    s.settle(1, 2, ack(), Acked);
    s.lease(1, &[(3, 1, 0), (4, 1, 0)]);
    s.settle(4, 1, ack(), Acked);
    s.settle(3, 1, ack(), Acked);
    s.rest(&[died(2, 3, 3, None)]);
    s.is_good();
}

#[test]
fn a_key_goes_on_when_an_ack_may_have_happened() {
    let mut s = Shop::keyed(3);
    s.lease(1, &[(0, 1, 0)]);
    let op = s.say_to(1, "q", receipt("q", 0, 1), ack(), Some("r"));
    s.story.info(op);
    s.lease(2, &[(2, 1, 0)]);
    let op = s.say_to(1, "q", receipt("q", 0, 1), ack(), Some("r"));
    s.told(op, Acked);
    s.is_good();
}

#[test]
fn a_redriven_record_comes_back_out_of_order() {
    let mut s = Shop::keyed(3);
    s.lease(1, &[(0, 1, 0)]);
    s.settle(0, 1, reject("r"), Dead);
    s.lease(1, &[(2, 1, 0)]);
    s.call(3, QueueCall::Redrive { queue: "q".to_owned(), which: Which::Any }, QueueAnswer::Done);
    s.settle(2, 1, ack(), Acked);
    s.lease(2, &[(0, 2, 0)]);
    s.is_good();
}

#[test]
fn records_without_a_key_are_not_ordered() {
    let mut s = Shop::keyed(3);
    let op = s.ask(1, "q", None);
    let mut leased = s.leased("q", &[(0, 1, 0), (2, 1, 0)]);
    for record in &mut leased.records {
        record.key = None;
    }
    s.end(op, QueueAnswer::Leased(leased));
    s.is_good();
}

#[test]
fn what_expires_need_not_be_delivered() {
    let mut s = Shop::new(0);
    let timing = Timing { ttl_ms: Some(5), ..Timing::default() };
    let sent = Sent { timing, ..Sent::new("a", Some(0), RecordId { client: 1, counter: 0 }) };
    let op = s.story.begin(1, Call::Produce(Produce { records: vec![sent], key: None, expect: None }));
    s.story.placed(op, &[0]);
    s.rest(&[]);
    s.is_good();
}

#[test]
fn a_queue_that_begins_late_need_not_deliver_what_was_before() {
    let mut s = Shop::with(Spec { latest: true, ..spec("q") }, 0);
    s.put(0);
    s.make(Spec { latest: true, ..spec("late") });
    s.put(1);
    s.lease_of(1, "late", &[(1, 1, 0)]);
    s.lease(1, &[(0, 1, 0), (1, 1, 0)]);
    s.settle(0, 1, ack(), Acked);
    s.settle(1, 1, ack(), Acked);
    s.rest(&[]);
    s.is_good();
}

#[test]
fn a_limit_that_changes_binds_by_its_extremes() {
    for limit in [2, 5] {
        let mut s = Shop::new(1);
        s.make(Spec { max_failures: limit, ..spec("q") });
        for n in 1..3 {
            s.lease(1, &[(0, n, n - 1)]);
            s.settle(0, n, nack(), if n == 2 && limit == 2 { Dead } else { Released });
        }
        s.is_good();
    }
}

#[test]
fn instants_are_rounded() {
    let mut s = Shop::new(1);
    s.options = QueueOptions { require_rest: false, slack_ms: 1 };
    s.lease(1, &[(0, 1, 0)]);
    s.wait(LEASE_MS - 1);
    s.lease(1, &[(0, 2, 1)]);
    s.is_good();
}
