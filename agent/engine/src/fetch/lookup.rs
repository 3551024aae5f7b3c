//! Single records by their offsets, wherever they lie: what queues give out.

use super::reader::{FetchError, Fetched, FetchedBatch, Reader};
use millpond_core::control_plane::FindRequest;
use millpond_core::{Offset, PartitionId, limits};
use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges of one partition that lie nearer than this are planned together.
const GAP: i64 = 512;

/// Offsets by partition.
#[derive(Debug, Default, Clone)]
pub struct Wanted(BTreeMap<PartitionId, Vec<Range<i64>>>);

/// What was found of them.
#[derive(Debug, Default)]
pub struct Records(BTreeMap<PartitionId, Found>);

#[derive(Debug, Default)]
struct Found {
    log_start: Offset,
    /// By first offset.
    batches: BTreeMap<Offset, FetchedBatch>,
    /// Left out, since it would have been too much.
    unread: Vec<Range<Offset>>,
}

impl Wanted {
    #[must_use]
    pub fn new(ranges: impl IntoIterator<Item = (PartitionId, Range<i64>)>) -> Self {
        let mut wanted: BTreeMap<PartitionId, Vec<Range<i64>>> = BTreeMap::new();
        for (partition, range) in ranges {
            wanted.entry(partition).or_default().push(range);
        }
        for ranges in wanted.values_mut() {
            ranges.sort_unstable_by_key(|r| r.start);
            ranges.dedup_by(|next, last| {
                let touch = next.start <= last.end;
                if touch {
                    last.end = last.end.max(next.end);
                }
                touch
            });
        }
        Self(wanted)
    }

    /// Whether an offset from `start` to before `end` is wanted.
    pub(super) fn touches(&self, partition: PartitionId, start: Offset, end: Offset) -> bool {
        let Some(ranges) = self.0.get(&partition) else { return false };
        let first = ranges.partition_point(|r| r.end <= start.0);
        ranges.get(first).is_some_and(|r| r.start < end.0)
    }

    /// Plans that cover all ranges, near ones together.
    fn requests(&self) -> Vec<FindRequest> {
        let mut requests: Vec<FindRequest> = Vec::new();
        for (partition, ranges) in &self.0 {
            for range in ranges {
                match requests.last_mut() {
                    Some(last)
                        if last.partition == *partition
                            && last.end.is_some_and(|end| range.start - end.0 < GAP) =>
                    {
                        last.end = Some(Offset(range.end));
                    }
                    _ => requests.push(FindRequest {
                        partition: *partition,
                        offset: Offset(range.start),
                        end: Some(Offset(range.end)),
                        max_bytes: i64::MAX,
                    }),
                }
            }
        }
        requests
    }
}

impl Records {
    /// The batch that holds a record.
    #[must_use]
    pub fn batch_of(&self, partition: PartitionId, offset: Offset) -> Option<&FetchedBatch> {
        let (_, batch) = self.0.get(&partition)?.batches.range(..=offset).next_back()?;
        (offset < batch.batch.end()).then_some(batch)
    }

    /// Whether a record was left out, since it would have been too much.
    #[must_use]
    pub fn is_unread(&self, partition: PartitionId, offset: Offset) -> bool {
        self.0.get(&partition).is_some_and(|found| found.unread.iter().any(|range| range.contains(&offset)))
    }

    /// Whether retention has let a record go, or its topic was deleted.
    #[must_use]
    pub fn is_gone(&self, partition: PartitionId, offset: Offset) -> bool {
        self.0.get(&partition).is_none_or(|found| offset < found.log_start)
    }

    fn add(&mut self, request: &FindRequest, fetched: Fetched) {
        let found = self.0.entry(request.partition).or_default();
        found.log_start = fetched.log_start_offset.max(found.log_start);
        if let (Some(from), Some(end)) = (fetched.unread_from, request.end) {
            found.unread.push(from..end);
        }
        found.batches.extend(fetched.batches.into_iter().map(|batch| (batch.batch.base, batch)));
    }
}

impl Reader {
    /// Reads the batches of all wanted records, as far as [`limits::LOOKUP_MAX_BYTES`] reaches.
    pub async fn lookup(&self, wanted: &Wanted) -> Result<Records, FetchError> {
        let mut records = Records::default();
        let mut requests = wanted.requests();
        let mut left = limits::LOOKUP_MAX_BYTES;
        while !requests.is_empty() {
            let fetched = self.fetch_some(&requests, Some((wanted, left))).await?;
            left -= fetched
                .iter()
                .flatten()
                .flat_map(|f| &f.batches)
                .map(|b| i64::from(b.batch.raw_bytes))
                .sum::<i64>();
            let mut rest = Vec::new();
            for (request, fetched) in requests.iter().zip(fetched) {
                let Some(mut fetched) = fetched else { continue };
                let at = fetched.planned_to;
                // A plan has so many batches at most; one that begins below the log's start has none.
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
                    rest.push(FindRequest { offset, ..*request });
                }
                fetched.release();
                records.add(request, fetched);
            }
            requests = rest;
        }
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_and_near_ones_are_planned_together() {
        let (p, q) = (PartitionId(1), PartitionId(2));
        let wanted =
            Wanted::new([(p, 5..6), (p, 0..3), (p, 3..5), (q, 7..8), (p, 100..101), (p, 5_000..5_001)]);
        assert_eq!(wanted.0[&p], [0..6, 100..101, 5_000..5_001]);
        let planned: Vec<_> =
            wanted.requests().iter().map(|r| (r.partition, r.offset.0, r.end.map(|e| e.0))).collect();
        assert_eq!(planned, [(p, 0, Some(101)), (p, 5_000, Some(5_001)), (q, 7, Some(8))]);
        assert!(wanted.touches(p, Offset(90), Offset(101)) && wanted.touches(p, Offset(5), Offset(90)));
        assert!(
            !wanted.touches(p, Offset(6), Offset(100))
                && !wanted.touches(PartitionId(3), Offset(0), Offset(9))
        );
    }
}
