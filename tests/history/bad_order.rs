//! One history for each way in which order, visibility and retries can be wrong; the checker must report that
//! violation and no other.

use crate::story::Story;
use millpond_tests::history::From::{Earliest, Next, Offset};
use millpond_tests::history::{Kind, Outcome, ReadAnswer};

#[test]
fn stale_read() {
    let mut s = Story::new();
    s.put("a0", (1, 0), 0);
    s.put("a0", (1, 1), 1);
    s.read(2, "a0", Earliest, 1, &[(0, (1, 0))]);
    s.finally("a0", &[(1, 0), (1, 1)]);
    s.is(Kind::StaleRead);
}

#[test]
fn stale_end() {
    let mut s = Story::new();
    s.put("a0", (1, 0), 0);
    s.high_watermark(2, "a0", 0);
    s.finally("a0", &[(1, 0)]);
    s.is(Kind::StaleRead);
}

#[test]
fn stale_empty_read_that_names_no_end() {
    let mut s = Story::new();
    s.put("a0", (1, 0), 0);
    let op = s.begin_read(2, "a0", Offset(0));
    s.records(op, None, &[]);
    s.finally("a0", &[(1, 0)]);
    s.is(Kind::StaleRead);
}

#[test]
fn high_watermark_goes_back() {
    let mut s = Story::new();
    let op = s.produce(1, &[("a0", (1, 0))], None, None);
    s.info(op);
    s.high_watermark(2, "a0", 1);
    s.high_watermark(3, "a0", 0);
    s.finally("a0", &[(1, 0)]);
    s.is(Kind::HighWatermarkBack);
}

#[test]
fn seen_once_then_gone() {
    let mut s = Story::new();
    let op = s.produce(1, &[("a0", (1, 0))], None, None);
    s.info(op);
    s.read(2, "a0", Earliest, 1, &[(0, (1, 0))]);
    s.finally("a0", &[]);
    s.is(Kind::HighWatermarkBack);
}

#[test]
fn if_match_names_an_old_end() {
    let mut s = Story::new();
    s.put("a0", (1, 0), 0);
    s.put("a0", (1, 1), 1);
    let op = s.produce(2, &[("a0", (2, 0))], None, Some(2));
    s.end(op, Outcome::Fail { current: Some(1) });
    s.finally("a0", &[(1, 0), (1, 1)]);
    s.is(Kind::StaleRead);
}

#[test]
fn append_below_an_acknowledged_one_of_another_client() {
    let mut s = Story::new();
    let late = s.produce(2, &[("a0", (2, 0))], None, None);
    s.put("a0", (1, 0), 1);
    s.put("a0", (3, 0), 0);
    s.placed(late, &[2]);
    s.finally("a0", &[(3, 0), (1, 0), (2, 0)]);
    s.is(Kind::AppendOrder);
}

#[test]
fn append_below_an_end_that_was_seen() {
    let mut s = Story::new();
    let op = s.produce(1, &[("a0", (1, 0))], None, None);
    s.high_watermark(2, "a0", 1);
    s.put("a0", (3, 0), 0);
    s.placed(op, &[1]);
    s.finally("a0", &[(3, 0), (1, 0)]);
    s.is(Kind::AppendOrder);
}

#[test]
fn append_that_nobody_acknowledged_below_one_that_had_ended() {
    let mut s = Story::new();
    s.put("a0", (1, 0), 1);
    let op = s.produce(2, &[("a0", (2, 0))], None, None);
    s.info(op);
    s.finally("a0", &[(2, 0), (1, 0)]);
    s.is(Kind::AppendOrder);
}

#[test]
fn duplicate_of_a_retry() {
    let mut s = Story::new();
    let op = s.produce(1, &[("a0", (1, 0))], Some("k"), None);
    s.info(op);
    let op = s.produce(1, &[("a0", (1, 0))], Some("k"), None);
    s.placed(op, &[0]);
    s.finally("a0", &[(1, 0), (1, 0)]);
    s.is(Kind::Duplicate);
}

#[test]
fn duplicate_of_a_single_sending() {
    let mut s = Story::new();
    let op = s.produce(1, &[("a0", (1, 0))], None, None);
    s.info(op);
    s.finally("a0", &[(1, 0), (1, 0)]);
    s.is(Kind::Duplicate);
}

#[test]
fn duplicate_in_another_partition() {
    let mut s = Story::new();
    for _ in 0..2 {
        let op = s.produce(1, &[("a?", (1, 0))], Some("k"), None);
        s.info(op);
    }
    s.finally("a0", &[(1, 0)]);
    s.finally("a1", &[(1, 0)]);
    s.is(Kind::Duplicate);
}

#[test]
fn retry_is_answered_otherwise() {
    let mut s = Story::new();
    let op = s.produce(1, &[("a0", (1, 0))], Some("k"), None);
    s.placed(op, &[0]);
    let op = s.produce(1, &[("a0", (1, 0))], Some("k"), None);
    s.placed(op, &[1]);
    s.finally("a0", &[(1, 0)]);
    s.is(Kind::ChangedAnswer);
}

#[test]
fn key_is_ignored() {
    let mut s = Story::new();
    for counter in 0..2 {
        let op = s.produce(1, &[("a0", (1, counter))], Some("k"), None);
        s.placed(op, &[counter.try_into().expect("small")]);
    }
    s.finally("a0", &[(1, 0), (1, 1)]);
    s.is(Kind::KeyIgnored);
}

#[test]
fn requests_of_a_client_change_places() {
    let mut s = Story::new();
    s.put("a0", (1, 0), 1);
    s.put("a0", (1, 1), 0);
    s.finally("a0", &[(1, 1), (1, 0)]);
    s.is(Kind::ClientOrder);
}

#[test]
fn records_of_a_request_change_places() {
    let mut s = Story::new();
    s.put_all(&[("a0", (1, 0)), ("a0", (1, 1))], &[1, 0]);
    s.finally("a0", &[(1, 1), (1, 0)]);
    s.is(Kind::RequestOrder);
}

#[test]
fn records_of_an_open_request_change_places() {
    let mut s = Story::new();
    let op = s.produce(1, &[("a0", (1, 0)), ("a0", (1, 1))], None, None);
    s.info(op);
    s.finally("a0", &[(1, 1), (1, 0)]);
    s.is(Kind::RequestOrder);
}

#[test]
fn torn_within_a_partition() {
    let mut s = Story::new();
    let op = s.produce(1, &[("a0", (1, 0)), ("a0", (1, 1))], None, None);
    s.read(2, "a0", Earliest, 1, &[(0, (1, 0))]);
    s.placed(op, &[0, 1]);
    s.finally("a0", &[(1, 0), (1, 1)]);
    s.is(Kind::Torn);
}

#[test]
fn torn_by_an_end_alone() {
    let mut s = Story::new();
    let op = s.produce(1, &[("a0", (1, 0)), ("a0", (1, 1))], None, None);
    s.high_watermark(2, "a0", 1);
    s.info(op);
    s.finally("a0", &[(1, 0), (1, 1)]);
    s.is(Kind::Torn);
}

#[test]
fn torn_between_partitions_for_good() {
    let mut s = Story::new();
    let op = s.produce(1, &[("a0", (1, 0)), ("a1", (1, 1))], None, None);
    s.info(op);
    s.finally("a0", &[(1, 0)]);
    s.finally("a1", &[]);
    s.is(Kind::Torn);
}

#[test]
fn torn_within_a_partition_for_good() {
    let mut s = Story::new();
    let op = s.produce(1, &[("a0", (1, 0)), ("a0", (1, 1)), ("b0", (1, 2))], None, None);
    s.info(op);
    s.finally("a0", &[(1, 0)]);
    s.finally("b0", &[(1, 2)]);
    s.is(Kind::Torn);
}

#[test]
fn torn_between_partitions_for_a_while() {
    let mut s = Story::new();
    let op = s.produce(1, &[("a0", (1, 0)), ("b0", (1, 1))], None, None);
    s.read(2, "a0", Earliest, 1, &[(0, (1, 0))]);
    s.read(2, "b0", Earliest, 0, &[]);
    s.placed(op, &[0, 0]);
    s.finally("a0", &[(1, 0)]);
    s.finally("b0", &[(1, 1)]);
    s.is(Kind::Torn);
}

#[test]
fn if_match_is_ignored() {
    let mut s = Story::new();
    s.put("a0", (1, 0), 0);
    let op = s.produce(2, &[("a0", (2, 0))], None, Some(0));
    s.placed(op, &[1]);
    s.finally("a0", &[(1, 0), (2, 0)]);
    s.is(Kind::IfMatch);
}

#[test]
fn if_match_is_refused_though_it_matches() {
    let mut s = Story::new();
    let op = s.produce(2, &[("a0", (2, 0))], None, Some(0));
    s.end(op, Outcome::Fail { current: Some(0) });
    s.finally("a0", &[]);
    s.is(Kind::IfMatch);
}

#[test]
fn poll_goes_back() {
    let mut s = Story::new();
    s.put("a0", (1, 0), 0);
    s.put("a0", (1, 1), 1);
    s.read(2, "a0", Earliest, 2, &[(0, (1, 0)), (1, (1, 1))]);
    s.read(2, "a0", Next, 2, &[(1, (1, 1))]);
    s.finally("a0", &[(1, 0), (1, 1)]);
    s.is(Kind::NonmonotonicPoll);
}

#[test]
fn poll_skips() {
    let mut s = Story::new();
    for offset in 0..3 {
        s.put("a0", (1, offset.try_into().expect("small")), offset);
    }
    s.read(2, "a0", Earliest, 3, &[(0, (1, 0))]);
    let op = s.begin_read(2, "a0", Next);
    s.records(op, None, &[(2, (1, 2))]);
    s.finally("a0", &[(1, 0), (1, 1), (1, 2)]);
    s.is(Kind::SkippedPoll);
}

#[test]
fn log_start_goes_back() {
    let mut s = Story::new();
    s.options.retention = true;
    s.put("a0", (1, 0), 0);
    s.put("a0", (1, 1), 1);
    let op = s.begin_read(2, "a0", Offset(1));
    let records = vec![(1, crate::story::seen((1, 1)))];
    s.end(op, Outcome::Records(ReadAnswer { log_start: Some(1), high_watermark: Some(2), records }));
    s.finally("a0", &[(1, 0), (1, 1)]);
    s.is(Kind::LogStart);
}

#[test]
fn nobody_looked_in_the_end() {
    let mut s = Story::new();
    s.put("a0", (1, 0), 0);
    s.is(Kind::Unread);
}
