//! Which statement a queue's next grant or settlement is tried with.
//!
//! The plain statements ([`super::grant_plain`], [`super::settle_plain`]) cost less than half of those that can do
//! all, and do nothing when those are needed: a wrong guess costs a round trip, never a wrong answer.

use crate::postgres::PostgresControlPlane;
use millpond_core::QueueId;
use millpond_core::queue::Granted;
use std::collections::HashMap;

/// What grants have learnt of a queue.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::postgres) enum KnownAs {
    /// Its mode is keyed, which never changes.
    Keyed,
    /// There was more to think of than fresh records. After this many grants in a row without, the queue is
    /// taken for plain again.
    Mixed(u8),
}

/// Grants without anything but fresh records after which a mixed queue is taken for plain.
pub(super) const MIXED: KnownAs = KnownAs::Mixed(16);

/// Queues that are not listed are taken for plain.
pub(in crate::postgres) type QueueHints = HashMap<QueueId, KnownAs>;

/// Learns from what was given out whether there was nothing but fresh records.
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
