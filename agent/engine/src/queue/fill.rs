//! From granted offsets to records: read, pass over what has expired, keep within the bytes asked for,
//! answer.

use super::call::{Answer, LeaseCall};
use super::plan::{Item, Target};
use super::receipt::Receipt;
use super::{QueueError, QueueRuntime, ServedQueue};
use crate::fetch::fetched::{FetchError, FetchedBatch};
use crate::fetch::lookup::Records;
use crate::fetch::wanted::Wanted;
use crate::metrics;
use millpond_core::control_plane::BatchFlags;
use millpond_core::queue::{Action, LeasePart, LimitedBy, Queue};
use millpond_core::{LeaseId, Offset, PartitionId};
use millpond_format::record::{HEADER_EXPIRES_AT, RecordView};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;

/// After which records that could not be read are tried again.
const CORRUPT_DELAY_MS: i64 = 10_000;

/// One leased record, in its batch.
#[derive(Debug, Clone)]
pub struct LeasedRecord {
    pub partition: PartitionId,
    pub number: i32,
    pub offset: Offset,
    pub attempt: i32,
    pub failures: i32,
    batch: Arc<FetchedBatch>,
}

/// The answer to a lease call. Dropped before it was delivered, its lease goes back uncounted, unless the
/// call has a name: then whoever sent it may have it by now from another agent, or ask for it again.
#[derive(Debug)]
pub struct Leased {
    pub lease: Option<LeaseId>,
    /// The control plane's clock.
    pub at_ms: i64,
    pub deadline_ms: i64,
    pub records: Vec<LeasedRecord>,
    pub limited_by: Option<LimitedBy>,
    undelivered: Option<Arc<ServedQueue>>,
}

impl LeasedRecord {
    pub fn view(&self) -> Result<RecordView<'_>, millpond_format::Corrupt> {
        self.batch
            .record(self.offset)
            .unwrap_or(Err(millpond_format::Corrupt("a record is not in its batch")))
    }

    #[must_use]
    pub fn is_json(&self) -> bool {
        self.batch.batch.flags.has(BatchFlags::JSON)
    }

    #[must_use]
    pub fn receipt(&self, lease: LeaseId) -> Receipt {
        Receipt { lease, partition: self.partition, attempt: self.attempt, offset: self.offset }
    }
}

impl Leased {
    #[must_use]
    pub fn nothing(at_ms: i64, limited_by: Option<LimitedBy>) -> Self {
        Self { lease: None, at_ms, deadline_ms: 0, records: Vec::new(), limited_by, undelivered: None }
    }

    /// It is on its way to the client.
    pub fn delivered(&mut self) {
        self.undelivered = None;
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if let (Some(served), Some(lease)) = (self.undelivered.take(), self.lease) {
            tokio::spawn(async move { release(&served, vec![whole(lease)]).await });
        }
    }
}

/// Without a request id, no other call can have been answered this lease.
fn is_nobody_elses(call: &LeaseCall) -> bool {
    call.request.request_id.is_none()
}

pub(super) fn whole(lease: LeaseId) -> Item {
    Item { target: Target::Lease(lease), action: Action::Release }
}

/// Best effort: what is not given back so ends with its lease.
pub(super) async fn release(served: &ServedQueue, items: Vec<Item>) {
    if let Err(error) = served.settle_items(&items, None).await {
        tracing::debug!(error = %error, "records could not be given back");
    }
}

/// One grant's leases on their way to those who asked.
pub(super) struct Filling {
    pub runtime: Arc<QueueRuntime>,
    pub served: Arc<ServedQueue>,
    pub queue: Arc<Queue>,
    pub at_ms: i64,
    /// For calls that were given nothing but expired records.
    pub back: mpsc::UnboundedSender<LeaseCall>,
}

impl Filling {
    pub(super) async fn run(self, served: Vec<(LeaseCall, Vec<LeasePart>)>) {
        // Never closed.
        let _turn = self.runtime.fills.acquire().await;
        match self.read(&served).await {
            Ok(found) => self.hand_on(served, &found).await,
            Err(error) if served.len() == 1 => self.give_back(served, error).await,
            // What one call cannot be given is not to keep the others waiting.
            Err(_) => {
                for one in served {
                    let one = vec![one];
                    match self.read(&one).await {
                        Ok(found) => self.hand_on(one, &found).await,
                        Err(error) => self.give_back(one, error).await,
                    }
                }
            }
        }
    }

    async fn read(&self, served: &[(LeaseCall, Vec<LeasePart>)]) -> Result<Records, FetchError> {
        let all = served
            .iter()
            .flat_map(|(_, parts)| parts)
            .flat_map(|p| p.ranges.iter().map(|r| (p.partition, r.clone())));
        self.runtime.reader.lookup(&self.served.scope, &Wanted::new(all)).await
    }

    /// Of calls whose records cannot be read. What is corrupt comes again after a while, so that others come
    /// first; a lease that another agent may have answered goes on.
    async fn give_back(&self, served: Vec<(LeaseCall, Vec<LeasePart>)>, error: FetchError) {
        let corrupt = matches!(error, FetchError::Corrupt { .. });
        let action = |call: &LeaseCall| match (is_nobody_elses(call), corrupt) {
            (false, _) => Action::Renew { lease_ms: call.lease_ms },
            (true, false) => Action::Release,
            (true, true) => Action::Nack {
                delay_ms: Some(CORRUPT_DELAY_MS),
                counts: false,
                reason: Some("cannot be read".to_owned()),
            },
        };
        let items = served
            .iter()
            .map(|(call, _)| Item { target: Target::Lease(call.lease), action: action(call) })
            .collect();
        release(&self.served, items).await;
        let error = Arc::new(error);
        for (call, _) in served {
            call.answer.send(Err(QueueError::Read(Arc::clone(&error)))).ok();
        }
    }

    async fn hand_on(&self, served: Vec<(LeaseCall, Vec<LeasePart>)>, found: &Records) {
        let mut batches = HashMap::new();
        let mut not_handed_on = Vec::new();
        let mut sorted = Vec::with_capacity(served.len());
        for (call, parts) in served {
            let records = self.sort(&call, &parts, found, &mut batches, &mut not_handed_on);
            sorted.push((call, parts, records));
        }
        // Before the answers: who calls next finds what was left behind.
        if !not_handed_on.is_empty() {
            release(&self.served, not_handed_on).await;
        }
        for (call, parts, records) in sorted {
            self.answer(call, &parts, records);
        }
    }

    /// The records that are handed on; of the others, what is to become of them is noted.
    fn sort(
        &self,
        call: &LeaseCall,
        parts: &[LeasePart],
        found: &Records,
        batches: &mut HashMap<(PartitionId, Offset), Arc<FetchedBatch>>,
        not_handed_on: &mut Vec<Item>,
    ) -> Vec<LeasedRecord> {
        let mut records: Vec<LeasedRecord> = Vec::new();
        let mut bytes = 0;
        for part in parts {
            let number = self
                .queue
                .partitions
                .iter()
                .position(|p| *p == part.partition)
                .and_then(|n| i32::try_from(n).ok());
            for offset in part.ranges.iter().cloned().flatten().map(Offset) {
                let receipt =
                    Receipt { lease: call.lease, partition: part.partition, attempt: part.attempt, offset };
                let item = |action| Item { target: Target::Record(receipt), action };
                let Some(batch) = found.batch_of(part.partition, offset) else {
                    let gone = found.is_gone(part.partition, offset);
                    if !gone && !found.is_unread(part.partition, offset) {
                        tracing::error!(partition = %part.partition, %offset, "the log does not find a record that it holds");
                    }
                    not_handed_on.push(item(if gone { Action::Expire } else { Action::Release }));
                    continue;
                };
                let view = batch.record(offset);
                // What was handed out before is not taken back from whoever has it.
                let is_new = part.deadline_ms == self.at_ms + call.lease_ms;
                if is_new
                    && batch.batch.flags.has(BatchFlags::TTL)
                    && matches!(&view, Some(Ok(view)) if view.instant(HEADER_EXPIRES_AT).is_some_and(|at| at <= self.at_ms))
                {
                    not_handed_on.push(item(Action::Expire));
                    continue;
                }
                let size = view.and_then(Result::ok).map_or(0, |v| v.tail.len());
                if number.is_none() || !records.is_empty() && bytes + size > call.request.max_bytes {
                    not_handed_on.push(item(Action::Release));
                    continue;
                }
                bytes += size;
                let kept = batches
                    .entry((part.partition, batch.batch.base))
                    .or_insert_with(|| Arc::new(batch.clone()));
                records.push(LeasedRecord {
                    partition: part.partition,
                    number: number.unwrap_or(0),
                    offset,
                    attempt: part.attempt,
                    failures: part.failures,
                    batch: Arc::clone(kept),
                });
            }
        }
        if let Some(average) = bytes.checked_div(records.len()) {
            let before = self.served.record_bytes.load(Ordering::Relaxed);
            let next = if before == 0 { average } else { (before * 7 + average) / 8 };
            self.served.record_bytes.store(next.max(1), Ordering::Relaxed);
        }
        records
    }

    fn answer(&self, mut call: LeaseCall, parts: &[LeasePart], records: Vec<LeasedRecord>) {
        if records.is_empty() {
            call.returned = true;
            self.back.send(call).ok();
            return;
        }
        let first = records.iter().filter(|r| r.attempt == 1).filter_map(|r| r.view().ok());
        metrics::waited_in_queue(first.map(|view| self.at_ms - view.timestamp));
        let deadline_ms = parts.iter().map(|p| p.deadline_ms).min().unwrap_or(0);
        let answer: Answer = Ok(Leased {
            lease: Some(call.lease),
            at_ms: self.at_ms,
            deadline_ms,
            records,
            limited_by: None,
            undelivered: is_nobody_elses(&call).then(|| Arc::clone(&self.served)),
        });
        // Dropped by whoever has gone away, it gives its records back.
        drop(call.answer.send(answer));
    }
}
