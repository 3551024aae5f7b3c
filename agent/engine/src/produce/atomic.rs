//! Atomic produce requests: stored as a whole or not at all.

use super::append::{AppendBuilder, Appended, Basis, RecordPlace};
use super::{AppendError, Identity, KeySpace, Produce, ProduceError, RecordSource};
use crate::group::offsets::{GroupOffsets, OffsetsError, resolve};
use crate::queue::receipt::Receipt;
use millpond_core::control_plane::{Guard, RequestKey};
use millpond_core::group::OffsetsRejected;
use millpond_core::{Name, Offset, RequestId, Scope, Topic, limits};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

/// Inputs above this size are parsed on a blocking thread instead of an async one.
const PARSE_IN_PLACE_MAX_BYTES: usize = 128 * limits::KIB;

/// Records of one or several topics, group offsets and acks, committed together or not at all.
pub struct AtomicRequest<S> {
    /// Each topic once; the record source refers to them by index.
    pub topics: Vec<Name>,
    pub records: Arc<S>,
    pub identity: Identity,
    pub key_space: KeySpace,
    /// Store only if this is the high watermark of the partition, which must be the same for all records.
    pub expect: Option<Offset>,
    /// Offsets of a consumer group to commit with the records. There may be offsets without records.
    pub offsets: Option<GroupOffsets>,
    /// Queue records to ack with the commit, each once.
    pub acks: Vec<Receipt>,
    /// Timestamp of records that carry none, in milliseconds since the epoch.
    pub timestamp: i64,
    /// Memory of the request, held until its outcome is known.
    pub permit: Option<OwnedSemaphorePermit>,
}

/// The result of an atomic produce: the stored records. For a retry, those of the first attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// One per record, in the order of the request.
    pub records: Vec<StoredRecord>,
    /// Whether an earlier request with the same key had stored it.
    pub duplicate: bool,
}

/// Partition and offset of one stored record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredRecord {
    /// Index of the topic in the request.
    pub topic: usize,
    pub partition: i32,
    /// `None` for a duplicate by dedup id whose dedup window has ended since: the offset of the first record
    /// with that id is then no longer known.
    pub offset: Option<Offset>,
    /// In milliseconds since the epoch.
    pub timestamp: i64,
    /// Whether an earlier record with the same dedup id, or an earlier request with the same key, had stored
    /// it.
    pub duplicate: bool,
}

impl Produce {
    /// Stores a request. An error says that nothing of it was stored, or that its outcome is unknown. With an
    /// idempotency key it is safe to repeat. If a cached topic was deleted, or deleted and created again, it
    /// is looked up again, once.
    pub async fn atomic<S: RecordSource>(
        &self,
        scope: &Scope,
        mut request: AtomicRequest<S>,
    ) -> Result<Stored, ProduceError<S::Refusal>> {
        let mut may_retry = true;
        loop {
            let (topics, basis) = self.resolve_topics(scope, &request).await?;
            let permit = request.permit.take();
            let builder = self.parse(&request, &topics, basis, permit).await?;
            let (guard, missing) = self.guard(scope, &request).await?;
            if builder.records() == 0 && guard.is_none() {
                return Ok(Stored { records: Vec::new(), duplicate: false });
            }
            if request.expect.is_some() && !builder.names_one_partition() {
                return Err(ProduceError::NotOnePartition);
            }
            let placed = PlacedRecords::of(&builder);
            let basis = builder.basis.clone();
            let id = RequestId(self.random.uuid(self.clock.now_ms()));
            let mut append = builder.into_append(scope, id, request.key(scope, &topics), request.expect);
            append.guard = guard;
            let appended = match self.writer.append(append).await {
                Ok(appended) => appended,
                Err(error) if is_partition_gone(&error) && may_retry => {
                    may_retry = false;
                    self.forget_topics(scope, &request).await;
                    continue;
                }
                Err(AppendError::LeaseLost(lost)) => {
                    let receipts = lost.iter().filter_map(|n| request.acks.get(*n)).copied().collect();
                    return Err(ProduceError::LeaseLost(receipts));
                }
                Err(error) => {
                    let missing = missing.filter(|_| is_offset_partition_gone(&error));
                    return Err(missing.map_or(ProduceError::Append(error), ProduceError::Offsets));
                }
            };
            // This may be a retry, and the partition count or the sticky partition may have changed since the
            // first request. The stored offsets belong to records placed by the first request's basis.
            let placed = match &appended.basis {
                first if *first == basis => placed,
                first => PlacedRecords::of(&self.parse(&request, &topics, first.clone(), None).await?),
            };
            let records = self.places(scope, &placed, &topics, &appended).await?;
            return Ok(Stored { records, duplicate: appended.duplicate });
        }
    }

    /// Looks up or creates the topics of a request; also returns the basis for its records.
    async fn resolve_topics<S: RecordSource>(
        &self,
        scope: &Scope,
        request: &AtomicRequest<S>,
    ) -> Result<(Vec<Arc<Topic>>, Basis), ProduceError<S::Refusal>> {
        let mut topics = Vec::with_capacity(request.topics.len());
        for name in &request.topics {
            topics.push(self.topics.get_or_create(scope, name).await?);
        }
        let basis_topics = topics.iter().map(|topic| self.basis_of(topic)).collect();
        Ok((topics, Basis { timestamp: request.timestamp, topics: basis_topics }))
    }

    /// Drops all cached topics that the request names.
    async fn forget_topics<S>(&self, scope: &Scope, request: &AtomicRequest<S>) {
        for name in &request.topics {
            self.topics.forget(scope, name).await;
        }
        for entry in request.offsets.iter().flat_map(|o| &o.offsets) {
            self.topics.forget(scope, &entry.topic).await;
        }
    }

    async fn parse<S: RecordSource>(
        &self,
        request: &AtomicRequest<S>,
        topics: &[Arc<Topic>],
        basis: Basis,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<AppendBuilder, ProduceError<S::Refusal>> {
        let mut builder = AppendBuilder::new(topics.to_vec(), basis);
        builder.permit = permit;
        let records = Arc::clone(&request.records);
        let read = move || records.read(&mut builder).map(|()| builder).map_err(ProduceError::Records);
        if request.records.input_bytes() <= PARSE_IN_PLACE_MAX_BYTES {
            return read();
        }
        crate::blocking::run(read).await
    }

    /// The guard (group offsets and acks) of the commit. The second value is an error to report if the
    /// control plane rejects the guard: a topic or partition of the group offsets does not exist. It must not
    /// be reported before, since this may be the retry of a request that succeeded while the topic still
    /// existed.
    async fn guard<S: RecordSource>(
        &self,
        scope: &Scope,
        request: &AtomicRequest<S>,
    ) -> Result<(Option<Guard>, Option<OffsetsError>), ProduceError<S::Refusal>> {
        let acks: Option<Vec<_>> =
            (!request.acks.is_empty()).then(|| request.acks.iter().map(Receipt::ack).collect());
        let Some(offsets) = &request.offsets else {
            return Ok((acks.map(|acks| Guard { offsets: None, acks: Some(acks) }), None));
        };
        let resolved = resolve(&self.topics, &*self.plane, scope, offsets).await;
        let (offsets, missing) = resolved.map_err(ProduceError::Offsets)?;
        match missing {
            // A request without a key is no retry, so that nothing can have been stored before.
            Some(missing) if request.identity.key.is_none() && acks.is_none() => {
                Err(ProduceError::Offsets(missing))
            }
            missing => Ok((Some(Guard { offsets: Some(offsets), acks }), missing)),
        }
    }

    /// The place of each record. A record that was dropped as a duplicate has the place of the first record
    /// with the same dedup id.
    async fn places<R>(
        &self,
        scope: &Scope,
        placed: &PlacedRecords,
        topics: &[Arc<Topic>],
        appended: &Appended,
    ) -> Result<Vec<StoredRecord>, ProduceError<R>> {
        let pieces: HashMap<(usize, i32), usize> =
            appended.pieces.iter().enumerate().map(|(n, p)| ((p.topic, p.partition), n)).collect();
        let offset_of = |place: &RecordPlace| {
            let piece = pieces.get(&(place.topic, place.partition))?;
            appended.pieces[*piece].offset(place.position)
        };
        let mut first_places: HashMap<(usize, Uuid), (i32, Offset)> = HashMap::new();
        for (number, topic) in topics.iter().enumerate() {
            let dropped = placed.records.iter().filter(|r| r.place.topic == number);
            let dropped = dropped.filter(|r| r.dedup.is_some() && offset_of(&r.place).is_none());
            let hashes: Vec<Uuid> = dropped.filter_map(|r| r.dedup).collect();
            if hashes.is_empty() {
                continue;
            }
            let found = self.plane.dedup_offsets(scope, topic.id, &hashes).await?;
            first_places
                .extend(hashes.iter().zip(found).filter_map(|(hash, at)| Some(((number, *hash), at?))));
        }
        let stored = |record: &PlacedRecord| {
            let PlacedRecord { place, timestamp, dedup } = record;
            let own = offset_of(place);
            let first = dedup.and_then(|hash| first_places.get(&(place.topic, hash)));
            let (partition, offset) = match (own, first) {
                (Some(offset), _) => (place.partition, Some(offset)),
                (None, Some((partition, offset))) => (*partition, Some(*offset)),
                (None, None) => (place.partition, None),
            };
            StoredRecord {
                topic: place.topic,
                partition,
                offset,
                timestamp: *timestamp,
                duplicate: own.is_none() || appended.duplicate,
            }
        };
        Ok(placed.records.iter().map(stored).collect())
    }
}

fn is_offset_partition_gone(error: &AppendError) -> bool {
    matches!(error, AppendError::OffsetsRejected(OffsetsRejected::PartitionGone { .. }))
}

fn is_partition_gone(error: &AppendError) -> bool {
    matches!(error, AppendError::PartitionGone) || is_offset_partition_gone(error)
}

impl<S: RecordSource> AtomicRequest<S> {
    /// The idempotency key: that of the client, else one made of the receipts, so that a retry does not ack
    /// twice.
    fn key(&self, scope: &Scope, topics: &[Arc<Topic>]) -> Option<RequestKey> {
        let receipts = || -> Option<String> {
            let mut texts: Vec<String> = self.acks.iter().map(Receipt::text).collect();
            texts.sort_unstable();
            // Cannot collide with a client's key: keys come from a header, which cannot contain a line end.
            (!texts.is_empty()).then(|| format!("\n{}", texts.join("\n")))
        };
        let key = self.identity.key.clone().or_else(receipts)?;
        let content = self.records.content_hash(&self.identity.shape);
        let place = match self.key_space {
            KeySpace::Topic => super::key_scope(topics.first().map_or(0, |t| t.id.0), 0),
            KeySpace::Batch => "batches".to_owned(),
        };
        Some(super::request_key(scope, &place, &key, content))
    }
}

/// Partition and offset of each record of a request, in the order of the request.
struct PlacedRecords {
    records: Vec<PlacedRecord>,
}

struct PlacedRecord {
    place: RecordPlace,
    timestamp: i64,
    /// Hash of the dedup id.
    dedup: Option<Uuid>,
}

impl PlacedRecords {
    fn of(builder: &AppendBuilder) -> Self {
        let record = |place: &RecordPlace| PlacedRecord {
            place: *place,
            timestamp: builder.timestamp(*place),
            dedup: builder.dedup_hash(*place),
        };
        Self { records: builder.order.iter().map(record).collect() }
    }
}
