//! Operations, their outcomes, and the events in which clients write them down.

use super::queue::{QueueAnswer, QueueCall};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;

/// One client's operations are numbered from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OpId {
    pub client: u32,
    pub number: u64,
}

impl fmt::Display for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.client, self.number)
    }
}

/// Identity of a record, which its payload carries. Only attempts that are to store it once may share it:
/// those of one idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RecordId {
    pub client: u32,
    pub counter: u64,
}

/// A partition of a topic. A topic that is deleted and made anew needs another name here.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Log {
    pub topic: String,
    pub partition: i32,
}

impl Log {
    #[must_use]
    pub fn new(topic: &str, partition: i32) -> Self {
        Self { topic: topic.to_owned(), partition }
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// Where a client wants to begin to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum From {
    Offset(i64),
    Earliest,
    Latest,
    /// Where the same session of the same client left off: polls and tails.
    Next,
}

/// A record of a produce request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    pub topic: String,
    /// `None`: the server chooses.
    pub partition: Option<i32>,
    pub id: RecordId,
    #[serde(default)]
    pub timing: Timing,
}

impl Sent {
    #[must_use]
    pub fn new(topic: &str, partition: Option<i32>, id: RecordId) -> Self {
        Self { topic: topic.to_owned(), partition, id, timing: Timing::default() }
    }
}

/// When queues may hand a record out; the log does not care.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    pub delay_ms: Option<i64>,
    pub deliver_at_ms: Option<i64>,
    pub ttl_ms: Option<i64>,
}

/// One atomic request: several records, perhaps of several topics and partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Produce {
    pub records: Vec<Sent>,
    /// Idempotency key, unique in the history but for retries.
    pub key: Option<String>,
    /// `If-Match`: store only if this is the high watermark.
    pub expect: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    pub log: Log,
    pub from: From,
    /// Reads of one session go on where the last left off; see [`From::Next`].
    pub session: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Call {
    Produce(Produce),
    Read(Read),
    /// The high watermark alone.
    End(Log),
    /// All records of a partition, by a client that remembers nothing, after everything has healed.
    Final(Log),
    Queue(QueueCall),
}

/// Where a record was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    pub partition: i32,
    pub offset: i64,
}

/// What a read returned at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seen {
    Record(RecordId),
    /// Bytes that are no payload of ours; a hash of them.
    Foreign(u64),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadAnswer {
    pub log_start: Option<i64>,
    /// `None` where the answer does not say, as in tails.
    pub high_watermark: Option<i64>,
    pub records: Vec<(i64, Seen)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// One place per record of the request.
    Produced {
        placed: Vec<Placed>,
        duplicate: bool,
    },
    /// Of `Read` and `Final`.
    Records(ReadAnswer),
    End {
        high_watermark: i64,
    },
    Queue(QueueAnswer),
    /// Certainly nothing was stored or changed, by this attempt; `current` is the high watermark that an
    /// `If-Match` met.
    Fail {
        current: Option<i64>,
    },
    /// Whether it took effect is unknown.
    Info,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    Invoke(Call),
    Return(Outcome),
}

/// A line of a client's record. `at` is any clock that all clients share and that never goes back:
/// nanoseconds, or a counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub at: u64,
    pub op: OpId,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    pub id: OpId,
    pub invoked: u64,
    pub call: Call,
    /// `None`: no answer was ever seen, as good as [`Outcome::Info`].
    pub returned: Option<(u64, Outcome)>,
}

impl Op {
    /// The outcome, open ones as `Info`.
    #[must_use]
    pub fn outcome(&self) -> &Outcome {
        self.returned.as_ref().map_or(&Outcome::Info, |(_, outcome)| outcome)
    }

    /// When its effect was over; never, if it is not known whether it had one.
    #[must_use]
    pub fn ended(&self) -> u64 {
        match &self.returned {
            Some((at, outcome)) if *outcome != Outcome::Info => *at,
            _ => u64::MAX,
        }
    }
}

/// Operations in the order in which they were invoked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    pub ops: Vec<Op>,
}

impl History {
    /// From the events of all clients, in any order but that an operation's invocation comes before its
    /// return.
    #[must_use]
    pub fn of(events: impl IntoIterator<Item = Event>) -> Self {
        let mut ops: Vec<Op> = Vec::new();
        let mut open: HashMap<OpId, usize> = HashMap::new();
        for event in events {
            match event.what {
                What::Invoke(call) => {
                    open.insert(event.op, ops.len());
                    ops.push(Op { id: event.op, invoked: event.at, call, returned: None });
                }
                What::Return(outcome) => {
                    let number = open.remove(&event.op).expect("an answer without a question");
                    ops[number].returned = Some((event.at, outcome));
                }
            }
        }
        ops.sort_by_key(|op| (op.invoked, op.id));
        Self { ops }
    }
}
