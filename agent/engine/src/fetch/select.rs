//! Selects records from fetched batches, within the limits of an answer.

use super::fetched::{FetchError, Fetched};
use crate::memory::Memory;
use millpond_core::control_plane::BatchFlags;
use millpond_core::{Name, Offset};
use millpond_format::Corrupt;
use millpond_format::record::RecordView;

/// Receives the records of a read and encodes them in a door's format.
pub trait RecordSink: Send {
    /// The following records belong to this partition.
    fn begin_partition(&mut self, topic: &Name, partition: i32);

    /// Adds a record. `is_json`: the value is known to be JSON text without line ends.
    fn push(&mut self, offset: Offset, record: &RecordView<'_>, is_json: bool) -> Result<(), Corrupt>;

    /// Memory for the records that follow, to be held as long as the encoded records are.
    fn hold(&mut self, memory: Memory) {
        drop(memory);
    }

    /// Whether there is no memory for further records. The first record of an answer is pushed regardless.
    fn is_full(&mut self) -> bool {
        false
    }
}

/// Limits of one answer.
#[derive(Debug, Clone, Copy)]
pub struct ReadLimits {
    pub max_records: usize,
    /// Bytes of keys, values and headers. The first record is returned even if it is larger.
    pub max_bytes: usize,
}

/// The part of its limits that an answer has used.
#[derive(Debug, Clone, Copy)]
pub struct Selection {
    limits: ReadLimits,
    pub records: usize,
    bytes: usize,
    /// Whether a record was left out because of the limits.
    pub is_full: bool,
}

impl Selection {
    #[must_use]
    pub fn new(limits: ReadLimits) -> Self {
        Self { limits, records: 0, bytes: 0, is_full: false }
    }

    /// Passes records to the sink, from offset `next` on and as long as they fit. Moves `next` past the last
    /// of them.
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
                    || (!is_first && (self.bytes + bytes > self.limits.max_bytes || sink.is_full()))
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
