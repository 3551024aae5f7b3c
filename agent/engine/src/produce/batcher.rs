//! Decides when to flush which lane. Pure: `(state, now) → decision`.
//!
//! The *small* lane goes inline into Postgres, and is flushed as soon as no inline commit is in flight. The
//! *bulk* lane goes into segments, and is flushed when it fills a segment, when its oldest append has waited
//! for the linger time, or when a PUT token is available. The token bucket limits the cost of PUTs: flushes
//! by size and linger take their token even if there is none, so that the limit never delays them. The lanes
//! do not wait for each other.

use millpond_core::saturated;
use millpond_core::{Placement, limits};
use std::time::Duration;
use tokio::time::Instant;

/// Limits of the lanes.
#[derive(Debug, Clone, Copy)]
pub struct BatcherConfig {
    /// Largest request of placement `auto` that goes inline.
    pub small_request_max_bytes: usize,
    /// Largest request of placement `inline` that goes inline, and size of an inline flush.
    pub inline_max_bytes: usize,
    /// Rate of bytes that may go inline; requests above it go to segments.
    pub inline_bytes_per_s: f64,
    /// Rate of inline commits; above it, requests go to segments.
    pub inline_commits_per_s: f64,
    /// Size of a segment, at which the bulk lane is flushed.
    pub segment_max_bytes: usize,
    /// Longest time that an append waits in the bulk lane.
    pub linger: Duration,
    /// Rate of PUTs for flushes before the linger time.
    pub puts_per_s: f64,
    /// PUTs that may be made at once after a pause.
    pub put_burst: f64,
    /// Whether requests may go inline at all.
    pub inline: bool,
}

impl Default for BatcherConfig {
    fn default() -> Self {
        Self {
            small_request_max_bytes: limits::SMALL_REQUEST_MAX_BYTES,
            inline_max_bytes: limits::INLINE_MAX_BYTES,
            inline_bytes_per_s: f64::from(limits::INLINE_BYTES_PER_S),
            inline_commits_per_s: f64::from(limits::INLINE_COMMITS_PER_S),
            segment_max_bytes: limits::SEGMENT_MAX_BYTES,
            linger: Duration::from_millis(limits::LINGER_MAX_MS),
            puts_per_s: limits::PUTS_PER_S,
            put_burst: limits::PUT_BURST,
            inline: true,
        }
    }
}

/// A queue of appends that wait to be flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Will be stored inline in Postgres.
    Small,
    /// Will be stored in a segment.
    Bulk,
}

impl Lane {
    /// Value of the metrics label `placement`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Small => "inline",
            Self::Bulk => "segment",
        }
    }
}

/// Why a lane is flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No inline commit is in flight, or a PUT token is available.
    Ready,
    /// The lane fills a segment.
    Size,
    /// The oldest append has waited for the linger time.
    Linger,
}

impl Reason {
    /// Value of the metrics label `reason`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Size => "size",
            Self::Linger => "linger",
        }
    }
}

/// The next step of the writer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Decision {
    Flush(Lane, Reason),
    /// Decide again at this time, or earlier if a request comes or a commit or PUT ends.
    Wait(Instant),
    /// Decide again when a request comes or a commit or PUT ends.
    Idle,
}

/// Token bucket whose level may become negative, down to minus the burst.
#[derive(Debug)]
struct Bucket {
    /// Tokens per second.
    rate: f64,
    /// Highest level.
    burst: f64,
    /// Level at `at`.
    level: f64,
    at: Instant,
}

impl Bucket {
    fn new(rate: f64, burst: f64, now: Instant) -> Self {
        Self { rate, burst, level: burst, at: now }
    }

    /// The level now.
    fn level(&mut self, now: Instant) -> f64 {
        self.level =
            (self.level + now.saturating_duration_since(self.at).as_secs_f64() * self.rate).min(self.burst);
        self.at = self.at.max(now);
        self.level
    }

    /// Takes tokens, whether or not there are enough.
    fn take(&mut self, amount: f64, now: Instant) {
        self.level = (self.level(now) - amount).max(-self.burst);
    }

    /// The time at which the level reaches `amount`, but at most an hour from now.
    fn ready_at(&mut self, amount: f64, now: Instant) -> Instant {
        let missing = amount - self.level(now);
        if missing <= 0.0 { now } else { now + Duration::from_secs_f64((missing / self.rate).min(3_600.0)) }
    }
}

/// The appends that wait in one lane.
#[derive(Debug, Default)]
struct Waiting {
    bytes: usize,
    /// Arrival of the oldest; `None` if the lane is empty.
    oldest: Option<Instant>,
}

/// State of the lanes; it counts the appends, the writer holds them.
#[derive(Debug)]
pub struct Batcher {
    config: BatcherConfig,
    small: Waiting,
    bulk: Waiting,
    inline_bytes: Bucket,
    inline_commits: Bucket,
    puts: Bucket,
    puts_in_flight: usize,
    last_put: Option<Instant>,
    inline_in_flight: bool,
    /// Set while the cluster holds too much inline payload: everything then goes to segments.
    pub inline_full: bool,
}

impl Batcher {
    #[must_use]
    pub fn new(config: BatcherConfig, now: Instant) -> Self {
        Self {
            config,
            small: Waiting::default(),
            bulk: Waiting::default(),
            inline_bytes: Bucket::new(config.inline_bytes_per_s, config.inline_bytes_per_s, now),
            inline_commits: Bucket::new(config.inline_commits_per_s, config.inline_commits_per_s, now),
            puts: Bucket::new(config.puts_per_s, config.put_burst, now),
            puts_in_flight: 0,
            last_put: None,
            inline_in_flight: false,
            inline_full: false,
        }
    }

    /// Chooses the lane of a request. Placement `object` is binding; `inline` only raises the size limit of a
    /// request that may go inline.
    pub fn lane(&mut self, bytes: usize, placement: Placement, now: Instant) -> Lane {
        let max = match placement {
            Placement::Object => return Lane::Bulk,
            Placement::Auto => self.config.small_request_max_bytes,
            Placement::Inline => self.config.inline_max_bytes,
        };
        let fits = self.config.inline && !self.inline_full && bytes <= max;
        let budget = self.inline_bytes.level(now) > 0.0 && self.inline_commits.level(now) > 0.0;
        if fits && budget { Lane::Small } else { Lane::Bulk }
    }

    /// An append of `bytes` was put into a lane.
    pub fn offer(&mut self, lane: Lane, bytes: usize, now: Instant) {
        let waiting = self.waiting(lane);
        waiting.bytes += bytes;
        waiting.oldest.get_or_insert(now);
        if lane == Lane::Small {
            self.inline_bytes.take(f64::from(saturated::<u32, _>(bytes)), now);
        }
    }

    /// An append of `bytes` gets a part and a commit of its own. It takes its tokens like a flush; returns
    /// when it may begin, which is after the linger time at the latest.
    pub fn offer_alone(&mut self, lane: Lane, bytes: usize, now: Instant) -> Instant {
        match lane {
            Lane::Small => {
                self.inline_bytes.take(f64::from(saturated::<u32, _>(bytes)), now);
                self.inline_commits.take(1.0, now);
                now
            }
            Lane::Bulk => {
                let ready = self.puts.ready_at(1.0, now).min(now + self.config.linger);
                self.puts.take(1.0, now);
                ready
            }
        }
    }

    /// Chooses the next step at `now`.
    pub fn decide(&mut self, now: Instant) -> Decision {
        if self.small.oldest.is_some() && !self.inline_in_flight {
            return Decision::Flush(Lane::Small, Reason::Ready);
        }
        let Some(oldest) = self.bulk.oldest else { return Decision::Idle };
        if self.bulk.bytes >= self.config.segment_max_bytes {
            return Decision::Flush(Lane::Bulk, Reason::Size);
        }
        let linger_ends = oldest + self.config.linger;
        if now >= linger_ends {
            return Decision::Flush(Lane::Bulk, Reason::Linger);
        }
        let spaced = match self.last_put {
            Some(last) if self.puts_in_flight > 0 => {
                last + Duration::from_secs_f64(1.0 / self.config.puts_per_s)
            }
            _ => now,
        };
        let ready = self.puts.ready_at(1.0, now).max(spaced);
        if ready <= now {
            Decision::Flush(Lane::Bulk, Reason::Ready)
        } else {
            Decision::Wait(ready.min(linger_ends))
        }
    }

    /// Appends of `bytes` were flushed from a lane. The oldest of those left in it came at `left_since`;
    /// `None` if there are none.
    pub fn flushed(&mut self, lane: Lane, bytes: usize, left_since: Option<Instant>, now: Instant) {
        let waiting = self.waiting(lane);
        *waiting = Waiting { bytes: waiting.bytes.saturating_sub(bytes), oldest: left_since };
        match lane {
            Lane::Small => {
                self.inline_in_flight = true;
                self.inline_commits.take(1.0, now);
            }
            Lane::Bulk => {
                self.puts.take(1.0, now);
                self.last_put = Some(now);
                self.puts_in_flight += 1;
            }
        }
    }

    /// The inline commit in flight has ended.
    pub fn inline_done(&mut self) {
        self.inline_in_flight = false;
    }

    /// A PUT in flight has ended.
    pub fn put_done(&mut self) {
        self.puts_in_flight = self.puts_in_flight.saturating_sub(1);
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.small.oldest.is_none() && self.bulk.oldest.is_none()
    }

    /// The most bytes that one flush of the lane takes.
    #[must_use]
    pub fn flush_bytes(&self, lane: Lane) -> usize {
        match lane {
            Lane::Small => self.config.inline_max_bytes,
            Lane::Bulk => self.config.segment_max_bytes,
        }
    }

    fn waiting(&mut self, lane: Lane) -> &mut Waiting {
        match lane {
            Lane::Small => &mut self.small,
            Lane::Bulk => &mut self.bulk,
        }
    }
}

#[cfg(test)]
mod tests;
