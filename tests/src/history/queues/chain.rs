//! Consecutive attempts of one record: the next one may begin only when the previous one has ended and its
//! delay has passed (I8, I10, I11).

use super::hand::Hand;
use super::{Checker, HandNumber, OpNumber};
use crate::history::queue::{Intent, Status};
use crate::history::violation::Kind;

/// Reason why a hand-out is a violation.
pub(super) struct Finding {
    pub kind: Kind,
    pub ops: Vec<OpNumber>,
    pub what: String,
}

impl Finding {
    pub fn new(kind: Kind, ops: &[OpNumber], what: impl Into<String>) -> Option<Self> {
        Some(Self { kind, ops: ops.to_vec(), what: what.into() })
    }
}

/// Possible states of a record after an attempt: lowest and highest number of failures, and the earliest time
/// at which it may be handed out.
#[derive(Default)]
struct Ways {
    bounds: Option<(u32, u32, i64)>,
    /// The record may have died.
    died: bool,
}

impl Ways {
    fn add(&mut self, failures: u32, due_ms: i64) {
        let (least, most, due) = self.bounds.unwrap_or((failures, failures, due_ms));
        self.bounds = Some((least.min(failures), most.max(failures), due.min(due_ms)));
    }
}

impl<'a> Checker<'a> {
    pub(super) fn chains(&mut self) {
        for (from, to) in self.records() {
            let first = self.hands[from];
            if self.queues[first.queue].breaks_of(first.partition).next().is_none() {
                self.chain(from..to, true);
            } else {
                self.broken_chain(from..to);
            }
            self.timing(from..to);
        }
    }

    fn chain(&mut self, hands: impl IntoIterator<Item = HandNumber>, whole: bool) {
        let mut last: Option<HandNumber> = None;
        for number in hands {
            let hand = self.hands[number];
            let finding = match last {
                Some(last) => self.link(&self.hands[last], &hand),
                None => self.begin(&hand, whole),
            };
            self.find(&hand, finding);
            last = Some(number);
        }
    }

    fn find(&mut self, hand: &Hand<'a>, finding: Option<Finding>) {
        if let Some(Finding { kind, ops, what }) = finding {
            self.say(kind, hand.queue, (hand.partition, hand.offset), &ops, &what);
        }
    }

    /// Checks a record whose queue had seeks or purges; each begins the record anew. Hand-outs that overlap
    /// one could belong to either side, so they are not checked.
    fn broken_chain(&mut self, hands: std::ops::Range<HandNumber>) {
        let first = self.hands[hands.start];
        let mut ages: Vec<Vec<HandNumber>> = Vec::new();
        let mut whole = true;
        let stored = self.known_of(&first).map_or(u64::MAX, |known| known.returned);
        for number in hands {
            let hand = self.hands[number];
            let breaks = || self.queues[first.queue].breaks_of(first.partition);
            if breaks().any(|b| b.invoked <= hand.returned && hand.invoked <= b.returned) {
                whole = false;
                continue;
            }
            let age = breaks().filter(|b| b.returned < hand.invoked).count();
            ages.resize_with(ages.len().max(age + 1), Vec::new);
            ages[age].push(number);
            let last = breaks().filter(|b| b.returned < hand.invoked).max_by_key(|b| b.invoked);
            let passed = last.filter(|b| match b.cursors.get(&hand.partition) {
                Some(cursor) => hand.offset < *cursor,
                None => b.purge && stored < b.invoked,
            });
            if let Some(by) =
                passed.filter(|_| self.redriven(&hand, 0, hand.returned).is_none()).map(|b| b.op)
            {
                self.say(
                    Kind::Dropped,
                    hand.queue,
                    (hand.partition, hand.offset),
                    &[by, hand.op],
                    "handed out, though it had been dropped",
                );
            }
        }
        for age in ages {
            self.chain(age, whole);
        }
    }

    /// Invocation of the first redrive between two times that may have brought the record back.
    pub(super) fn redriven(&self, hand: &Hand<'a>, from: u64, until: u64) -> Option<u64> {
        let redrives =
            self.queues[hand.queue].redrives.iter().filter(|r| r.which.covers(hand.partition, hand.offset));
        redrives.filter(|r| r.invoked <= until && from <= r.returned).map(|r| r.invoked).min()
    }

    /// Checks the first known hand-out: every earlier attempt must have reached no worker and expired.
    fn begin(&self, hand: &Hand<'a>, whole: bool) -> Option<Finding> {
        let unseen = hand.attempt.saturating_sub(1);
        let least = if whole && self.redriven(hand, 0, hand.returned).is_none() { unseen } else { 0 };
        self.too_late(hand).or_else(|| {
            let wrong = hand.attempt == 0 || hand.failures < least || hand.failures > unseen;
            let what =
                || format!("{}, but {unseen} attempts were before it, given to nobody", self.saw(hand));
            if wrong { Finding::new(Kind::Failures, &[hand.op], what()) } else { None }
        })
    }

    fn too_late(&self, hand: &Hand<'a>) -> Option<Finding> {
        let limit = self.queues[hand.queue].max_failures().1;
        let what = || format!("{}, where a record is dead after {limit}", self.saw(hand));
        if hand.failures >= limit { Finding::new(Kind::DeadLate, &[hand.op], what()) } else { None }
    }

    fn link(&self, a: &Hand<'a>, b: &Hand<'a>) -> Option<Finding> {
        if a.attempt == b.attempt {
            return Finding::new(
                Kind::Attempt,
                &[a.op, b.op],
                format!("attempt {} was handed out twice", a.attempt),
            );
        }
        if b.returned < a.invoked {
            return Finding::new(
                Kind::Attempt,
                &[a.op, b.op],
                format!("attempt {} came after attempt {}", a.attempt, b.attempt),
            );
        }
        // The answer that shows a hand-out may arrive after the record has died and was redriven.
        let redriven = self.redriven(a, a.invoked, b.returned);
        let ways = match self.ways(a, b, redriven) {
            Ok(ways) => ways,
            Err(finding) => return Some(finding),
        };
        let Some((least, most, due_ms)) = ways.bounds else {
            let what = if ways.died {
                "handed out again, though it was dead and nobody redrove it"
            } else {
                "handed out again while it was leased"
            };
            let kind = if ways.died { Kind::DeadAgain } else { Kind::DoubleLease };
            return Finding::new(
                kind,
                &[a.op, b.op],
                format!("{what}: {}, then {}", self.saw(a), self.saw(b)),
            );
        };
        let unseen = b.attempt - a.attempt - 1;
        let least = if unseen > 0 && redriven.is_some() { 0 } else { least + unseen };
        if let Some(finding) = self.too_late(b) {
            return Some(finding);
        }
        if b.failures < least || b.failures > most + unseen {
            let what =
                format!("{} where {least} to {} failures were: {}", self.saw(b), most + unseen, self.saw(a));
            return Finding::new(Kind::Failures, &[a.op, b.op], what);
        }
        if b.now_ms.saturating_add(self.options.slack_ms) < due_ms {
            let what = format!("{} before its delay was over at {due_ms} ms: {}", self.saw(b), self.saw(a));
            return Finding::new(Kind::TooEarly, &self.with_end(a, b), what);
        }
        None
    }

    /// The two hand-outs and, between them, the settlement that ended the first.
    fn with_end(&self, a: &Hand<'a>, b: &Hand<'a>) -> Vec<OpNumber> {
        let end = self.touches_of(a).iter().find(|t| t.may_have_ended()).map(|t| t.op);
        [Some(a.op), end, Some(b.op)].into_iter().flatten().collect()
    }

    fn ways(&self, a: &Hand<'a>, b: &Hand<'a>, redriven: Option<u64>) -> Result<Ways, Finding> {
        let mut ways = Ways::default();
        if let Some(sure) = self.sure_end(a) {
            let stale = sure.touch.status == Some(Status::Acked) || b.returned < sure.from;
            if stale {
                let ops = vec![a.op, sure.touch.op, b.op];
                let (kind, how) = match () {
                    () if b.returned >= sure.from => {
                        (Kind::AckedAgain, "handed out again, though it was acked")
                    }
                    () if self.may_have_expired(a, b.now_ms) => {
                        (Kind::StaleReceipt, "its receipt was honoured when it was another's")
                    }
                    () => (Kind::DoubleLease, "handed out again while it was leased"),
                };
                return Err(Finding {
                    kind,
                    ops,
                    what: format!("{how}: {}, then {}", self.saw(a), self.saw(b)),
                });
            }
            let dead = sure.touch.status == Some(Status::Dead);
            self.settled(&mut ways, a, sure.touch.intent, sure.from, Some(dead), redriven);
            return Ok(ways);
        }
        for touch in self.touches_of(a).iter().filter(|t| t.may_have_ended() && t.invoked <= b.returned) {
            self.settled(&mut ways, a, touch.intent, touch.invoked, None, redriven);
        }
        if self.may_have_expired(a, b.now_ms) {
            let deadline_ms = self.deadline_ms(a, u64::MAX);
            self.failed(&mut ways, a, None, redriven, |failures, queue| {
                deadline_ms.saturating_add(queue.backoff_ms(failures))
            });
        }
        Ok(ways)
    }

    fn settled(
        &self,
        ways: &mut Ways,
        a: &Hand<'a>,
        intent: &Intent,
        at: u64,
        dead: Option<bool>,
        redriven: Option<u64>,
    ) {
        let now_ms = self.clock.at_least(at).max(a.now_ms);
        match intent {
            Intent::Ack | Intent::Renew { .. } => {}
            Intent::Nack { counts: false, delay_ms, .. } => {
                ways.add(a.failures, now_ms.saturating_add(delay_ms.unwrap_or(0)))
            }
            Intent::Nack { counts: true, delay_ms, .. } => {
                self.failed(ways, a, dead, redriven, |failures, queue| {
                    now_ms.saturating_add(delay_ms.unwrap_or_else(|| queue.backoff_ms(failures)))
                })
            }
            Intent::Reject { .. } => self.died(ways, redriven),
        }
    }

    fn died(&self, ways: &mut Ways, redriven: Option<u64>) {
        ways.died = true;
        if let Some(at) = redriven {
            ways.add(0, self.clock.at_least(at));
        }
    }

    /// Adds the outcomes of a further failure. `dead` says whether it killed the record, if that is known.
    fn failed(
        &self,
        ways: &mut Ways,
        a: &Hand<'a>,
        dead: Option<bool>,
        redriven: Option<u64>,
        due_ms: impl Fn(u32, &super::Queue<'a>) -> i64,
    ) {
        let queue = &self.queues[a.queue];
        let (failures, (least, most)) = (a.failures + 1, queue.max_failures());
        if dead.unwrap_or(failures >= least) {
            self.died(ways, redriven);
        }
        if !dead.unwrap_or(failures >= most) {
            ways.add(failures, due_ms(failures, queue));
        }
    }

    /// Checks that a record is not handed out before its delay, after its time to live, or before the queue's
    /// start.
    fn timing(&mut self, hands: std::ops::Range<HandNumber>) {
        let first = self.hands[hands.start];
        let Some(known) = self.known_of(&first).copied() else { return };
        let slack_ms = self.options.slack_ms;
        let sent_ms = known.invoked.map_or(i64::MIN, |at| self.clock.at_least(at));
        let due_ms = known
            .timing
            .deliver_at_ms
            .unwrap_or_else(|| sent_ms.saturating_add(known.timing.delay_ms.unwrap_or(0)));
        let gone_ms = known
            .timing
            .ttl_ms
            .map_or(i64::MAX, |ttl_ms| self.clock.at_most(known.returned).saturating_add(ttl_ms));
        let queue = &self.queues[first.queue];
        let (make, latest) = queue
            .specs
            .first()
            .map_or((0, false), |(op, spec)| (*op, spec.latest && queue.breaks.is_empty()));
        for number in hands {
            let hand = self.hands[number];
            let (at, ops) = ((hand.partition, hand.offset), [known.op, hand.op]);
            if hand.now_ms.saturating_add(slack_ms) < due_ms {
                let what = format!("{}, though it is not to be before {due_ms} ms", self.saw(&hand));
                self.say(Kind::TooEarly, hand.queue, at, &ops, &what);
            }
            if hand.now_ms > gone_ms.saturating_add(slack_ms) {
                self.say(
                    Kind::Expired,
                    hand.queue,
                    at,
                    &ops,
                    &format!("{}, though it had expired at {gone_ms} ms", self.saw(&hand)),
                );
            }
            if latest && known.returned < self.ops[make].invoked {
                self.say(
                    Kind::Dropped,
                    hand.queue,
                    at,
                    &[make, hand.op],
                    "handed out, though the queue begins after it",
                );
            }
        }
    }
}
