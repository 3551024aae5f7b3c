//! Counts of a queue.

/// Number of records of a queue in each state, and its rates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueCounts {
    /// Can be leased now, apart from limits and keys that are taken.
    pub ready: i64,
    /// Never given out, and not due yet.
    pub delayed: i64,
    /// Given out before, and not due yet.
    pub retrying: i64,
    pub in_flight: i64,
    pub dead: i64,
    /// Commit time of the oldest record that can be leased now.
    pub oldest_ms: Option<i64>,
    /// Records per second, as moving averages over a minute.
    pub lease_rate: f64,
    pub settle_rate: f64,
    /// Which of the counts are estimates, since too many rows would have to be read.
    pub estimated: Vec<Estimated>,
}

/// A count of a queue that is not exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Estimated {
    Ready,
    Delayed,
    Retrying,
    Oldest,
}
