//! Fetch: records by offset, by time, from the log's ends, of one partition or of a whole topic.
//!
//! Owns: the verbs of [`Fetch`], which a door calls with a [`RecordSink`] that writes its form of answer; plans,
//! caches and verified reads. Invariant: no offset is skipped because its bytes are missing.

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

/// The read path as doors use it.
pub struct Fetch {
    pub(crate) reader: Arc<Reader>,
    pub(crate) watcher: Arc<Watcher>,
    pub(crate) topics: Arc<Topics>,
    pub(crate) plane: Arc<dyn ControlPlane>,
}

/// Where a read begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Earliest,
    Latest,
    /// The first record at or after it, in milliseconds since the epoch; else the high watermark.
    Timestamp(i64),
    /// Exactly there; outside of the log it is an error.
    Offset(Offset),
}

/// Why nothing, or nothing more, was read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("there is no topic {0}")]
    NoSuchTopic(Name),
    #[error("{topic} has partitions 0 to {}", .count - 1)]
    NoSuchPartition { topic: Name, count: i32 },
    #[error("offset {offset} is outside {log_start_offset} to {high_watermark}")]
    OutOfRange { offset: Offset, log_start_offset: Offset, high_watermark: Offset },
    #[error("this is not a position of the topic")]
    NotAPosition,
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

impl ReadError {
    /// Whether the same read may succeed a moment later.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Fetch(FetchError::ControlPlane(_) | FetchError::ObjectStore(_)))
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
