//! Random operations. Names, keys and ids are few, so that operations meet.

use crate::pair::Pair;
use millpond_tests::stage::{HOUR, MINUTE, PartKind};
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::BTreeSet;

const NAMES: usize = 4;
pub const GROUPS: usize = 2;
const KEYS: u128 = 8;
const IDS: u128 = 12;
/// Upper bound of record timestamps.
const TIMESTAMP_MAX: i64 = 20;

#[derive(Clone, Debug)]
pub struct Write {
    pub slot: usize,
    pub partition: i32,
    /// Dedup id of each record.
    pub records: Vec<Option<u128>>,
    pub timestamp: i64,
}

#[derive(Clone, Debug)]
pub struct Call {
    /// It is another tenant's.
    pub theirs: bool,
    pub key: Option<(u128, u128)>,
    pub expect: Option<i64>,
    pub writes: Vec<Write>,
}

#[derive(Clone, Debug)]
pub enum Operation {
    Put {
        name: usize,
        partitions: Option<i32>,
        retention_ms: Option<Option<i64>>,
        retention_bytes: Option<Option<i64>>,
    },
    Delete {
        name: usize,
    },
    Commit {
        place: PartKind,
        calls: Vec<Call>,
    },
    /// Uploads without committing.
    Prepare {
        calls: Vec<Call>,
    },
    /// Sends one of the last commits again, or one that was only prepared.
    Resend {
        nth: usize,
    },
    Plan {
        max_bytes: i64,
    },
    Compact {
        slot: usize,
        partition: i32,
        from: i64,
    },
    /// Sends one of the last swaps, perhaps again.
    Swap {
        nth: usize,
    },
    Advance {
        ms: i64,
    },
    Retain {
        limit: i64,
    },
    Forget,
    Sweep {
        says_swept: bool,
    },
    Find {
        slot: usize,
        partition: i32,
        offset: i64,
        max_bytes: i64,
    },
    OffsetsAt {
        slot: usize,
        timestamp: i64,
    },
    Group(GroupOperation),
}

/// An operation on a group. `member` counts members from the one that joined last, whether or not they are
/// still members.
#[derive(Clone, Debug)]
pub enum GroupOperation {
    Join {
        group: usize,
        names: Vec<usize>,
    },
    Leave {
        member: usize,
    },
    Settle {
        group: usize,
    },
    Renew {
        member: usize,
    },
    Commit(Offsets),
    /// Commits offsets together with records.
    Guarded {
        place: PartKind,
        call: Call,
        offsets: Offsets,
    },
    Reset {
        group: usize,
        offsets: Vec<(usize, i32, i64)>,
    },
    Delete {
        group: usize,
    },
}

/// Offsets that a member commits under a generation `before` generations older than the current one: slot,
/// partition and offset, each partition once.
#[derive(Clone, Debug)]
pub struct Offsets {
    pub member: usize,
    pub before: i64,
    pub offsets: Vec<(usize, i32, i64)>,
}

pub struct Generator {
    rng: StdRng,
}

impl Generator {
    pub fn new(rng: StdRng) -> Self {
        Self { rng }
    }

    pub fn next(&mut self, pair: &Pair) -> Operation {
        if pair.slots.is_empty() {
            return self.put();
        }
        if self.rng.random_bool(0.3) {
            return Operation::Group(self.group(pair));
        }
        match self.rng.random_range(0..100) {
            0..6 => self.put(),
            6..8 => Operation::Delete { name: self.rng.random_range(0..NAMES) },
            8..46 => Operation::Commit { place: self.place(), calls: self.calls(pair) },
            46..48 => Operation::Prepare { calls: self.calls(pair) },
            48..58 => Operation::Resend { nth: self.rng.random_range(0..8) },
            58..64 => Operation::Plan { max_bytes: self.rng.random_range(0..400) },
            64..68 => {
                let (slot, partition) = self.home(pair);
                Operation::Compact { slot, partition, from: self.rng.random_range(0..10) }
            }
            68..76 => Operation::Swap { nth: self.rng.random_range(0..3) },
            76..81 => Operation::Advance { ms: self.rng.random_range(1..4) * 25 * MINUTE },
            81..86 => Operation::Retain { limit: 1_000 },
            86..88 => Operation::Forget,
            88..92 => Operation::Sweep { says_swept: self.rng.random() },
            92..98 => {
                let (slot, partition) = self.home(pair);
                Operation::Find {
                    slot,
                    partition,
                    offset: self.rng.random_range(0..40),
                    max_bytes: self.rng.random_range(0..300),
                }
            }
            _ => Operation::OffsetsAt {
                slot: self.home(pair).0,
                timestamp: self.rng.random_range(0..=TIMESTAMP_MAX),
            },
        }
    }

    /// Whether the other tenant carries the operation out: seldom, and none that makes topics or ends them.
    pub fn theirs(&mut self, operation: &Operation) -> bool {
        let may = matches!(
            operation,
            Operation::Commit { .. }
                | Operation::Prepare { .. }
                | Operation::Compact { .. }
                | Operation::Find { .. }
                | Operation::OffsetsAt { .. }
                | Operation::Group(_)
        );
        may && self.rng.random_bool(0.06)
    }

    fn group(&mut self, pair: &Pair) -> GroupOperation {
        let (group, member) = (self.rng.random_range(0..GROUPS), self.rng.random_range(0..3));
        match self.rng.random_range(0..20) {
            0..4 => GroupOperation::Join { group, names: (0..NAMES).filter(|_| self.rng.random()).collect() },
            4..5 => GroupOperation::Leave { member },
            5..8 => GroupOperation::Settle { group },
            8..11 => GroupOperation::Renew { member },
            11..14 => GroupOperation::Commit(self.offsets(pair)),
            14..18 => {
                let call = self.calls(pair).remove(0);
                let writes = if self.rng.random_bool(0.2) { Vec::new() } else { call.writes };
                GroupOperation::Guarded {
                    place: self.place(),
                    call: Call { theirs: false, expect: None, writes, ..call },
                    offsets: self.offsets(pair),
                }
            }
            18..19 => GroupOperation::Reset { group, offsets: self.partitions(pair) },
            _ => GroupOperation::Delete { group },
        }
    }

    fn offsets(&mut self, pair: &Pair) -> Offsets {
        Offsets {
            member: self.rng.random_range(0..3),
            before: i64::from(self.rng.random_bool(0.2)),
            offsets: self.partitions(pair),
        }
    }

    /// Partitions with an offset each, mostly within the log.
    fn partitions(&mut self, pair: &Pair) -> Vec<(usize, i32, i64)> {
        let homes: BTreeSet<(usize, i32)> =
            (0..self.rng.random_range(0..4)).map(|_| self.home(pair)).collect();
        let end = |home: &(usize, i32)| pair.ends.get(home).copied().unwrap_or(0);
        let mut offset = |home: (usize, i32)| {
            let beyond = i64::from(self.rng.random_bool(0.1));
            (home.0, home.1, self.rng.random_range(0..=end(&home) + beyond))
        };
        homes.into_iter().map(&mut offset).collect()
    }

    fn place(&mut self) -> PartKind {
        if self.rng.random_bool(0.6) { PartKind::Inline } else { PartKind::Segment }
    }

    fn put(&mut self) -> Operation {
        let partitions = [None, None, Some(1), Some(2), Some(3), Some(0)][self.rng.random_range(0..6)];
        let retention_ms =
            [None, None, Some(None), Some(Some(HOUR)), Some(Some(3 * HOUR))][self.rng.random_range(0..5)];
        let retention_bytes = [None, None, None, Some(None), Some(Some(200))][self.rng.random_range(0..5)];
        Operation::Put { name: self.rng.random_range(0..NAMES), partitions, retention_ms, retention_bytes }
    }

    /// A partition, mostly of a topic that still exists.
    fn home(&mut self, pair: &Pair) -> (usize, i32) {
        let alive: Vec<usize> = (0..pair.slots.len()).filter(|n| pair.slots[*n].alive).collect();
        let slot = if alive.is_empty() || self.rng.random_bool(0.04) {
            self.rng.random_range(0..pair.slots.len())
        } else {
            alive[self.rng.random_range(0..alive.len())]
        };
        (slot, self.rng.random_range(0..pair.slots[slot].memory.partition_count()))
    }

    fn calls(&mut self, pair: &Pair) -> Vec<Call> {
        if self.rng.random_bool(0.15) {
            return vec![self.conditional(pair)];
        }
        let mut keys = BTreeSet::new();
        let count = self.rng.random_range(1..7);
        (0..count)
            .map(|_| {
                let writes = (0..self.rng.random_range(1..4)).map(|_| self.write(pair)).collect();
                let key = self.key().filter(|(key, _)| keys.insert(*key));
                Call { theirs: self.rng.random_bool(0.03), key, expect: None, writes }
            })
            .collect()
    }

    /// A conditional request on one partition; in half of the cases the condition is true.
    fn conditional(&mut self, pair: &Pair) -> Call {
        let write = self.write(pair);
        let end = pair.ends.get(&(write.slot, write.partition)).copied().unwrap_or(0);
        let expect = Some(end + self.rng.random_range(0..2));
        Call { theirs: false, key: self.key(), expect, writes: vec![write] }
    }

    fn key(&mut self) -> Option<(u128, u128)> {
        self.rng
            .random_bool(0.3)
            .then(|| (self.rng.random_range(0..KEYS), u128::from(self.rng.random_bool(0.2))))
    }

    fn write(&mut self, pair: &Pair) -> Write {
        let (slot, partition) = self.home(pair);
        let ids = self.rng.random_bool(0.3);
        let count = self.rng.random_range(1..5);
        let records = (0..count)
            .map(|_| (ids && self.rng.random_bool(0.6)).then(|| self.rng.random_range(0..IDS)))
            .collect();
        Write { slot, partition, records, timestamp: self.rng.random_range(0..TIMESTAMP_MAX) }
    }
}

/// Every dedup id that can occur.
pub fn all_ids() -> Vec<uuid::Uuid> {
    (0..IDS).map(uuid::Uuid::from_u128).collect()
}
