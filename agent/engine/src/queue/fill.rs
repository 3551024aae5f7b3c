//! Fill: turns the granted offsets of lease calls into records and answers the calls.
//!
//! Reads the records, settles those that have expired, and gives back those beyond the bytes that a call
//! asked for.

use super::call::{Answer, LeaseCall};
use super::plan::{Item, Target};
use super::receipt::Receipt;
use super::{QueueError, QueueRuntime, ServedQueue};
use crate::fetch::fetched::{FetchError, FetchedBatch};
use crate::fetch::lookup::Records;
use crate::fetch::reader::Purpose;
use crate::fetch::wanted::Wanted;
use crate::memory::Memory;
use crate::metrics;
use millpond_core::control_plane::BatchFlags;
use millpond_core::queue::{Action, LeasePart, LimitedBy, Queue};
use millpond_core::{LeaseId, Offset, PartitionId};
use millpond_format::record::{HEADER_EXPIRES_AT, RecordView};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;

/// Estimated bytes of an encoded record besides its key, value and headers.
const RECORD_OVERHEAD_BYTES: usize = 256;
/// Delay after which corrupt records are leased again.
const CORRUPT_RETRY_DELAY_MS: i64 = 10_000;

/// One leased record, with the batch that holds it.
#[derive(Debug, Clone)]
pub struct LeasedRecord {
    pub partition: PartitionId,
    /// Partition number.
    pub number: i32,
    pub offset: Offset,
    /// How often it was leased, including this time.
    pub attempt: i32,
    /// How often it has failed so far.
    pub failures: i32,
    batch: Arc<FetchedBatch>,
}

/// The answer to a lease call. If it is dropped before it was delivered, its lease is released without
/// counting as a failure. A call with a request id is an exception: its client may have got the lease from
/// another agent, or may ask for it again.
#[derive(Debug)]
pub struct Leased {
    /// `None` if there are no records.
    pub lease: Option<LeaseId>,
    /// Time of the grant by the clock of the control plane, in milliseconds since the epoch.
    pub at_ms: i64,
    /// Earliest deadline of the records, by the same clock.
    pub deadline_ms: i64,
    pub records: Vec<LeasedRecord>,
    /// The limit of the queue that kept it from leasing more, if any.
    pub limited_by: Option<LimitedBy>,
    memory: LeaseMemory,
    /// The queue to give the lease back to when this is dropped.
    undelivered: Option<Arc<ServedQueue>>,
}

/// Memory of a lease.
#[derive(Debug, Default)]
struct LeaseMemory {
    /// For the encoded answer.
    answer: Memory,
    /// Of the batches, which the leases of one grant share.
    #[expect(dead_code, reason = "held as long as the batches are")]
    batches: Arc<Memory>,
}

/// Estimated size of an answer with these records.
fn answer_bytes(records: &[LeasedRecord]) -> usize {
    let bytes = |record: &LeasedRecord| record.view().map_or(0, |view| view.tail.len() * 5 / 4);
    records.iter().map(|record| bytes(record) + RECORD_OVERHEAD_BYTES).sum()
}

impl LeasedRecord {
    /// The decoded record.
    pub fn view(&self) -> Result<RecordView<'_>, millpond_format::Corrupt> {
        self.batch
            .record(self.offset)
            .unwrap_or(Err(millpond_format::Corrupt("a record is not in its batch")))
    }

    /// Whether the value is known to be JSON text without line ends.
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
    /// An answer without records.
    #[must_use]
    pub fn nothing(at_ms: i64, limited_by: Option<LimitedBy>) -> Self {
        Self {
            lease: None,
            at_ms,
            deadline_ms: 0,
            records: Vec::new(),
            limited_by,
            memory: LeaseMemory::default(),
            undelivered: None,
        }
    }

    /// The memory for the encoded answer: to be held as long as that is.
    #[must_use]
    pub fn take_answer_memory(&mut self) -> Memory {
        std::mem::take(&mut self.memory.answer)
    }

    /// The answer is on its way to the client: its lease is not given back any more.
    pub fn delivered(&mut self) {
        self.undelivered = None;
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if let (Some(served), Some(lease)) = (self.undelivered.take(), self.lease) {
            tokio::spawn(async move { settle_unanswered(&served, vec![release_lease(lease)]).await });
        }
    }
}

/// Whether the call has no request id. Then no other call can have been answered with its lease.
fn is_unnamed(call: &LeaseCall) -> bool {
    call.request.request_id.is_none()
}

/// The settlement that gives back a whole lease, without counting as a failure.
pub(super) fn release_lease(lease: LeaseId) -> Item {
    Item { target: Target::Lease(lease), action: Action::Release }
}

/// Settles records that no client will settle. A failure is ignored: such records come back when their lease
/// ends.
pub(super) async fn settle_unanswered(served: &ServedQueue, items: Vec<Item>) {
    if let Err(error) = served.settle_items(&items, None).await {
        tracing::debug!(error = %error, "settling undelivered records failed");
    }
}

/// The fill of one grant.
pub(super) struct Fill {
    pub runtime: Arc<QueueRuntime>,
    pub served: Arc<ServedQueue>,
    pub queue: Arc<Queue>,
    /// Time of the grant.
    pub at_ms: i64,
    /// Returns calls to the granter of which no record could be delivered.
    pub retry_calls: mpsc::UnboundedSender<LeaseCall>,
}

impl Fill {
    /// Reads the records of all calls, each with its parts of the grant, and answers the calls.
    pub(super) async fn run(self, granted: Vec<(LeaseCall, Vec<LeasePart>)>) {
        let _turn = self.runtime.fills.acquire().await;
        match self.read(&granted).await {
            Ok(found) => self.deliver(granted, found).await,
            Err(error) if granted.len() == 1 || matches!(error, FetchError::Throttled) => {
                self.fail(granted, error).await
            }
            // Read call by call, so that one whose records cannot be read does not fail the others.
            Err(_) => {
                for one in granted {
                    let one = vec![one];
                    match self.read(&one).await {
                        Ok(found) => self.deliver(one, found).await,
                        Err(error) => self.fail(one, error).await,
                    }
                }
            }
        }
    }

    async fn read(&self, granted: &[(LeaseCall, Vec<LeasePart>)]) -> Result<Records, FetchError> {
        let all = granted
            .iter()
            .flat_map(|(_, parts)| parts)
            .flat_map(|p| p.ranges.iter().map(|r| (p.partition, r.clone())));
        self.runtime.reader.lookup(&self.served.scope, &Wanted::new(all), Purpose::Answer).await
    }

    /// Answers calls whose records cannot be read with the error. Corrupt records become due again after a
    /// delay, so that others are leased first. A lease that another agent may have delivered is renewed, not
    /// ended.
    async fn fail(&self, granted: Vec<(LeaseCall, Vec<LeasePart>)>, error: FetchError) {
        let corrupt = matches!(error, FetchError::Corrupt { .. });
        let action = |call: &LeaseCall| match (is_unnamed(call), corrupt) {
            (false, _) => Action::Renew { lease_ms: call.lease_ms },
            (true, false) => Action::Release,
            (true, true) => Action::Nack {
                delay_ms: Some(CORRUPT_RETRY_DELAY_MS),
                counts: false,
                reason: Some("cannot be read".to_owned()),
            },
        };
        let items = granted
            .iter()
            .map(|(call, _)| Item { target: Target::Lease(call.lease), action: action(call) })
            .collect();
        settle_unanswered(&self.served, items).await;
        let error = Arc::new(error);
        for (call, _) in granted {
            call.answer.send(Err(QueueError::Read(Arc::clone(&error)))).ok();
        }
    }

    /// Answers calls with their records.
    async fn deliver(&self, granted: Vec<(LeaseCall, Vec<LeasePart>)>, mut found: Records) {
        let (memory, mut answer_memory) = found.take_memory();
        let memory = Arc::new(memory);
        let mut batches = HashMap::new();
        let mut undelivered_items = Vec::new();
        let mut selected = Vec::with_capacity(granted.len());
        for (call, parts) in granted {
            let records = self.select_records(&call, &parts, &found, &mut batches, &mut undelivered_items);
            selected.push((call, parts, records));
        }
        // Settled before the answers are sent, so that a client that calls again at once finds these records.
        if !undelivered_items.is_empty() {
            settle_unanswered(&self.served, undelivered_items).await;
        }
        for (call, parts, records) in selected {
            let answer_memory = answer_memory.split(answer_bytes(&records));
            let memory = LeaseMemory { answer: answer_memory, batches: Arc::clone(&memory) };
            self.answer(call, &parts, records, memory);
        }
    }

    /// Selects the records to deliver. For the others, adds settlements to `undelivered_items`.
    fn select_records(
        &self,
        call: &LeaseCall,
        parts: &[LeasePart],
        found: &Records,
        batches: &mut HashMap<(PartitionId, Offset), Arc<FetchedBatch>>,
        undelivered_items: &mut Vec<Item>,
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
                        let partition = part.partition;
                        tracing::error!(%partition, %offset, "a leased record is missing from the log");
                    }
                    undelivered_items.push(item(if gone { Action::Expire } else { Action::Release }));
                    continue;
                };
                let view = batch.record(offset);
                // A record of an earlier answer to the same call is delivered again even if it has expired
                // since.
                let is_new = part.deadline_ms == self.at_ms + call.lease_ms;
                let is_expired = |view: &RecordView<'_>| {
                    view.instant(HEADER_EXPIRES_AT).is_some_and(|at| at <= self.at_ms)
                };
                if is_new
                    && batch.batch.flags.has(BatchFlags::TTL)
                    && matches!(&view, Some(Ok(view)) if is_expired(view))
                {
                    undelivered_items.push(item(Action::Expire));
                    continue;
                }
                let size = view.and_then(Result::ok).map_or(0, |v| v.tail.len());
                if number.is_none() || !records.is_empty() && bytes + size > call.request.max_bytes {
                    undelivered_items.push(item(Action::Release));
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

    /// Answers one call, or returns it to the granter if there is no record for it.
    fn answer(
        &self,
        mut call: LeaseCall,
        parts: &[LeasePart],
        records: Vec<LeasedRecord>,
        memory: LeaseMemory,
    ) {
        if records.is_empty() {
            call.is_retry = true;
            self.retry_calls.send(call).ok();
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
            memory,
            undelivered: is_unnamed(&call).then(|| Arc::clone(&self.served)),
        });
        // If the caller has gone away, the answer is dropped and gives its lease back.
        drop(call.answer.send(answer));
    }
}
