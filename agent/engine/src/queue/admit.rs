//! Admission: reads the next records of a queue and notes their due times and keys in the control plane.
//!
//! Needed for records with a delay and, in keyed queues, for all records: a grant must not lease them before
//! their due time or key is known.

use super::QueueRuntime;
use crate::fetch::fetched::FetchedBatch;
use crate::fetch::reader::Purpose;
use crate::fetch::wanted::Wanted;
use millpond_core::control_plane::{BatchFlags, FindRequest};
use millpond_core::queue::{Admit, Admitted, Mode, NoSuchQueue, Queue, Unadmitted};
use millpond_core::{Error, Offset, Scope, Source};
use millpond_format::record::HEADER_DELIVER_AT;
use sha2::{Digest, Sha256};
use std::ops::Range;

/// Records that one admission takes at most; one whole batch is taken even if it is larger.
const ADMIT_MAX_RECORDS: i64 = 2_000;

/// Admits records at the cursor of one partition. Returns whether the cursor has moved, by this admission or
/// by a concurrent one.
pub async fn admit(
    runtime: &QueueRuntime,
    scope: &Scope,
    queue: &Queue,
    at: Unadmitted,
    now_ms: i64,
) -> Result<bool, Source> {
    let reach = at.end.max(Offset(at.from.0 + ADMIT_MAX_RECORDS));
    let request = FindRequest {
        scope: scope.clone(),
        partition: at.partition,
        offset: at.from,
        end: Some(reach),
        max_bytes: i64::MAX,
    };
    let planned = runtime.plane.find(&[request]).await?.pop().flatten();
    // The topic was deleted, and with it the queue.
    let Some(planned) = planned else { return Ok(false) };
    let from = at.from.max(planned.log_start_offset);
    let end = planned
        .batches
        .iter()
        .take_while(|b| {
            b.base.0 < from.0 + ADMIT_MAX_RECORDS
                && (queue.mode == Mode::Keyed || b.flags.has(BatchFlags::DELAY) || b.base <= from)
        })
        .last()
        .map(millpond_core::control_plane::Batch::end);
    let Some(to) = end.filter(|end| *end > at.from) else { return Ok(false) };
    let mut admit = Admit {
        scope: scope.clone(),
        queue: queue.id,
        agent: runtime.agent,
        partition: at.partition,
        from: at.from,
        to,
        runs: Vec::new(),
        records: Vec::new(),
    };
    let wanted = Wanted::new([(at.partition, from.0..to.0)]);
    let found = runtime.reader.lookup(scope, &wanted, Purpose::Inspection).await?;
    // Records that retention has removed are admitted, too: when they are leased, they are settled as
    // expired.
    let mut next = at.from;
    while next < to {
        let batch = found.batch_of(at.partition, next);
        if batch.is_none() && !found.is_gone(at.partition, next) {
            // The record was not read because of the limit of bytes: it is left for the next admission, since
            // its key and due time are not known yet.
            break;
        }
        let due = batch.and_then(|b| due_ms(b, next)).filter(|due| *due > now_ms);
        match queue.mode {
            Mode::Shared => push_run(&mut admit.runs, next.0, due),
            Mode::Keyed => {
                admit.records.push(Admitted { offset: next, key_hash: key_hash(batch, next), due_ms: due })
            }
        }
        next = next.plus(1);
    }
    admit.to = next;
    if admit.to == admit.from {
        return Ok(false);
    }
    match runtime.plane.admit(&admit).await {
        Ok(_) => Ok(true),
        Err(Error::Rejected(NoSuchQueue)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Adds an offset to the last run if it is adjacent and has the same due time, else as a new run.
fn push_run(runs: &mut Vec<(Range<i64>, Option<i64>)>, offset: i64, due: Option<i64>) {
    match runs.last_mut() {
        Some((run, same)) if *same == due && run.end == offset => run.end = offset + 1,
        _ => runs.push((offset..offset + 1, due)),
    }
}

/// The time before which a record must not be leased, in milliseconds since the epoch.
fn due_ms(batch: &FetchedBatch, offset: Offset) -> Option<i64> {
    if !batch.batch.flags.has(BatchFlags::DELAY) {
        return None;
    }
    batch.record(offset)?.ok()?.instant(HEADER_DELIVER_AT)
}

/// The first 64 bits of SHA-256 over the key. A record without a key gets a hash of its own, so that it does
/// not wait for another record.
fn key_hash(batch: Option<&FetchedBatch>, offset: Offset) -> i64 {
    let key = batch.and_then(|b| b.record(offset)?.ok()?.key);
    let digest = match key {
        Some(key) => Sha256::new_with_prefix(b"k").chain_update(key).finalize(),
        None => Sha256::new_with_prefix(b"o").chain_update(offset.0.to_be_bytes()).finalize(),
    };
    i64::from_be_bytes(std::array::from_fn(|n| digest[n]))
}
