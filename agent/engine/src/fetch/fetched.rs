//! What a read gives: whole batches of a partition, verified and decoded, and why there are none.

use crate::store::StoreError;
use millpond_core::control_plane::Batch;
use millpond_core::{Error, Offset, PartId};
use millpond_format::Corrupt;
use millpond_format::batch::DecodedBatch;
use millpond_format::record::RecordView;
use std::sync::Arc;

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("the control plane does not answer")]
    ControlPlane(#[source] Error),
    #[error("the object store does not answer")]
    ObjectStore(#[source] Arc<StoreError>),
    #[error("part {part}, which the log refers to, is missing or corrupt")]
    Corrupt { part: PartId, source: Option<Corrupt> },
}

/// Readable records of one partition from an offset on.
#[derive(Debug)]
pub struct Fetched {
    pub log_start_offset: Offset,
    pub high_watermark: Offset,
    pub batches: Vec<FetchedBatch>,
    /// Where the plan ended, whether or not its batches were read.
    pub planned_to: Offset,
    /// From here on batches were left unread: they would have been too much.
    pub unread_from: Option<Offset>,
    pub(super) memory_held: Option<tokio::sync::OwnedSemaphorePermit>,
}

#[derive(Debug, Clone)]
pub struct FetchedBatch {
    pub batch: Batch,
    pub(super) decoded: Arc<DecodedBatch>,
}

impl FetchedBatch {
    pub(super) fn decoded(&self) -> &Arc<DecodedBatch> {
        &self.decoded
    }

    /// The record of an offset; `None` if it lies in another batch.
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

    /// Its kept records with their offsets.
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
    /// Gives back the memory set aside for it: its batches are counted elsewhere.
    pub(super) fn release(&mut self) {
        self.memory_held = None;
    }
}
