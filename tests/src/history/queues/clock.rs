//! Bounds of the server's clock at times of the clients' clock, taken from answers. The only assumption is
//! that neither clock goes back.

#[derive(Default)]
pub(super) struct Clock {
    /// By time of return: the latest server time that any answer up to then named.
    least: Vec<(u64, i64)>,
    /// By time of invocation: the earliest server time that any answer from then on named.
    most: Vec<(u64, i64)>,
}

impl Clock {
    /// Builds the bounds. `least`: return times and the server times in the answers; `fresh`: invocation
    /// times and server times of calls whose answers certainly read the clock.
    pub(super) fn of(mut least: Vec<(u64, i64)>, mut fresh: Vec<(u64, i64)>) -> Self {
        least.sort_unstable();
        let mut latest = i64::MIN;
        for (_, now_ms) in &mut least {
            latest = latest.max(*now_ms);
            *now_ms = latest;
        }
        fresh.sort_unstable();
        let mut earliest = i64::MAX;
        for (_, now_ms) in fresh.iter_mut().rev() {
            earliest = earliest.min(*now_ms);
            *now_ms = earliest;
        }
        Self { least, most: fresh }
    }

    /// Lower bound of the server's clock at a client's time.
    pub(super) fn at_least(&self, at: u64) -> i64 {
        let after = self.least.partition_point(|(returned, _)| *returned <= at);
        after.checked_sub(1).map_or(i64::MIN, |n| self.least[n].1)
    }

    /// Upper bound of the server's clock at a client's time.
    pub(super) fn at_most(&self, at: u64) -> i64 {
        let from = self.most.partition_point(|(invoked, _)| *invoked < at);
        self.most.get(from).map_or(i64::MAX, |(_, now_ms)| *now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_bounded_by_the_answers_around_them() {
        let clock = Clock::of(
            vec![(10, 1_000), (20, 1_005), (30, 1_003)],
            vec![(8, 1_000), (18, 1_005), (25, 1_003)],
        );
        assert_eq!([9, 10, 19, 20, 40].map(|at| clock.at_least(at)), [i64::MIN, 1_000, 1_000, 1_005, 1_005]);
        assert_eq!([0, 8, 9, 25, 26].map(|at| clock.at_most(at)), [1_000, 1_000, 1_003, 1_003, i64::MAX]);
    }
}
