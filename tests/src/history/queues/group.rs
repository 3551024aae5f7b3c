//! Assigns settlements to the hand-outs that they name, and compares hand-outs with the log.

use super::hand::{Hand, Touch};
use super::{Checker, HandNumber, OpNumber, QueueNumber, Span};
use crate::history::op::{Call, Outcome};
use crate::history::queue::{Intent, QueueAnswer, QueueCall, Settle, Status, Target, Token, Verdict};
use crate::history::violation::Kind;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A hasher that returns its input: tokens are hashes already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

type Tokens<T> = HashMap<Token, T, BuildHasherDefault<AsIs>>;

/// A settlement entry that names a whole lease.
struct Whole<'a> {
    op: OpNumber,
    settle: &'a Settle,
    lease: Token,
    intent: &'a Intent,
    verdict: Option<Verdict>,
}

impl<'a> Checker<'a> {
    pub(super) fn index_touches(&mut self) {
        let mut receipts: Tokens<HandNumber> = Tokens::default();
        receipts.reserve(self.hands.len());
        for number in 0..self.hands.len() {
            if let Some(other) = receipts.insert(self.hands[number].receipt, number) {
                let (one, two) = (self.hands[other], self.hands[number]);
                self.say(
                    Kind::ForeignReceipt,
                    two.queue,
                    (two.partition, two.offset),
                    &[one.op, two.op],
                    "one receipt for two hand-outs",
                );
            }
        }
        let mut touches: Vec<Touch<'a>> = Vec::new();
        let mut wholes: Vec<Whole<'a>> = Vec::new();
        let ops = self.ops;
        for (op, settle) in ops.iter().enumerate().filter_map(|(n, op)| match &op.call {
            Call::Queue(QueueCall::Settle(settle)) if !matches!(op.outcome(), Outcome::Fail { .. }) => {
                Some((n, settle))
            }
            _ => None,
        }) {
            let verdicts = if let Outcome::Queue(QueueAnswer::Settled(verdicts)) = ops[op].outcome() {
                Some(verdicts)
            } else {
                None
            };
            let count = verdicts.map_or(settle.entries.len(), Vec::len);
            assert_eq!(
                count,
                settle.entries.len(),
                "operation {} was answered for another number of entries",
                ops[op].id
            );
            for (n, entry) in settle.entries.iter().enumerate() {
                let verdict = verdicts.map(|verdicts| verdicts[n]);
                match entry.target {
                    Target::Lease(lease) => {
                        wholes.push(Whole { op, settle, lease, intent: &entry.intent, verdict })
                    }
                    Target::Receipt(receipt) => match receipts.get(&receipt) {
                        Some(hand) if self.is_own(settle, *hand) => {
                            touches.push(self.touch(*hand, op, settle, &entry.intent, verdict))
                        }
                        hand => self.foreign(hand.copied(), op, settle, verdict),
                    },
                }
            }
        }
        self.index_wholes(&mut touches, wholes);
        self.place(&touches);
    }

    fn is_own(&self, settle: &Settle, hand: HandNumber) -> bool {
        settle.queue.as_ref().is_none_or(|queue| self.queues[self.hands[hand].queue].name == queue.as_str())
    }

    fn touch(
        &self,
        hand: HandNumber,
        op: OpNumber,
        settle: &'a Settle,
        intent: &'a Intent,
        verdict: Option<Verdict>,
    ) -> Touch<'a> {
        Touch {
            hand,
            op,
            request: settle.request.as_deref(),
            invoked: self.ops[op].invoked,
            returned: self.ops[op].ended(),
            intent,
            status: verdict.map(|v| v.status),
            deadline_ms: verdict.and_then(|v| v.deadline_ms),
        }
    }

    fn foreign(&mut self, hand: Option<HandNumber>, op: OpNumber, settle: &Settle, verdict: Option<Verdict>) {
        if verdict.is_none_or(|v| matches!(v.status, Status::Lost | Status::Untouched)) {
            return;
        }
        match hand.map(|hand| self.hands[hand]) {
            Some(hand) => {
                let what = "another queue's receipt was honoured";
                self.say(
                    Kind::ForeignReceipt,
                    hand.queue,
                    (hand.partition, hand.offset),
                    &[hand.op, op],
                    what,
                );
            }
            None => {
                let queue: QueueNumber =
                    settle.queue.as_ref().map_or(0, |name| self.queue_numbers[name.as_str()]);
                self.say(
                    Kind::ForeignReceipt,
                    queue,
                    (-1, -1),
                    &[op],
                    "a receipt that nobody was handed was honoured",
                );
            }
        }
    }

    /// Entries for whole leases. The answer tells the number of settled records, not which; if it equals the
    /// number that can have been left, they are known.
    fn index_wholes(&mut self, touches: &mut Vec<Touch<'a>>, wholes: Vec<Whole<'a>>) {
        if wholes.is_empty() {
            return;
        }
        let mut leases: Tokens<Vec<HandNumber>> = Tokens::default();
        for (number, hand) in self.hands.iter().enumerate() {
            leases.entry(hand.lease).or_default().push(number);
        }
        let mut ends: HashMap<HandNumber, Touch<'a>> =
            touches.iter().filter(|t| t.ended()).map(|t| (t.hand, *t)).collect();
        for whole in wholes {
            let hands: Vec<HandNumber> = leases.get(&whole.lease).cloned().unwrap_or_default();
            let Some(first) = hands.first().copied().filter(|hand| self.is_own(whole.settle, *hand)) else {
                self.foreign(hands.first().copied(), whole.op, whole.settle, whole.verdict);
                continue;
            };
            let template = self.touch(first, whole.op, whole.settle, whole.intent, whole.verdict);
            let renews = matches!(whole.intent, Intent::Renew { .. });
            let is_left = |hand: &HandNumber| {
                ends.get(hand).is_none_or(|end| {
                    if renews { end.returned >= template.invoked } else { end.repeats(&template) }
                })
            };
            let left: Vec<HandNumber> = hands.iter().copied().filter(is_left).collect();
            let told = whole.verdict.and_then(|v| v.records).and_then(|n| usize::try_from(n).ok());
            if told.is_some_and(|n| n > left.len()) {
                let (hand, what) = (
                    self.hands[first],
                    format!("{told:?} records of a lease were settled, of which {} were left", left.len()),
                );
                self.say(
                    Kind::WrongVerdict,
                    hand.queue,
                    (hand.partition, hand.offset),
                    &[hand.op, whole.op],
                    &what,
                );
            }
            let sure = told.is_none_or(|n| n == left.len());
            let status = whole.verdict.map(|v| v.status).filter(|status| sure || *status == Status::Lost);
            let returned = if status.is_some() { template.returned } else { u64::MAX };
            for hand in left {
                let touch = Touch { hand, status, returned, ..template };
                if touch.ended() {
                    ends.entry(hand).or_insert(touch);
                }
                touches.push(touch);
            }
        }
    }

    /// Orders touches by hand-out, and each hand-out's touches by invocation.
    fn place(&mut self, touches: &[Touch<'a>]) {
        let mut ends = vec![0_usize; self.hands.len() + 1];
        for touch in touches {
            ends[touch.hand + 1] += 1;
        }
        for n in 1..ends.len() {
            ends[n] += ends[n - 1];
        }
        let mut order = vec![0_usize; touches.len()];
        let mut next = ends.clone();
        for (number, touch) in touches.iter().enumerate() {
            order[next[touch.hand]] = number;
            next[touch.hand] += 1;
        }
        self.touches = order.into_iter().map(|number| touches[number]).collect();
        for (hand, range) in self.hands.iter_mut().zip(ends.windows(2)) {
            hand.touches = (range[0], range[1]);
            if range[1] - range[0] > 1 {
                self.touches[range[0]..range[1]].sort_by_key(|touch| touch.invoked);
            }
        }
    }

    /// The hand-outs of each record, as ranges of [`Checker::hands`].
    pub(super) fn records(&self) -> Vec<Span> {
        let place = |hand: &Hand<'_>| (hand.queue, hand.partition, hand.offset);
        let mut records = Vec::new();
        let mut from = 0;
        for number in 1..=self.hands.len() {
            if self.hands.get(number).map(place) != self.hands.get(from).map(place) {
                records.push((from, number));
                from = number;
            }
        }
        records
    }

    /// I2, I3: a hand-out must have the content that the log holds at its offset.
    pub(super) fn compare_with_log(&mut self) {
        for (from, to) in self.records() {
            let first = self.hands[from];
            let at = (first.partition, first.offset);
            if let Some(other) = self.hands[from..to].iter().find(|hand| hand.seen != first.seen).copied() {
                self.say(
                    Kind::InconsistentOffset,
                    first.queue,
                    at,
                    &[first.op, other.op],
                    "handed out as two records",
                );
                continue;
            }
            match self.known_of(&first).copied() {
                Some(known) if known.seen != first.seen => {
                    self.say(
                        Kind::InconsistentOffset,
                        first.queue,
                        at,
                        &[known.op, first.op],
                        "the log holds another record here",
                    );
                }
                Some(_) => {}
                None => {
                    if let Some(by) = self.final_of(&first) {
                        self.say(
                            Kind::Phantom,
                            first.queue,
                            at,
                            &[by, first.op],
                            "handed out, and not in a complete read of the log",
                        );
                    }
                }
            }
        }
    }

    fn final_of(&self, hand: &Hand<'a>) -> Option<OpNumber> {
        let (op, log_start) = self.finals.get(&(self.queues[hand.queue].topic()?, hand.partition))?;
        (*log_start <= hand.offset).then_some(*op)
    }
}
