//! Index of the operations on queues, of hand-outs, and of what is known about the log.

use super::clock::Clock;
use super::hand::Hand;
use super::{Break, Checker, OpNumber, Queue, QueueNumber, Revival};
use crate::history::op::{Call, Op, Outcome, Produce, Timing};
use crate::history::queue::{Lease, Leased, QueueAnswer, QueueCall, Which};
use crate::history::record::{RecordId, Seen};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Known content of the log at an offset.
#[derive(Clone, Copy)]
pub(super) struct Known {
    pub offset: i64,
    pub seen: Seen,
    pub op: OpNumber,
    /// First time at which the record was sent; `None` if unknown. `returned` is the time of its first
    /// acknowledgement; `u64::MAX` if unknown.
    pub invoked: Option<u64>,
    pub returned: u64,
    pub timing: Timing,
}

impl<'a> Checker<'a> {
    pub(super) fn index(&mut self) {
        for op in 0..self.ops.len() {
            if let Call::Queue(call) = &self.ops[op].call {
                self.index_call(op, call);
            }
        }
        self.index_hands();
        self.index_touches();
        self.index_known();
    }

    fn queue(&mut self, name: &'a str) -> QueueNumber {
        let next = self.queues.len();
        let number = *self.queue_numbers.entry(name).or_insert(next);
        if number == next {
            self.queues.push(Queue {
                name,
                specs: Vec::new(),
                breaks: Vec::new(),
                redrives: Vec::new(),
                dead_purges: Vec::new(),
                unanswered: Vec::new(),
                rest: None,
                leased: false,
            });
        }
        number
    }

    fn index_call(&mut self, op: OpNumber, call: &'a QueueCall) {
        let (invoked, returned, outcome) =
            (self.ops[op].invoked, self.ops[op].ended(), self.ops[op].outcome());
        if matches!(outcome, Outcome::Fail { .. }) {
            return;
        }
        let revival = |which: &'a Which| Revival { invoked, returned, which };
        match call {
            QueueCall::Make(spec) => {
                let queue = self.queue(&spec.queue);
                self.queues[queue].specs.push((op, spec));
            }
            QueueCall::Lease(lease) => {
                let queue = self.queue(&lease.queue);
                match outcome {
                    Outcome::Queue(QueueAnswer::Leased(leased)) => {
                        self.queues[queue].leased |= !leased.records.is_empty()
                    }
                    _ => self.queues[queue].unanswered.push(invoked),
                }
            }
            QueueCall::Settle(settle) => {
                if let Some(name) = &settle.queue {
                    self.queue(name);
                }
            }
            QueueCall::Seek { queue, .. } | QueueCall::Purge { queue } => {
                let partitions =
                    if let QueueCall::Seek { partitions, .. } = call { partitions.clone() } else { None };
                let cursors = match outcome {
                    Outcome::Queue(QueueAnswer::Cursors(cursors)) => cursors.iter().copied().collect(),
                    _ => BTreeMap::new(),
                };
                let queue = self.queue(queue);
                let purge = matches!(call, QueueCall::Purge { .. });
                self.queues[queue].breaks.push(Break { op, invoked, returned, purge, partitions, cursors });
            }
            QueueCall::Redrive { queue, which } => {
                let queue = self.queue(queue);
                self.queues[queue].redrives.push(revival(which));
            }
            QueueCall::PurgeDead { queue, which } => {
                let queue = self.queue(queue);
                self.queues[queue].dead_purges.push(revival(which));
            }
            QueueCall::Rest { queue } => {
                let queue = self.queue(queue);
                if let Outcome::Queue(QueueAnswer::Rest(rest)) = outcome {
                    self.queues[queue].rest = Some((op, rest));
                }
            }
        }
    }

    fn leases(&self) -> impl Iterator<Item = (OpNumber, &'a Lease, &'a Leased)> + use<'a> {
        let ops = self.ops;
        (0..ops.len()).filter_map(move |op| match (&ops[op].call, ops[op].outcome()) {
            (Call::Queue(QueueCall::Lease(lease)), Outcome::Queue(QueueAnswer::Leased(leased))) => {
                Some((op, lease, leased))
            }
            _ => None,
        })
    }

    fn index_hands(&mut self) {
        let mut hands: Vec<Hand<'a>> = Vec::new();
        let (mut least, mut fresh) = (Vec::new(), Vec::new());
        let is_open = |op: &'a Op| !matches!(op.outcome(), Outcome::Queue(QueueAnswer::Leased(_)));
        let open =
            self.ops.iter().enumerate().filter(|(_, op)| is_open(op)).filter_map(|(n, _)| self.request_of(n));
        let mut requests: HashSet<&'a str> = open.collect();
        for (op, lease, leased) in self.leases() {
            let (queue, invoked, returned) =
                (self.queue_numbers[lease.queue.as_str()], self.ops[op].invoked, self.ops[op].ended());
            // An empty answer may carry any time, and the answer to a repeated request may be as old as the
            // first answer: neither is used as a bound.
            let repeated = lease.request.as_deref().is_some_and(|request| !requests.insert(request));
            if !leased.records.is_empty() {
                least.push((returned, leased.now_ms));
                if !repeated {
                    fresh.push((invoked, leased.now_ms));
                }
            }
            hands.extend(leased.records.iter().map(|record| Hand {
                queue,
                partition: record.partition,
                offset: record.offset,
                attempt: record.attempt,
                failures: record.failures,
                seen: record.seen,
                key: record.key.as_deref(),
                receipt: record.receipt,
                lease: leased.lease,
                op,
                invoked,
                returned,
                now_ms: leased.now_ms,
                deadline_ms: leased.deadline_ms,
                touches: (0, 0),
            }));
        }
        for queue in &self.queues {
            assert!(
                !queue.leased || !queue.specs.is_empty(),
                "queue {} is leased from, but nobody made it",
                queue.name
            );
        }
        self.clock = Clock::of(least, fresh);
        let mut told: Vec<Hand<'a>> = Vec::with_capacity(hands.len());
        for hand in sorted(&hands) {
            match told.last_mut() {
                Some(last)
                    if is_repeat(last, &hand)
                        && self.request_of(last.op).is_some_and(|r| self.request_of(hand.op) == Some(r)) =>
                {
                    let earlier = if hand.returned < last.returned { hand } else { *last };
                    *last = Hand {
                        now_ms: last.now_ms.min(hand.now_ms),
                        invoked: last.invoked.min(hand.invoked),
                        ..earlier
                    };
                }
                _ => told.push(hand),
            }
        }
        self.hands = told;
    }

    /// Request id of a lease call, which all attempts at it share.
    fn request_of(&self, op: OpNumber) -> Option<&'a str> {
        match &self.ops[op].call {
            Call::Queue(QueueCall::Lease(lease)) => lease.request.as_deref(),
            _ => None,
        }
    }

    fn index_known(&mut self) {
        let topics: HashSet<&'a str> =
            self.queues.iter().filter_map(|q| q.specs.first()).map(|(_, spec)| spec.topic.as_str()).collect();
        let mut open: HashMap<RecordId, (u64, Timing)> = HashMap::new();
        let produces = || {
            self.ops
                .iter()
                .enumerate()
                .filter_map(|(n, op)| if let Call::Produce(p) = &op.call { Some((n, op, p)) } else { None })
        };
        for (_, op, produce) in produces().filter(|(_, op, _)| *op.outcome() == Outcome::Info) {
            for sent in &produce.records {
                let known = open.entry(sent.id).or_insert((op.invoked, sent.timing));
                known.0 = known.0.min(op.invoked);
            }
        }
        let mut known: BTreeMap<(&'a str, i32), Vec<Known>> = BTreeMap::new();
        for (number, op, produce) in produces() {
            let Outcome::Produced { placed, .. } = op.outcome() else { continue };
            let Produce { records, .. } = produce;
            for (sent, placed) in
                records.iter().zip(placed).filter(|(sent, _)| topics.contains(sent.topic.as_str()))
            {
                let before = if open.is_empty() { None } else { open.get(&sent.id) };
                let invoked = before.map_or(op.invoked, |(invoked, _)| op.invoked.min(*invoked));
                known.entry((&sent.topic, placed.partition)).or_default().push(Known {
                    offset: placed.offset,
                    seen: Seen::Record(sent.id),
                    op: number,
                    invoked: Some(invoked),
                    returned: op.ended(),
                    timing: sent.timing,
                });
            }
        }
        for (number, op) in self.ops.iter().enumerate() {
            let (Call::Final(log), Outcome::Records(answer)) = (&op.call, op.outcome()) else { continue };
            if topics.contains(log.topic.as_str()) {
                self.finals.insert((&log.topic, log.partition), (number, answer.log_start.unwrap_or(0)));
                let records = known.entry((&log.topic, log.partition)).or_default();
                records.extend(answer.records.iter().map(|(offset, seen)| {
                    let sent = if let Seen::Record(id) = seen { open.get(id) } else { None };
                    let timing = sent.map(|(_, timing)| *timing).unwrap_or_default();
                    Known {
                        offset: *offset,
                        seen: *seen,
                        op: number,
                        invoked: sent.map(|s| s.0),
                        returned: u64::MAX,
                        timing,
                    }
                }));
            }
        }
        for records in known.values_mut() {
            // The sort is stable: acknowledgements stay before reads, and the first answer before its
            // repeats.
            records.sort_by_key(|record| record.offset);
            records.dedup_by_key(|record| record.offset);
        }
        self.known = known;
    }

    /// Known content of the log at a hand-out's offset.
    pub(super) fn known_of(&self, hand: &Hand<'a>) -> Option<&Known> {
        let records = self.known.get(&(self.queues[hand.queue].topic()?, hand.partition))?;
        records.binary_search_by_key(&hand.offset, |record| record.offset).ok().map(|n| &records[n])
    }
}

/// Whether both are the same hand-out, told in two answers.
fn is_repeat(one: &Hand<'_>, other: &Hand<'_>) -> bool {
    let place = |hand: &Hand<'_>| (hand.queue, hand.partition, hand.offset, hand.attempt, hand.receipt);
    place(one) == place(other)
}

/// Hand-outs sorted by queue, partition, offset and attempt. Each sort key is packed into one number for
/// speed.
fn sorted<'a>(hands: &[Hand<'a>]) -> Vec<Hand<'a>> {
    // Hand-outs of one lane (queue and partition) come in runs: look up its number once per run.
    let lane = |hand: &Hand<'_>| (hand.queue, hand.partition);
    let lanes: BTreeSet<(QueueNumber, i32)> =
        hands.chunk_by(|a, b| lane(a) == lane(b)).map(|run| lane(&run[0])).collect();
    let lanes: BTreeMap<(QueueNumber, i32), u128> = lanes.into_iter().zip(0..).collect();
    let mut keys: Vec<u128> = Vec::with_capacity(hands.len());
    let mut number: u32 = 0;
    for run in hands.chunk_by(|a, b| lane(a) == lane(b)) {
        let lane = lanes[&lane(&run[0])] << 96;
        for hand in run {
            let offset = u64::try_from(hand.offset).expect("an offset is not negative");
            assert!(
                offset < 1 << 48 && hand.attempt < 1 << 20 && number < 1 << 28,
                "a history too large, or an attempt that nobody can have made"
            );
            keys.push(lane | u128::from(offset) << 48 | u128::from(hand.attempt) << 28 | u128::from(number));
            number += 1;
        }
    }
    keys.sort_unstable();
    keys.into_iter()
        .map(|key| hands[usize::try_from(key & ((1 << 28) - 1)).expect("a number of a hand-out")])
        .collect()
}
