//! Correct histories of logs that look suspicious; the checker must accept them.

use crate::story::Story;
use millpond_tests::history::From::{Earliest, Latest, Next, Offset};
use millpond_tests::history::{Outcome, ReadAnswer};

#[test]
fn nothing_happened() {
    Story::new().is_good();
}

#[test]
fn an_open_request_may_be_stored_never_at_once_or_late() {
    let mut never = Story::new();
    let op = never.produce(1, &[("a0", (1, 0)), ("a1", (1, 1))], None, None);
    never.info(op);
    never.put("a0", (1, 2), 0);
    never.finally("a0", &[(1, 2)]);
    never.finally("a1", &[]);
    never.is_good();

    let mut at_once = Story::new();
    let op = at_once.produce(1, &[("a0", (1, 0))], None, None);
    at_once.read(2, "a0", Earliest, 1, &[(0, (1, 0))]);
    at_once.info(op);
    at_once.put("a0", (1, 1), 1);
    at_once.finally("a0", &[(1, 0), (1, 1)]);
    at_once.is_good();

    let mut late = Story::new();
    let op = late.produce(1, &[("a0", (1, 0))], None, None);
    late.info(op);
    late.put("a0", (1, 1), 0);
    late.read(2, "a0", Earliest, 1, &[(0, (1, 1))]);
    late.finally("a0", &[(1, 1), (1, 0)]);
    late.is_good();
}

#[test]
fn a_client_that_died_is_as_one_that_was_told_nothing() {
    let mut s = Story::new();
    s.produce(1, &[("a0", (1, 0))], None, None);
    s.produce(2, &[("a0", (2, 0))], None, None);
    s.begin_read(3, "a0", Earliest);
    s.finally("a0", &[(2, 0)]);
    s.is_good();
}

#[test]
fn a_retry_is_stored_once_wherever_the_first_sending_went() {
    for failures in 0..3 {
        let mut s = Story::new();
        for _ in 0..failures {
            let op = s.produce(1, &[("a?", (1, 0))], Some("k"), None);
            s.info(op);
        }
        s.put("a0", (2, 0), 0);
        let op = s.produce(1, &[("a?", (1, 0))], Some("k"), None);
        s.placed(op, &[1]);
        let op = s.produce(1, &[("a?", (1, 0))], Some("k"), None);
        s.placed(op, &[1]);
        s.finally("a0", &[(2, 0), (1, 0)]);
        s.is_good();
    }
}

#[test]
fn a_retry_may_be_answered_with_a_place_from_before_it_began() {
    let mut s = Story::new();
    let op = s.produce(1, &[("a0", (1, 0))], Some("k"), None);
    s.info(op);
    s.read(2, "a0", Earliest, 1, &[(0, (1, 0))]);
    s.put("a0", (2, 0), 1);
    let op = s.produce(1, &[("a0", (1, 0))], Some("k"), None);
    s.placed(op, &[0]);
    s.finally("a0", &[(1, 0), (2, 0)]);
    s.is_good();
}

#[test]
fn an_attempt_that_failed_after_one_that_is_open_proves_nothing() {
    let mut s = Story::new();
    let op = s.produce(1, &[("a0", (1, 0))], Some("k"), None);
    s.info(op);
    let op = s.produce(1, &[("a0", (1, 0))], Some("k"), None);
    s.failed(op);
    s.finally("a0", &[(1, 0)]);
    s.is_good();
}

#[test]
fn a_key_that_is_refused_for_another_body() {
    let mut s = Story::new();
    let op = s.produce(1, &[("a0", (1, 0))], Some("k"), None);
    s.placed(op, &[0]);
    let op = s.produce(1, &[("a0", (1, 1))], Some("k"), None);
    s.failed(op);
    s.finally("a0", &[(1, 0)]);
    s.is_good();
}

#[test]
fn what_overlaps_may_come_in_any_order() {
    for (first, second) in [(0, 1), (1, 0)] {
        let mut s = Story::new();
        let (one, two) =
            (s.produce(1, &[("a0", (1, 0))], None, None), s.produce(2, &[("a0", (2, 0))], None, None));
        let read = s.begin_read(3, "a0", Earliest);
        s.placed(one, &[first]);
        s.placed(two, &[second]);
        s.records(read, Some(0), &[]);
        s.finally("a0", if first == 0 { &[(1, 0), (2, 0)] } else { &[(2, 0), (1, 0)] });
        s.is_good();
    }
}

#[test]
fn reads_that_overlap_may_differ() {
    let mut s = Story::new();
    let op = s.produce(1, &[("a0", (1, 0))], None, None);
    let (one, two) = (s.begin_read(2, "a0", Earliest), s.begin_read(3, "a0", Earliest));
    s.records(one, Some(1), &[(0, (1, 0))]);
    s.records(two, Some(0), &[]);
    s.placed(op, &[0]);
    s.finally("a0", &[(1, 0)]);
    s.is_good();
}

#[test]
fn a_read_may_end_early_even_within_a_request() {
    let mut s = Story::new();
    s.put_all(&[("a0", (1, 0)), ("a0", (1, 1))], &[0, 1]);
    s.read(2, "a0", Earliest, 2, &[(0, (1, 0))]);
    s.read(2, "a0", Next, 2, &[(1, (1, 1))]);
    s.read(2, "a0", Next, 2, &[]);
    s.read(2, "a0", Latest, 2, &[]);
    s.put("a0", (1, 2), 2);
    s.read(2, "a0", Next, 3, &[(2, (1, 2))]);
    s.read(2, "a0", Offset(1), 3, &[(1, (1, 1)), (2, (1, 2))]);
    s.finally("a0", &[(1, 0), (1, 1), (1, 2)]);
    s.is_good();
}

#[test]
fn a_request_of_many_logs_is_seen_whole() {
    let mut s = Story::new();
    let op = s.produce(1, &[("a0", (1, 0)), ("b0", (1, 1)), ("a0", (1, 2))], None, None);
    s.read(2, "b0", Earliest, 0, &[]);
    s.read(2, "a0", Earliest, 2, &[(0, (1, 0)), (1, (1, 2))]);
    s.read(2, "b0", Earliest, 1, &[(0, (1, 1))]);
    s.info(op);
    s.finally("a0", &[(1, 0), (1, 2)]);
    s.finally("b0", &[(1, 1)]);
    s.is_good();
}

#[test]
fn if_match_stores_at_the_end_or_says_where_it_is() {
    let mut s = Story::new();
    let op = s.produce(1, &[("a0", (1, 0))], None, Some(0));
    s.placed(op, &[0]);
    let op = s.produce(1, &[("a0", (1, 1))], None, Some(0));
    s.end(op, Outcome::Fail { current: Some(1) });
    let op = s.produce(1, &[("a0", (1, 2))], None, Some(1));
    s.placed(op, &[1]);
    s.finally("a0", &[(1, 0), (1, 2)]);
    s.is_good();
}

#[test]
fn retention_takes_the_oldest() {
    let mut s = Story::new();
    s.options.retention = true;
    s.put_all(&[("a0", (1, 0)), ("b0", (1, 9))], &[0, 0]);
    s.put("a0", (1, 1), 1);
    s.put("a0", (1, 2), 2);
    s.read(2, "a0", Earliest, 3, &[(0, (1, 0))]);
    let op = s.begin_read(2, "a0", Next);
    let records = vec![(2, crate::story::seen((1, 2)))];
    s.end(op, Outcome::Records(ReadAnswer { log_start: Some(2), high_watermark: Some(3), records }));
    s.put("a0", (1, 3), 3);
    let op = s.begin_read(2, "a0", Next);
    s.end(
        op,
        Outcome::Records(ReadAnswer { log_start: Some(4), high_watermark: Some(4), records: Vec::new() }),
    );
    s.finally_at("a0", 4, 4, &[]);
    s.finally("b0", &[(1, 9)]);
    s.is_good();
}
