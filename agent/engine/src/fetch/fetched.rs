//! The result of a read (whole batches of a partition, verified and decoded) and its errors.

use crate::memory::Memory;
use crate::store::StoreError;
use millpond_core::control_plane::Batch;
use millpond_core::{Error, Offset, PartId};
use millpond_format::Corrupt;
use millpond_format::batch::DecodedBatch;
use millpond_format::record::RecordView;
use std::sync::Arc;

/// Why stored records could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("the control plane does not answer")]
    ControlPlane(#[source] Error),
    #[error("no memory for the read became free")]
    Throttled,
    #[error("the object store does not answer")]
    ObjectStore(#[source] Arc<StoreError>),
    #[error("part {part}, which the log refers to, is missing or corrupt")]
    Corrupt { part: PartId, source: Option<Corrupt> },
}

/// Batches of one partition, from an offset on.
#[derive(Debug)]
pub struct Fetched {
    pub log_start_offset: Offset,
    pub high_watermark: Offset,
    pub batches: Vec<FetchedBatch>,
    /// Offset after the last batch of the read plan, whether or not that batch was read.
    pub planned_to: Offset,
    /// Offset of the first batch that was not read because of the limit of bytes.
    pub unread_from: Option<Offset>,
    /// Memory of the batches.
    pub(super) memory: Memory,
    /// Memory for the answer that is made of the batches.
    pub(super) answer_memory: Memory,
}

/// One decoded batch.
#[derive(Debug, Clone)]
pub struct FetchedBatch {
    /// Its index entry.
    pub batch: Batch,
    pub(super) decoded: Arc<DecodedBatch>,
}

impl FetchedBatch {
    pub(super) fn decoded(&self) -> &Arc<DecodedBatch> {
        &self.decoded
    }

    /// The record with an offset; `None` if the offset is not in this batch.
    #[must_use]
    pub fn record(&self, offset: Offset) -> Option<Result<RecordView<'_>, Corrupt>> {
        if !(self.batch.base..self.batch.end()).contains(&offset) {
            return None;
        }
        let mut position = i32::try_from(offset.0 - self.batch.base.0).ok()?;
        for skipped in &self.batch.skip {
            if skipped.start > position {
                break;
            }
            position += skipped.end - skipped.start;
        }
        self.decoded.record(usize::try_from(position).ok()?)
    }

    /// All records that the commit did not drop, with their offsets.
    pub fn records(&self) -> impl Iterator<Item = Result<(Offset, RecordView<'_>), Corrupt>> {
        let mut skip = self.batch.skip.iter().peekable();
        let mut next = self.batch.base;
        self.decoded.records().filter_map(move |record| {
            let record = match record {
                Ok(record) => record,
                Err(corrupt) => return Some(Err(corrupt)),
            };
            while skip.next_if(|r| r.end <= record.position).is_some() {}
            if skip.peek().is_some_and(|r| r.contains(&record.position)) {
                return None;
            }
            let offset = next;
            next = next.plus(1);
            Some(Ok((offset, record)))
        })
    }
}

impl Fetched {
    /// The memory for the answer that is made of the batches: to be held as long as the answer is.
    #[must_use]
    pub fn take_answer_memory(&mut self) -> Memory {
        std::mem::take(&mut self.answer_memory)
    }
}
