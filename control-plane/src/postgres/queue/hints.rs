//! Hints that choose the first statement to try for a grant or settlement of a queue.
//!
//! The plain statements ([`super::grant_plain`], [`super::settle_plain`]) cost less than half of those that
//! can do all, and do nothing when those are needed: a wrong guess costs a round trip, never a wrong answer.

use crate::postgres::PostgresControlPlane;
use millpond_core::QueueId;
use millpond_core::queue::Granted;
use std::collections::HashMap;

/// What earlier grants showed about a queue.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::postgres) enum KnownAs {
    /// The queue delivers in the order of keys. This never changes.
    Keyed,
    /// A grant found retries or delayed records besides fresh ones. After this many grants in a row without
    /// any, the plain statement is tried again.
    Mixed(u8),
}

/// Number of grants in a row with fresh records only, after which the plain statement is tried again.
pub(super) const MIXED: KnownAs = KnownAs::Mixed(16);

/// Hints by queue. For a queue without an entry, the plain statement is tried.
pub(in crate::postgres) type QueueHints = HashMap<QueueId, KnownAs>;

/// Updates the hint of a queue with what a grant returned.
pub(super) fn learn(plane: &PostgresControlPlane, queue: QueueId, granted: &Granted) {
    let fresh = granted.parts.iter().all(|p| p.attempt == 1);
    let plain = fresh && granted.limited_by.is_none() && granted.unadmitted.is_empty() && !granted.contended;
    let mut hints = plane.hints.write();
    match hints.get(&queue).copied() {
        Some(KnownAs::Keyed) => {}
        Some(KnownAs::Mixed(left)) if plain && left == 0 => drop(hints.remove(&queue)),
        Some(KnownAs::Mixed(left)) if plain => drop(hints.insert(queue, KnownAs::Mixed(left - 1))),
        _ => drop(hints.insert(queue, MIXED)),
    }
}
