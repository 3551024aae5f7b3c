//! How a grant distributes records among lease calls, as a pure function.
//!
//! `queries/queue/grant*.sql` contain the same arithmetic.

use crate::number::saturated;
use std::ops::Range;

/// The records that can be given out: lengths of runs, in the order in which they are given out.
#[derive(Clone, Debug, Default)]
pub struct Supply {
    /// Due runs whose lease expired. Each goes to a caller that gets nothing else.
    pub alone: Vec<i64>,
    /// The other due runs.
    pub due: Vec<i64>,
    /// Runs of records that the cursors have not passed yet.
    pub fresh: Vec<i64>,
}

/// A run of the supply: its kind and its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    Alone(usize),
    Due(usize),
    Fresh(usize),
}

/// Records that one caller gets from one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dealt {
    /// Index of the caller.
    pub want: usize,
    pub from: Source,
    /// Positions in the run, which begins at 0.
    pub range: Range<i64>,
}

/// Half of a count. An odd count is rounded up or down depending on `random`.
fn half(count: i64, random: f64) -> i64 {
    if count % 2 == 1 && random >= 0.5 { count / 2 + 1 } else { count / 2 }
}

fn count(n: usize) -> i64 {
    saturated::<i64, _>(n)
}

/// Distributes the supply. `wants`: number of records that each caller wants; `allowed`: maximum number of
/// records in all; `random`: random number from 0 to 1. The result is ordered by caller, then as given out.
/// [`Queues::grant`](crate::control_plane::Queues::grant) states the rules.
#[must_use]
pub fn deal(wants: &[i64], allowed: i64, supply: &Supply, random: f64) -> Vec<Dealt> {
    let fresh: i64 = supply.fresh.iter().sum();
    let others = fresh > 0 || !supply.due.is_empty();
    let callers = if others { half(count(wants.len()), random) } else { count(wants.len()) };
    let apart = supply.alone.len().min(saturated::<usize, _>(callers));
    let mut left = allowed.max(0);
    let mut dealt = Vec::new();
    for (n, (run, want)) in supply.alone.iter().zip(wants).take(apart).enumerate() {
        let give = left.min(*run).min(*want);
        left -= give;
        dealt.push(Dealt { want: n, from: Source::Alone(n), range: 0..give });
    }
    let line = &wants[apart..];
    let need = left.min(line.iter().sum());
    let retries = half(need, random).max(need - fresh);
    let due = supply.due.iter().enumerate().map(|(n, run)| (Source::Due(n), *run));
    let due = take_records(due, retries);
    let taken: i64 = due.iter().map(|(_, give)| give).sum();
    let fresh =
        take_records(supply.fresh.iter().enumerate().map(|(n, run)| (Source::Fresh(n), *run)), need - taken);
    dealt.extend(fill_line(apart, line, due.into_iter().chain(fresh)));
    dealt.retain(|d| !d.range.is_empty());
    dealt
}

/// The first records of the runs, `most` in all.
fn take_records(runs: impl Iterator<Item = (Source, i64)>, mut most: i64) -> Vec<(Source, i64)> {
    let cut = |(from, run): (Source, i64)| {
        let give = run.min(most);
        most -= give;
        (from, give)
    };
    runs.map(cut).take_while(|(_, give)| *give > 0).collect()
}

/// Gives the records of the runs to the callers in order. `first` is the index of the first caller of the
/// line.
fn fill_line(first: usize, line: &[i64], runs: impl Iterator<Item = (Source, i64)>) -> Vec<Dealt> {
    let mut dealt = Vec::new();
    let mut wants = (first..).zip(line.iter().copied());
    let Some(mut at) = wants.next() else { return dealt };
    for (from, length) in runs {
        let mut lo = 0;
        while lo < length {
            if at.1 == 0 {
                let Some(next) = wants.next() else { return dealt };
                at = next;
                continue;
            }
            let give = at.1.min(length - lo);
            dealt.push(Dealt { want: at.0, from, range: lo..lo + give });
            lo += give;
            at.1 -= give;
        }
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn supply(alone: &[i64], due: &[i64], fresh: &[i64]) -> Supply {
        Supply { alone: alone.to_vec(), due: due.to_vec(), fresh: fresh.to_vec() }
    }

    fn told(wants: &[i64], allowed: i64, supply: &Supply, random: f64) -> Vec<(usize, Source, Range<i64>)> {
        deal(wants, allowed, supply, random).into_iter().map(|d| (d.want, d.from, d.range)).collect()
    }

    use Source::{Alone, Due, Fresh};

    #[test]
    fn fresh_records_go_along_the_line() {
        let told = told(&[3, 4], 100, &supply(&[], &[], &[5, 10]), 0.0);
        assert_eq!(told, [(0, Fresh(0), 0..3), (1, Fresh(0), 3..5), (1, Fresh(1), 0..2)]);
    }

    #[test]
    fn at_most_half_is_retries_while_fresh_work_waits() {
        let due = supply(&[], &[8], &[8]);
        assert_eq!(told(&[6], 100, &due, 0.0), [(0, Due(0), 0..3), (0, Fresh(0), 0..3)]);
        assert_eq!(told(&[5], 100, &due, 0.49), [(0, Due(0), 0..2), (0, Fresh(0), 0..3)]);
        assert_eq!(told(&[5], 100, &due, 0.5), [(0, Due(0), 0..3), (0, Fresh(0), 0..2)]);
        assert_eq!(told(&[1], 100, &due, 0.0), [(0, Fresh(0), 0..1)]);
        assert_eq!(told(&[1], 100, &due, 0.9), [(0, Due(0), 0..1)]);
        let little = supply(&[], &[8], &[1]);
        assert_eq!(told(&[6], 100, &little, 0.0), [(0, Due(0), 0..5), (0, Fresh(0), 0..1)]);
    }

    #[test]
    fn what_expired_is_alone() {
        let many = supply(&[4, 1, 1], &[], &[9]);
        let alone = [(0, Alone(0), 0..3), (1, Fresh(0), 0..3), (2, Fresh(0), 3..6)];
        assert_eq!(told(&[3, 3, 3], 100, &many, 0.0), alone);
        let two = [(0, Alone(0), 0..3), (1, Alone(1), 0..1), (2, Fresh(0), 0..3)];
        assert_eq!(told(&[3, 3, 3], 100, &many, 0.5), two);
        let only = supply(&[4, 1, 1], &[], &[]);
        assert_eq!(told(&[3, 3], 100, &only, 0.0), [(0, Alone(0), 0..3), (1, Alone(1), 0..1)]);
        assert_eq!(told(&[3], 100, &supply(&[4], &[1], &[]), 0.0), [(0, Due(0), 0..1)]);
        assert_eq!(told(&[3], 100, &supply(&[4], &[1], &[]), 0.7), [(0, Alone(0), 0..3)]);
    }

    #[test]
    fn limits_cut_all_of_it() {
        assert_eq!(told(&[3, 3], 0, &supply(&[1], &[1], &[1]), 0.9), []);
        assert_eq!(
            told(&[3, 3], 4, &supply(&[9], &[], &[9]), 0.0),
            [(0, Alone(0), 0..3), (1, Fresh(0), 0..1)]
        );
        assert_eq!(told(&[3, 3], 2, &supply(&[9], &[], &[9]), 0.0), [(0, Alone(0), 0..2)]);
        assert_eq!(
            told(&[2, 3], 3, &supply(&[], &[9], &[9]), 0.0),
            [(0, Due(0), 0..1), (0, Fresh(0), 0..1), (1, Fresh(0), 1..2)]
        );
    }

    fn runs() -> impl Strategy<Value = Vec<i64>> {
        prop::collection::vec(1..10_i64, 0..6)
    }

    proptest! {
        #[test]
        fn deals(
            wants in prop::collection::vec(1..20_i64, 1..6),
            allowed in 0..60_i64,
            alone in runs(),
            due in runs(),
            fresh in runs(),
            random in 0.0..1.0,
        ) {
            let dealt = deal(&wants, allowed, &supply(&alone, &due, &fresh), random);
            let sum = |pick: &dyn Fn(&Dealt) -> bool| -> i64 {
                dealt.iter().filter(|d| pick(d)).map(|d| d.range.end - d.range.start).sum()
            };
            let all = sum(&|_| true);
            prop_assert!(all <= allowed && dealt.iter().all(|d| !d.range.is_empty()));
            for (n, want) in wants.iter().enumerate() {
                prop_assert!(sum(&|d| d.want == n) <= *want);
                let alones = dealt.iter().filter(|d| d.want == n && matches!(d.from, Alone(_))).count();
                prop_assert!(alones == 0 || dealt.iter().filter(|d| d.want == n).count() == 1);
            }
            prop_assert!(dealt.windows(2).all(|w| (w[0].want, w[0].from) < (w[1].want, w[1].from)));
            // Each run is given out from its beginning, without holes, and no record twice.
            let alones = alone.iter().enumerate().map(|(n, r)| (Alone(n), r));
            let dues = due.iter().enumerate().map(|(n, r)| (Due(n), r));
            for (n, run) in alones.chain(dues).chain(fresh.iter().enumerate().map(|(n, r)| (Fresh(n), r))) {
                let mut next = 0;
                for d in dealt.iter().filter(|d| d.from == n) {
                    prop_assert_eq!(d.range.start, next);
                    next = d.range.end;
                }
                prop_assert!(next <= *run);
            }
            // Nothing is held back without need: all callers of the line are served, or the limit is reached,
            // or all supply but the expired runs is given out.
            let rest = due.iter().chain(&fresh).sum::<i64>() - sum(&|d| !matches!(d.from, Alone(_)));
            let apart = dealt.iter().filter(|d| matches!(d.from, Alone(_))).count();
            let line: i64 = wants[apart..].iter().sum();
            prop_assert!(rest == 0 || all == allowed || sum(&|d| !matches!(d.from, Alone(_))) == line);
        }
    }
}
