//! The checker of queues: what was handed out and settled, against what a queue may do.
//!
//! Records are looked at one by one (`chain`, `verdict`, `end`) and key by key (`keys`). Whatever is claimed
//! must be certain: an operation takes effect at some instant between its call and its answer, the server's
//! clock at a client's instant is known only by the answers before and after it (`clock`), and calls without
//! an answer may have had their effect, at any time from then on, or not.
//!
//! The server's clock must not go back, and a record's lease, once over, must not come to life again; else
//! nothing is assumed of the server.

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

/// What the queues of a history may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueOptions {
    /// Every queue that was leased from must have been looked at in the end, drained.
    pub require_rest: bool,
    /// Instants of the server's clock that differ by so little may be one: they are rounded.
    pub slack_ms: i64,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self { require_rest: true, slack_ms: 2 }
    }
}

/// Everything in the history that no correct queues could have done. The log is taken as it is read:
/// [`super::check`] is for that.
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

/// An operation by its number in the history.
type OpNumber = usize;
/// A hand-out by its number in [`Checker::hands`].
type HandNumber = usize;
/// The hand-outs of one record, side by side: first and end.
type Span = (HandNumber, HandNumber);
/// A queue by its number in [`Checker::queues`].
type QueueNumber = usize;

/// What moved the cursors of some partitions, and ended their leases.
struct Break {
    op: OpNumber,
    invoked: u64,
    /// Never, if nobody knows.
    returned: u64,
    /// It dropped all that was there.
    purge: bool,
    /// `None`: all.
    partitions: Option<Vec<i32>>,
    /// Where the cursors are known to have come to stand.
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
    /// When calls were made whose answer nobody saw: they may have been handed something; ascending.
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

    /// Least and greatest limit that ever held.
    fn max_failures(&self) -> (u32, u32) {
        let limits = || self.specs.iter().map(|(_, spec)| spec.max_failures);
        (limits().min().unwrap_or(0), limits().max().unwrap_or(u32::MAX))
    }

    /// The least delay that any configuration puts before a retry.
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
    /// By queue, partition, offset, attempt.
    hands: Vec<Hand<'a>>,
    /// By hand-out, then by when they were called.
    touches: Vec<Touch<'a>>,
    /// What is known of the log, by topic and partition, then by offset.
    known: BTreeMap<(&'a str, i32), Vec<Known>>,
    /// The last complete read of each log, and where it began.
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

    /// Each record is said once for each kind.
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
