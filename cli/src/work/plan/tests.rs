use super::*;
use crate::leases::{Nack, Renewal, Status};

const LEASE: Duration = Duration::from_secs(30);
const WAIT: Duration = Duration::from_secs(20);

fn plan(concurrency: usize) -> Plan {
    Plan::new(Settings { concurrency, lease_ms: None, wait: WAIT, idle_exit: false })
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn records(receipts: &[&str]) -> Vec<(String, String)> {
    receipts.iter().map(|receipt| ((*receipt).to_owned(), format!("t 0:{receipt}"))).collect()
}

fn verdicts(receipts: &[&str], status: Status) -> Vec<Verdict> {
    receipts.iter().map(|receipt| Verdict { receipt: (*receipt).to_owned(), status }).collect()
}

fn acks(receipts: &[&str]) -> Option<Settlement> {
    Some(Settlement {
        ack: receipts.iter().map(|receipt| (*receipt).to_owned()).collect(),
        ..Settlement::default()
    })
}

/// A plan that has leased these receipts at `now` and has no free slot.
fn holding(now: Instant, receipts: &[&str]) -> Plan {
    let mut plan = plan(receipts.len());
    assert_eq!(plan.next(now).lease, Some(receipts.len()));
    assert!(plan.leased(now, LEASE, records(receipts), None));
    plan
}

#[test]
fn only_free_slots_are_leased_one_call_at_a_time() {
    let now = Instant::now();
    let mut plan = plan(3);
    assert_eq!(plan.next(now), Step { lease: Some(3), ..Step::default() });
    assert_eq!(plan.next(now), Step::default());
    assert!(plan.leased(now, LEASE, records(&["a", "b"]), None));
    assert_eq!(plan.next(now).lease, Some(1));
    assert!(plan.leased(now, LEASE, records(&["c"]), None));
    let step = plan.next(now);
    assert_eq!(step, Step { wake_at: Some(now + LEASE / 3), ..Step::default() });
    assert_eq!(plan.held(), 3);
}

#[test]
fn slots_that_come_free_together_are_filled_together() {
    let now = Instant::now();
    let mut plan = holding(now, &["a", "b", "c"]);
    plan.ended(now, "a", Outcome::Done);
    assert_eq!(plan.next(now), Step { wake_at: Some(now + COLLECT_WINDOW), ..Step::default() });
    plan.ended(now + ms(4), "b", Outcome::Done);
    let step = plan.next(now + ms(5));
    assert_eq!((step.lease, step.settle), (Some(2), acks(&["a", "b"])));
}

#[test]
fn what_ends_alone_is_settled_at_once() {
    let now = Instant::now();
    let mut plan = holding(now, &["a"]);
    plan.ended(now, "a", Outcome::Failed("no".to_owned()));
    let step = plan.next(now);
    let nack = Nack { receipt: "a".to_owned(), delay_ms: None, reason: Some("no".to_owned()), counts: true };
    assert_eq!(step.settle, Some(Settlement { nack: vec![nack], ..Settlement::default() }));
    assert_eq!(step.lease, Some(1));
    assert_eq!(plan.settled(now, &verdicts(&["a"], Status::Dead)), []);
    assert_eq!(plan.tally(), Tally { nacked: 1, ..Tally::default() });
}

#[test]
fn what_ends_during_a_settlement_is_in_the_next() {
    let now = Instant::now();
    let mut plan = holding(now, &["a", "b"]);
    plan.ended(now, "a", Outcome::Done);
    assert_eq!(plan.next(now + COLLECT_WINDOW).settle, acks(&["a"]));
    plan.ended(now + ms(6), "b", Outcome::Done);
    assert_eq!(plan.next(now + ms(7)).settle, None);
    plan.settled(now + ms(8), &verdicts(&["a"], Status::Acked));
    assert_eq!(plan.next(now + ms(8)).settle, acks(&["b"]));
}

#[test]
fn what_cannot_be_settled_is_bounded() {
    let now = Instant::now();
    let mut plan = holding(now, &["a"]);
    plan.ended(now, "a", Outcome::Done);
    let step = plan.next(now);
    assert_eq!((step.lease, step.settle), (Some(1), acks(&["a"])));
    assert!(plan.leased(now, LEASE, records(&["b"]), None));
    plan.ended(now, "b", Outcome::Done);
    assert_eq!(plan.next(now), Step::default());
    plan.settled(now, &verdicts(&["a"], Status::Acked));
    let step = plan.next(now);
    assert_eq!((step.lease, step.settle), (Some(1), acks(&["b"])));
}

#[test]
fn leases_are_renewed_at_a_third_of_their_time() {
    let now = Instant::now();
    let mut plan = holding(now, &["a", "b"]);
    assert_eq!(plan.next(now + ms(9_999)).settle, None);
    let renewal = |receipt: &str| Renewal { receipt: receipt.to_owned(), lease_ms: None };
    let both = Settlement { renew: vec![renewal("a"), renewal("b")], ..Settlement::default() };
    assert_eq!(plan.next(now + ms(10_000)).settle, Some(both.clone()));
    assert_eq!(plan.next(now + ms(11_000)).settle, None, "one call at a time");
    plan.settled(now + ms(12_000), &verdicts(&["a", "b"], Status::Renewed));
    assert_eq!(plan.next(now + ms(12_000)).wake_at, Some(now + ms(20_000)), "counted from when it was asked");
    plan.ended(now + ms(19_999), "b", Outcome::Done);
    let step = plan.next(now + ms(20_000));
    assert_eq!(
        step.settle,
        Some(Settlement { ack: vec!["b".to_owned()], renew: vec![renewal("a")], ..Settlement::default() })
    );
}

#[test]
fn a_renewal_that_took_long_is_followed_by_another() {
    let now = Instant::now();
    let mut plan = holding(now, &["a"]);
    assert!(plan.next(now + ms(10_000)).settle.is_some());
    plan.settled(now + ms(60_000), &verdicts(&["a"], Status::Renewed));
    assert_eq!(plan.next(now + ms(60_000)).wake_at, Some(now + ms(60_000) + RENEWAL_INTERVAL_MIN));
}

#[test]
fn what_is_lost_is_not_settled_and_its_slot_is_taken_till_its_end() {
    let now = Instant::now();
    let mut plan = holding(now, &["a"]);
    assert!(plan.next(now + ms(10_000)).settle.is_some());
    let lost = plan.settled(now + ms(10_000), &verdicts(&["a"], Status::Lost));
    assert_eq!(lost, [Lost::Running { name: "t 0:a".to_owned() }]);
    assert_eq!(plan.next(now + ms(50_000)), Step::default());
    plan.ended(now + ms(50_000), "a", Outcome::Done);
    let step = plan.next(now + ms(50_000));
    assert_eq!((step.settle, step.lease), (None, Some(1)));
    assert_eq!(plan.tally(), Tally { lost: 1, ..Tally::default() });
}

#[test]
fn an_outcome_that_comes_too_late_is_counted_once() {
    let now = Instant::now();
    let mut plan = holding(now, &["a"]);
    assert!(plan.next(now + ms(10_000)).settle.is_some());
    plan.ended(now + ms(10_001), "a", Outcome::Done);
    assert_eq!(plan.settled(now + ms(10_002), &verdicts(&["a"], Status::Lost)), []);
    assert_eq!(plan.next(now + ms(10_002)).settle, acks(&["a"]));
    let lost = plan.settled(now + ms(10_003), &verdicts(&["a"], Status::Lost));
    assert_eq!(lost, [Lost::Ended { name: "t 0:a".to_owned() }]);
    assert_eq!(plan.tally(), Tally { lost: 1, ..Tally::default() });
}

#[test]
fn to_stop_is_to_bring_to_an_end_what_runs() {
    let now = Instant::now();
    let mut plan = plan(2);
    assert_eq!(plan.next(now).lease, Some(2));
    assert!(plan.leased(now, LEASE, records(&["a"]), None));
    assert_eq!(plan.next(now).lease, Some(1));
    plan.stop();
    let step = plan.next(now + ms(1));
    assert_eq!(step, Step { wake_at: Some(now + LEASE_GRACE), ..Step::default() });
    // Records of a lease call that was under way are given back.
    assert!(!plan.leased(now + ms(2), LEASE, records(&["b"]), None));
    let back = Nack { receipt: "b".to_owned(), delay_ms: Some(0), reason: None, counts: false };
    let step = plan.next(now + ms(2) + COLLECT_WINDOW);
    assert_eq!(
        (step.lease, step.settle, step.end),
        (None, Some(Settlement { nack: vec![back], ..Settlement::default() }), false)
    );
    plan.settled(now + ms(8), &verdicts(&["b"], Status::Released));
    plan.ended(now + ms(5_000), "a", Outcome::Done);
    assert_eq!(plan.next(now + ms(5_000)).settle, acks(&["a"]));
    plan.settled(now + ms(5_001), &verdicts(&["a"], Status::Acked));
    assert!(plan.next(now + ms(5_001)).end);
    assert_eq!(plan.tally(), Tally { acked: 1, nacked: 1, ..Tally::default() });
}

#[test]
fn a_lease_call_that_waits_is_dropped() {
    let now = Instant::now();
    let mut plan = plan(1);
    assert_eq!(plan.next(now).lease, Some(1));
    plan.stop();
    assert!(!plan.next(now + ms(499)).drop_lease);
    let step = plan.next(now + LEASE_GRACE);
    assert!(step.drop_lease && step.end);
}

#[test]
fn a_server_that_is_gone_is_not_waited_for_for_ever_at_the_end() {
    let now = Instant::now();
    for (hurried, limit) in [(false, SETTLE_WAIT_MAX), (true, HURRIED_SETTLE_WAIT_MAX)] {
        let mut plan = holding(now, &["a"]);
        plan.stop();
        plan.ended(now, "a", Outcome::Done);
        assert_eq!(plan.next(now).settle, acks(&["a"]));
        if hurried {
            plan.hurry();
        }
        let step = plan.next(now + ms(1));
        assert_eq!((step.end, step.wake_at), (false, Some(now + limit)));
        assert!(plan.next(now + limit).end);
        assert_eq!(plan.tally(), Tally { untold: 1, ..Tally::default() });
    }
}

#[test]
fn idle_is_when_nothing_ran_and_nothing_came_in_all_the_time() {
    let now = Instant::now();
    let idle_exit =
        |concurrency| Plan::new(Settings { concurrency, lease_ms: None, wait: WAIT, idle_exit: true });
    let ends = |waited: Duration, limited_by: Option<&str>| {
        let mut plan = idle_exit(1);
        assert_eq!(plan.next(now).lease, Some(1));
        plan.leased(now + waited, Duration::ZERO, Vec::new(), limited_by);
        plan.next(now + waited).end
    };
    assert!(ends(WAIT, None) && ends(WAIT, Some("paused")));
    assert!(!ends(WAIT / 2, None) && !ends(WAIT, Some("rate")) && !ends(WAIT, Some("keys")));

    let mut plan = idle_exit(2);
    assert_eq!(plan.next(now).lease, Some(2));
    assert!(plan.leased(now, LEASE, records(&["a"]), None));
    assert_eq!(plan.next(now).lease, Some(1));
    plan.ended(now + ms(19_000), "a", Outcome::Failed("again".to_owned()));
    assert!(plan.leased(now + WAIT, Duration::ZERO, Vec::new(), None), "what failed may come again");
}

#[test]
fn empty_answers_are_not_asked_for_in_haste() {
    let now = Instant::now();
    let mut plan = plan(1);
    assert_eq!(plan.next(now).lease, Some(1));
    assert!(plan.leased(now + ms(1), Duration::ZERO, Vec::new(), Some("paused")));
    assert_eq!(
        plan.next(now + ms(1)),
        Step { wake_at: Some(now + EMPTY_ANSWER_INTERVAL), ..Step::default() }
    );
    assert_eq!(plan.next(now + EMPTY_ANSWER_INTERVAL).lease, Some(1));
}

#[test]
fn a_refused_settlement_ends_the_work() {
    let now = Instant::now();
    let mut plan = holding(now, &["a", "b"]);
    plan.ended(now, "a", Outcome::Done);
    assert!(plan.next(now + COLLECT_WINDOW).settle.is_some());
    plan.settle_failed();
    plan.ended(now + ms(9), "b", Outcome::Done);
    let step = plan.next(now + ms(9));
    assert_eq!((step.lease, step.settle), (None, acks(&["b"])));
    plan.settle_failed();
    assert!(plan.next(now + ms(10) + LEASE_GRACE).end);
    assert_eq!(plan.tally(), Tally { untold: 2, ..Tally::default() });
}
