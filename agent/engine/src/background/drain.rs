//! The drain: moves inline payloads that are old enough into segments, and joins small batches into larger
//! ones.

use super::Jobs;
use millpond_core::control_plane::{Batch, BatchFlags, DrainBatch, Swap, SwapInput, SwapOutput};
use millpond_core::saturated;
use millpond_core::{Error, PartId, Source, limits};
use millpond_format::batch::DecodedBatch;
use millpond_format::ingest::SegmentWriter;
use millpond_format::key;
use std::collections::BTreeSet;

/// Segments that one run writes at most.
const RUN_MAX_SEGMENTS: usize = 20;

impl Jobs {
    /// Returns how many inline batches were moved.
    pub(super) async fn drain(&self) -> Result<usize, Source> {
        let mut drained = 0;
        for _ in 0..RUN_MAX_SEGMENTS {
            let max = saturated::<i64, _>(limits::SEGMENT_MAX_BYTES);
            let plan = self.plane.drain_plan(max).await?;
            if plan.is_empty() {
                break;
            }
            let part = self.parts.take().await?;
            let origin = self.origin.clone();
            let count = plan.len();
            let (segment, swap) = crate::blocking::run(move || {
                rewrite(&plan, part, &origin.cluster, origin.epoch, &origin.agent)
            })
            .await?;
            self.store.put(&key::ingest(&self.origin.cluster, part), &segment).await?;
            match self.plane.swap(&swap).await {
                Ok(()) => drained += count,
                Err(Error::Rejected(rejected)) => {
                    tracing::debug!(%rejected, "the drained batches were changed meanwhile; trying later");
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(drained)
    }
}

/// Encodes the records of a drain plan into a segment, and builds the swap that replaces the inline batches
/// by it. Adjacent batches of a partition are joined, and records that their commits had dropped are left
/// out.
fn rewrite(
    plan: &[DrainBatch],
    part: PartId,
    cluster: &str,
    epoch: i64,
    agent: &str,
) -> Result<(bytes::Bytes, Swap), Source> {
    let size = plan.iter().map(|d| d.bytes.len()).sum();
    let mut writer = SegmentWriter::new(cluster, epoch, agent, size);
    let mut outputs: Vec<SwapOutput> = Vec::new();
    let mut open: Option<OpenBatch<'_>> = None;
    for drained in plan {
        let continues = |o: &OpenBatch<'_>| {
            o.first.partition_id == drained.partition_id
                && o.end == drained.batch.base
                && writer.batch_bytes() + saturated::<usize, _>(drained.batch.raw_bytes)
                    <= limits::BATCH_MAX_BYTES
        };
        if !open.as_ref().is_some_and(continues)
            && let Some(open) = open.take()
        {
            outputs.push(open.close(&mut writer, part));
        }
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
        open.get_or_insert_with(|| OpenBatch::new(drained)).add(drained);
    }
    outputs.extend(open.map(|open| open.close(&mut writer, part)));
    let inputs = plan.iter().map(|d| SwapInput {
        partition: d.partition_id,
        base: d.batch.base,
        records: d.batch.records,
        part: d.batch.part,
    });
    let drained: BTreeSet<PartId> = plan.iter().map(|d| d.batch.part).collect();
    let inputs = inputs.collect();
    let segment = writer.into_segment();
    let swap = Swap {
        segment: part,
        bytes: saturated::<i64, _>(segment.len()),
        crc: crc32c::crc32c(&segment).cast_signed(),
        inputs,
        outputs,
        drained: drained.into_iter().collect(),
    };
    Ok((segment, swap))
}

/// The joined batch that is being encoded.
struct OpenBatch<'a> {
    /// The first of its input batches.
    first: &'a DrainBatch,
    /// Offset after its last record.
    end: millpond_core::Offset,
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
            first,
            end: first.batch.base,
            flags,
            committed_at_ms: 0,
            latest_expiry: None,
            has_unexpiring: false,
        }
    }

    fn add(&mut self, drained: &DrainBatch) {
        self.end = drained.batch.end();
        self.flags = self.flags.joined(drained.batch.flags);
        self.committed_at_ms = self.committed_at_ms.max(drained.batch.committed_at_ms);
        self.has_unexpiring |= drained.expires_at_ms.is_none();
        self.latest_expiry = self.latest_expiry.max(drained.expires_at_ms);
    }

    fn close(self, writer: &mut SegmentWriter, part: PartId) -> SwapOutput {
        let (byte_offset, encoded) = writer.finish_batch(&self.first.topic);
        let int = |n: usize| saturated::<i32, _>(n);
        SwapOutput {
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
        }
    }
}
