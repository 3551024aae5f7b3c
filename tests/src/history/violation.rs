//! What no correct log does.

use super::op::{Log, OpId};
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// I1: an acknowledged record is not in a complete read.
    Lost,
    /// I2: read, but sent by nobody, not yet, to another log, or only by attempts that certainly failed.
    Phantom,
    /// I3: one offset, two records.
    InconsistentOffset,
    /// I3: acknowledged at one offset, read at another.
    Misplaced,
    /// I4: a read passes over an offset.
    Gap,
    /// I4: a read gives an offset twice, or goes back.
    Repeat,
    /// I4: the log begins later though nothing may be deleted, or begins earlier than it did.
    LogStart,
    /// A read gives records at or above the high watermark it names.
    BeyondEnd,
    /// I5: what was acknowledged before the read began is not there.
    StaleRead,
    /// I5: the high watermark is lower than one that was seen before.
    HighWatermarkBack,
    /// I5: an append has an offset below the end of the log that was known before it began.
    AppendOrder,
    /// I6: one record at two offsets.
    Duplicate,
    /// I6: retries of one request were answered differently.
    ChangedAnswer,
    /// I6: one idempotency key, two requests stored.
    KeyIgnored,
    /// I7: of two requests of one client the later one, which did not overlap, has the lower offset.
    ClientOrder,
    /// I7: records of one request lie in another order.
    RequestOrder,
    /// I12: a part of a request is visible, the rest not.
    Torn,
    /// `If-Match` named another offset than the one stored at, or was refused though it matched.
    IfMatch,
    /// A session goes back.
    NonmonotonicPoll,
    /// A session passes over records.
    SkippedPoll,
    /// Nobody read the whole of a log at the end: nothing is known of it.
    Unread,
    /// I8: a record is handed out while another hand-out of it is valid.
    DoubleLease,
    /// I8: one attempt is handed out twice, or a later one before an earlier one.
    Attempt,
    /// I8, I11: a settlement is accepted by whose receipt the record was no longer held.
    StaleReceipt,
    /// I9: neither acked, dead nor expired, though all is drained.
    Undelivered,
    /// I9: something is left in a queue that is drained.
    Leftover,
    /// I10: an acked record is handed out again, though nobody sought back.
    AckedAgain,
    /// A record is handed out that was purged, or passed over by a seek, or lies before the queue's
    /// beginning.
    Dropped,
    /// I11: a hand-out names another number of failures than there were.
    Failures,
    /// I11: dead before the limit, without being rejected.
    DeadEarly,
    /// I11: not dead at the limit.
    DeadLate,
    /// I11: a dead record is handed out, though nobody redrove it.
    DeadAgain,
    /// I11: the dead in the end are others than those that died.
    DeadList,
    /// Handed out before a delay is over.
    TooEarly,
    /// Handed out after its time to live.
    Expired,
    /// Two records of a key in flight together.
    KeyTogether,
    /// A record handed out before an earlier one of its key is over.
    KeyOrder,
    /// A receipt that was settled is settled again.
    SettledTwice,
    /// A receipt of another queue, or of nobody, has an effect.
    ForeignReceipt,
    /// A receipt is called lost that nothing can have ended.
    WronglyLost,
    /// A settlement is told what it did not ask for, or something else when it asks again.
    WrongVerdict,
    /// Nobody looked at a queue in the end.
    Unobserved,
}

/// A violation and its evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub kind: Kind,
    pub log: Option<Log>,
    pub offset: Option<i64>,
    /// The operations that contradict each other, or the one that contradicts itself.
    pub ops: Vec<OpId>,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)?;
        if let Some(log) = &self.log {
            write!(f, " {log}")?;
        }
        if let Some(offset) = self.offset {
            write!(f, "@{offset}")?;
        }
        write!(f, ": {} (", self.what)?;
        for (n, op) in self.ops.iter().enumerate() {
            write!(f, "{}{op}", if n > 0 { ", " } else { "" })?;
        }
        write!(f, ")")
    }
}
