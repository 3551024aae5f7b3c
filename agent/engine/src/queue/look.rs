//! Lists the records of a queue that are in flight, waiting or dead, and shows those that are next. Nothing
//! is leased.

use super::Queues;
use super::admin::{QueueAdminError, number_of, partition_of};
use crate::fetch::lookup::{FoundRecord, Records};
use crate::fetch::partition::find_from;
use crate::fetch::reader::Purpose;
use crate::fetch::wanted::Wanted;
use crate::memory::Memory;
use millpond_core::queue::{Listed, Listing, Queue};
use millpond_core::saturated;
use millpond_core::{Name, Offset, PartitionId, Scope, limits};

/// One page of a listing, ordered by partition and offset.
#[derive(Debug)]
pub struct ListedPage {
    pub topic: Name,
    pub records: Vec<ListedRecord>,
    /// Partition and offset after which the next page begins; `None` on the last page.
    pub next: Option<(i32, Offset)>,
    pub memory: ListedMemory,
}

/// Memory of records that are listed: to be held as long as they are.
#[derive(Debug, Default)]
pub struct ListedMemory {
    /// Of their batches.
    pub batches: Memory,
    /// For the encoded answer.
    pub answer: Memory,
}

impl ListedMemory {
    fn of(mut found: Records) -> Self {
        let (batches, answer) = found.take_memory();
        Self { batches, answer }
    }
}

/// One entry of a listing.
#[derive(Debug)]
pub struct ListedRecord {
    pub partition: i32,
    pub listed: Listed,
    /// The record itself, if it was asked for and still exists.
    pub record: Option<FoundRecord>,
}

/// A record that is among the next to be leased.
#[derive(Debug)]
pub struct PeekedRecord {
    pub partition: i32,
    pub record: FoundRecord,
}

impl Queues {
    /// A page of at most `max_records` entries after a place (partition and offset). With `payload`, it
    /// contains the records themselves, and ends early when they exceed [`limits::LOOKUP_MAX_BYTES`].
    pub async fn page(
        &self,
        scope: &Scope,
        name: &Name,
        listing: Listing,
        after: Option<(i32, Offset)>,
        max_records: usize,
        payload: bool,
    ) -> Result<ListedPage, QueueAdminError> {
        let queue = self.look_up(scope, name).await?;
        let after = match after {
            None => None,
            Some((partition, offset)) => {
                let id = partition_of(&queue, partition).ok_or(QueueAdminError::NotAPlace)?;
                Some((id, offset))
            }
        };
        let limit = saturated::<i64, _>(max_records);
        // One more than the page holds, to find out whether there is a next page.
        let mut listed = self.runtime.plane.list_queue(scope, queue.id, listing, after, limit + 1).await?;
        let mut has_more = listed.len() > max_records;
        listed.truncate(max_records);
        let found = if payload {
            let places = listed.iter().filter(|l| !l.gone).map(|l| (l.partition, l.offset));
            Some(self.lookup(scope, places).await?)
        } else {
            None
        };
        let (topic, memory) = (queue.topic.clone(), ListedMemory::default());
        let mut page = ListedPage { topic, records: Vec::new(), next: None, memory };
        let mut last = None;
        for one in listed {
            let is_unread = found.as_ref().is_some_and(|found| found.is_unread(one.partition, one.offset));
            if is_unread && !page.records.is_empty() {
                has_more = true;
                break;
            }
            let partition = number_of(&queue, one.partition).unwrap_or(-1);
            let record = found.as_ref().and_then(|found| found.record(one.partition, one.offset));
            last = Some((partition, one.offset));
            page.records.push(ListedRecord { partition, listed: one, record });
        }
        page.next = last.filter(|_| has_more);
        page.memory = found.map(ListedMemory::of).unwrap_or_default();
        Ok(page)
    }

    /// The records that would be leased next: waiting ones that are due, then new ones from the cursors on.
    pub async fn peek(
        &self,
        scope: &Scope,
        name: &Name,
        max_records: usize,
    ) -> Result<(Name, Vec<PeekedRecord>, ListedMemory), QueueAdminError> {
        let queue = self.look_up(scope, name).await?;
        let now = self.runtime.clock.now_ms();
        let limit = saturated::<i64, _>(limits::LEASE_MAX_RECORDS);
        let waiting = self.runtime.plane.list_queue(scope, queue.id, Listing::Waiting, None, limit).await?;
        let due = waiting.iter().filter(|w| w.at_ms.is_none_or(|at| at <= now));
        let mut next: Vec<(PartitionId, Offset)> =
            due.map(|w| (w.partition, w.offset)).take(max_records).collect();
        if next.len() < max_records {
            next.extend(self.fresh(scope, &queue, max_records - next.len()).await?);
        }
        let found = self.lookup(scope, next.iter().copied()).await?;
        let is_read = |(partition, offset): &(PartitionId, Offset)| !found.is_unread(*partition, *offset);
        let peek = |(id, offset): (PartitionId, Offset)| {
            let record = found.record(id, offset)?;
            Some(PeekedRecord { partition: number_of(&queue, id).unwrap_or(-1), record })
        };
        let records = next.into_iter().take_while(is_read).filter_map(peek).collect();
        Ok((queue.topic.clone(), records, ListedMemory::of(found)))
    }

    /// Reads single records.
    async fn lookup(
        &self,
        scope: &Scope,
        places: impl Iterator<Item = (PartitionId, Offset)>,
    ) -> Result<Records, QueueAdminError> {
        let wanted = Wanted::new(places.map(|(id, offset)| (id, offset.0..offset.0 + 1)));
        let found = self.runtime.reader.lookup(scope, &wanted, Purpose::Answer).await;
        found.map_err(|error| QueueAdminError::Read(error.into()))
    }

    /// The places of new records from the cursors on, partition by partition.
    async fn fresh(
        &self,
        scope: &Scope,
        queue: &Queue,
        max_records: usize,
    ) -> Result<Vec<(PartitionId, Offset)>, QueueAdminError> {
        let cursors = self.runtime.plane.cursors(scope, queue.id).await?;
        let requests: Vec<_> = cursors.into_iter().map(|(p, o)| find_from(scope, p, o, 1)).collect();
        let mut places = Vec::new();
        for (request, found) in requests.iter().zip(self.runtime.plane.find(&requests).await?) {
            let Some(found) = found else { continue };
            let from = request.offset.max(found.log_start_offset).0;
            let room = saturated::<i64, _>(max_records - places.len());
            let offsets = from..found.high_watermark.0.min(from.saturating_add(room));
            places.extend(offsets.map(|offset| (request.partition, Offset(offset))));
            if places.len() >= max_records {
                break;
            }
        }
        Ok(places)
    }
}
