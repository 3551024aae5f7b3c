//! One history for each way in which stored content can be wrong; the checker must report that violation and
//! no other.

use crate::story::Story;
use millpond_tests::history::From::{Earliest, Offset};
use millpond_tests::history::{Call, Kind, Outcome, ReadAnswer, Seen};

#[test]
fn lost_at_the_end() {
    let mut s = Story::new();
    s.put("a0", (1, 0), 0);
    s.put("a0", (1, 1), 1);
    s.finally("a0", &[(1, 0)]);
    s.is(Kind::Lost);
}

#[test]
fn lost_in_the_middle() {
    let mut s = Story::new();
    s.put("a0", (1, 0), 0);
    s.put("a0", (1, 1), 1);
    s.put("a0", (1, 2), 2);
    s.finally_at("a0", 0, 3, &[(0, (1, 0)), (2, (1, 2))]);
    s.is(Kind::Lost);
}

#[test]
fn lost_with_all_the_log() {
    let mut s = Story::new();
    s.put("a0", (1, 0), 0);
    s.finally("a0", &[]);
    s.is(Kind::Lost);
}

#[test]
fn lost_by_retention_that_nobody_asked_for() {
    let mut s = Story::new();
    s.put("a0", (1, 0), 0);
    s.put("a0", (1, 1), 1);
    s.finally_at("a0", 1, 2, &[(1, (1, 1))]);
    s.is(Kind::LogStart);
}

#[test]
fn lost_above_the_log_start() {
    let mut s = Story::new();
    s.options.retention = true;
    for offset in 0..4 {
        s.put("a0", (1, offset.try_into().expect("small")), offset);
    }
    s.finally_at("a0", 1, 4, &[(1, (1, 1)), (3, (1, 3))]);
    s.is(Kind::Lost);
}

#[test]
fn phantom_that_nobody_sent() {
    let mut s = Story::new();
    s.put("a0", (1, 0), 0);
    s.finally("a0", &[(1, 0), (1, 7)]);
    s.is(Kind::Phantom);
}

#[test]
fn phantom_that_had_failed() {
    let mut s = Story::new();
    for _ in 0..2 {
        let op = s.produce(1, &[("a0", (1, 0))], Some("k"), None);
        s.failed(op);
    }
    s.finally("a0", &[(1, 0)]);
    s.is(Kind::Phantom);
}

#[test]
fn phantom_that_was_read_before_it_was_sent() {
    let mut s = Story::new();
    s.read(2, "a0", Earliest, 1, &[(0, (1, 0))]);
    s.put("a0", (1, 0), 0);
    s.finally("a0", &[(1, 0)]);
    assert!(s.found().contains(&Kind::Phantom));
}

#[test]
fn phantom_of_another_topic() {
    let mut s = Story::new();
    let op = s.produce(1, &[("b0", (1, 0))], None, None);
    s.info(op);
    s.finally("a0", &[(1, 0)]);
    s.finally("b0", &[]);
    s.is(Kind::Phantom);
}

#[test]
fn phantom_of_another_partition() {
    let mut s = Story::new();
    let op = s.produce(1, &[("a1", (1, 0))], None, None);
    s.info(op);
    s.finally("a0", &[(1, 0)]);
    s.finally("a1", &[]);
    s.is(Kind::Phantom);
}

#[test]
fn phantom_bytes() {
    let mut s = Story::new();
    let op = s.begin(2, Call::Final(crate::story::log("a0")));
    let records = vec![(0, Seen::Foreign(17))];
    s.end(op, Outcome::Records(ReadAnswer { log_start: Some(0), high_watermark: Some(1), records }));
    s.is(Kind::Phantom);
}

#[test]
fn two_reads_two_records() {
    let mut s = Story::new();
    let (one, two) =
        (s.produce(1, &[("a0", (1, 0))], None, None), s.produce(2, &[("a0", (2, 0))], None, None));
    s.info(one);
    s.info(two);
    s.read(3, "a0", Earliest, 1, &[(0, (1, 0))]);
    s.finally("a0", &[(2, 0)]);
    s.is(Kind::InconsistentOffset);
}

#[test]
fn two_answers_one_offset() {
    let mut s = Story::new();
    let (one, two) =
        (s.produce(1, &[("a0", (1, 0))], None, None), s.produce(2, &[("a0", (2, 0))], None, None));
    s.placed(one, &[0]);
    s.placed(two, &[0]);
    s.finally("a0", &[(1, 0)]);
    s.is(Kind::InconsistentOffset);
}

#[test]
fn answered_one_record_read_another() {
    let mut s = Story::new();
    let (one, two) =
        (s.produce(1, &[("a0", (1, 0))], None, None), s.produce(2, &[("a0", (2, 0))], None, None));
    s.placed(one, &[0]);
    s.placed(two, &[1]);
    s.finally("a0", &[(2, 0), (1, 0)]);
    s.is(Kind::InconsistentOffset);
}

#[test]
fn answered_here_stored_there() {
    let mut s = Story::new();
    let one = s.produce(1, &[("a0", (1, 0))], None, None);
    s.placed(one, &[3]);
    s.finally("a0", &[(1, 0)]);
    s.is(Kind::Misplaced);
}

#[test]
fn answered_another_partition_than_asked() {
    let mut s = Story::new();
    let op = s.produce(1, &[("a0", (1, 0))], None, None);
    let placed = vec![millpond_tests::history::Placed { partition: 1, offset: 0 }];
    s.end(op, Outcome::Produced { placed, duplicate: false });
    s.finally("a0", &[]);
    s.finally("a1", &[]);
    assert!(s.found().contains(&Kind::Misplaced));
}

#[test]
fn gap_in_a_read() {
    let mut s = Story::new();
    let op = s.produce(1, &[("a0", (1, 0)), ("a0", (1, 1)), ("a0", (1, 2))], None, None);
    s.placed(op, &[0, 1, 2]);
    s.read(2, "a0", Earliest, 3, &[(0, (1, 0)), (2, (1, 2))]);
    s.finally("a0", &[(1, 0), (1, 1), (1, 2)]);
    s.is(Kind::Gap);
}

#[test]
fn gap_at_the_beginning_of_a_read() {
    let mut s = Story::new();
    s.put("a0", (1, 0), 0);
    s.put("a0", (1, 1), 1);
    s.read(2, "a0", Offset(0), 2, &[(1, (1, 1))]);
    s.finally("a0", &[(1, 0), (1, 1)]);
    s.is(Kind::Gap);
}

#[test]
fn gap_that_is_the_whole_read() {
    let mut s = Story::new();
    s.put("a0", (1, 0), 0);
    s.read(2, "a0", Offset(0), 1, &[]);
    s.finally("a0", &[(1, 0)]);
    s.is(Kind::Gap);
}

#[test]
fn hole_that_a_refused_request_left() {
    let mut s = Story::new();
    s.put("a0", (1, 0), 0);
    let op = s.produce(1, &[("a0", (1, 1))], None, None);
    s.failed(op);
    s.put("a0", (1, 2), 2);
    s.finally_at("a0", 0, 3, &[(0, (1, 0)), (2, (1, 2))]);
    s.is(Kind::Gap);
}

#[test]
fn hole_at_the_beginning() {
    let mut s = Story::new();
    s.put("a0", (1, 0), 1);
    s.finally_at("a0", 0, 2, &[(1, (1, 0))]);
    s.is(Kind::Gap);
}

#[test]
fn hole_at_the_end() {
    let mut s = Story::new();
    s.put("a0", (1, 0), 0);
    s.finally_at("a0", 0, 2, &[(0, (1, 0))]);
    s.is(Kind::Gap);
}

#[test]
fn repeat_in_a_read() {
    let mut s = Story::new();
    s.put("a0", (1, 0), 0);
    s.put("a0", (1, 1), 1);
    s.read(2, "a0", Earliest, 2, &[(0, (1, 0)), (1, (1, 1)), (1, (1, 1))]);
    s.finally("a0", &[(1, 0), (1, 1)]);
    s.is(Kind::Repeat);
}

#[test]
fn read_that_begins_before_it_was_asked_to() {
    let mut s = Story::new();
    s.put("a0", (1, 0), 0);
    s.put("a0", (1, 1), 1);
    s.read(2, "a0", Offset(1), 2, &[(0, (1, 0)), (1, (1, 1))]);
    s.finally("a0", &[(1, 0), (1, 1)]);
    s.is(Kind::Repeat);
}

#[test]
fn records_above_the_high_watermark() {
    let mut s = Story::new();
    let op = s.produce(1, &[("a0", (1, 0))], None, None);
    s.read(2, "a0", Earliest, 0, &[(0, (1, 0))]);
    s.placed(op, &[0]);
    s.finally("a0", &[(1, 0)]);
    s.is(Kind::BeyondEnd);
}
