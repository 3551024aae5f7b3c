//! A set of wanted records, given by their offsets, and the read plans that cover it. Pure.

use millpond_core::control_plane::FindRequest;
use millpond_core::{Offset, PartitionId, Scope};
use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges of one partition with fewer records than this between them are covered by one plan.
const PLAN_GAP_RECORDS: i64 = 512;

/// Wanted offsets by partition, as disjoint ranges in order.
#[derive(Debug, Default, Clone)]
pub struct Wanted(BTreeMap<PartitionId, Vec<Range<i64>>>);

impl Wanted {
    /// Joins ranges that overlap or are adjacent.
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

    /// Whether any offset in `start..end` is wanted.
    pub(super) fn overlaps(&self, partition: PartitionId, start: Offset, end: Offset) -> bool {
        let Some(ranges) = self.0.get(&partition) else { return false };
        let first = ranges.partition_point(|r| r.end <= start.0);
        ranges.get(first).is_some_and(|r| r.start < end.0)
    }

    /// Number of wanted offsets in `start..end`.
    pub(super) fn records_in(&self, partition: PartitionId, start: Offset, end: Offset) -> i64 {
        let Some(ranges) = self.0.get(&partition) else { return 0 };
        let first = ranges.partition_point(|r| r.end <= start.0);
        let overlapping = ranges[first..].iter().take_while(|r| r.start < end.0);
        overlapping.map(|r| r.end.min(end.0) - r.start.max(start.0)).sum()
    }

    /// Requests for read plans that cover all ranges.
    pub(super) fn requests(&self, scope: &Scope) -> Vec<FindRequest> {
        let mut requests: Vec<FindRequest> = Vec::new();
        for (partition, ranges) in &self.0 {
            for range in ranges {
                match requests.last_mut() {
                    Some(last)
                        if last.partition == *partition
                            && last.end.is_some_and(|end| range.start - end.0 < PLAN_GAP_RECORDS) =>
                    {
                        last.end = Some(Offset(range.end));
                    }
                    _ => requests.push(FindRequest {
                        scope: scope.clone(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_and_near_ones_are_planned_together() {
        let (p, q) = (PartitionId(1), PartitionId(2));
        let wanted =
            Wanted::new([(p, 5..6), (p, 0..3), (p, 3..5), (q, 7..8), (p, 100..101), (p, 5_000..5_001)]);
        assert_eq!(wanted.0[&p], [0..6, 100..101, 5_000..5_001]);
        let planned: Vec<_> = wanted
            .requests(&Scope::unauthenticated())
            .iter()
            .map(|r| (r.partition, r.offset.0, r.end.map(|e| e.0)))
            .collect();
        assert_eq!(planned, [(p, 0, Some(101)), (p, 5_000, Some(5_001)), (q, 7, Some(8))]);
        assert_eq!(wanted.records_in(p, Offset(4), Offset(5_000)), 2 + 1);
        assert_eq!(wanted.records_in(p, Offset(6), Offset(100)), 0);
        assert!(wanted.overlaps(p, Offset(90), Offset(101)) && wanted.overlaps(p, Offset(5), Offset(90)));
        assert!(
            !wanted.overlaps(p, Offset(6), Offset(100))
                && !wanted.overlaps(PartitionId(3), Offset(0), Offset(9))
        );
    }
}
