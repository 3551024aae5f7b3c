//! Queues: leased work over a topic. What crosses the seam to the control plane, and what a change may be.
//!
//! Invariants: a record is leased at most once at a time in a queue. What is settled leaves no trace but a
//! count. Everything below a partition's cursor is settled unless a lease, a waiting run, a dead record or,
//! in keyed queues, an admitted record says otherwise.
//!
//! What a record goes through in a queue. Statements are those of `control-plane/queries/queue/`:
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
//! - FRESH: at or above the partition's cursor; no row. Once the cursor has passed a record, it is in one of
//!   the other states.
//! - WAITING, until it is due: in a run of `waiting` (delayed, to be retried, redriven), or, in a keyed queue
//!   that has not given it out or has redriven it, in `admitted` alone, until its key is free as well.
//! - LEASED: in the `pending` ranges of a `lease`. A renewal (settle.sql) sets another deadline.
//! - DEAD: in `dead`. The others, expired, acked and purged, are sums in `queue_agent`.
//! - A seek (end_leases.sql, then seek.sql) purges what is WAITING or LEASED in its partitions, what is FRESH
//!   below the new cursor, and what is DEAD from it on. Records from the new cursor on are FRESH then.
//!
//! In keyed queues a record is in `admitted` from its admission until it is acked, expired or dead, and its
//! key has a row in `queue_key` as long as any record of it is:
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
//! A nack, a release or a lease that ends leaves the key TAKEN: the same record is given out next.

pub mod deal;
pub mod fate;
pub mod like;
pub mod ranges;

use crate::group::Start;
use crate::id::{LeaseId, Offset, PartitionId, QueueId, TopicId};
use crate::limits;
use crate::name::Name;
use crate::retry::RetryPolicy;
use crate::scope::Scope;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use uuid::Uuid;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Any record may be given out at any time.
    #[default]
    Shared,
    /// Records of one key strictly one after the other, in their order within the partition. Those without
    /// key are not ordered.
    Keyed,
}

/// Hand-outs: at most `limit` in `per_ms`, with a burst of `limit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    pub limit: i32,
    pub per_ms: i64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueueConfig {
    pub lease_ms: i64,
    pub retry: RetryPolicy,
    pub rate: Option<Rate>,
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
    /// Whether grants must be counted one after the other, across agents.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.rate.is_some() || self.max_in_flight != limits::IN_FLIGHT_DEFAULT
    }
}

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
    /// Drawn when the queue is made; what leases and operations with a client's request id are named by.
    pub secret: Uuid,
    /// Of the topic, by number.
    pub partitions: Vec<PartitionId>,
}

/// What a put says; what it leaves out stays, or is the default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueChange {
    /// Of the same tenant. A queue that is made without one takes the topic of its own name.
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

/// A lease call as the control plane sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Chosen by the agent: it cannot be guessed, so it is fence and proof in one. Sent again while the lease
    /// lives, it is answered what is left of it.
    pub lease: LeaseId,
    /// At least 1.
    pub records: i32,
    pub lease_ms: i64,
}

/// Lease calls of one queue, in the order of their arrival. Chance comes from outside, so that the model
/// answers the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    pub scope: Scope,
    pub queue: QueueId,
    pub agent: crate::id::AgentId,
    pub wants: Vec<Want>,
    /// Partition, and in keyed queues key, from which fresh records are taken first; the others follow in the
    /// order of ids, around.
    pub from: PartitionId,
    pub from_key: i64,
    /// In 0 to 1: whether the odd record, or caller, is for a retry.
    pub dice: f64,
}

/// Records of one lease and partition that have the same history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeasePart {
    pub lease: LeaseId,
    pub partition: PartitionId,
    /// Ascending, disjoint, not touching.
    pub ranges: Vec<Range<i64>>,
    /// Hand-outs, this one included.
    pub attempt: i32,
    pub failures: i32,
    pub deadline_ms: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitedBy {
    Rate,
    MaxInFlight,
    Keys,
    Paused,
}

/// A cursor that stands before records that have to be looked at by an agent before they can be given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unadmitted {
    pub partition: PartitionId,
    pub from: Offset,
    /// Of the batch at the cursor.
    pub end: Offset,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// The control plane's clock.
    pub at_ms: i64,
    /// By the order of wants, then as given out. A want without parts was given nothing.
    pub parts: Vec<LeasePart>,
    /// Why less was given than is there: `Paused` whenever it is; `Rate` or `MaxInFlight`, whichever is
    /// tighter, if all that they allow was given and more is wanted and there; `Keys` if nothing was given
    /// and a keyed queue has admitted [`limits::KEYED_WINDOW`] records.
    pub limited_by: Option<LimitedBy>,
    /// What would have to be admitted for more to be given out, where cursors stand after this grant; a few
    /// of them, by partition from [`Grant::from`] on. None of a paused queue or with the window full.
    pub unadmitted: Vec<Unadmitted>,
    /// When the first is due of what waits, or is admitted, and is not due yet.
    pub next_due_ms: Option<i64>,
    /// Fresh records were there that this grant neither gave out nor found limited: others held them, ask
    /// again.
    pub contended: bool,
}

/// What an admission moves a cursor past: records whose time has not come, and all records of keyed queues.
#[derive(Clone, Debug, PartialEq)]
pub struct Admit {
    pub scope: Scope,
    pub queue: QueueId,
    pub agent: crate::id::AgentId,
    pub partition: PartitionId,
    /// Where the cursor must stand, and where it goes.
    pub from: Offset,
    pub to: Offset,
    /// Shared queues: runs that cover `from..to`, each with the instant from which it may be given out;
    /// `None`: at once.
    pub runs: Vec<(Range<i64>, Option<i64>)>,
    /// Keyed queues: every record of `from..to`.
    pub records: Vec<Admitted>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    pub offset: Offset,
    pub key_hash: i64,
    pub due_ms: Option<i64>,
}

/// Which records of a lease an entry speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// What is left of the lease, but for what other entries of the same settlement name.
    Whole,
    /// Records that were handed out by this lease as this attempt. What of them the lease no longer holds is
    /// lost.
    Run { partition: PartitionId, attempt: i32, lo: Offset, hi: Offset },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Ack,
    /// Back to the queue. Without a delay: by the retry policy if it counts, at once if not.
    Nack {
        delay_ms: Option<i64>,
        counts: bool,
        reason: Option<String>,
    },
    /// Dead, whatever the failures so far, which stay as they are.
    Reject {
        reason: Option<String>,
    },
    /// Another deadline, from now.
    Renew {
        lease_ms: i64,
    },
    /// Back at once, as if it had not been handed out.
    Release,
    /// Its time to live is over, or retention has let it go.
    Expire,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub lease: LeaseId,
    pub claim: Claim,
    pub action: Action,
}

/// Settlements of one queue. Precondition, which the agent keeps: no two entries speak of the same record,
/// and at most one of a whole lease.
#[derive(Clone, Debug, PartialEq)]
pub struct Settle {
    pub scope: Scope,
    pub queue: QueueId,
    pub agent: crate::id::AgentId,
    /// Identity: sent again it answers the same. Kept until the agent's next settlement of the queue, or, if
    /// `keep`, for at least [`limits::OPERATION_TTL_MS`]: an agent has one at a time of the first kind under
    /// way in a queue, any number of the second. One that found nothing held need not be kept: it finds
    /// nothing again.
    pub op: Uuid,
    pub keep: bool,
    pub entries: Vec<Entry>,
    /// In 0 to 1, for the jitter.
    pub dice: f64,
    /// Records that the agent has leased out since its last settlement of the queue: for the rate.
    pub leased: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Acked,
    Released,
    Renewed,
    Dead,
    Expired,
}

/// What happened to some records of an entry; records of a run that none names are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Index of the entry.
    pub entry: usize,
    pub partition: PartitionId,
    pub lo: Offset,
    pub hi: Offset,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// The control plane's clock; renewed leases end so long after it as was asked.
    pub at_ms: i64,
    /// By entry, partition, offset.
    pub verdicts: Vec<Verdict>,
}

/// Acks that are part of a commit: each of one record, of any queues of the tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    pub lease: LeaseId,
    pub partition: PartitionId,
    pub offset: Offset,
    pub attempt: i32,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueCounts {
    /// Could be leased now, but for limits and busy keys.
    pub ready: i64,
    /// Never handed out, and not before a later time.
    pub delayed: i64,
    /// Handed out before, and not again before a later time.
    pub retrying: i64,
    pub in_flight: i64,
    pub dead: i64,
    /// Commit time of the oldest record that no lease has held yet.
    pub oldest_ms: Option<i64>,
    /// Records a second, moving averages over a minute.
    pub lease_rate: f64,
    pub settle_rate: f64,
}

/// The sums that prove that nothing was lost: `passed = acked + dead + expired + purged + waiting + leased`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Offsets that the cursors have passed.
    pub passed: i64,
    pub acked: i64,
    pub expired: i64,
    pub purged: i64,
    /// As counted with each change.
    pub dead: i64,
    pub waiting: i64,
    /// As the rows say.
    pub dead_rows: i64,
    pub waiting_rows: i64,
    pub leased_rows: i64,
}

impl Ledger {
    /// Whether counts and rows agree and nothing is missing or there twice.
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
    /// Deadline of a lease, due time of what waits (`None`: as soon as its key is free), time of death.
    pub at_ms: Option<i64>,
    pub reason: Option<String>,
    /// Retention has let the record go.
    pub gone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    InFlight,
    Waiting,
    Dead,
}

/// Which dead records are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeadFilter {
    All,
    /// Each once.
    Offsets(Vec<(PartitionId, Offset)>),
    /// A `LIKE` pattern with `\` as escape; a record without reason matches none.
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
    #[error("where a queue began cannot change: seek it")]
    FromFixed,
}

/// `nth` counts the offsets of the filter.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DeadRejected {
    #[error("there is no such queue")]
    NoSuchQueue,
    #[error("an offset names no dead record")]
    NotDead { nth: usize },
}
