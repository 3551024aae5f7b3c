//! Queues, which lease the records of a topic to workers: the types that agents and the control plane
//! exchange, and the decisions about leased records.
//!
//! Invariants: in one queue, a record is in at most one lease at a time. A settled record leaves nothing but
//! a count. All records below the cursor of a partition are settled, except those that a lease, a waiting
//! run, a dead row or, in keyed queues, an admitted row still names.
//!
//! The states of a record in a queue. Statements are those of `control-plane/queries/queue/`:
//!
//! ```text
//!       clamp.sql: retention has unlinked it
//!    +-----------------------------------------------------------------> expired
//!    |                                                                      ^
//!    |                                                                      | settle.sql: expire
//!    |              grant.sql, grant_plain.sql                              |
//!  FRESH ---------------------------------------------------> LEASED -------+
//!    |                                                        ^ | |         |
//!    | admit.sql: in shared queues                            | | |         | settle.sql: ack
//!    | a delayed record, in keyed                  grant.sql, | | |         | settle_plain.sql
//!    | queues every record                   grant_keyed.sql  | | |         v
//!    |                                                        | | |       acked
//!    +------------------> WAITING ----------------------------+ | |
//!                         ^     ^                               | |
//!                         |     |  settle.sql: nack, release    | |
//!                         |     +-------------------------------+ |
//!                         |        expire.sql: deadline passed    | settle.sql: reject, or a nack too many
//!                         |                                       | expire.sql: a failure too many
//!                         |             redrive.sql               v
//!                         +------------------------------------- DEAD -------------------> purged
//!                                                                       purge_dead.sql
//! ```
//!
//! - FRESH: at or above the cursor of its partition; it has no row. A record that the cursor has passed is in
//!   one of the other states.
//! - WAITING: until it is due. It is in a run of `waiting` (delayed, to be retried, or redriven). In a keyed
//!   queue, a record that was not given out yet or that was redriven is in `admitted` alone, and also waits
//!   until its key is free.
//! - LEASED: in the `pending` ranges of a `lease`. A renewal (settle.sql) sets a new deadline.
//! - DEAD: in `dead`. Records that expired, were acked or were purged only count in the sums of
//!   `queue_agent`.
//! - A seek (begin_seek.sql, then the statements named clear) purges the records of its partitions that
//!   are WAITING or LEASED, those that are FRESH below the new cursor, and those that are DEAD from the new
//!   cursor on. Records from the new cursor on are FRESH afterwards.
//!
//! In keyed queues a record is in `admitted` from its admission until it is acked, expired or dead, and its
//! key has a row in `queue_key` as long as one of its records is there:
//!
//! ```text
//!               admit.sql, redrive.sql           grant_keyed.sql: its lowest record
//!   no row ----------------------------> FREE ---------------------------------------> TAKEN
//!     ^                                   ^                                             | |
//!     |                                   |  settle.sql, expire.sql: that record is     | |
//!     |                                   |  acked, expired or dead, and others remain  | |
//!     |                                   +---------------------------------------------+ |
//!     |            settle.sql, expire.sql: that record was the last one of its key        |
//!     +-----------------------------------------------------------------------------------+
//! ```
//!
//! After a nack, a release or the expiry of the lease, the key stays TAKEN: the same record is given out
//! next.

pub mod change;
mod counts;
pub mod deal;
pub mod fate;
pub mod like;
mod outlook;
pub mod ranges;

use crate::group::Start;
use crate::id::{LeaseId, Offset, PartitionId, QueueId, TopicId};
use crate::limits;
use crate::name::Name;
use crate::retry::RetryPolicy;
use crate::scope::Scope;
pub use counts::{Estimated, QueueCounts};
pub use outlook::{Outlook, OutlookRequest};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use uuid::Uuid;

/// Order in which a queue gives out records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// No order: any record may be given out at any time.
    #[default]
    Shared,
    /// Records of one key are given out strictly one after the other, in their order within the partition.
    /// Records without key have no order.
    Keyed,
}

/// Rate limit of a queue: at most `limit` records given out per `per_ms` milliseconds, with a burst of
/// `limit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    pub limit: i32,
    pub per_ms: i64,
}

/// Settings of a queue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueueConfig {
    /// Length of a lease that asks for none.
    pub lease_ms: i64,
    pub retry: RetryPolicy,
    /// `None`: no rate limit.
    pub rate: Option<Rate>,
    /// Maximum number of leased records.
    pub max_in_flight: i64,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            lease_ms: limits::LEASE_DEFAULT_MS,
            retry: RetryPolicy::default(),
            rate: None,
            max_in_flight: limits::IN_FLIGHT_DEFAULT,
        }
    }
}

impl QueueConfig {
    /// Whether a limit of the queue forces grants of all agents to be counted one after the other.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.rate.is_some() || self.max_in_flight != limits::IN_FLIGHT_DEFAULT
    }
}

/// A queue with its settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Queue {
    pub id: QueueId,
    pub tenant: Name,
    pub name: Name,
    pub topic: Name,
    pub topic_id: TopicId,
    pub mode: Mode,
    pub from: Start,
    pub config: QueueConfig,
    pub paused: bool,
    /// Random value, chosen when the queue is created. The ids of leases and operations with a client's
    /// request id are derived from it.
    pub secret: Uuid,
    /// Partitions of the topic, by partition number.
    pub partitions: Vec<PartitionId>,
}

/// Settings to be created or changed. A field that is `None` keeps its value, or is the default in a new
/// queue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueChange {
    /// A topic of the same tenant. A new queue without one uses the topic that has the name of the queue.
    pub topic: Option<Name>,
    pub mode: Option<Mode>,
    pub from: Option<Start>,
    pub lease_ms: Option<i64>,
    pub base_ms: Option<i64>,
    pub factor: Option<f64>,
    pub cap_ms: Option<i64>,
    pub jitter: Option<f64>,
    pub max_failures: Option<i32>,
    pub rate: Option<Option<Rate>>,
    pub max_in_flight: Option<i64>,
}

impl QueueChange {
    #[must_use]
    pub fn apply(&self, config: &QueueConfig) -> QueueConfig {
        QueueConfig {
            lease_ms: self.lease_ms.unwrap_or(config.lease_ms),
            retry: RetryPolicy {
                base_ms: self.base_ms.unwrap_or(config.retry.base_ms),
                factor: self.factor.unwrap_or(config.retry.factor),
                cap_ms: self.cap_ms.unwrap_or(config.retry.cap_ms),
                jitter: self.jitter.unwrap_or(config.retry.jitter),
                max_failures: self.max_failures.unwrap_or(config.retry.max_failures),
            },
            rate: self.rate.unwrap_or(config.rate),
            max_in_flight: self.max_in_flight.unwrap_or(config.max_in_flight),
        }
    }
}

/// One lease call: the lease that a worker asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Id of the lease, chosen by the agent. It cannot be guessed, so whoever names it holds the lease. If
    /// the call is sent again while the lease is alive, it gets the records that are left in the lease.
    pub lease: LeaseId,
    /// Maximum number of records, at least 1.
    pub records: i32,
    pub lease_ms: i64,
}

/// Lease calls of one queue, in the order of their arrival. Random input is passed in, so that the in-memory
/// control plane gives the same answer as Postgres.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    pub scope: Scope,
    pub queue: QueueId,
    pub agent: crate::id::AgentId,
    pub wants: Vec<Want>,
    /// Partition and, in keyed queues, key hash where fresh records are taken first. The others follow in
    /// ascending order, wrapping around at the end.
    pub from: PartitionId,
    pub from_key: i64,
    /// Random number from 0 to 1. Decides, where retries get half of an odd number of records or callers,
    /// whether the half is rounded up.
    pub random: f64,
}

/// Records of one lease and partition that have the same attempt and failures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeasePart {
    pub lease: LeaseId,
    pub partition: PartitionId,
    /// Offsets: ascending, disjoint, not adjacent.
    pub ranges: Vec<Range<i64>>,
    /// How often the records were given out, this time included.
    pub attempt: i32,
    pub failures: i32,
    pub deadline_ms: i64,
}

/// Reason for which a grant gave out less than it could have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitedBy {
    Rate,
    MaxInFlight,
    Keys,
    Paused,
}

/// A cursor in front of records that an agent has to admit before they can be given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unadmitted {
    pub partition: PartitionId,
    pub from: Offset,
    /// End of the batch at the cursor.
    pub end: Offset,
}

/// Answer of a [`Grant`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// Time of the answer, by the clock of the control plane.
    pub at_ms: i64,
    /// Records given out, in the order of the lease calls, then in the order of giving out. A call without
    /// parts got nothing.
    pub parts: Vec<LeasePart>,
    /// Why less was given out than there is. `Paused`: the queue is paused. `Rate` or `MaxInFlight`,
    /// whichever is tighter: all that it allows was given out, and more is wanted and available. `Keys`:
    /// nothing was given out, and [`limits::KEYED_WINDOW`] records of a keyed queue are admitted.
    pub limited_by: Option<LimitedBy>,
    /// Some of the cursors that stand in front of records to be admitted after this grant, by partition from
    /// [`Grant::from`] on. Empty if the queue is paused or the window of a keyed queue is full.
    pub unadmitted: Vec<Unadmitted>,
    /// Earliest due time of the waiting and admitted records that are not due yet.
    pub next_due_ms: Option<i64>,
    /// Other grants held fresh records at the same time: this grant neither gave them out nor was limited.
    /// Ask again.
    pub contended: bool,
}

/// An admission: moves a cursor past records that are not due yet or, in keyed queues, past all records, and
/// lists them.
#[derive(Clone, Debug, PartialEq)]
pub struct Admit {
    pub scope: Scope,
    pub queue: QueueId,
    pub agent: crate::id::AgentId,
    pub partition: PartitionId,
    /// The admission applies only if the cursor stands at `from`; it then moves to `to`.
    pub from: Offset,
    pub to: Offset,
    /// Shared queues: runs that cover `from..to`, each with the instant from which it may be given out
    /// (`None`: at once).
    pub runs: Vec<(Range<i64>, Option<i64>)>,
    /// Keyed queues: every record of `from..to`.
    pub records: Vec<Admitted>,
}

/// A record that a keyed queue admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    pub offset: Offset,
    pub key_hash: i64,
    pub due_ms: Option<i64>,
}

/// The records of a lease that a settlement entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// All records that are left in the lease, except those that other entries of the same settlement name.
    Whole,
    /// Records that this lease holds with this attempt number. Those that the lease no longer holds are lost.
    Run { partition: PartitionId, attempt: i32, lo: Offset, hi: Offset },
}

/// The action of a settlement entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Ack,
    /// Back to the queue. Without `delay_ms`, the retry policy gives the delay if the nack counts as a
    /// failure; otherwise there is none.
    Nack {
        delay_ms: Option<i64>,
        counts: bool,
        reason: Option<String>,
    },
    /// Dead, whatever the number of failures, which does not change.
    Reject {
        reason: Option<String>,
    },
    /// A new deadline, `lease_ms` from now.
    Renew {
        lease_ms: i64,
    },
    /// Back to the queue at once, as if the records had not been given out.
    Release,
    /// Dropped: the time to live has passed, or retention has deleted the record.
    Expire,
}

/// One entry of a settlement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub lease: LeaseId,
    pub claim: Claim,
    pub action: Action,
}

/// Settlements of one queue. Precondition, which the agent ensures: no two entries name the same record, and
/// at most one entry names the whole of a lease.
#[derive(Clone, Debug, PartialEq)]
pub struct Settle {
    pub scope: Scope,
    pub queue: QueueId,
    pub agent: crate::id::AgentId,
    /// Identity of the settlement: if it is sent again, the answer is the same. The answer is kept until the
    /// next settlement of the same agent and queue or, if `keep`, for at least [`limits::OPERATION_TTL_MS`].
    /// So an agent has at most one settlement without `keep` in flight per queue, and any number with it. A
    /// settlement that found no held record need not be kept: it finds none again.
    pub op: Uuid,
    pub keep: bool,
    pub entries: Vec<Entry>,
    /// Random number from 0 to 1, for the jitter.
    pub random: f64,
    /// Number of records that the agent has leased out since its last settlement of the queue, for the lease
    /// rate.
    pub leased: i64,
}

/// The effect of a settlement on records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Acked,
    Released,
    Renewed,
    Dead,
    Expired,
}

/// Outcome of some records of an entry. Records of an entry's run that no verdict names are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Index of the entry in the settlement.
    pub entry: usize,
    pub partition: PartitionId,
    pub lo: Offset,
    pub hi: Offset,
    pub outcome: Outcome,
}

/// Answer of a [`Settle`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Time of the answer, by the clock of the control plane. A renewed lease ends `lease_ms` after it.
    pub at_ms: i64,
    /// Ordered by entry, partition and offset.
    pub verdicts: Vec<Verdict>,
}

/// An ack that is part of a commit: one record, of any queue of the tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    pub lease: LeaseId,
    pub partition: PartitionId,
    pub offset: Offset,
    pub attempt: i32,
}

/// Sums that prove that no record was lost: `passed = acked + dead + expired + purged + waiting + leased`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Number of offsets that the cursors have passed.
    pub passed: i64,
    pub acked: i64,
    pub expired: i64,
    pub purged: i64,
    /// Counters that each change updates.
    pub dead: i64,
    pub waiting: i64,
    /// Number of records in the rows.
    pub dead_rows: i64,
    pub waiting_rows: i64,
    pub leased_rows: i64,
}

impl Ledger {
    /// Whether counters and rows agree, and no record is missing or counted twice.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.dead == self.dead_rows
            && self.waiting == self.waiting_rows
            && self.passed
                == self.acked + self.expired + self.purged + self.dead + self.waiting + self.leased_rows
    }
}

/// One record of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub partition: PartitionId,
    pub offset: Offset,
    pub attempt: i32,
    pub failures: i32,
    /// Deadline of the lease, due time of a waiting record (`None`: as soon as its key is free), or time of
    /// death.
    pub at_ms: Option<i64>,
    pub reason: Option<String>,
    /// Whether retention has deleted the record.
    pub gone: bool,
}

/// Records that a listing shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    InFlight,
    Waiting,
    Dead,
}

/// Selects dead records of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeadFilter {
    All,
    /// These records, each named once.
    Offsets(Vec<(PartitionId, Offset)>),
    /// Records whose reason matches this `LIKE` pattern, with `\` as escape. A record without reason never
    /// matches.
    Reason(String),
}

#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("there is no such queue")]
pub struct NoSuchQueue;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PutQueueRejected {
    #[error("there is no such topic")]
    NoSuchTopic,
    #[error("the topic of a queue cannot change")]
    TopicFixed,
    #[error("the mode of a queue cannot change")]
    ModeFixed,
    #[error("the start of a queue cannot change; seek the queue instead")]
    FromFixed,
}

/// `nth`: index into the offsets of the filter.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DeadRejected {
    #[error("there is no such queue")]
    NoSuchQueue,
    #[error("an offset names no dead record")]
    NotDead { nth: usize },
}
