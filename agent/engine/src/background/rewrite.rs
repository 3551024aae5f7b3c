//! Rewrites the batches of a drain plan into a segment. Pure.

#[cfg(test)]
mod tests;

use bytes::Bytes;
use millpond_core::control_plane::{Batch, BatchFlags, DrainBatch, Swap, SwapInput, SwapOutput};
use millpond_core::saturated;
use millpond_core::{Offset, PartId, Source, limits};
use millpond_format::batch::DecodedBatch;
use millpond_format::ingest::SegmentWriter;
use std::collections::{BTreeMap, BTreeSet};

/// Unreadable payloads after which nothing more of a plan is tried.
const UNREADABLE_MAX: usize = 16;
/// Payloads that a swap marks as drained at most.
const SWAP_MARKS_MAX: usize = 64;

/// A drain plan, encoded: the new segment, and the changes of the index that make it part of the log.
pub(super) struct Rewritten {
    pub segment: Bytes,
    /// Changes that replace the inline batches by the segment's, of a few partitions each. Empty if nothing
    /// could be read.
    pub swaps: Vec<Swap>,
    /// Payloads that hold nothing any more after these swaps and that no swap marks: more than few, for whose
    /// sake no partition is to stay locked.
    pub drained: Vec<PartId>,
    /// Payloads that could not be read, of which nothing is in the segment.
    pub unreadable: BTreeMap<PartId, String>,
}

/// Encodes the records of a drain plan into a segment, and builds the swaps that replace the inline batches
/// by it. Adjacent batches of a partition are joined, and records that their commits had dropped are left
/// out.
pub(super) fn rewrite(
    plan: &[DrainBatch],
    part: PartId,
    cluster: &str,
    epoch: i64,
    agent: &str,
) -> Rewritten {
    let mut unreadable = BTreeMap::new();
    let size = plan.iter().map(|d| d.bytes.len()).sum();
    while unreadable.len() < UNREADABLE_MAX {
        let mut writer = SegmentWriter::new(cluster, epoch, agent, size);
        let readable: Vec<&DrainBatch> =
            plan.iter().filter(|d| !unreadable.contains_key(&d.batch.part)).collect();
        match join(&readable, part, &mut writer) {
            Ok(joined) => {
                let segment = writer.into_segment();
                let whole = saturated::<i64, _>(plan.len()) < limits::DRAIN_PLAN_MAX_BATCHES;
                let (swaps, drained) = swaps(joined, part, &segment, whole);
                return Rewritten { segment, swaps, drained, unreadable };
            }
            Err((payload, error)) => drop(unreadable.insert(payload, error.to_string())),
        }
    }
    Rewritten { segment: Bytes::new(), swaps: Vec::new(), drained: Vec::new(), unreadable }
}

/// A batch of the segment, with the inline batches that it replaces.
type Joined<'a> = (SwapOutput, Vec<&'a DrainBatch>);

/// Writes joined batches. Fails with the payload that cannot be read.
fn join<'a>(
    plan: &[&'a DrainBatch],
    part: PartId,
    writer: &mut SegmentWriter,
) -> Result<Vec<Joined<'a>>, (PartId, Source)> {
    let mut joined = Vec::new();
    let mut open: Option<OpenBatch<'a>> = None;
    for drained in plan.iter().copied() {
        if let Some(full) = open.take_if(|o| !o.continues(drained, writer)) {
            joined.push(full.close(writer, part));
        }
        push(drained, writer).map_err(|error| (drained.batch.part, error))?;
        open.get_or_insert_with(|| OpenBatch::new(drained)).add(drained);
    }
    joined.extend(open.map(|open| open.close(writer, part)));
    Ok(joined)
}

/// Writes the records of an inline batch that their commit kept.
fn push(drained: &DrainBatch, writer: &mut SegmentWriter) -> Result<(), Source> {
    let raw = saturated::<usize, _>(drained.batch.raw_bytes);
    let decoded = DecodedBatch::decode(&drained.bytes, drained.batch.crc.cast_unsigned(), raw)?;
    let mut kept = 0;
    for record in decoded.records() {
        let record = record?;
        if !drained.batch.skip.iter().any(|r| r.contains(&record.position)) {
            writer.push(record.timestamp, record.tail);
            kept += 1;
        }
    }
    if kept != drained.batch.records {
        return Err(format!("a batch holds {kept} records instead of {}", drained.batch.records).into());
    }
    Ok(())
}

/// Divides the batches of a segment among swaps. If the plan is `whole`, its payloads are drained after the
/// last: that swap marks them, if they are few; else they are returned.
fn swaps(joined: Vec<Joined<'_>>, part: PartId, segment: &Bytes, whole: bool) -> (Vec<Swap>, Vec<PartId>) {
    let payloads: BTreeSet<PartId> =
        joined.iter().flat_map(|(_, inputs)| inputs.iter().map(|d| d.batch.part)).collect();
    let mut payloads: Vec<PartId> = payloads.into_iter().collect();
    if !whole {
        payloads.clear();
    }
    let empty = || Swap {
        segment: part,
        bytes: saturated::<i64, _>(segment.len()),
        crc: crc32c::crc32c(segment).cast_signed(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        drained: Vec::new(),
    };
    let mut swaps: Vec<Swap> = Vec::new();
    let mut partitions = BTreeSet::new();
    for (output, inputs) in joined {
        partitions.insert(output.partition);
        let fits = swaps.last().is_some_and(|swap| {
            swap.inputs.len() + inputs.len() <= limits::SWAP_MAX_INPUTS
                && partitions.len() <= limits::SWAP_MAX_PARTITIONS
        });
        if !fits {
            swaps.push(empty());
            partitions = BTreeSet::from([output.partition]);
        }
        if let Some(swap) = swaps.last_mut() {
            swap.outputs.push(output);
            swap.inputs.extend(inputs.into_iter().map(|d| SwapInput {
                partition: d.partition_id,
                base: d.batch.base,
                records: d.batch.records,
                part: d.batch.part,
            }));
        }
    }
    if let Some(last) = swaps.last_mut().filter(|_| payloads.len() <= SWAP_MARKS_MAX) {
        last.drained = std::mem::take(&mut payloads);
    }
    (swaps, payloads)
}

/// The joined batch that is being encoded.
struct OpenBatch<'a> {
    inputs: Vec<&'a DrainBatch>,
    /// The first of its input batches.
    first: &'a DrainBatch,
    /// Offset after its last record.
    end: Offset,
    flags: BatchFlags,
    committed_at_ms: i64,
    latest_expiry: Option<i64>,
    /// Whether some record never expires.
    has_unexpiring: bool,
}

impl<'a> OpenBatch<'a> {
    fn new(first: &'a DrainBatch) -> Self {
        let flags = first.batch.flags;
        Self {
            inputs: Vec::new(),
            first,
            end: first.batch.base,
            flags,
            committed_at_ms: 0,
            latest_expiry: None,
            has_unexpiring: false,
        }
    }

    /// Whether an inline batch can be joined to it.
    fn continues(&self, next: &DrainBatch, writer: &SegmentWriter) -> bool {
        self.first.partition_id == next.partition_id
            && self.end == next.batch.base
            && self.inputs.len() < limits::SWAP_MAX_INPUTS
            && writer.batch_bytes() + saturated::<usize, _>(next.batch.raw_bytes) <= limits::BATCH_MAX_BYTES
    }

    fn add(&mut self, drained: &'a DrainBatch) {
        self.inputs.push(drained);
        self.end = drained.batch.end();
        self.flags = self.flags.joined(drained.batch.flags);
        self.committed_at_ms = self.committed_at_ms.max(drained.batch.committed_at_ms);
        self.has_unexpiring |= drained.expires_at_ms.is_none();
        self.latest_expiry = self.latest_expiry.max(drained.expires_at_ms);
    }

    fn close(self, writer: &mut SegmentWriter, part: PartId) -> Joined<'a> {
        let (byte_offset, encoded) = writer.finish_batch(&self.first.topic);
        let int = |n: usize| saturated::<i32, _>(n);
        let output = SwapOutput {
            partition: self.first.partition_id,
            expires_at_ms: self.latest_expiry.filter(|_| !self.has_unexpiring),
            batch: Batch {
                base: self.first.batch.base,
                records: encoded.records,
                part,
                inline: false,
                byte_offset: int(byte_offset),
                byte_length: int(encoded.byte_length),
                raw_bytes: int(encoded.raw_bytes),
                crc: encoded.crc.cast_signed(),
                committed_at_ms: self.committed_at_ms,
                max_timestamp: encoded.max_timestamp,
                flags: self.flags,
                skip: Vec::new(),
            },
        };
        (output, self.inputs)
    }
}
