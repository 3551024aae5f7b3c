//! Keyed queues: records of one key within a partition are handed out one after the other, in their order.

use super::hand::Hand;
use super::{Checker, HandNumber};
use crate::history::queue::{Intent, Status};
use crate::history::violation::Kind;
use std::collections::HashMap;

/// When a record was over for good, at the earliest.
enum Over {
    /// By a settlement that was called then, of the clients' clock.
    Settled(u64),
    /// By its last deadline, of the server's clock.
    Expired(i64),
    /// Not as far as anybody was told.
    Never,
    /// Nothing can be said.
    Unknown,
}

impl<'a> Checker<'a> {
    pub(super) fn keys(&mut self) {
        let mut keys: HashMap<(usize, i32, &'a str), Vec<(HandNumber, HandNumber)>> = HashMap::new();
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

    /// I8 for keys: of two hand-outs the later one begins when the first is over.
    fn together(&mut self, key: &str, records: &[(HandNumber, HandNumber)]) -> bool {
        let mut hands: Vec<HandNumber> = records.iter().flat_map(|(from, to)| *from..*to).collect();
        hands.sort_unstable_by_key(|n| (self.hands[*n].now_ms, *n));
        for pair in hands.windows(2) {
            let (a, b) = (self.hands[pair[0]], self.hands[pair[1]]);
            let swapped = b.now_ms <= a.now_ms.saturating_add(self.options.slack_ms);
            if a.offset == b.offset || self.may_follow(&a, &b) || (swapped && self.may_follow(&b, &a)) {
                continue;
            }
            let what = format!("two records of key {key} in flight, offset {}: {}, and this one: {}", a.offset, self.saw(&a), self.saw(&b));
            self.say(Kind::KeyTogether, b.queue, (b.partition, b.offset), &[a.op, b.op], &what);
            return true;
        }
        false
    }

    fn may_follow(&self, a: &Hand<'a>, b: &Hand<'a>) -> bool {
        let ended = match self.sure_end(a) {
            Some(sure) => sure.from <= b.returned,
            None => {
                let settled = self.touches_of(a).iter().any(|t| t.may_have_ended() && t.invoked <= b.returned);
                settled || self.may_have_expired(a, b.now_ms)
            }
        };
        ended || self.queues[a.queue].breaks_of(a.partition).any(|brk| brk.invoked <= b.returned && a.invoked <= brk.returned)
    }

    /// A record is handed out for the first time when those before it are over.
    fn passed_over(&mut self, key: &str, records: &[(HandNumber, HandNumber)]) {
        let first = self.hands[records[0].0];
        if self.queues[first.queue].breaks_of(first.partition).next().is_some() {
            return;
        }
        // The latest of the earliest ends so far, on each clock; an end that never came holds up all that follow.
        let mut settled: Option<(u64, HandNumber)> = None;
        let mut expired: Option<(i64, HandNumber)> = None;
        for (from, to) in records {
            let hand = self.hands[*from];
            let by_settling = settled.filter(|(at, _)| hand.returned < *at);
            let by_expiry = expired.filter(|(at_ms, _)| hand.now_ms.saturating_add(self.options.slack_ms) < *at_ms);
            if let Some(before) = by_settling.map(|s| s.1).or(by_expiry.map(|e| e.1)) {
                let earlier = self.hands[before];
                let what = format!("handed out before offset {} of its key {key} was over: {}", earlier.offset, self.saw(&earlier));
                self.say(Kind::KeyOrder, hand.queue, (hand.partition, hand.offset), &[earlier.op, hand.op], &what);
                return;
            }
            match self.over(*from, *to) {
                Over::Settled(at) => settled = settled.max(Some((at, to - 1))),
                Over::Never => settled = Some((u64::MAX, to - 1)),
                Over::Expired(at_ms) => expired = expired.max(Some((at_ms, to - 1))),
                Over::Unknown => {}
            }
        }
    }

    fn over(&self, from: HandNumber, to: HandNumber) -> Over {
        let first = self.hands[from];
        let queue = &self.queues[first.queue];
        let timing = self.known_of(&first).map(|known| known.timing).unwrap_or_default();
        let redriven = self.redriven(&first, first.returned, u64::MAX).is_some();
        // What is redriven comes back out of order; what is delayed may be passed over, what expires is over unseen.
        if redriven || timing != Default::default() {
            return Over::Unknown;
        }
        let last = self.hands[to - 1];
        let limit = queue.max_failures().0;
        match self.sure_end(&last) {
            Some(sure) if sure.touch.status != Some(Status::Released) => return Over::Settled(sure.from),
            Some(_) if queue.unanswered.is_empty() => return Over::Never,
            Some(_) => return Over::Unknown,
            None => {}
        }
        let failures = last.failures.saturating_add(1);
        let ends = |intent: &Intent| match intent {
            Intent::Ack | Intent::Reject { .. } => true,
            Intent::Nack { counts, .. } => *counts && failures >= limit,
            Intent::Renew { .. } => false,
        };
        let touches = self.touches_of(&last).iter().filter(|t| t.status.is_none() && ends(t.intent));
        match touches.map(|t| t.invoked).min() {
            Some(at) => Over::Settled(at),
            None if failures >= limit => Over::Expired(self.deadline_ms(&last, u64::MAX)),
            None if queue.unanswered.is_empty() => Over::Never,
            None => Over::Unknown,
        }
    }
}
