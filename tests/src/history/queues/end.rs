//! Final state of queues: everything was delivered (I9), nothing is left, and the dead records are those that
//! had to die (I11).

use super::hand::Hand;
use super::index::Known;
use super::{Checker, QueueNumber, Span};
use crate::history::queue::{Dead, Intent, Rest, Status};
use crate::history::violation::Kind;
use std::collections::HashMap;

type RecordAt = (i32, i64);

impl<'a> Checker<'a> {
    pub(super) fn ends(&mut self) {
        let mut records: Vec<HashMap<RecordAt, Span>> =
            (0..self.queues.len()).map(|_| HashMap::new()).collect();
        for (from, to) in self.records() {
            let hand = &self.hands[from];
            records[hand.queue].insert((hand.partition, hand.offset), (from, to));
        }
        for (queue, records) in records.iter().enumerate() {
            match self.queues[queue].rest {
                Some((op, rest)) => {
                    self.leftover(queue, op, rest);
                    self.undelivered(queue, op, rest, records);
                    self.dead(queue, op, rest, records);
                }
                None if self.options.require_rest && self.queues[queue].leased => {
                    let op = self.queues[queue].specs[0].0;
                    self.say(Kind::Unobserved, queue, (-1, -1), &[op], "nobody looked at it in the end");
                }
                None => {}
            }
        }
    }

    fn leftover(&mut self, queue: QueueNumber, op: usize, rest: &Rest) {
        let Rest { ready, delayed, retrying, in_flight, dead, in_flight_listed, waiting_listed, dead_listed } =
            rest;
        let counts = [*ready, *delayed, *retrying, *in_flight];
        if counts != [0; 4] || (*in_flight_listed, *waiting_listed) != (0, 0) {
            let what = format!(
                "drained, with {ready} ready, {delayed} delayed, {retrying} retrying, {in_flight} in flight; \
                 listed: {in_flight_listed} in flight, {waiting_listed} waiting"
            );
            self.say(Kind::Leftover, queue, (-1, -1), &[op], &what);
        }
        if i64::try_from(dead_listed.len()) != Ok(*dead) {
            self.say(
                Kind::DeadList,
                queue,
                (-1, -1),
                &[op],
                &format!("{dead} dead are counted, {} are listed", dead_listed.len()),
            );
        }
    }

    fn undelivered(
        &mut self,
        queue: QueueNumber,
        rest_op: usize,
        rest: &Rest,
        records: &HashMap<RecordAt, Span>,
    ) {
        let Some((make, spec)) = self.queues[queue].specs.first().copied() else { return };
        let dead: HashMap<RecordAt, ()> =
            rest.dead_listed.iter().map(|d| ((d.partition, d.offset), ())).collect();
        let began = self.ops[make].ended();
        let is_due = |known: &&Known| {
            let after = !spec.latest || known.invoked.is_some_and(|at| at > began);
            after
                && known.timing.ttl_ms.is_none()
                && known.invoked.is_none_or(|at| at < self.ops[rest_op].invoked)
        };
        // Records that retention has deleted need not be delivered.
        let start = |partition: i32| {
            self.finals.get(&(spec.topic.as_str(), partition)).map_or(0, |(_, log_start)| *log_start)
        };
        let logs = self.known.iter().filter(|((topic, _), _)| *topic == spec.topic);
        let due = logs.flat_map(|((_, partition), known)| {
            known.iter().filter(is_due).map(move |known| ((*partition, known.offset), known))
        });
        let alive = due.filter(|(at, _)| at.1 >= start(at.0) && !dead.contains_key(at));
        let missing = alive.filter(|(at, known)| !self.is_over(queue, *at, known, records.get(at).copied()));
        let missing: Vec<(RecordAt, usize)> = missing.map(|(at, known)| (at, known.op)).collect();
        for (at, sent) in missing {
            match records.get(&at).map(|(_, to)| self.hands[to - 1]) {
                Some(last) => {
                    let what = format!("neither acked nor dead in the end: {}", self.saw(&last));
                    self.say(Kind::Undelivered, queue, at, &[sent, last.op, rest_op], &what);
                }
                None => self.say(Kind::Undelivered, queue, at, &[sent, rest_op], "never handed out"),
            }
        }
    }

    /// Whether a record that is not dead in the end may be finished.
    fn is_over(&self, queue: QueueNumber, at: RecordAt, known: &Known, hands: Option<Span>) -> bool {
        let last = self.queues[queue].breaks_of(at.0).max_by_key(|b| b.invoked);
        let passed = last.is_some_and(|b| match b.cursors.get(&at.0) {
            Some(cursor) => at.1 < *cursor,
            None => !b.purge || known.invoked.is_none_or(|at| at <= b.returned),
        });
        if passed {
            return true;
        }
        let since = last.map_or(0, |b| b.invoked);
        let hands = hands.map_or(&[][..], |(from, to)| &self.hands[from..to]);
        let forgotten =
            self.queues[queue].dead_purges.iter().any(|p| p.which.covers(at.0, at.1) && p.returned >= since);
        hands.iter().any(|hand| {
            self.touches_of(hand).iter().any(|t| t.may_have_acked() && t.returned >= since)
                || (forgotten && self.may_have_died(hand))
        })
    }

    fn may_have_died(&self, hand: &Hand<'a>) -> bool {
        match self.sure_end(hand) {
            Some(sure) => sure.touch.status == Some(Status::Dead),
            None => self.deaths(hand).next().is_some() || !self.queues[hand.queue].unanswered.is_empty(),
        }
    }

    /// Possible deaths in a hand-out: number of failures, and the reason if one was given.
    fn deaths(&self, hand: &Hand<'a>) -> impl Iterator<Item = (u32, Option<&'a str>)> {
        let limit = self.queues[hand.queue].max_failures().0;
        let sure = self.sure_end(hand);
        let failures = hand.failures.saturating_add(1);
        let touches = self.touches_of(hand).iter().filter(move |t| match sure {
            Some(sure) => t.op == sure.touch.op && t.status == Some(Status::Dead),
            None => t.status.is_none(),
        });
        let by_touch = touches.filter_map(move |t| match t.intent {
            Intent::Reject { reason } => Some((failures - 1, reason.as_deref())),
            Intent::Nack { counts: true, reason, .. } if failures >= limit => {
                Some((failures, reason.as_deref()))
            }
            _ => None,
        });
        by_touch.chain((sure.is_none() && failures >= limit).then_some((failures, None)))
    }

    fn dead(&mut self, queue: QueueNumber, op: usize, rest: &Rest, records: &HashMap<RecordAt, Span>) {
        let mut listed: HashMap<RecordAt, ()> = HashMap::new();
        for dead in &rest.dead_listed {
            let at = (dead.partition, dead.offset);
            if listed.insert(at, ()).is_some() {
                self.say(Kind::DeadList, queue, at, &[op], "listed twice as dead");
            }
            let hands: Vec<Hand<'a>> =
                records.get(&at).map_or(Vec::new(), |(from, to)| self.hands[*from..*to].to_vec());
            self.one_dead(queue, op, dead, &hands);
        }
        for (at, (_, to)) in records {
            let last = self.hands[to - 1];
            let killed = self.sure_end(&last).filter(|sure| sure.touch.status == Some(Status::Dead));
            let Some(sure) = killed.filter(|_| !listed.contains_key(at)) else { continue };
            let queue_of = &self.queues[queue];
            let purged =
                queue_of.dead_purges.iter().any(|p| p.which.covers(at.0, at.1) && p.returned >= sure.from);
            let broken = queue_of.breaks_of(at.0).any(|b| b.returned >= sure.from);
            if !purged && !broken && self.redriven(&last, sure.from, u64::MAX).is_none() {
                let what = format!("dead, but not listed in the end: {}", self.saw(&last));
                self.say(Kind::DeadList, queue, *at, &[last.op, sure.touch.op, op], &what);
            }
        }
    }

    /// Checks that a listed dead record must have died, by what its last worker did or did not do.
    fn one_dead(&mut self, queue: QueueNumber, op: usize, dead: &Dead, hands: &[Hand<'a>]) {
        let at = (dead.partition, dead.offset);
        let ((least, most), unanswered) =
            (self.queues[queue].max_failures(), self.queues[queue].unanswered.len());
        let broken = self.queues[queue].breaks_of(at.0).next().is_some();
        let told = format!("dead after attempt {} with {} failures", dead.attempt, dead.failures);
        if dead.failures > most {
            self.say(Kind::DeadLate, queue, at, &[op], &format!("{told}, where {most} are the end"));
            return;
        }
        let Some(last) = hands.last().filter(|_| !broken) else {
            if !broken && dead.failures < least {
                self.say(
                    Kind::DeadEarly,
                    queue,
                    at,
                    &[op],
                    &format!("{told} of {least}, and nobody was handed it"),
                );
            } else if !broken && unanswered == 0 {
                self.say(Kind::DeadList, queue, at, &[op], &format!("{told}, and nobody was handed it"));
            }
            return;
        };
        let ops = [last.op, op];
        if self.sure_end(last).is_some_and(|sure| sure.touch.status == Some(Status::Acked)) {
            self.say(
                Kind::DeadList,
                queue,
                at,
                &ops,
                &format!("{told}, though it was acked: {}", self.saw(last)),
            );
            return;
        }
        let unseen = dead.attempt.saturating_sub(last.attempt);
        let redriven = self.redriven(last, last.invoked, u64::MAX).is_some();
        let matches = dead.attempt >= last.attempt
            && match unseen {
                0 => self.deaths(last).any(|(failures, reason)| {
                    failures == dead.failures && reason.is_none_or(|r| dead.reason.as_deref() == Some(r))
                }),
                // Later attempts reached no worker; each added a failure, up to the limit.
                _ => {
                    dead.failures >= least
                        && (redriven
                            || (last.failures..=last.failures + 1).any(|f| f + unseen == dead.failures))
                }
            };
        if matches {
            return;
        }
        let rejected = self
            .touches_of(last)
            .iter()
            .any(|t| matches!(t.intent, Intent::Reject { .. }) && t.status != Some(Status::Lost));
        let kind = if dead.failures < least && !rejected { Kind::DeadEarly } else { Kind::DeadList };
        let what = format!("{told}, reason {:?}, of {least}: {}", dead.reason, self.saw(last));
        self.say(kind, queue, at, &ops, &what);
    }
}
