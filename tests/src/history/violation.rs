//! Violations: the ways in which a log or a queue can be wrong.

use super::op::{Log, OpId};
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// I1: an acknowledged record is missing in a complete read.
    Lost,
    /// I2: a record was read that nobody sent, or not yet, or to another log, or only in attempts that
    /// certainly failed.
    Phantom,
    /// I3: one offset holds two records.
    InconsistentOffset,
    /// I3: a record was acknowledged at one offset and read at another.
    Misplaced,
    /// I4: a read skips an offset.
    Gap,
    /// I4: a read returns an offset twice, or goes back.
    Repeat,
    /// I4: the log's start moved although nothing may be deleted, or it went back.
    LogStart,
    /// A read returns records at or above the high watermark that it names.
    BeyondEnd,
    /// I5: a read lacks what was acknowledged before it began.
    StaleRead,
    /// I5: the high watermark is lower than one that was seen before.
    HighWatermarkBack,
    /// I5: an append got an offset below the end of the log that was known before it began.
    AppendOrder,
    /// I6: one record is stored at two offsets.
    Duplicate,
    /// I6: retries of one request were answered differently.
    ChangedAnswer,
    /// I6: two requests with one idempotency key were stored.
    KeyIgnored,
    /// I7: of two requests of one client that did not overlap, the later one has the lower offset.
    ClientOrder,
    /// I7: records of one request are stored in another order.
    RequestOrder,
    /// I12: a part of a request is visible and the rest is not.
    Torn,
    /// An `If-Match` request was stored at another offset, or was refused although the offset matched.
    IfMatch,
    /// A session went back.
    NonmonotonicPoll,
    /// A session skipped records.
    SkippedPoll,
    /// No complete read of a log was made at the end, so nothing can be said about it.
    Unread,
    /// I8: a record is handed out while another hand-out of it is valid.
    DoubleLease,
    /// I8: one attempt is handed out twice, or a later attempt before an earlier one.
    Attempt,
    /// I8, I11: a settlement was accepted although its receipt was no longer valid.
    StaleReceipt,
    /// I9: a record is neither acked, dead nor expired after the queue was drained.
    Undelivered,
    /// I9: a drained queue still holds something.
    Leftover,
    /// I10: an acked record is handed out again without a seek back.
    AckedAgain,
    /// A record is handed out that was purged, skipped by a seek, or lies before the queue's start.
    Dropped,
    /// I11: a hand-out names a wrong number of failures.
    Failures,
    /// I11: a record died before the limit without a reject.
    DeadEarly,
    /// I11: a record is alive at the limit.
    DeadLate,
    /// I11: a dead record is handed out without a redrive.
    DeadAgain,
    /// I11: the final list of dead records differs from the records that died.
    DeadList,
    /// A record is handed out before its delay has passed.
    TooEarly,
    /// A record is handed out after its time to live.
    Expired,
    /// Two records of a key are in flight at the same time.
    KeyTogether,
    /// A record is handed out before an earlier record of its key is finished.
    KeyOrder,
    /// A settled receipt was settled again.
    SettledTwice,
    /// A receipt of another queue, or an invented one, had an effect.
    ForeignReceipt,
    /// A receipt was called lost although nothing can have ended its hand-out.
    WronglyLost,
    /// A settlement got an answer that does not fit its request, or different answers to attempts at it.
    WrongVerdict,
    /// The final state of a queue was not described.
    Unobserved,
}

/// A violation and its evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub kind: Kind,
    pub log: Option<Log>,
    pub offset: Option<i64>,
    /// The operations that contradict each other, or the single one that contradicts itself.
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
