//! Decides which segment blocks and inline payloads a read needs. Pure.

use millpond_core::control_plane::{Batch, PayloadRange};
use millpond_core::saturated;
use millpond_core::{PartId, limits};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// A batch is cold if it was committed more than this before the read.
const COLD_AFTER_MS: i64 = 60_000;

/// The stored bytes that a read needs.
#[derive(Debug, Default)]
pub struct Plan<'a> {
    /// Blocks of segments, by part and block number.
    pub blocks: BTreeMap<(PartId, u64), Block<'a>>,
    /// Inline parts.
    pub payloads: BTreeSet<PartId>,
}

/// A block of a segment that a read needs.
#[derive(Debug)]
pub struct Block<'a> {
    /// Whether all of its batches that are needed are cold.
    pub cold: bool,
    /// The batches that lie in it, or a part of which does.
    pub batches: Vec<&'a Batch>,
}

/// The blocks of a segment that hold the bytes of a batch.
#[must_use]
pub fn blocks_of(batch: &Batch) -> RangeInclusive<u64> {
    let start = saturated::<u64, _>(batch.byte_offset);
    let last = start + saturated::<u64, _>(batch.byte_length).max(1) - 1;
    start / limits::CACHE_BLOCK_BYTES..=last / limits::CACHE_BLOCK_BYTES
}

/// The plan for batches; `now_ms` is the time of the read by the clock that gave them their commit times.
#[must_use]
pub fn plan<'a>(batches: impl Iterator<Item = &'a Batch>, now_ms: i64) -> Plan<'a> {
    let mut plan = Plan::default();
    for batch in batches {
        if batch.inline {
            plan.payloads.insert(batch.part);
        } else {
            let cold = batch.committed_at_ms < now_ms - COLD_AFTER_MS;
            for number in blocks_of(batch) {
                let new = || Block { cold, batches: Vec::new() };
                let block = plan.blocks.entry((batch.part, number)).or_insert_with(new);
                block.cold = block.cold && cold;
                block.batches.push(batch);
            }
        }
    }
    plan
}

/// The byte ranges of inline batches in their payloads; adjacent ranges are joined.
#[must_use]
pub fn payload_ranges<'a>(batches: impl Iterator<Item = &'a Batch>) -> Vec<PayloadRange> {
    let mut wanted: Vec<PayloadRange> = batches
        .map(|b| PayloadRange { part: b.part, byte_offset: b.byte_offset, byte_length: b.byte_length })
        .collect();
    wanted.sort_unstable_by_key(|r| (r.part, r.byte_offset));
    wanted.dedup();
    let mut joined: Vec<PayloadRange> = Vec::new();
    for range in wanted {
        match joined.last_mut() {
            Some(last)
                if last.part == range.part && last.byte_offset + last.byte_length == range.byte_offset =>
            {
                last.byte_length += range.byte_length;
            }
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use millpond_core::Offset;
    use uuid::Uuid;

    fn batch(part: u128, inline: bool, byte_offset: i32, byte_length: i32, committed_at_ms: i64) -> Batch {
        Batch {
            base: Offset(0),
            records: 1,
            part: PartId(Uuid::from_u128(part)),
            inline,
            byte_offset,
            byte_length,
            raw_bytes: byte_length,
            crc: 0,
            committed_at_ms,
            max_timestamp: 0,
            flags: Default::default(),
            skip: Vec::new(),
        }
    }

    #[test]
    fn neighbours_share_a_block_and_long_batches_span_two() {
        let block = i32::try_from(limits::CACHE_BLOCK_BYTES).expect("small");
        let batches = [
            batch(1, false, 0, 10, 0),
            batch(1, false, 10, 10, 0),
            batch(1, false, block - 5, 10, 1_000_000),
            batch(2, true, 0, 7, 0),
        ];
        let plan = plan(batches.iter(), 1_000_000);
        let blocks: Vec<(u64, bool)> = plan.blocks.iter().map(|((_, n), block)| (*n, block.cold)).collect();
        assert_eq!(blocks, [(0, false), (1, false)], "a block that one hot batch needs is hot");
        assert_eq!(plan.blocks.values().map(|b| b.batches.len()).collect::<Vec<_>>(), [3, 1]);
        assert_eq!(plan.payloads.len(), 1);
    }

    #[test]
    fn payload_ranges_join_neighbours_only() {
        let batches = [
            batch(1, true, 10, 5, 0),
            batch(1, true, 0, 10, 0),
            batch(1, true, 20, 5, 0),
            batch(2, true, 15, 5, 0),
        ];
        let ranges: Vec<(i32, i32)> =
            payload_ranges(batches.iter()).iter().map(|r| (r.byte_offset, r.byte_length)).collect();
        assert_eq!(ranges, [(0, 15), (20, 5), (15, 5)]);
    }
}
