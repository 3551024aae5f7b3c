//! What clients do with queues, and what they are told.
//!
//! Two clocks meet here: the clients' (`at` of an event) and the server's (`…_ms`). Neither is ever converted
//! into the other.

use super::op::Seen;
use serde::{Deserialize, Serialize};
use std::hash::{DefaultHasher, Hasher};

/// A receipt or a lease id, by a hash of its text.
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

/// How a queue is configured. A queue that is deleted and made anew needs another name here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    pub queue: String,
    pub topic: String,
    pub keyed: bool,
    pub max_failures: u32,
    /// Least delays after 1, 2, … failures, jitter taken off; the last holds for all that follow. Empty: at
    /// once.
    pub backoff_ms: Vec<i64>,
    /// Begins at the end of the log as it is when the queue is made, else at its start.
    pub latest: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub queue: String,
    /// Calls that share it are attempts at one lease.
    pub request: Option<String>,
}

/// A record as it was handed out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOut {
    pub partition: i32,
    pub offset: i64,
    pub seen: Seen,
    /// Needed of records of `keyed` queues only.
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
    /// What is left of a lease.
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
    /// `None`: receipts of any queues, as a produce request may ack them.
    pub queue: Option<String>,
    /// Calls that share it are attempts at one settlement.
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
    /// Nothing was done, since other entries of an atomic request were lost.
    Untouched,
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub status: Status,
    /// Of what was renewed.
    pub deadline_ms: Option<i64>,
    /// How many, of a whole lease.
    pub records: Option<u64>,
}

impl Verdict {
    #[must_use]
    pub fn new(status: Status) -> Self {
        Self { status, deadline_ms: None, records: None }
    }
}

/// Dead records that a redrive or a purge of them speaks of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// All, or all that match something.
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

/// What a queue looks like after its workers have drained it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rest {
    pub ready: i64,
    pub delayed: i64,
    pub retrying: i64,
    pub in_flight: i64,
    pub dead: i64,
    /// Lengths of the listings.
    pub in_flight_listed: usize,
    pub waiting_listed: usize,
    /// The whole listing.
    pub dead_listed: Vec<Dead>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueCall {
    Make(Spec),
    Lease(Lease),
    Settle(Settle),
    /// Of these partitions, or all: cursors move, leases and waiting runs end.
    Seek {
        queue: String,
        partitions: Option<Vec<i32>>,
    },
    /// All that is in the queue is dropped.
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
    /// The queue as it is in the end.
    Rest {
        queue: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueAnswer {
    Done,
    Leased(Leased),
    /// One for each entry.
    Settled(Vec<Verdict>),
    /// Where the cursors stand, of `Seek` and `Purge`.
    Cursors(Vec<(i32, i64)>),
    Rest(Rest),
}
