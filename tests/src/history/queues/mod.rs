//! The checker of queues: it compares hand-outs and settlements with what a correct queue may do.
//!
//! Records are checked one by one (`chain`, `verdict`, `end`) and key by key (`keys`). Every reported
//! violation must be certain: an operation takes effect at some time between its call and its answer, the
//! server's clock at a client's time is known only by the answers before and after it (`clock`), and a call
//! without an answer may have its effect at any later time, or never.
//!
//! The checker assumes that the server's clock does not go back, and that a lease, once over, does not become
//! valid again. It assumes nothing else about the server.

mod chain;
mod clock;
mod end;
mod group;
mod hand;
mod index;
mod keys;
mod verdict;

use super::op::{History, Log, Op};
use super::queue::{Rest, Spec, Which};
use super::violation::{Kind, Violation};
use clock::Clock;
use hand::{Hand, Touch};
use index::Known;
use std::collections::{BTreeMap, HashMap, HashSet};

/// What may happen in a history, and how strictly it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueOptions {
    /// Every queue that was leased from must have been drained and described in the end.
    pub require_rest: bool,
    /// Tolerance when two times of the server's clock are compared, since they are rounded.
    pub slack_ms: i64,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self { require_rest: true, slack_ms: 2 }
    }
}

/// All violations in the history: everything that no correct queues could have done. The log's content is
/// taken as it was read; [`super::check`] checks it.
#[must_use]
pub fn check_queues(history: &History, options: QueueOptions) -> Vec<Violation> {
    let mut checker = Checker::new(history, options);
    checker.index();
    checker.compare_with_log();
    checker.chains();
    checker.verdicts();
    checker.keys();
    checker.ends();
    checker.violations
}

/// Index of an operation in the history.
type OpNumber = usize;
/// Index of a hand-out in [`Checker::hands`].
type HandNumber = usize;
/// Start and end of the hand-outs of one record in [`Checker::hands`].
type Span = (HandNumber, HandNumber);
/// Index of a queue in [`Checker::queues`].
type QueueNumber = usize;

/// A seek or a purge, which moved the cursors of some partitions and ended their leases.
struct Break {
    op: OpNumber,
    invoked: u64,
    /// `u64::MAX` if the outcome is unknown.
    returned: u64,
    /// True for a purge, which dropped all records.
    purge: bool,
    /// `None`: all partitions.
    partitions: Option<Vec<i32>>,
    /// Cursors afterwards, as far as they are known.
    cursors: BTreeMap<i32, i64>,
}

/// A redrive, or a purge of dead records.
struct Revival<'a> {
    invoked: u64,
    returned: u64,
    which: &'a Which,
}

struct Queue<'a> {
    name: &'a str,
    specs: Vec<(OpNumber, &'a Spec)>,
    breaks: Vec<Break>,
    redrives: Vec<Revival<'a>>,
    dead_purges: Vec<Revival<'a>>,
    /// Invocation times of lease calls without an answer, which may have received records; ascending.
    unanswered: Vec<u64>,
    rest: Option<(OpNumber, &'a Rest)>,
    leased: bool,
}

impl<'a> Queue<'a> {
    fn topic(&self) -> Option<&'a str> {
        self.specs.first().map(|(_, spec)| spec.topic.as_str())
    }

    fn keyed(&self) -> bool {
        self.specs.first().is_some_and(|(_, spec)| spec.keyed)
    }

    /// Lowest and highest `max_failures` that any configuration set.
    fn max_failures(&self) -> (u32, u32) {
        let limits = || self.specs.iter().map(|(_, spec)| spec.max_failures);
        (limits().min().unwrap_or(0), limits().max().unwrap_or(u32::MAX))
    }

    /// Shortest delay before a retry that any configuration sets.
    fn backoff_ms(&self, failures: u32) -> i64 {
        let of = |spec: &Spec| {
            let step = usize::try_from(failures.saturating_sub(1))
                .unwrap_or(0)
                .min(spec.backoff_ms.len().saturating_sub(1));
            spec.backoff_ms.get(step).copied().unwrap_or(0)
        };
        self.specs.iter().map(|(_, spec)| of(spec)).min().unwrap_or(0)
    }

    fn breaks_of(&self, partition: i32) -> impl Iterator<Item = &Break> {
        self.breaks.iter().filter(move |b| b.partitions.as_ref().is_none_or(|of| of.contains(&partition)))
    }
}

struct Checker<'a> {
    ops: &'a [Op],
    options: QueueOptions,
    clock: Clock,
    queue_numbers: HashMap<&'a str, QueueNumber>,
    queues: Vec<Queue<'a>>,
    /// Sorted by queue, partition, offset, attempt.
    hands: Vec<Hand<'a>>,
    /// Sorted by hand-out, then by invocation.
    touches: Vec<Touch<'a>>,
    /// Known content of the log, by topic and partition, sorted by offset.
    known: BTreeMap<(&'a str, i32), Vec<Known>>,
    /// Last complete read of each log, and the log's start in it.
    finals: HashMap<(&'a str, i32), (OpNumber, i64)>,
    violations: Vec<Violation>,
    said: HashSet<(Kind, QueueNumber, i32, i64)>,
}

impl<'a> Checker<'a> {
    fn new(history: &'a History, options: QueueOptions) -> Self {
        Self {
            ops: &history.ops,
            options,
            clock: Clock::default(),
            queue_numbers: HashMap::new(),
            queues: Vec::new(),
            hands: Vec::new(),
            touches: Vec::new(),
            known: BTreeMap::new(),
            finals: HashMap::new(),
            violations: Vec::new(),
            said: HashSet::new(),
        }
    }

    fn touches_of(&self, hand: &Hand<'a>) -> &[Touch<'a>] {
        &self.touches[hand.touches.0..hand.touches.1]
    }

    /// Reports a violation, at most once for each kind and record.
    fn say(&mut self, kind: Kind, queue: QueueNumber, at: (i32, i64), ops: &[OpNumber], what: &str) {
        if !self.said.insert((kind, queue, at.0, at.1)) {
            return;
        }
        let queue = &self.queues[queue];
        let instants: Vec<String> = ops.iter().map(|op| self.instants(*op)).collect();
        self.violations.push(Violation {
            kind,
            log: Some(Log::new(queue.topic().unwrap_or("?"), at.0)),
            offset: Some(at.1),
            ops: ops.iter().map(|op| self.ops[*op].id).collect(),
            what: format!("queue {}: {what}; {}", queue.name, instants.join("; ")),
        });
    }

    fn instants(&self, op: OpNumber) -> String {
        let op = &self.ops[op];
        match &op.returned {
            Some((at, _)) => format!("{} from {} to {at}", op.id, op.invoked),
            None => format!("{} from {}, never answered", op.id, op.invoked),
        }
    }

    fn saw(&self, hand: &Hand<'_>) -> String {
        format!(
            "attempt {} with {} failures, handed out by {} ms, deadline {} ms",
            hand.attempt, hand.failures, hand.now_ms, hand.deadline_ms
        )
    }
}
