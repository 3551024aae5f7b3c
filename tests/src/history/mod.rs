//! What clients did and were told, and whether a log may behave so.
//!
//! Every client records what it asked ([`Call`]) and what came back ([`Outcome`]), with times of one clock. [`check`] takes the whole
//! [`History`] and names what no correct log could have done, by the invariants I1–I7 and I12:
//! an acknowledged record is in the log, nothing else is, each offset is one record for ever, offsets are dense, each partition is
//! linearizable, retries store once, order holds, and a request is visible whole or not at all.
//!
//! An operation is *ok*, *fail* (certainly without effect) or *info* (nobody knows, so that it may take effect until the history ends).

mod check;
mod op;
mod payload;
mod recorder;
mod violation;

pub use check::{Options, check};
pub use op::{Call, Event, From, History, Log, Op, OpId, Outcome, Placed, Produce, Read, ReadAnswer, RecordId, Seen, Sent, What};
pub use payload::{identify, payload};
pub use recorder::{Recorder, Shelf};
pub use violation::{Kind, Violation};
