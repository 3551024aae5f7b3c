//! Checks of reads: each answer by itself, and one read against another.

use super::{Appearance, Checker, LogNumber};
use crate::history::op::{Call, From, Outcome, Read, ReadAnswer};
use crate::history::record::{RecordId, Seen};
use crate::history::violation::Kind;
use std::collections::HashMap;

/// Next offset of a session, by client, session and log.
type Sessions = HashMap<(u32, u64, LogNumber), i64>;

impl Checker<'_> {
    pub(super) fn index_reads(&mut self) {
        let mut sessions = Sessions::new();
        for (number, op) in self.ops.iter().enumerate() {
            let Outcome::Records(answer) = op.outcome() else { continue };
            let (log, from) = match &op.call {
                Call::Read(read) => {
                    let log = self.log_of(&read.log);
                    (log, self.begin(number, log, read, answer, &mut sessions))
                }
                Call::Final(log) => {
                    let log = self.log_of(log);
                    self.finals.insert(log, number);
                    (log, Some(answer.log_start.unwrap_or(0)))
                }
                _ => panic!("operation {} was answered with records", op.id),
            };
            self.check_offsets(number, log, from, answer);
            for (offset, seen) in &answer.records {
                self.place(Appearance { log, offset: *offset, op: number }, *seen);
            }
        }
    }

    /// First offset that the read must return, if it is known.
    fn begin(
        &mut self,
        op: usize,
        log: LogNumber,
        read: &Read,
        answer: &ReadAnswer,
        sessions: &mut Sessions,
    ) -> Option<i64> {
        let first = answer.records.first().map(|r| r.0);
        let last = answer.records.last().map(|r| r.0 + 1);
        let session = (self.ops[op].id.client, read.session, log);
        let from = match read.from {
            From::Offset(offset) => Some(offset),
            From::Earliest => answer.log_start.or(first),
            From::Latest => first.or(answer.high_watermark),
            From::Next => {
                let expected = sessions.get(&session).copied();
                let allowed = |first: i64| self.options.retention && answer.log_start == Some(first);
                match (first, expected) {
                    (Some(first), Some(expected)) if first < expected => {
                        self.say(
                            Kind::NonmonotonicPoll,
                            (log, first),
                            &[op],
                            format!("the session was at {expected}"),
                        );
                    }
                    (Some(first), Some(expected)) if first > expected && !allowed(first) => {
                        self.say(
                            Kind::SkippedPoll,
                            (log, expected),
                            &[op],
                            format!("the session goes on at {first}"),
                        );
                    }
                    _ => {}
                }
                // Records that were deleted before the session reached them are not missing.
                let start = answer.log_start.filter(|_| self.options.retention).unwrap_or(0);
                first.or(expected.map(|e| e.max(start)))
            }
        };
        if let Some(next) = last.or(from) {
            sessions.insert(session, next);
        }
        from
    }

    /// Checks one answer by itself: no gap, no repeat, nothing above its high watermark.
    fn check_offsets(&mut self, op: usize, log: LogNumber, from: Option<i64>, answer: &ReadAnswer) {
        if !self.options.retention && answer.log_start.is_some_and(|start| start != 0) {
            self.say(
                Kind::LogStart,
                (log, answer.log_start.unwrap_or(0)),
                &[op],
                "the log begins later, though nothing may be deleted",
            );
        }
        let mut expected = from;
        for (offset, _) in &answer.records {
            match expected {
                Some(expected) if *offset < expected => {
                    self.say(Kind::Repeat, (log, *offset), &[op], format!("{expected} was to follow"));
                }
                Some(expected) if *offset > expected => self.miss(op, log, expected..*offset),
                _ => {}
            }
            expected = Some(expected.unwrap_or(*offset).max(*offset + 1));
        }
        let Some(end) = answer.high_watermark else { return };
        if let Some((offset, _)) = answer.records.iter().find(|r| r.0 >= end) {
            self.say(Kind::BeyondEnd, (log, *offset), &[op], format!("the high watermark is {end}"));
        }
        // A read may end early, but not before its first record; a complete read must reach the end.
        if let Some(expected) =
            expected.filter(|e| *e < end && (answer.records.is_empty() || self.is_final(op)))
        {
            self.miss(op, log, expected..end);
        }
    }

    fn miss(&mut self, op: usize, log: LogNumber, offsets: std::ops::Range<i64>) {
        // An acknowledged record that a complete read lacks is reported as lost instead.
        let lost = self.is_final(op)
            && offsets.clone().take(10_000).any(|offset| self.acknowledged_at.contains_key(&(log, offset)));
        if !lost {
            self.say(
                Kind::Gap,
                (log, offsets.start),
                &[op],
                format!("{} offsets are passed over", offsets.end - offsets.start),
            );
        }
    }

    fn place(&mut self, place: Appearance, seen: Seen) {
        let at = (place.log, place.offset);
        let Seen::Record(id) = seen else {
            self.say(Kind::Phantom, at, &[place.op], "bytes that nobody sent");
            return;
        };
        if !self.was_sent(place, id) {
            return;
        }
        let (holder, by) = *self.read_at.entry(at).or_insert((id, place.op));
        if holder != id {
            self.taint(&[holder, id]);
            self.say(Kind::InconsistentOffset, at, &[by, place.op], "two reads, two records");
            return;
        }
        let record = self.records.get_mut(&id).expect("it was sent");
        match record.read {
            Some(before) if (before.log, before.offset) != at => {
                record.tainted = true;
                let what = format!("also at {} of partition {}", before.offset, self.logs[before.log].1);
                self.say(Kind::Duplicate, at, &[before.op, place.op], what);
            }
            Some(_) => {}
            None => record.read = Some(place),
        }
    }

    fn was_sent(&mut self, place: Appearance, id: RecordId) -> bool {
        let at = (place.log, place.offset);
        let Some(record) = self.records.get(&id) else {
            self.say(
                Kind::Phantom,
                at,
                &[place.op],
                format!("nobody sent record {}.{}", id.client, id.counter),
            );
            return false;
        };
        let request = &self.requests[record.request];
        let first = request.attempts[0];
        if request.invoked == u64::MAX {
            let attempts = request.attempts.clone();
            self.say(
                Kind::Phantom,
                at,
                &[attempts.as_slice(), &[place.op]].concat(),
                "all attempts to store it had failed",
            );
            return false;
        }
        if request.invoked > self.ops[place.op].returned.as_ref().map_or(u64::MAX, |r| r.0) {
            self.say(Kind::Phantom, at, &[first, place.op], "it was read before it was sent");
            return false;
        }
        let Call::Produce(produce) = &self.ops[first].call else { return false };
        let (topic, partition) = self.logs[place.log];
        let sent = produce.records.iter().find(|r| r.id == id);
        if sent.is_none_or(|s| s.topic != topic || s.partition.is_some_and(|p| p != partition)) {
            self.say(Kind::Phantom, at, &[first, place.op], "it was sent to another log");
            return false;
        }
        true
    }
}
