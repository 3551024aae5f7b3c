//! Keyed queues: records of one key within a partition are handed out one after the other, in offset order.

use super::hand::Hand;
use super::{Checker, HandNumber, QueueNumber, Span};
use crate::history::op::Timing;
use crate::history::queue::{Intent, Status};
use crate::history::violation::Kind;
use std::collections::HashMap;

type Key<'a> = (QueueNumber, i32, &'a str);

/// Earliest time at which a record was finished for good: `settled` by the clients' clock if a settlement
/// finished it, `expired_ms` by the server's clock if a deadline did. The maximum value means never.
#[derive(Clone, Copy)]
struct Over {
    settled: u64,
    expired_ms: i64,
}

impl<'a> Checker<'a> {
    pub(super) fn keys(&mut self) {
        let mut keys: HashMap<Key<'a>, Vec<Span>> = HashMap::new();
        for (from, to) in self.records() {
            let first = &self.hands[from];
            if let Some(key) = first.key.filter(|_| self.queues[first.queue].keyed()) {
                keys.entry((first.queue, first.partition, key)).or_default().push((from, to));
            }
        }
        let mut keys: Vec<_> = keys.into_iter().filter(|(_, records)| records.len() > 1).collect();
        keys.sort_unstable_by_key(|(_, records)| records[0]);
        for ((_, _, key), records) in keys {
            if !self.together(key, &records) {
                self.passed_over(key, &records);
            }
        }
    }

    /// I8 for keys: of two hand-outs of a key, the later one begins after the first is over.
    fn together(&mut self, key: &str, records: &[Span]) -> bool {
        let mut hands: Vec<HandNumber> = records.iter().flat_map(|(from, to)| *from..*to).collect();
        hands.sort_unstable_by_key(|n| (self.hands[*n].now_ms, *n));
        for pair in hands.windows(2) {
            let (a, b) = (self.hands[pair[0]], self.hands[pair[1]]);
            let swapped = b.now_ms <= a.now_ms.saturating_add(self.options.slack_ms);
            if a.offset == b.offset || self.may_follow(&a, &b) || (swapped && self.may_follow(&b, &a)) {
                continue;
            }
            let what = format!(
                "two records of key {key} in flight, offset {}: {}, and this one: {}",
                a.offset,
                self.saw(&a),
                self.saw(&b)
            );
            self.say(Kind::KeyTogether, b.queue, (b.partition, b.offset), &[a.op, b.op], &what);
            return true;
        }
        false
    }

    fn may_follow(&self, a: &Hand<'a>, b: &Hand<'a>) -> bool {
        let ended = match self.sure_end(a) {
            Some(sure) => sure.from <= b.returned,
            None => {
                let settled =
                    self.touches_of(a).iter().any(|t| t.may_have_ended() && t.invoked <= b.returned);
                settled || self.may_have_expired(a, b.now_ms)
            }
        };
        ended
            || self.queues[a.queue]
                .breaks_of(a.partition)
                .any(|brk| brk.invoked <= b.returned && a.invoked <= brk.returned)
    }

    /// Checks that a record is handed out for the first time only when all earlier records of its key are
    /// finished.
    fn passed_over(&mut self, key: &str, records: &[Span]) {
        let first = self.hands[records[0].0];
        if self.queues[first.queue].breaks_of(first.partition).next().is_some() {
            return;
        }
        let mut before: Vec<(Over, HandNumber)> = Vec::new();
        for (from, to) in records {
            let hand = self.hands[*from];
            let now_ms = hand.now_ms.saturating_add(self.options.slack_ms);
            let held_up =
                before.iter().find(|(over, _)| hand.returned < over.settled && now_ms < over.expired_ms);
            if let Some((_, before)) = held_up {
                let earlier = self.hands[*before];
                let what = format!(
                    "handed out before offset {} of its key {key} was over: {}",
                    earlier.offset,
                    self.saw(&earlier)
                );
                self.say(
                    Kind::KeyOrder,
                    hand.queue,
                    (hand.partition, hand.offset),
                    &[earlier.op, hand.op],
                    &what,
                );
                return;
            }
            let Some(over) = self.over(*from, *to) else { continue };
            // Records finished by a settlement are compared by time only: the latest one stands for all.
            match before.iter_mut().find(|(b, _)| b.expired_ms == i64::MAX && over.expired_ms == i64::MAX) {
                Some(known) if known.0.settled < over.settled => *known = (over, to - 1),
                Some(_) => {}
                None => before.push((over, to - 1)),
            }
        }
    }

    /// When a record was finished; `None` if nothing certain can be said.
    fn over(&self, from: HandNumber, to: HandNumber) -> Option<Over> {
        let (first, last) = (self.hands[from], self.hands[to - 1]);
        let queue = &self.queues[first.queue];
        let timing = self.known_of(&first).map(|known| known.timing).unwrap_or_default();
        // Redriven records come back out of order, delayed records may be passed over, and expired records
        // end without a visible event.
        if timing != Timing::default() || self.redriven(&first, 0, u64::MAX).is_some() {
            return None;
        }
        let limit = queue.max_failures().0;
        let failures = last.failures.saturating_add(1);
        // Later attempts may have reached no worker; enough of them kill the record.
        let unseen = u32::try_from(queue.unanswered.len()).unwrap_or(u32::MAX);
        let fatal = |failures: u32| failures.saturating_add(unseen) >= limit;
        if let Some(sure) = self.sure_end(&last) {
            let over = sure.touch.status != Some(Status::Released) || (unseen > 0 && fatal(failures));
            return Some(Over { settled: if over { sure.from } else { u64::MAX }, expired_ms: i64::MAX });
        }
        let ends = |intent: &Intent| match intent {
            Intent::Ack | Intent::Reject { .. } => true,
            Intent::Nack { .. } => fatal(failures),
            Intent::Renew { .. } => false,
        };
        let touches = self.touches_of(&last).iter().filter(|t| t.status.is_none() && ends(t.intent));
        let settled = touches.map(|t| t.invoked).min().unwrap_or(u64::MAX);
        let expired_ms = if fatal(failures) { self.deadline_ms(&last, u64::MAX) } else { i64::MAX };
        Some(Over { settled, expired_ms })
    }
}
