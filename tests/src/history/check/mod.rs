//! The checker of logs: it first places records at their offsets, then sweeps over operations in time order.
//!
//! An acknowledgement names the offsets of its records, so a partition's order is known, and linearizability
//! is checked by comparing offsets of operations that do not overlap: O(n log n) in the number of events and
//! records.

mod index;
mod reads;
mod sweep;

use super::op::{Call, History, Log, Op, OpId, Outcome};
use super::record::RecordId;
use super::violation::{Kind, Violation};
use std::collections::{HashMap, HashSet};

/// What may happen in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Records may be deleted from the log's start.
    pub retention: bool,
    /// Every log in which a record was stored must have been read completely at the end.
    pub require_final: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { retention: false, require_final: true }
    }
}

/// All violations in the history: everything that no correct log could have done.
#[must_use]
pub fn check(history: &History, options: Options) -> Vec<Violation> {
    let mut checker = Checker::new(history, options);
    checker.index_requests();
    checker.index_acknowledgements();
    checker.index_reads();
    checker.compare();
    checker.sweep();
    checker.violations
}

/// Index of a log in [`Checker::logs`].
type LogNumber = usize;
/// Index of an operation in the history.
type OpNumber = usize;

#[derive(Clone, Copy, Debug)]
struct Appearance {
    log: LogNumber,
    offset: i64,
    op: OpNumber,
}

/// All attempts to store the same records.
struct Request {
    attempts: Vec<OpNumber>,
    /// Invocation of the first attempt that may have had an effect; `u64::MAX` if all have certainly failed.
    invoked: u64,
    records: Vec<RecordId>,
}

struct Record {
    request: usize,
    acknowledged: Option<Appearance>,
    read: Option<Appearance>,
    /// A contradiction was found: the record is no evidence for anything else.
    tainted: bool,
}

struct Checker<'a> {
    ops: &'a [Op],
    options: Options,
    topics: HashMap<&'a str, usize>,
    log_numbers: HashMap<(usize, i32), LogNumber>,
    logs: Vec<(&'a str, i32)>,
    requests: Vec<Request>,
    records: HashMap<RecordId, Record>,
    acknowledged_at: HashMap<(LogNumber, i64), (RecordId, OpNumber)>,
    read_at: HashMap<(LogNumber, i64), (RecordId, OpNumber)>,
    /// Last complete read of each log.
    finals: HashMap<LogNumber, OpNumber>,
    violations: Vec<Violation>,
    said: HashSet<(Kind, LogNumber, i64)>,
}

impl<'a> Checker<'a> {
    fn new(history: &'a History, options: Options) -> Self {
        Self {
            ops: &history.ops,
            options,
            topics: HashMap::new(),
            log_numbers: HashMap::new(),
            logs: Vec::new(),
            requests: Vec::new(),
            records: HashMap::new(),
            acknowledged_at: HashMap::new(),
            read_at: HashMap::new(),
            finals: HashMap::new(),
            violations: Vec::new(),
            said: HashSet::new(),
        }
    }

    fn log(&mut self, topic: &'a str, partition: i32) -> LogNumber {
        let topics = self.topics.len();
        let topic_number = *self.topics.entry(topic).or_insert(topics);
        let next = self.logs.len();
        let number = *self.log_numbers.entry((topic_number, partition)).or_insert(next);
        if number == next {
            self.logs.push((topic, partition));
        }
        number
    }

    fn log_of(&mut self, log: &'a Log) -> LogNumber {
        self.log(&log.topic, log.partition)
    }

    fn id(&self, op: OpNumber) -> OpId {
        self.ops[op].id
    }

    /// Reports a violation, at most once for each kind and place.
    fn say(&mut self, kind: Kind, place: (LogNumber, i64), ops: &[OpNumber], what: impl Into<String>) {
        if self.said.insert((kind, place.0, place.1)) {
            let (topic, partition) = self.logs[place.0];
            let ops = ops.iter().map(|op| self.id(*op)).collect();
            let log = Some(Log::new(topic, partition));
            self.violations.push(Violation { kind, log, offset: Some(place.1), ops, what: what.into() });
        }
    }

    /// Answer to the last complete read of a log.
    fn final_answer(&self, log: LogNumber) -> Option<&'a super::op::ReadAnswer> {
        match self.ops[*self.finals.get(&log)?].outcome() {
            Outcome::Records(answer) => Some(answer),
            _ => None,
        }
    }

    fn is_final(&self, op: OpNumber) -> bool {
        matches!(self.ops[op].call, Call::Final(_))
    }
}
