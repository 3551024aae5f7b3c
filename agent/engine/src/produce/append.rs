//! One atomic request, or one chunk of a stream, on its way to a commit.

use millpond_core::control_plane::{Guard, PieceOutcome, RequestKey};
use millpond_core::saturated;
use millpond_core::{Offset, RequestId, Scope, Topic, partition};
use millpond_format::record::{NewRecord, RecordSet};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

/// Records of one topic and partition, in the order of the request.
#[derive(Debug)]
pub struct AppendPiece {
    /// Among the topics of the request.
    pub topic_number: usize,
    pub topic: Arc<Topic>,
    pub partition: i32,
    pub records: RecordSet,
    /// Position and hash of each dedup id.
    pub dedups: Vec<(i32, Uuid)>,
}

#[derive(Debug)]
pub struct Append {
    pub id: RequestId,
    pub scope: Scope,
    /// By topic of the request, then partition; none is empty.
    pub pieces: Vec<AppendPiece>,
    pub key: Option<RequestKey>,
    pub expect: Option<Offset>,
    /// With one, there may be no piece.
    pub guard: Option<Guard>,
    pub basis: Basis,
    /// Held until the outcome is known.
    pub permit: Option<OwnedSemaphorePermit>,
}

impl Append {
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.pieces.iter().map(|p| p.records.bytes()).sum()
    }

    #[must_use]
    pub fn records(&self) -> usize {
        self.pieces.iter().map(|p| p.records.len()).sum()
    }
}

/// What placed the records of a request; with it and the same body a retry computes the same pieces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Basis {
    /// For records that carry no timestamp.
    pub timestamp: i64,
    pub topics: Vec<BasisTopic>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BasisTopic {
    pub partitions: i32,
    /// Partition of the records without key.
    pub sticky: i32,
}

/// What is stored with the answer of a request that may be repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    #[serde(flatten)]
    pub basis: Basis,
    /// For each piece of the commit: topic of the request, partition, records.
    pub pieces: Vec<(usize, i32, i32)>,
}

/// What became of an append.
#[derive(Debug, Clone)]
pub struct Appended {
    pub at_ms: i64,
    pub basis: Basis,
    /// Whether an earlier request with the same key had stored it.
    pub duplicate: bool,
    /// One per piece of the append, in its order.
    pub pieces: Vec<AppendedPiece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendedPiece {
    pub topic: usize,
    pub partition: i32,
    pub records: i32,
    pub outcome: PieceOutcome,
}

impl AppendedPiece {
    /// Offset of the record at a position, `None` where its dedup id was known.
    #[must_use]
    pub fn offset(&self, position: i32) -> Option<Offset> {
        let before = match self.outcome.dropped.binary_search(&position) {
            Ok(_) => return None,
            Err(before) => i64::try_from(before).unwrap_or(0),
        };
        self.outcome.base.map(|base| Offset(base.0 + i64::from(position) - before))
    }

    #[must_use]
    pub fn kept(&self) -> i32 {
        self.records - i32::try_from(self.outcome.dropped.len()).unwrap_or(0)
    }
}

/// Joins what a commit cut at batch boundaries: neighbouring pieces of one topic and partition.
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

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecordError {
    #[error("the record has {bytes} bytes, the topic takes {max}")]
    TooLarge { bytes: usize, max: i32 },
    #[error("there is no partition {partition}: the topic has {count}")]
    NoSuchPartition { partition: i32, count: i32 },
    #[error("partition {partition} is negative")]
    NegativePartition { partition: i32 },
}

/// Sorts the records of a request into pieces.
#[derive(Debug)]
pub struct AppendBuilder {
    topics: Vec<Arc<Topic>>,
    pub basis: Basis,
    pieces: BTreeMap<(usize, i32), AppendPiece>,
    /// Where each record went, in the order of the request: topic, partition, position.
    pub order: Vec<RecordPlace>,
    /// Whether every record named its partition.
    pub explicit: bool,
    /// Size of all records together, if that is known.
    expected_bytes: usize,
    /// How much of it was reserved so far.
    reserved_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordPlace {
    pub topic: usize,
    pub partition: i32,
    pub position: i32,
}

impl AppendBuilder {
    /// `stickies`: for each topic the partition of its records without key.
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
        }
    }

    /// About how many bytes of records are to come, so that memory for them is reserved once.
    pub fn expect_bytes(&mut self, bytes: usize) {
        self.expected_bytes = bytes;
    }

    /// Adds a record to a topic of the request: to the partition that it names, else to that of its key, else to
    /// the request's partition for records without key.
    pub fn push(
        &mut self,
        topic: usize,
        partition: Option<i32>,
        record: &NewRecord<'_>,
    ) -> Result<(), RecordError> {
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

    /// Bytes to reserve for a partition's records when its first one comes: its share of what is expected, and
    /// over all partitions never more than that, however many a client names.
    fn reserve(&self, basis: BasisTopic, has_key: bool) -> usize {
        let spread = if has_key { usize::try_from(basis.partitions).unwrap_or(1).max(1) } else { 1 };
        let share = (self.expected_bytes / spread).saturating_mul(9) / 8;
        share.min(self.expected_bytes.saturating_sub(self.reserved_bytes))
    }

    #[must_use]
    pub fn records(&self) -> usize {
        self.order.len()
    }

    /// Whether every record named its partition, and all the same one.
    #[must_use]
    pub fn names_one_partition(&self) -> bool {
        self.explicit && self.order.windows(2).all(|pair| pair[0].partition == pair[1].partition)
    }

    #[must_use]
    pub fn topic(&self, number: usize) -> &Arc<Topic> {
        &self.topics[number]
    }

    /// Timestamp of a record that was pushed.
    #[must_use]
    pub fn timestamp(&self, place: RecordPlace) -> i64 {
        let set = self.pieces.get(&(place.topic, place.partition)).map(|p| &p.records);
        usize::try_from(place.position).ok().and_then(|at| set?.timestamp(at)).unwrap_or(self.basis.timestamp)
    }

    /// Ids of the records whose dedup id was known, by place.
    #[must_use]
    pub fn dedup_hash(&self, place: RecordPlace) -> Option<Uuid> {
        let dedups = &self.pieces.get(&(place.topic, place.partition))?.dedups;
        dedups.binary_search_by_key(&place.position, |d| d.0).ok().map(|n| dedups[n].1)
    }

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
            permit: None,
        }
    }
}
