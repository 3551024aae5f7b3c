use super::*;
use millpond_core::PartitionId;
use uuid::Uuid;

fn lease(n: u128) -> LeaseId {
    LeaseId(Uuid::from_u128(n))
}

fn record(l: u128, offset: i64, action: Action) -> Item {
    let receipt = Receipt { lease: lease(l), partition: PartitionId(1), offset: Offset(offset), attempt: 1 };
    Item { target: Target::Record(receipt), action }
}

fn nack(reason: &str) -> Action {
    Action::Nack { delay_ms: None, counts: true, reason: Some(reason.to_owned()) }
}

fn run(lo: i64, hi: i64) -> Claim {
    Claim::Run { partition: PartitionId(1), attempt: 1, lo: Offset(lo), hi: Offset(hi) }
}

fn verdict(entry: usize, lo: i64, hi: i64, outcome: Outcome) -> Verdict {
    Verdict { entry, partition: PartitionId(1), lo: Offset(lo), hi: Offset(hi), outcome }
}

#[test]
fn neighbours_of_one_fate_are_one_entry() {
    let items = [
        record(1, 7, Action::Ack),
        record(1, 5, Action::Ack),
        record(1, 6, Action::Ack),
        record(1, 8, nack("a")),
        record(1, 9, nack("b")),
        record(2, 10, Action::Ack),
        record(1, 20, Action::Ack),
    ];
    let plan = Plan::of(&items);
    let claims: Vec<_> = plan.entries.iter().map(|e| (e.lease, e.claim)).collect();
    assert_eq!(
        claims,
        [
            (lease(1), run(5, 8)),
            (lease(1), run(8, 9)),
            (lease(1), run(9, 10)),
            (lease(1), run(20, 21)),
            (lease(2), run(10, 11))
        ]
    );
}

#[test]
fn the_first_verdict_on_a_receipt_is_the_one() {
    let items = [
        record(1, 5, Action::Ack),
        record(1, 5, nack("late")),
        Item { target: Target::Nothing, action: Action::Ack },
    ];
    let plan = Plan::of(&items);
    assert_eq!(plan.entries.len(), 1);
    let settled = Verdicts { at_ms: 10, verdicts: vec![verdict(0, 5, 6, Outcome::Acked)] };
    let statuses: Vec<_> = plan.results(&settled, 0).iter().map(|t| t.status).collect();
    assert_eq!(statuses, [SettleStatus::Done(Outcome::Acked), SettleStatus::Lost, SettleStatus::Lost]);
}

#[test]
fn each_record_finds_its_own_verdict() {
    let items = [
        record(1, 5, nack("x")),
        record(1, 6, nack("x")),
        record(1, 7, nack("x")),
        record(1, 8, Action::Renew { lease_ms: 500 }),
    ];
    let plan = Plan::of(&items);
    let verdicts = vec![
        verdict(3, 5, 6, Outcome::Released),
        verdict(3, 7, 8, Outcome::Dead),
        verdict(4, 8, 9, Outcome::Renewed),
    ];
    let told = plan.results(&Verdicts { at_ms: 1_000, verdicts }, 3);
    assert_eq!(told[0].status, SettleStatus::Done(Outcome::Released));
    assert_eq!(told[1], Settled::LOST);
    assert_eq!(told[2].status, SettleStatus::Done(Outcome::Dead));
    assert_eq!(
        told[3],
        Settled { status: SettleStatus::Done(Outcome::Renewed), deadline_ms: Some(1_500), records: 1 }
    );
}

#[test]
fn a_whole_lease_counts_what_was_left_of_it() {
    let whole = |l| Item { target: Target::Lease(lease(l)), action: Action::Ack };
    let plan = Plan::of(&[whole(1), record(1, 5, nack("x")), whole(1), whole(2)]);
    assert_eq!(
        plan.entries.iter().map(|e| e.claim).collect::<Vec<_>>(),
        [run(5, 6), Claim::Whole, Claim::Whole]
    );
    let verdicts = vec![
        verdict(0, 5, 6, Outcome::Released),
        verdict(1, 0, 5, Outcome::Acked),
        verdict(1, 6, 10, Outcome::Acked),
    ];
    let told = plan.results(&Verdicts { at_ms: 0, verdicts }, 0);
    assert_eq!(told.iter().map(|t| t.records).collect::<Vec<_>>(), [9, 1, 0, 0]);
    assert_eq!(told[3], Settled::LOST);
}

#[test]
fn no_offset_overflows() {
    let items =
        [record(1, i64::MAX, Action::Ack), record(1, i64::MAX - 1, Action::Ack), record(1, -1, Action::Ack)];
    assert_eq!(Plan::of(&items).entries.len(), 3);
}
