//! A set of offsets, stored as ranges.

use std::ops::Range;

/// Ranges that are ascending, disjoint, not adjacent and not empty, as in an `int8multirange` of Postgres.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Range<i64>>);

impl FromIterator<Range<i64>> for Ranges {
    fn from_iter<I: IntoIterator<Item = Range<i64>>>(ranges: I) -> Self {
        let mut set = Self::default();
        for range in ranges {
            set.add(range);
        }
        set
    }
}

impl Ranges {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn count(&self) -> i64 {
        self.0.iter().map(|r| r.end - r.start).sum()
    }

    #[must_use]
    pub fn contains(&self, offset: i64) -> bool {
        self.0.iter().any(|r| r.contains(&offset))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Range<i64>> {
        self.0.iter()
    }

    pub fn offsets(&self) -> impl Iterator<Item = i64> {
        self.0.iter().flat_map(|r| r.clone())
    }

    #[must_use]
    pub fn first(&self) -> Option<i64> {
        self.0.first().map(|r| r.start)
    }

    #[must_use]
    pub fn to_vec(&self) -> Vec<Range<i64>> {
        self.0.clone()
    }

    pub fn add(&mut self, range: Range<i64>) {
        if range.is_empty() {
            return;
        }
        let (mut lo, mut hi) = (range.start, range.end);
        self.0.retain(|r| {
            let apart = r.end < lo || r.start > hi;
            if !apart {
                (lo, hi) = (lo.min(r.start), hi.max(r.end));
            }
            apart
        });
        let at = self.0.partition_point(|r| r.start < lo);
        self.0.insert(at, lo..hi);
    }

    /// The offsets of this set that lie in `range`.
    #[must_use]
    pub fn within(&self, range: &Range<i64>) -> Self {
        Self(
            self.0
                .iter()
                .map(|r| r.start.max(range.start)..r.end.min(range.end))
                .filter(|r| !r.is_empty())
                .collect(),
        )
    }

    /// The offsets of this set that are not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let cut = |left: Vec<Range<i64>>, hole: &Range<i64>| {
            let sides =
                left.into_iter().flat_map(|r| [r.start..r.end.min(hole.start), r.start.max(hole.end)..r.end]);
            sides.filter(|r| !r.is_empty()).collect()
        };
        Self(other.0.iter().fold(self.0.clone(), cut))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn some() -> impl Strategy<Value = Vec<Range<i64>>> {
        prop::collection::vec((0..40_i64, 0..8_i64).prop_map(|(lo, n)| lo..lo + n), 0..8)
    }

    fn plain(ranges: &[Range<i64>]) -> BTreeSet<i64> {
        ranges.iter().flat_map(|r| r.clone()).collect()
    }

    proptest! {
        #[test]
        fn are_sets(left in some(), right in some(), window in (0..40_i64, 0..20_i64)) {
            let (a, b): (Ranges, Ranges) = (left.iter().cloned().collect(), right.iter().cloned().collect());
            let window = window.0..window.0 + window.1;
            for set in [&a, &a.without(&b), &a.within(&window)] {
                let apart = set.0.windows(2).all(|w| w[0].end < w[1].start);
                prop_assert!(apart && set.0.iter().all(|r| !r.is_empty()), "{:?}", set);
            }
            prop_assert_eq!(a.offsets().collect::<BTreeSet<_>>(), plain(&left));
            prop_assert_eq!(a.without(&b).offsets().collect::<BTreeSet<_>>(), &plain(&left) - &plain(&right));
            let kept: BTreeSet<i64> = plain(&left).into_iter().filter(|o| window.contains(o)).collect();
            prop_assert_eq!(a.within(&window).offsets().collect::<BTreeSet<_>>(), kept);
        }
    }
}
