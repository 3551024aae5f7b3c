//! Operations, their outcomes, and the events by which clients record them.

use super::queue::{QueueAnswer, QueueCall};
use super::record::{RecordId, Seen};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;

/// Identity of an operation: its client, and its number among the client's operations, from 0.
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

/// A partition of a topic. A topic that is deleted and created again needs another name here.
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

/// Position at which a read begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum From {
    Offset(i64),
    Earliest,
    Latest,
    /// Where the client's previous read of the same session ended: polls and tails.
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

/// When queues may hand out a record; it does not concern the log.
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
    /// Idempotency key; only retries of the same request share it.
    pub key: Option<String>,
    /// `If-Match`: store only if this is the high watermark.
    pub expect: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    pub log: Log,
    pub from: From,
    /// Reads of one session continue where the previous one ended; see [`From::Next`].
    pub session: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Call {
    Produce(Produce),
    Read(Read),
    /// A request for the high watermark alone.
    End(Log),
    /// A read of all records of a partition without any earlier state, after all faults have ended.
    Final(Log),
    Queue(QueueCall),
}

/// Partition and offset at which a record was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    pub partition: i32,
    pub offset: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadAnswer {
    pub log_start: Option<i64>,
    /// `None` if the answer does not tell it, as in tails.
    pub high_watermark: Option<i64>,
    pub records: Vec<(i64, Seen)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Answer to `Produce`, with one place per record of the request.
    Produced {
        placed: Vec<Placed>,
        duplicate: bool,
    },
    /// Answer to `Read` and `Final`.
    Records(ReadAnswer),
    End {
        high_watermark: i64,
    },
    Queue(QueueAnswer),
    /// This attempt certainly had no effect. `current` is the high watermark that did not match an
    /// `If-Match`.
    Fail {
        current: Option<i64>,
    },
    /// Whether the operation took effect is unknown.
    Info,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    Invoke(Call),
    Return(Outcome),
}

/// An event that a client recorded. `at` is the time of any clock that all clients share and that never goes
/// back: nanoseconds, or a counter.
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
    /// Time and outcome; `None`: no answer was recorded, which means [`Outcome::Info`].
    pub returned: Option<(u64, Outcome)>,
}

impl Op {
    /// The outcome; [`Outcome::Info`] for an operation without an answer.
    #[must_use]
    pub fn outcome(&self) -> &Outcome {
        self.returned.as_ref().map_or(&Outcome::Info, |(_, outcome)| outcome)
    }

    /// Time by which the effect was over; `u64::MAX` if the outcome is unknown.
    #[must_use]
    pub fn ended(&self) -> u64 {
        match &self.returned {
            Some((at, outcome)) if *outcome != Outcome::Info => *at,
            _ => u64::MAX,
        }
    }
}

/// Operations in the order of their invocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    pub ops: Vec<Op>,
}

impl History {
    /// Builds a history from the events of all clients. Their order is free, except that an operation's
    /// invocation must come before its return.
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
