//! Lookup of single records by partition and offset, for queues.

use super::fetched::{FetchError, Fetched, FetchedBatch};
use super::reader::{Purpose, Reader};
use super::wanted::Wanted;
use crate::memory::{Memory, Room};
use millpond_core::control_plane::{BatchFlags, FindRequest};
use millpond_core::{Offset, PartitionId, Scope, limits};
use millpond_format::Corrupt;
use millpond_format::record::RecordView;
use std::collections::BTreeMap;
use std::ops::Range;

/// The result of a lookup: the batches that hold the wanted records.
#[derive(Debug, Default)]
pub struct Records {
    partitions: BTreeMap<PartitionId, FoundPartition>,
    /// Memory of the batches.
    memory: Memory,
    /// Memory for the answers that are made of the records.
    answer_memory: Memory,
}

/// One record, with the batch that holds it.
#[derive(Debug, Clone)]
pub struct FoundRecord {
    pub offset: Offset,
    batch: FetchedBatch,
}

impl FoundRecord {
    /// The decoded record.
    pub fn view(&self) -> Result<RecordView<'_>, Corrupt> {
        self.batch.record(self.offset).unwrap_or(Err(Corrupt("a record is not in its batch")))
    }

    /// Whether the value is known to be JSON text without line ends.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.batch.batch.flags.has(BatchFlags::JSON)
    }
}

#[derive(Debug, Default)]
struct FoundPartition {
    log_start: Offset,
    /// By base offset.
    batches: BTreeMap<Offset, FetchedBatch>,
    /// Offsets that were not read because of the limit of bytes.
    unread: Vec<Range<Offset>>,
}

impl Records {
    /// The batch that holds a record.
    #[must_use]
    pub fn batch_of(&self, partition: PartitionId, offset: Offset) -> Option<&FetchedBatch> {
        let (_, batch) = self.partitions.get(&partition)?.batches.range(..=offset).next_back()?;
        (offset < batch.batch.end()).then_some(batch)
    }

    /// A record, if it exists and was read.
    #[must_use]
    pub fn record(&self, partition: PartitionId, offset: Offset) -> Option<FoundRecord> {
        let batch = self.batch_of(partition, offset)?;
        batch.record(offset).map(|_| FoundRecord { offset, batch: batch.clone() })
    }

    /// Whether a record was not read because of the limit of bytes.
    #[must_use]
    pub fn is_unread(&self, partition: PartitionId, offset: Offset) -> bool {
        self.partitions
            .get(&partition)
            .is_some_and(|found| found.unread.iter().any(|range| range.contains(&offset)))
    }

    /// Whether a record was removed by retention or with its topic.
    #[must_use]
    pub fn is_gone(&self, partition: PartitionId, offset: Offset) -> bool {
        self.partitions.get(&partition).is_none_or(|found| offset < found.log_start)
    }

    /// The memory of the batches and that for answers: to be held as long as they are.
    #[must_use]
    pub fn take_memory(&mut self) -> (Memory, Memory) {
        (std::mem::take(&mut self.memory), std::mem::take(&mut self.answer_memory))
    }

    fn leave_unread(&mut self, requests: &[FindRequest]) {
        for request in requests {
            let found = self.partitions.entry(request.partition).or_default();
            found.unread.extend(request.end.map(|end| request.offset..end));
        }
    }

    fn add(&mut self, request: &FindRequest, mut fetched: Fetched) {
        self.memory.merge(std::mem::take(&mut fetched.memory));
        self.answer_memory.merge(fetched.take_answer_memory());
        let found = self.partitions.entry(request.partition).or_default();
        found.log_start = fetched.log_start_offset.max(found.log_start);
        if let (Some(from), Some(end)) = (fetched.unread_from, request.end) {
            found.unread.push(from..end);
        }
        found.batches.extend(fetched.batches.into_iter().map(|batch| (batch.batch.base, batch)));
    }
}

impl Reader {
    /// Reads the batches of all wanted records, up to [`limits::LOOKUP_MAX_BYTES`] uncompressed, and as far
    /// as memory is free once some were read.
    pub async fn lookup(
        &self,
        scope: &Scope,
        wanted: &Wanted,
        purpose: Purpose,
    ) -> Result<Records, FetchError> {
        let mut records = Records::default();
        let mut requests = wanted.requests(scope);
        let mut left = limits::LOOKUP_MAX_BYTES;
        let mut room = Room::Wait;
        while !requests.is_empty() {
            let fetched = match self.fetch_wanted(&requests, Some((wanted, left)), purpose, room).await {
                Err(FetchError::Throttled) if room == Room::IfFree => {
                    records.leave_unread(&requests);
                    break;
                }
                fetched => fetched?,
            };
            room = Room::IfFree;
            left -= fetched
                .iter()
                .flatten()
                .flat_map(|f| &f.batches)
                .map(|b| i64::from(b.batch.raw_bytes))
                .sum::<i64>();
            let mut rest = Vec::new();
            for (request, fetched) in requests.iter().zip(fetched) {
                let Some(fetched) = fetched else { continue };
                let at = fetched.planned_to;
                // A read plan may end early because its number of batches is limited, and it is empty if it
                // begins below the log start offset: in both cases, the rest is planned again.
                let (offset, moved) = if request.offset < fetched.log_start_offset {
                    (fetched.log_start_offset, true)
                } else {
                    (at, at > request.offset)
                };
                if fetched.unread_from.is_none()
                    && moved
                    && request.end.is_some_and(|end| offset < end)
                    && offset < fetched.high_watermark
                {
                    rest.push(FindRequest { offset, ..request.clone() });
                }
                records.add(request, fetched);
            }
            requests = rest;
        }
        Ok(records)
    }
}
