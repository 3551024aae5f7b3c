//! Choosing records of what was fetched, within the limits of an answer.

use super::fetched::{FetchError, Fetched};
use millpond_core::control_plane::BatchFlags;
use millpond_core::{Name, Offset};
use millpond_format::Corrupt;
use millpond_format::record::RecordView;

/// Where a verb puts the records that it reads: an answer in a door's own form.
pub trait RecordSink: Send {
    /// The records that follow are of this partition.
    fn begin_partition(&mut self, topic: &Name, partition: i32);

    /// `is_json`: the value is known to be JSON text without raw line ends.
    fn push(&mut self, offset: Offset, record: &RecordView<'_>, is_json: bool) -> Result<(), Corrupt>;
}

/// What one answer may hold.
#[derive(Debug, Clone, Copy)]
pub struct ReadLimits {
    pub max_records: usize,
    /// Keys, values and headers. The first record is given even if it is larger.
    pub max_bytes: usize,
}

/// How much of its limits an answer has used.
#[derive(Debug, Clone, Copy)]
pub struct Selection {
    limits: ReadLimits,
    pub records: usize,
    bytes: usize,
    /// A record was left behind because of the limits.
    pub is_full: bool,
}

impl Selection {
    #[must_use]
    pub fn new(limits: ReadLimits) -> Self {
        Self { limits, records: 0, bytes: 0, is_full: false }
    }

    /// Hands on the records from `next` on that fit, and moves `next` behind the last of them.
    pub fn take(
        &mut self,
        fetched: &Fetched,
        next: &mut Offset,
        sink: &mut impl RecordSink,
    ) -> Result<(), FetchError> {
        for batch in &fetched.batches {
            let corrupt = |source| FetchError::Corrupt { part: batch.batch.part, source: Some(source) };
            let is_json = batch.batch.flags.has(BatchFlags::JSON);
            for record in batch.records() {
                let (offset, record) = record.map_err(corrupt)?;
                if offset < *next {
                    continue;
                }
                let bytes = record.tail.len();
                let is_first = self.records == 0;
                if self.records == self.limits.max_records
                    || (!is_first && self.bytes + bytes > self.limits.max_bytes)
                {
                    self.is_full = true;
                    return Ok(());
                }
                sink.push(offset, &record, is_json).map_err(corrupt)?;
                self.records += 1;
                self.bytes += bytes;
                *next = offset.plus(1);
            }
        }
        Ok(())
    }
}
