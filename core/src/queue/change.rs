//! Changes of a whole queue. They are made in steps, each of which is short, and each of which may be the
//! last if the caller goes away; sent again, the change goes on.

use crate::id::{Offset, PartitionId};

/// Where a seek puts the cursors of a queue, as the log is when the seek begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeekTo {
    /// The log start offset of every partition.
    Earliest,
    /// The high watermark of every partition: no cursor goes back.
    Latest,
    /// In these partitions, each named once; limited to the offsets that the log holds.
    Offsets(Vec<(PartitionId, Offset)>),
}

/// How far a seek has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeekStep {
    /// No seek is under way any more.
    pub done: bool,
    /// Unsettled records below the targets that this seek, or the last one, has skipped so far, by all calls.
    pub skipped: i64,
}

/// Which dead records a step of a redrive or a purge of dead records looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadStep {
    /// Those after this one, by partition and offset.
    pub after: Option<(PartitionId, Offset)>,
    /// At most so many.
    pub limit: i64,
    /// When the first step began, by the clock of the control plane; `None` in the first step.
    pub begun_ms: Option<i64>,
    /// How many the steps before have redriven.
    pub redriven: i64,
}

impl DeadStep {
    #[must_use]
    pub fn first(limit: i64) -> Self {
        Self { after: None, limit, begun_ms: None, redriven: 0 }
    }
}

/// What a step on dead records has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadDone {
    /// Records redriven or purged by this step.
    pub records: i64,
    /// The next step; `None` after the last one.
    pub next: Option<DeadStep>,
}
