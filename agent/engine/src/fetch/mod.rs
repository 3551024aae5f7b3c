//! The read path: reads records by offset, by timestamp or from either end of the log, of one partition or of
//! a whole topic.
//!
//! Owns: the operations of [`Fetch`], which a door calls with a [`RecordSink`] that encodes the records in
//! the door's format; read plans, caches, verification of stored bytes. Invariant: no offset is skipped
//! because its bytes are missing.

pub mod cache;
mod decoded;
pub mod fetched;
pub mod lookup;
pub mod partition;
pub mod planner;
pub mod position;
pub mod reader;
pub mod select;
pub mod tail;
pub mod wanted;
pub mod watcher;

use crate::topics::{TopicError, Topics};
pub use fetched::FetchError;
use millpond_core::{ControlPlane, Error, Name, Offset};
use reader::Reader;
use std::sync::Arc;
use watcher::Watcher;

pub use select::{ReadLimits, RecordSink, Selection};

/// The read path, as doors use it.
pub struct Fetch {
    pub(crate) reader: Arc<Reader>,
    pub(crate) watcher: Arc<Watcher>,
    pub(crate) topics: Arc<Topics>,
    pub(crate) plane: Arc<dyn ControlPlane>,
}

/// The start of a read of one partition: an offset, a timestamp, or an end of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The log start offset.
    Earliest,
    /// The high watermark.
    Latest,
    /// The first record with this timestamp (milliseconds since the epoch) or a later one; if there is none,
    /// the high watermark.
    Timestamp(i64),
    /// This offset. It is an error if it is outside of the log.
    Offset(Offset),
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("there is no topic {0}")]
    NoSuchTopic(Name),
    #[error("{topic} has partitions 0 to {}", .count - 1)]
    NoSuchPartition { topic: Name, count: i32 },
    #[error("offset {offset} is outside {log_start_offset} to {high_watermark}")]
    OutOfRange { offset: Offset, log_start_offset: Offset, high_watermark: Offset },
    #[error("this is not a position of this topic")]
    NotAPosition,
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

impl ReadError {
    /// Whether the same read may succeed when it is repeated soon.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::Fetch(FetchError::ControlPlane(_) | FetchError::ObjectStore(_) | FetchError::Throttled)
        )
    }
}

impl From<TopicError> for ReadError {
    fn from(error: TopicError) -> Self {
        match error {
            TopicError::NoSuchTopic(name) => Self::NoSuchTopic(name),
            TopicError::ControlPlane(error) => error.into(),
        }
    }
}

impl From<Error> for ReadError {
    fn from(error: Error) -> Self {
        Self::Fetch(FetchError::ControlPlane(error))
    }
}
