//! Operations on queues, and their answers.
//!
//! Two clocks occur here: the clients' (`at` of an event) and the server's (`…_ms`). Neither is ever
//! converted into the other.

use super::record::Seen;
use serde::{Deserialize, Serialize};
use std::hash::{DefaultHasher, Hasher};

/// A receipt or a lease id, as the hash of its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Token(pub u64);

impl Token {
    #[must_use]
    pub fn of(text: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(text.as_bytes());
        Self(hasher.finish())
    }
}

/// Configuration of a queue. A queue that is deleted and created again needs another name here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    pub queue: String,
    pub topic: String,
    pub keyed: bool,
    pub max_failures: u32,
    /// Shortest delay after 1, 2, … failures, without jitter; the last one applies to all further failures.
    /// Empty: no delay.
    pub backoff_ms: Vec<i64>,
    /// Whether the queue begins at the end of the log at the time of its creation, instead of the log's
    /// start.
    pub latest: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub queue: String,
    /// Calls with the same request id are attempts at one lease.
    pub request: Option<String>,
}

/// A record as it was handed out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOut {
    pub partition: i32,
    pub offset: i64,
    pub seen: Seen,
    /// Required only for records of `keyed` queues.
    pub key: Option<Box<str>>,
    pub attempt: u32,
    pub failures: u32,
    pub receipt: Token,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leased {
    pub lease: Token,
    pub now_ms: i64,
    pub deadline_ms: i64,
    pub records: Vec<HandOut>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    Receipt(Token),
    /// All records of a lease that are not settled yet.
    Lease(Token),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Intent {
    Ack,
    Nack { counts: bool, delay_ms: Option<i64>, reason: Option<Box<str>> },
    Reject { reason: Option<Box<str>> },
    Renew { lease_ms: i64 },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub target: Target,
    pub intent: Intent,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settle {
    /// `None`: receipts of any queues, as in the acks of a produce request.
    pub queue: Option<String>,
    /// Calls with the same request id are attempts at one settlement.
    pub request: Option<String>,
    pub entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Acked,
    Released,
    Dead,
    Renewed,
    Lost,
    /// Nothing was done because other entries of the atomic request were lost.
    Untouched,
}

/// Result of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub status: Status,
    /// New deadline, if the entry was a renewal.
    pub deadline_ms: Option<i64>,
    /// Number of settled records, if the entry named a whole lease.
    pub records: Option<u64>,
}

impl Verdict {
    #[must_use]
    pub fn new(status: Status) -> Self {
        Self { status, deadline_ms: None, records: None }
    }
}

/// Dead records that a redrive or a purge of dead records applies to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// All, or all that match a condition.
    Any,
    Offsets(Vec<(i32, i64)>),
}

impl Which {
    #[must_use]
    pub fn covers(&self, partition: i32, offset: i64) -> bool {
        match self {
            Self::Any => true,
            Self::Offsets(offsets) => offsets.contains(&(partition, offset)),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dead {
    pub partition: i32,
    pub offset: i64,
    pub attempt: u32,
    pub failures: u32,
    pub reason: Option<Box<str>>,
}

/// Description of a queue after its workers have drained it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rest {
    pub ready: i64,
    pub delayed: i64,
    pub retrying: i64,
    pub in_flight: i64,
    pub dead: i64,
    /// Lengths of the listings of records in flight and waiting.
    pub in_flight_listed: usize,
    pub waiting_listed: usize,
    /// The listing of dead records.
    pub dead_listed: Vec<Dead>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueCall {
    Make(Spec),
    Lease(Lease),
    Settle(Settle),
    /// Moves the cursors of these partitions, or of all; leases and waiting records end.
    Seek {
        queue: String,
        partitions: Option<Vec<i32>>,
    },
    /// Drops all records of the queue.
    Purge {
        queue: String,
    },
    Redrive {
        queue: String,
        which: Which,
    },
    PurgeDead {
        queue: String,
        which: Which,
    },
    /// Asks for the final state of the queue.
    Rest {
        queue: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueAnswer {
    Done,
    Leased(Leased),
    /// One verdict for each entry.
    Settled(Vec<Verdict>),
    /// Cursors after `Seek` or `Purge`, by partition.
    Cursors(Vec<(i32, i64)>),
    Rest(Rest),
}
