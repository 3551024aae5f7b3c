//! Random histories of correct queues: the checker must accept them. The same with one corruption: it must
//! refuse them.

use crate::queue_model::QueueModel;
use crate::queue_state::Bug;
use millpond_tests::history::{
    Call, HandOut, History, Intent, Op, Outcome, QueueAnswer, QueueCall, QueueOptions, Status, Target, Token,
    check_queues,
};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const STRICT: QueueOptions = QueueOptions { require_rest: true, slack_ms: 0 };

/// A hand-out, by the index of its operation and its index in the answer.
type Hand = (usize, usize);

fn hands(history: &History) -> Vec<(Hand, &HandOut)> {
    let of = |(op, o): (usize, &'_ Op)| match o.outcome() {
        Outcome::Queue(QueueAnswer::Leased(leased)) => (0..leased.records.len()).map(|n| (op, n)).collect(),
        _ => Vec::new(),
    };
    let all = history.ops.iter().enumerate().flat_map(of);
    all.map(|(op, n)| ((op, n), hand(history, (op, n)))).collect()
}

fn hand(history: &History, at: Hand) -> &HandOut {
    match history.ops[at.0].outcome() {
        Outcome::Queue(QueueAnswer::Leased(leased)) => &leased.records[at.1],
        outcome => panic!("no lease: {outcome:?}"),
    }
}

fn hand_mut(history: &mut History, at: Hand) -> &mut HandOut {
    match &mut history.ops[at.0].returned {
        Some((_, Outcome::Queue(QueueAnswer::Leased(leased)))) => &mut leased.records[at.1],
        returned => panic!("no lease: {returned:?}"),
    }
}

/// Settlements of receipts: operation, entry, receipt, and status if it is known.
fn settled(history: &History) -> Vec<(usize, usize, Token, Option<Status>)> {
    let mut all = Vec::new();
    for (op, o) in history.ops.iter().enumerate() {
        let Call::Queue(QueueCall::Settle(settle)) = &o.call else { continue };
        let verdicts = if let Outcome::Queue(QueueAnswer::Settled(verdicts)) = o.outcome() {
            Some(verdicts)
        } else {
            None
        };
        if matches!(o.outcome(), Outcome::Fail { .. }) {
            continue;
        }
        for (n, entry) in settle.entries.iter().enumerate() {
            let Target::Receipt(token) = entry.target else { continue };
            all.push((op, n, token, verdicts.map(|v| v[n].status)));
        }
    }
    all
}

/// A settlement with this status whose receipt no other settlement named: its operation, its entry and its
/// hand-out.
fn told(history: &History, status: Status, which: usize) -> Option<(usize, usize, Hand)> {
    let all = settled(history);
    let once = |token: Token| all.iter().filter(|(_, _, t, _)| *t == token).count() == 1;
    let found: Vec<_> =
        all.iter().filter(|(_, _, token, told)| *told == Some(status) && once(*token)).collect();
    let (op, n, token, _) = **found.get(which % found.len().max(1))?;
    let hand = hands(history).into_iter().find(|(_, hand)| hand.receipt == token)?.0;
    Some((op, n, hand))
}

/// Whether the outcome of every settlement of this record in this queue is known.
fn is_clear(history: &History, name: &str, place: (i32, i64)) -> bool {
    let is_it = |(at, hand): &(Hand, &HandOut)| {
        (hand.partition, hand.offset) == place && queue(&history.ops[at.0]) == name
    };
    let receipts: Vec<Token> =
        hands(history).iter().filter(|h| is_it(h)).map(|(_, hand)| hand.receipt).collect();
    settled(history).iter().all(|(_, _, token, told)| told.is_some() || !receipts.contains(token))
}

fn say(history: &mut History, op: usize, entry: usize, status: Status) {
    if let Some((_, Outcome::Queue(QueueAnswer::Settled(verdicts)))) = &mut history.ops[op].returned {
        verdicts[entry].status = status;
    }
}

fn queue(op: &Op) -> &str {
    match &op.call {
        Call::Queue(QueueCall::Lease(lease)) => &lease.queue,
        call => panic!("no lease: {call:?}"),
    }
}

/// Corrupts a history so that no correct queue can have produced it; `None` if there is nothing to corrupt in
/// this way.
fn spoil(history: &mut History, how: u32, which: usize) -> Option<()> {
    let all: Vec<Hand> = hands(history).into_iter().map(|(at, _)| at).collect();
    let some = all.get(which % all.len().max(1)).copied();
    let redriven = history.ops.iter().any(|op| matches!(op.call, Call::Queue(QueueCall::Redrive { .. })));
    match how {
        0 => {
            let at = some?;
            let tried = hand(history, at).attempt;
            hand_mut(history, at).failures += tried;
        }
        1 => {
            let (op, n, at) = told(history, Status::Acked, which)?;
            let given = hand(history, at);
            is_clear(history, queue(&history.ops[at.0]), (given.partition, given.offset)).then_some(())?;
            say(history, op, n, Status::Lost);
        }
        2 => {
            let (op, _, at) = told(history, Status::Acked, which)?;
            let (ended, name) = (history.ops[op].ended(), queue(&history.ops[at.0]).to_owned());
            let mut again = hand(history, at).clone();
            (again.attempt, again.receipt) = (again.attempt + 1, Token(u64::MAX));
            let is_later = |o: &Op| {
                o.invoked > ended
                    && matches!(o.outcome(), Outcome::Queue(QueueAnswer::Leased(_)))
                    && queue(o) == name
            };
            let later = history.ops.iter_mut().find(|o| is_later(o))?;
            if let Some((_, Outcome::Queue(QueueAnswer::Leased(leased)))) = &mut later.returned {
                leased.records.push(again);
            }
        }
        3 | 4 => {
            let dead =
                |op: &Op| matches!(op.outcome(), Outcome::Queue(QueueAnswer::Rest(rest)) if rest.dead > 0);
            let op = history.ops.iter().rposition(dead)?;
            let clear = |history: &History, name: &str, place: (i32, i64)| {
                is_clear(history, name, place) && !redriven
            };
            let Call::Queue(QueueCall::Rest { queue: name }) = history.ops[op].call.clone() else {
                return None;
            };
            let Some((_, Outcome::Queue(QueueAnswer::Rest(mut rest)))) = history.ops[op].returned.clone()
            else {
                return None;
            };
            let place = which % rest.dead_listed.len();
            let (partition, offset) = (rest.dead_listed[place].partition, rest.dead_listed[place].offset);
            if how == 3 {
                clear(history, &name, (partition, offset)).then_some(())?;
                rest.dead_listed.remove(place);
                rest.dead -= 1;
            } else {
                rest.dead_listed[place].failures += 3;
            }
            history.ops[op].returned.as_mut()?.1 = Outcome::Queue(QueueAnswer::Rest(rest));
        }
        5 => {
            let at = some?;
            hand_mut(history, at).receipt = Token(u64::MAX);
            let (op, other) = (all.iter().find(|other| **other != at)?, Token(u64::MAX));
            hand_mut(history, *op).receipt = other;
        }
        6 => {
            let (op, n, at) = told(history, Status::Released, which)?;
            let given = hand(history, at).clone();
            let name = queue(&history.ops[at.0]).to_owned();
            let again = |(other, h): &(Hand, &HandOut)| {
                (h.partition, h.offset) == (given.partition, given.offset)
                    && h.attempt > given.attempt
                    && queue(&history.ops[other.0]) == name
            };
            hands(history).iter().find(|h| again(h))?;
            say(history, op, n, Status::Acked);
        }
        7 => {
            let (op, n, _) = told(history, Status::Released, which)?;
            let Call::Queue(QueueCall::Settle(settle)) = &history.ops[op].call else { return None };
            matches!(settle.entries[n].intent, Intent::Nack { .. }).then_some(())?;
            say(history, op, n, Status::Dead);
        }
        _ => {
            let at = some?;
            let client = history.ops[at.0].id.client;
            hand_mut(history, at).seen = millpond_tests::history::Seen::Foreign(u64::from(client));
        }
    }
    Some(())
}

/// Each planted bug must be detected in one of a few histories.
#[test]
fn planted_bugs_are_found() {
    for bug in Bug::ALL {
        let found = (0..200).find_map(|seed| {
            let mut rng = StdRng::seed_from_u64(seed);
            let choices: Vec<u32> = (0..1_000).map(|_| rng.random()).collect();
            check_queues(&QueueModel::history(&choices, Some(bug)), STRICT)
                .first()
                .map(|violation| (seed, violation.to_string()))
        });
        println!("{bug:?}: {:?}", found.as_ref().unwrap_or_else(|| panic!("{bug:?} was not found")));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, max_global_rejects: u32::MAX, ..ProptestConfig::default() })]

    #[test]
    fn what_correct_queues_made_is_not_refused(choices in prop::collection::vec(any::<u32>(), 0..1_200)) {
        let violations = check_queues(&QueueModel::history(&choices, None), STRICT);
        prop_assert!(violations.is_empty(), "{}", violations[0]);
    }

    #[test]
    fn what_was_spoilt_in_one_place_is_refused(
        choices in prop::collection::vec(any::<u32>(), 300..1_200),
        how in 0_u32..9,
        which in any::<usize>(),
    ) {
        let mut history = QueueModel::history(&choices, None);
        prop_assume!(spoil(&mut history, how, which).is_some());
        prop_assert!(!check_queues(&history, STRICT).is_empty(), "spoilt by {how}");
    }
}
