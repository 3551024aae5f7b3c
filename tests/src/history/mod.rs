//! Histories of what clients asked and were told, and checkers that decide whether they can be correct.
//!
//! Every client records what it asked ([`Call`]) and what came back ([`Outcome`]), with times of one clock.
//! [`check`] takes the whole [`History`] and reports everything that no correct log could have done, by the
//! invariants I1–I7 and I12: an acknowledged record is in the log, nothing else is, an offset holds one
//! record for ever, offsets are dense, each partition is linearizable, retries store once, order is kept, and
//! a request is visible as a whole or not at all. [`check_queues`] does the same for queues over the logs, by
//! I8–I11: a record has at most one valid lease, no unsettled record is forgotten, no acked record is handed
//! out again, failures are counted.
//!
//! The outcome of an operation is a success, [`Outcome::Fail`] (certainly without effect) or
//! [`Outcome::Info`] (unknown, so that it may take effect at any time until the history ends).

mod check;
mod op;
mod payload;
mod queue;
mod queues;
mod record;
mod recorder;
mod violation;

pub use check::{Options, check};
pub use op::{
    Call, Event, From, History, Log, Op, OpId, Outcome, Placed, Produce, Read, ReadAnswer, Sent, Timing, What,
};
pub use payload::{identify, payload};
pub use queue::{
    Dead, Entry, HandOut, Intent, Lease, Leased, QueueAnswer, QueueCall, Rest, Settle, Spec, Status, Target,
    Token, Verdict, Which,
};
pub use queues::{QueueOptions, check_queues};
pub use record::{RecordId, Seen};
pub use recorder::{Recorder, Shelf};
pub use violation::{Kind, Violation};
