//! Produce requests and their answers: indexes them, and compares them with each other and with what was
//! read.

use super::{Appearance, Checker, Record, Request};
use crate::history::op::{Call, Outcome, Placed, Produce};
use crate::history::record::RecordId;
use crate::history::violation::Kind;
use std::collections::HashMap;

impl<'a> Checker<'a> {
    pub(super) fn index_requests(&mut self) {
        for (number, op) in self.ops.iter().enumerate() {
            let Call::Produce(produce) = &op.call else { continue };
            let Some(first) = produce.records.first() else { continue };
            let known = self.records.get(&first.id).map(|r| r.request);
            let request = known.unwrap_or_else(|| {
                let records: Vec<RecordId> = produce.records.iter().map(|r| r.id).collect();
                for id in &records {
                    let record = Record {
                        request: self.requests.len(),
                        acknowledged: None,
                        read: None,
                        tainted: false,
                    };
                    self.records.insert(*id, record);
                }
                self.requests.push(Request { attempts: Vec::new(), invoked: u64::MAX, records });
                self.requests.len() - 1
            });
            let request = &mut self.requests[request];
            let same = request.records.iter().eq(produce.records.iter().map(|r| &r.id));
            assert!(same, "operation {} sends some records of another request, not all", op.id);
            request.attempts.push(number);
            if !matches!(op.outcome(), Outcome::Fail { .. }) {
                request.invoked = request.invoked.min(op.invoked);
            }
        }
    }

    pub(super) fn index_acknowledgements(&mut self) {
        let mut keys: HashMap<&'a str, (usize, usize)> = HashMap::new();
        for (number, op) in self.ops.iter().enumerate() {
            let Call::Produce(produce) = &op.call else { continue };
            match op.outcome() {
                Outcome::Produced { placed, .. } => {
                    assert_eq!(
                        placed.len(),
                        produce.records.len(),
                        "operation {} was answered for another number of records",
                        op.id
                    );
                    self.acknowledge(number, produce, placed);
                    let Some(first) = produce.records.first() else { continue };
                    let request = self.records[&first.id].request;
                    if let Some(key) = &produce.key {
                        let (known, by) = *keys.entry(key).or_insert((request, number));
                        if known != request {
                            let log = self.log(&first.topic, placed[0].partition);
                            self.say(
                                Kind::KeyIgnored,
                                (log, placed[0].offset),
                                &[by, number],
                                "one key, two requests stored",
                            );
                        }
                    }
                }
                Outcome::Fail { current: Some(current) } if produce.expect == Some(*current) => {
                    let Some((first, partition)) =
                        produce.records.first().and_then(|r| Some((r, r.partition?)))
                    else {
                        continue;
                    };
                    let log = self.log(&first.topic, partition);
                    self.say(
                        Kind::IfMatch,
                        (log, *current),
                        &[number],
                        "refused though the high watermark was the expected one",
                    );
                }
                _ => {}
            }
        }
    }

    fn acknowledge(&mut self, op: usize, produce: &'a Produce, placed: &[Placed]) {
        for (sent, placed) in produce.records.iter().zip(placed) {
            let place =
                Appearance { log: self.log(&sent.topic, placed.partition), offset: placed.offset, op };
            let at = (place.log, place.offset);
            if sent.partition.is_some_and(|p| p != placed.partition) {
                self.say(Kind::Misplaced, at, &[op], "stored in another partition than asked");
            }
            let record = self.records.get_mut(&sent.id).expect("it was indexed");
            match record.acknowledged {
                Some(before) if (before.log, before.offset) != at => {
                    record.tainted = true;
                    let what =
                        format!("a retry was answered {} where the first answer was {}", at.1, before.offset);
                    self.say(Kind::ChangedAnswer, at, &[before.op, op], what);
                    continue;
                }
                Some(_) => continue,
                None => record.acknowledged = Some(place),
            }
            let (holder, by) = *self.acknowledged_at.entry(at).or_insert((sent.id, op));
            if holder != sent.id {
                self.taint(&[holder, sent.id]);
                self.say(
                    Kind::InconsistentOffset,
                    at,
                    &[by, op],
                    "two records were acknowledged at one offset",
                );
            }
        }
        if let (Some(expect), Some(first)) = (produce.expect, placed.first())
            && first.offset != expect
            && let Some(sent) = produce.records.first()
        {
            let log = self.log(&sent.topic, first.partition);
            self.say(
                Kind::IfMatch,
                (log, first.offset),
                &[op],
                format!("stored here though If-Match said {expect}"),
            );
        }
    }

    pub(super) fn taint(&mut self, ids: &[RecordId]) {
        for id in ids {
            if let Some(record) = self.records.get_mut(id) {
                record.tainted = true;
            }
        }
    }

    /// Compares acknowledgements with reads, checks each request as a whole, and checks that every log was
    /// read in the end.
    pub(super) fn compare(&mut self) {
        let mut acknowledged: Vec<(RecordId, Appearance)> =
            self.records.iter().filter_map(|(id, record)| Some((*id, record.acknowledged?))).collect();
        acknowledged.sort_unstable_by_key(|(id, place)| (place.log, place.offset, *id));
        for (id, place) in acknowledged {
            self.compare_acknowledged(id, place);
        }
        for request in 0..self.requests.len() {
            self.compare_request(request);
        }
        if self.options.require_final {
            let used: Vec<usize> =
                (0..self.logs.len()).filter(|log| !self.finals.contains_key(log)).collect();
            for log in used {
                let stored =
                    self.acknowledged_at.iter().find(|((l, _), _)| *l == log).map(|(_, (_, op))| *op);
                if let Some(op) = stored
                    .or_else(|| self.read_at.iter().find(|((l, _), _)| *l == log).map(|(_, (_, op))| *op))
                {
                    self.say(Kind::Unread, (log, 0), &[op], "nobody read the whole of it in the end");
                }
            }
        }
    }

    fn compare_acknowledged(&mut self, id: RecordId, place: Appearance) {
        let at = (place.log, place.offset);
        let elsewhere = self.records[&id].read.filter(|read| (read.log, read.offset) != at);
        match self.read_at.get(&at).copied() {
            Some((seen, _)) if seen == id => {}
            Some((seen, by)) => {
                self.taint(&[id, seen]);
                self.say(
                    Kind::InconsistentOffset,
                    at,
                    &[place.op, by],
                    "read as another record than was acknowledged here",
                );
                return;
            }
            None => {
                if let Some(read) = elsewhere {
                    self.taint(&[id]);
                    self.say(
                        Kind::Misplaced,
                        at,
                        &[place.op, read.op],
                        format!("acknowledged here, read at {}", read.offset),
                    );
                    return;
                }
            }
        }
        let Some(answer) = self.final_answer(place.log) else { return };
        let missing = answer.records.binary_search_by_key(&place.offset, |r| r.0).is_err();
        if missing && answer.log_start.is_none_or(|start| start <= place.offset) {
            let by = self.finals[&place.log];
            self.say(Kind::Lost, at, &[place.op, by], "acknowledged, and not in a complete read");
        }
    }

    fn compare_request(&mut self, number: usize) {
        let request = &self.requests[number];
        let op = request.attempts[0];
        let Call::Produce(produce) = &self.ops[op].call else { return };
        let mut last: HashMap<usize, i64> = HashMap::new();
        let (mut there, mut missing, mut known) = (None, false, true);
        let mut inverted = None;
        for (id, sent) in request.records.iter().zip(&produce.records) {
            let record = &self.records[id];
            if record.tainted {
                return;
            }
            if let Some(place) = record.read.or(record.acknowledged)
                && last.insert(place.log, place.offset).is_some_and(|before| before > place.offset)
            {
                inverted = Some(place);
            }
            let in_final = |place: &Appearance| {
                let answer = self.final_answer(place.log);
                answer.is_some_and(|a| a.records.binary_search_by_key(&place.offset, |r| r.0).is_ok())
            };
            match record.read.filter(in_final) {
                Some(place) => there = Some(place),
                None => missing = true,
            }
            // Records are not called missing if they may have been deleted or if a log was not read
            // completely.
            known &= record.acknowledged.is_none() && self.whole(&sent.topic, sent.partition);
        }
        if let Some(place) = inverted {
            self.say(
                Kind::RequestOrder,
                (place.log, place.offset),
                &[op, place.op],
                "records of one request lie in another order",
            );
        }
        if let (Some(place), true, true) = (there, missing, known) {
            self.say(
                Kind::Torn,
                (place.log, place.offset),
                &[op, place.op],
                "a part of the request was stored, the rest was not",
            );
        }
    }

    /// Whether a topic's final reads would show every record that was ever in its logs.
    fn whole(&self, topic: &str, partition: Option<i32>) -> bool {
        let begins_at_0 =
            |log: &usize| self.final_answer(*log).is_some_and(|a| a.log_start.unwrap_or(0) == 0);
        let mut logs = (0..self.logs.len())
            .filter(|log| self.logs[*log].0 == topic && partition.is_none_or(|p| p == self.logs[*log].1));
        logs.all(|log| begins_at_0(&log))
    }
}
