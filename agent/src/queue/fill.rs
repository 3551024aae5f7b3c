//! From granted offsets to records: read, pass over what has expired, keep within the bytes asked for, answer.

use super::granter::{Answer, Call};
use super::plan::{Item, Target};
use super::receipt::Receipt;
use super::{Hub, QueueError, Shared};
use crate::fetch::lookup::Wanted;
use crate::fetch::reader::FetchedBatch;
use crate::metrics;
use crate::segment::record::{HEADER_EXPIRES_AT, RecordView};
use millpond_core::control_plane::BatchFlags;
use millpond_core::queue::{Action, LeasePart, LimitedBy, Queue};
use millpond_core::{LeaseId, Offset, PartitionId};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;

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

/// The answer to a lease call. Dropped before it was delivered, its lease goes back uncounted.
#[derive(Debug)]
pub struct Leased {
    pub lease: Option<LeaseId>,
    /// The control plane's clock.
    pub at_ms: i64,
    pub deadline_ms: i64,
    pub records: Vec<LeasedRecord>,
    pub limited_by: Option<LimitedBy>,
    undelivered: Option<Arc<Hub>>,
}

impl LeasedRecord {
    pub fn view(&self) -> Result<RecordView<'_>, crate::segment::Corrupt> {
        self.batch.record(self.offset).unwrap_or(Err(crate::segment::Corrupt("a record is not in its batch")))
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
        if let (Some(hub), Some(lease)) = (self.undelivered.take(), self.lease) {
            tokio::spawn(async move { release(&hub, vec![whole(lease)]).await });
        }
    }
}

fn whole(lease: LeaseId) -> Item {
    Item { target: Target::Lease(lease), action: Action::Release }
}

/// Best effort: what is not given back so ends with its lease.
async fn release(hub: &Hub, items: Vec<Item>) {
    if let Err(error) = hub.settle(&items, None).await {
        tracing::debug!(error = %error, "records could not be given back");
    }
}

/// One grant's leases on their way to those who asked.
pub struct Filling {
    pub shared: Arc<Shared>,
    pub hub: Arc<Hub>,
    pub queue: Arc<Queue>,
    pub at_ms: i64,
    /// For calls that were given nothing but expired records.
    pub back: mpsc::UnboundedSender<Call>,
}

/// What is to be handed on of one lease, and what is not.
#[derive(Default)]
struct Sorted {
    records: Vec<LeasedRecord>,
    expired: Vec<Item>,
    beyond: Vec<Item>,
}

impl Filling {
    pub async fn run(self, served: Vec<(Call, Vec<LeasePart>)>) {
        let all = served.iter().flat_map(|(_, parts)| parts).flat_map(|p| p.ranges.iter().map(|r| (p.partition, r.clone())));
        let found = match self.shared.reader.lookup(&Wanted::new(all)).await {
            Ok(found) => found,
            Err(error) => {
                let error = Arc::new(error);
                let leases: Vec<Item> = served.iter().map(|(call, _)| whole(call.lease)).collect();
                release(&self.hub, leases).await;
                for (call, _) in served {
                    call.answer.send(Err(QueueError::Read(Arc::clone(&error)))).ok();
                }
                return;
            }
        };
        let mut batches = HashMap::new();
        let mut beyond = Vec::new();
        for (call, parts) in served {
            let sorted = self.sort(&call, &parts, &found, &mut batches);
            if !sorted.expired.is_empty() && self.hub.settle(&sorted.expired, None).await.is_err() {
                tracing::debug!("expired records could not be settled: their lease will end");
            }
            beyond.extend(sorted.beyond);
            self.answer(call, &parts, sorted.records);
        }
        if !beyond.is_empty() {
            release(&self.hub, beyond).await;
        }
    }

    fn sort(
        &self,
        call: &Call,
        parts: &[LeasePart],
        found: &crate::fetch::lookup::Records,
        batches: &mut HashMap<(PartitionId, Offset), Arc<FetchedBatch>>,
    ) -> Sorted {
        let mut sorted = Sorted::default();
        let mut bytes = 0;
        for part in parts {
            let number = self.queue.partitions.iter().position(|p| *p == part.partition).and_then(|n| i32::try_from(n).ok());
            for offset in part.ranges.iter().cloned().flatten().map(Offset) {
                let receipt = Receipt { lease: call.lease, partition: part.partition, attempt: part.attempt, offset };
                let item = |action| Item { target: Target::Record(receipt), action };
                let Some(batch) = found.batch_of(part.partition, offset) else {
                    sorted.expired.push(item(Action::Expire));
                    continue;
                };
                let view = batch.record(offset);
                if batch.batch.flags.has(BatchFlags::TTL)
                    && matches!(&view, Some(Ok(view)) if expires_at(view).is_some_and(|at| at <= self.at_ms))
                {
                    sorted.expired.push(item(Action::Expire));
                    continue;
                }
                let size = view.and_then(Result::ok).map_or(0, |v| v.tail.len());
                if number.is_none() || (bytes > 0 || !sorted.records.is_empty()) && bytes + size > call.request.max_bytes {
                    sorted.beyond.push(item(Action::Release));
                    continue;
                }
                bytes += size;
                let kept = batches.entry((part.partition, batch.batch.base)).or_insert_with(|| Arc::new(batch.clone()));
                sorted.records.push(LeasedRecord {
                    partition: part.partition,
                    number: number.unwrap_or(0),
                    offset,
                    attempt: part.attempt,
                    failures: part.failures,
                    batch: Arc::clone(kept),
                });
            }
        }
        if let Some(average) = bytes.checked_div(sorted.records.len()) {
            let before = self.hub.record_bytes.load(Ordering::Relaxed);
            let next = if before == 0 { average } else { (before * 7 + average) / 8 };
            self.hub.record_bytes.store(next.max(1), Ordering::Relaxed);
        }
        sorted
    }

    fn answer(&self, mut call: Call, parts: &[LeasePart], records: Vec<LeasedRecord>) {
        if records.is_empty() {
            call.returned = true;
            self.back.send(call).ok();
            return;
        }
        for record in records.iter().filter(|r| r.attempt == 1) {
            if let Ok(view) = record.view() {
                metrics::waited_in_queue(self.at_ms - view.timestamp);
            }
        }
        let deadline_ms = parts.iter().map(|p| p.deadline_ms).min().unwrap_or(0);
        let answer: Answer = Ok(Leased {
            lease: Some(call.lease),
            at_ms: self.at_ms,
            deadline_ms,
            records,
            limited_by: None,
            undelivered: Some(Arc::clone(&self.hub)),
        });
        // Dropped by whoever has gone away, it gives its records back.
        drop(call.answer.send(answer));
    }
}

/// When a record's time to live is over.
pub fn expires_at(view: &RecordView<'_>) -> Option<i64> {
    instant(view, HEADER_EXPIRES_AT)
}

/// An instant in one of Millpond's own headers.
pub fn instant(view: &RecordView<'_>, header: &str) -> Option<i64> {
    let (_, value) = view.headers().filter_map(Result::ok).find(|(name, _)| *name == header)?;
    std::str::from_utf8(value).ok()?.parse().ok()
}
