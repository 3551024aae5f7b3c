//! Appends: the parsed records of one atomic request, or of one chunk of a stream, sorted by partition.

use millpond_core::control_plane::{Guard, PieceOutcome, RequestKey};
use millpond_core::saturated;
use millpond_core::{Offset, RequestId, Scope, Topic, limits, partition};
use millpond_format::record::{NewRecord, RecordSet};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

/// Records of one topic and partition, in the order of the request.
#[derive(Debug)]
pub struct AppendPiece {
    /// Index of the topic in the request.
    pub topic_number: usize,
    pub topic: Arc<Topic>,
    pub partition: i32,
    pub records: RecordSet,
    /// Position (within `records`) and hash of each dedup id, by position.
    pub dedups: Vec<(i32, Uuid)>,
}

/// The parsed records of one atomic request or one chunk of a stream, with the conditions of its commit.
#[derive(Debug)]
pub struct Append {
    pub id: RequestId,
    pub scope: Scope,
    /// Ordered by topic of the request, then partition; no piece is empty.
    pub pieces: Vec<AppendPiece>,
    /// Idempotency key.
    pub key: Option<RequestKey>,
    /// Commit only if this is the high watermark of the partition.
    pub expect: Option<Offset>,
    /// Group offsets and acks of the same commit. An append with a guard may have no pieces.
    pub guard: Option<Guard>,
    pub basis: Basis,
    /// Memory of the request, held until its outcome is known.
    pub permit: Option<OwnedSemaphorePermit>,
}

impl Append {
    /// Size of all records.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.pieces.iter().map(|p| p.records.bytes()).sum()
    }

    /// Number of all records.
    #[must_use]
    pub fn records(&self) -> usize {
        self.pieces.iter().map(|p| p.records.len()).sum()
    }
}

/// The values that, besides the body, decide where the records of a request go. With the basis of the first
/// request, a retry with the same body computes the same pieces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Basis {
    /// Timestamp of records that have none, in milliseconds since the epoch.
    pub timestamp: i64,
    pub topics: Vec<BasisTopic>,
}

/// The part of a [`Basis`] that concerns one topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BasisTopic {
    /// Number of partitions.
    pub partitions: i32,
    /// Partition of records without a key.
    pub sticky: i32,
}

/// Data stored with the answer of a request that has an idempotency key or dedup ids. A retry of the request
/// needs it to assign its records to the same partitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    #[serde(flatten)]
    pub basis: Basis,
    /// For each piece of the commit: index of the topic in the request, partition, number of records.
    pub pieces: Vec<(usize, i32, i32)>,
}

/// The outcome of an append that was stored.
#[derive(Debug, Clone)]
pub struct Appended {
    /// Time of the commit, in milliseconds since the epoch.
    pub at_ms: i64,
    /// The basis under which the records were stored: that of the first request, for a retry.
    pub basis: Basis,
    /// Whether an earlier request with the same key had stored it.
    pub duplicate: bool,
    /// One per piece of the append, in the same order.
    pub pieces: Vec<AppendedPiece>,
}

/// The outcome of one piece of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendedPiece {
    /// Index of the topic in the request.
    pub topic: usize,
    pub partition: i32,
    /// Number of records of the piece, including dropped duplicates.
    pub records: i32,
    pub outcome: PieceOutcome,
}

impl AppendedPiece {
    /// Offset of the record at a position in the piece; `None` if it was dropped as a duplicate.
    #[must_use]
    pub fn offset(&self, position: i32) -> Option<Offset> {
        let before = match self.outcome.dropped.binary_search(&position) {
            Ok(_) => return None,
            Err(before) => i64::try_from(before).unwrap_or(0),
        };
        self.outcome.base.map(|base| Offset(base.0 + i64::from(position) - before))
    }

    /// Number of records that were not dropped.
    #[must_use]
    pub fn kept(&self) -> i32 {
        self.records - i32::try_from(self.outcome.dropped.len()).unwrap_or(0)
    }
}

/// Joins neighbouring pieces of one topic and partition, which were split because a record batch was full.
#[must_use]
pub fn join_pieces(cut: impl Iterator<Item = AppendedPiece>) -> Vec<AppendedPiece> {
    let mut joined: Vec<AppendedPiece> = Vec::new();
    for piece in cut {
        match joined.last_mut() {
            Some(last) if last.topic == piece.topic && last.partition == piece.partition => {
                last.outcome.base = last.outcome.base.or(piece.outcome.base);
                last.outcome.dropped.extend(piece.outcome.dropped.iter().map(|p| p + last.records));
                last.records += piece.records;
            }
            _ => joined.push(piece),
        }
    }
    joined
}

/// Why a record was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecordError {
    #[error("the record has {bytes} bytes, the topic accepts {max}")]
    TooLarge { bytes: usize, max: i32 },
    #[error("there is no partition {partition}: the topic has {count}")]
    NoSuchPartition { partition: i32, count: i32 },
    #[error("no memory for the records is free")]
    Throttled,
    #[error("partition {partition} is negative")]
    NegativePartition { partition: i32 },
}

/// Assigns the records of a request to partitions and collects them in pieces.
#[derive(Debug)]
pub struct AppendBuilder {
    topics: Vec<Arc<Topic>>,
    pub basis: Basis,
    pieces: BTreeMap<(usize, i32), AppendPiece>,
    /// The place of each record, in the order of the request.
    pub order: Vec<RecordPlace>,
    /// Whether every record named its partition.
    pub explicit: bool,
    /// Expected size of all records, 0 if unknown.
    expected_bytes: usize,
    /// The part of `expected_bytes` for which memory was reserved so far.
    reserved_bytes: usize,
    /// Memory of the request, which many small records enlarge; without it, they are not accounted for.
    pub permit: Option<OwnedSemaphorePermit>,
    /// Number of records that the permit is for.
    permitted_records: usize,
}

/// Memory per record besides the bytes of the request: its places, its entry in the index, and its result.
const RECORD_COST_BYTES: usize = 256;
/// The permit is enlarged for so many records at a time.
const RECORDS_PER_STEP: usize = 1_024;

/// The piece that a record went to, and its position there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordPlace {
    /// Index of the topic in the request.
    pub topic: usize,
    pub partition: i32,
    /// Position within the piece.
    pub position: i32,
}

impl AppendBuilder {
    /// `basis` has one entry for each of `topics`.
    #[must_use]
    pub fn new(topics: Vec<Arc<Topic>>, basis: Basis) -> Self {
        Self {
            topics,
            basis,
            pieces: BTreeMap::new(),
            order: Vec::new(),
            explicit: true,
            expected_bytes: 0,
            reserved_bytes: 0,
            permit: None,
            permitted_records: RECORDS_PER_STEP,
        }
    }

    /// Announces the approximate size of all records, so that memory for them is reserved only once.
    pub fn expect_bytes(&mut self, bytes: usize) {
        self.expected_bytes = bytes;
    }

    /// Adds a record to a topic of the request: to the partition that is given, else to the partition of its
    /// key, else to the sticky partition of the request.
    pub fn push(
        &mut self,
        topic: usize,
        partition: Option<i32>,
        record: &NewRecord<'_>,
    ) -> Result<(), RecordError> {
        self.permit_record()?;
        let of = &self.topics[topic];
        let basis = self.basis.topics[topic];
        self.explicit &= partition.is_some();
        let partition = match (partition, record.key) {
            (Some(partition), _) if partition < 0 => {
                return Err(RecordError::NegativePartition { partition });
            }
            (Some(partition), _) if partition >= basis.partitions => {
                return Err(RecordError::NoSuchPartition { partition, count: basis.partitions });
            }
            (Some(partition), _) => partition,
            (None, Some(key)) => partition::for_key(key, basis.partitions),
            (None, None) => basis.sticky,
        };
        let headers: usize = record.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
        let bytes = record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len) + headers;
        if i32::try_from(bytes).map_or(true, |b| b > of.config.max_record_bytes) {
            return Err(RecordError::TooLarge { bytes, max: of.config.max_record_bytes });
        }
        let reserve = self.reserve(basis, record.key.is_some());
        let piece = self.pieces.entry((topic, partition)).or_insert_with(|| {
            self.reserved_bytes += reserve;
            AppendPiece {
                topic_number: topic,
                topic: Arc::clone(of),
                partition,
                records: RecordSet::with_capacity(reserve),
                dedups: Vec::new(),
            }
        });
        let position = saturated::<i32, _>(piece.records.len());
        if let Some(id) = record.dedup_id.filter(|_| of.config.dedup_window_ms > 0) {
            piece.dedups.push((position, crate::hash::of(&[id.as_bytes()])));
        }
        piece.records.push(record, self.basis.timestamp);
        self.order.push(RecordPlace { topic, partition, position });
        Ok(())
    }

    /// Takes memory for the next record.
    fn permit_record(&mut self) -> Result<(), RecordError> {
        let Some(permit) = self.permit.as_mut().filter(|_| self.order.len() == self.permitted_records) else {
            return Ok(());
        };
        let kib = saturated::<u32, _>(RECORDS_PER_STEP * RECORD_COST_BYTES / limits::KIB);
        let more = Arc::clone(permit.semaphore()).try_acquire_many_owned(kib);
        permit.merge(more.map_err(|_| RecordError::Throttled)?);
        self.permitted_records += RECORDS_PER_STEP;
        Ok(())
    }

    /// Bytes to reserve for a partition when its first record comes: the expected size (with keys, divided by
    /// the number of partitions) plus an eighth. The sum over all partitions never exceeds the expected size,
    /// however many partitions a client names.
    fn reserve(&self, basis: BasisTopic, has_key: bool) -> usize {
        let spread = if has_key { usize::try_from(basis.partitions).unwrap_or(1).max(1) } else { 1 };
        let share = (self.expected_bytes / spread).saturating_mul(9) / 8;
        share.min(self.expected_bytes.saturating_sub(self.reserved_bytes))
    }

    /// Number of records so far.
    #[must_use]
    pub fn records(&self) -> usize {
        self.order.len()
    }

    /// Whether all records named their partition, and all the same one.
    #[must_use]
    pub fn names_one_partition(&self) -> bool {
        self.explicit && self.order.windows(2).all(|pair| pair[0].partition == pair[1].partition)
    }

    /// A topic of the request by its index.
    #[must_use]
    pub fn topic(&self, number: usize) -> &Arc<Topic> {
        &self.topics[number]
    }

    /// Timestamp of a record that was added, in milliseconds since the epoch.
    #[must_use]
    pub fn timestamp(&self, place: RecordPlace) -> i64 {
        let set = self.pieces.get(&(place.topic, place.partition)).map(|p| &p.records);
        usize::try_from(place.position).ok().and_then(|at| set?.timestamp(at)).unwrap_or(self.basis.timestamp)
    }

    /// Hash of the dedup id of a record that was added, if it has one.
    #[must_use]
    pub fn dedup_hash(&self, place: RecordPlace) -> Option<Uuid> {
        let dedups = &self.pieces.get(&(place.topic, place.partition))?.dedups;
        dedups.binary_search_by_key(&place.position, |d| d.0).ok().map(|n| dedups[n].1)
    }

    /// The append with all records added so far, without guard.
    #[must_use]
    pub fn into_append(
        self,
        scope: &Scope,
        id: RequestId,
        key: Option<RequestKey>,
        expect: Option<Offset>,
    ) -> Append {
        Append {
            id,
            scope: scope.clone(),
            pieces: self.pieces.into_values().collect(),
            key,
            expect,
            guard: None,
            basis: self.basis,
            permit: self.permit,
        }
    }
}
