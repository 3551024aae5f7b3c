//! What clients did and were told, and whether a log may behave so.
//!
//! Every client records what it asked ([`Call`]) and what came back ([`Outcome`]), with times of one clock.
//! [`check`] takes the whole [`History`] and names what no correct log could have done, by the invariants
//! I1–I7 and I12: an acknowledged record is in the log, nothing else is, each offset is one record for ever,
//! offsets are dense, each partition is linearizable, retries store once, order holds, and a request is
//! visible whole or not at all. [`check_queues`] does the same for queues over the logs, by I8–I11: one valid
//! lease a record, nothing unsettled forgotten, nothing acked given again, failures counted.
//!
//! An operation is *ok*, *fail* (certainly without effect) or *info* (nobody knows, so that it may take
//! effect until the history ends).

mod check;
mod op;
mod payload;
mod queue;
mod queues;
mod recorder;
mod violation;

pub use check::{Options, check};
pub use op::{
    Call, Event, From, History, Log, Op, OpId, Outcome, Placed, Produce, Read, ReadAnswer, RecordId, Seen,
    Sent, Timing, What,
};
pub use payload::{identify, payload};
pub use queue::{
    Dead, Entry, HandOut, Intent, Lease, Leased, QueueAnswer, QueueCall, Rest, Settle, Spec, Status, Target,
    Token, Verdict, Which,
};
pub use queues::{QueueOptions, check_queues};
pub use recorder::{Recorder, Shelf};
pub use violation::{Kind, Violation};
