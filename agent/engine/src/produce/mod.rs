//! The write path, from parsed records to the answer: `append → batcher → encode → upload → commit`.
//!
//! Owns: the two operations [`Produce::atomic`] and [`Produce::stream`]. A door calls them with a
//! [`RecordSource`], which parses the door's format, and turns their errors into its own.

pub mod append;
pub mod atomic;
pub mod batcher;
pub mod committer;
pub mod flush;
pub mod parts;
pub mod stream;
pub mod writer;

use crate::admission::Admission;
use crate::group::offsets::OffsetsError;
use crate::hash;
use crate::queue::receipt::Receipt;
use crate::topics::{TopicError, Topics};
use append::{AppendBuilder, BasisTopic};
use millpond_core::control_plane::RequestKey;
use millpond_core::group::OffsetsRejected;
use millpond_core::{Clock, ControlPlane, Error, Name, Offset, RandomSource, Scope, Topic, limits};
use std::sync::Arc;
use uuid::Uuid;
use writer::Writer;

/// The write path, as doors use it.
pub struct Produce {
    pub(crate) writer: Arc<Writer>,
    pub(crate) topics: Arc<Topics>,
    pub(crate) plane: Arc<dyn ControlPlane>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<RandomSource>,
}

/// The records of an atomic request, or of one chunk of a stream. They may be read more than once: if the
/// cached topic turns out to be out of date, the records are assigned to partitions again.
pub trait RecordSource: Send + Sync + 'static {
    /// The door's own error for input that cannot be parsed.
    type Refusal: Send + 'static;

    /// Parses all records and pushes them, in the order of the request.
    fn read(&self, into: &mut AppendBuilder) -> Result<(), Self::Refusal>;

    /// Size of the input in bytes; it decides whether the input is parsed on an async thread.
    fn input_bytes(&self) -> usize;

    /// Hash over `shape` and the whole input. Requests with the same idempotency key must have the same hash.
    fn content_hash(&self, shape: &[u8]) -> Uuid;
}

/// Identity of a request, by which a retry is recognised.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// The client's idempotency key.
    pub key: Option<String>,
    /// Content type and parameters, which must be the same in a retry, like the body.
    pub shape: Vec<u8>,
}

/// The scope in which an idempotency key is unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySpace {
    /// The topic of the request. Streams use the same scope, so that a key counts for both kinds of request.
    Topic,
    /// All batch requests of the tenant (those whose body names its topics).
    Batch,
}

/// Why a produce request stored nothing, or why its outcome is unknown. `R` is the door's error for input
/// that cannot be parsed.
#[derive(Debug, thiserror::Error)]
pub enum ProduceError<R> {
    #[error("the records cannot be read")]
    Records(R),
    #[error("there is no topic {0}")]
    NoSuchTopic(Name),
    #[error("with an expected offset, all records must name the same partition")]
    NotOnePartition,
    #[error("the body comes too slowly while others wait for memory")]
    TooSlow,
    #[error("the group offsets cannot be committed")]
    Offsets(#[source] OffsetsError),
    #[error("{} of the acks name records that are no longer leased", .0.len())]
    LeaseLost(Vec<Receipt>),
    #[error("the control plane failed")]
    ControlPlane(#[from] Error),
    #[error(transparent)]
    Append(#[from] AppendError),
}

impl<R> From<TopicError> for ProduceError<R> {
    fn from(error: TopicError) -> Self {
        match error {
            TopicError::NoSuchTopic(name) => Self::NoSuchTopic(name),
            TopicError::ControlPlane(error) => Self::ControlPlane(error),
        }
    }
}

/// Why an append stored nothing, or why its outcome is unknown.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error("a partition does not exist any more: its topic was deleted")]
    PartitionGone,
    #[error("the idempotency key was used before with another request")]
    Conflict,
    #[error("the high watermark is {current}")]
    OffsetMismatch { current: Offset },
    #[error("the group offsets were refused")]
    OffsetsRejected(#[source] OffsetsRejected),
    /// Indexes into the acks of the request.
    #[error("{} of the acks name records that are no longer leased", .0.len())]
    LeaseLost(Vec<usize>),
    #[error("the agent has no memory left for more records")]
    Throttled,
    #[error("the control plane does not answer; whether the records were stored is unknown")]
    OutcomeUnknown,
    #[error("the object store does not accept the records; nothing was stored")]
    ObjectStore,
    #[error("the agent is shutting down; nothing was stored")]
    ShuttingDown,
}

impl Produce {
    fn basis_of(&self, topic: &Topic) -> BasisTopic {
        BasisTopic { partitions: topic.partition_count(), sticky: self.topics.sticky(topic) }
    }
}

/// The scope of an idempotency key: topic and number of the chunk. An atomic request counts as chunk 0 of a
/// stream.
fn key_scope(topic: i64, chunk: u64) -> String {
    format!("records/{topic}/{chunk}")
}

/// The idempotency key of a request as the control plane stores it.
fn request_key(scope: &Scope, place: &str, key: &str, content: Uuid) -> RequestKey {
    RequestKey {
        key_hash: hash::of(&[scope.tenant.as_str().as_bytes(), place.as_bytes(), key.as_bytes()]),
        body_hash: content,
        ttl_ms: limits::IDEMPOTENCY_KEY_TTL_MS,
    }
}
