//! Produce, from parsed records to an answer: `append → batcher → encode → place → commit`.
//!
//! Owns: the verbs [`Produce::atomic`] and [`Produce::stream`], which a door calls with records that it can
//! read and whose errors it renders.

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
use millpond_core::{Clock, ControlPlane, Error, Ids, Name, Offset, Scope, Topic, limits};
use std::sync::Arc;
use uuid::Uuid;
use writer::Writer;

/// The write path as doors use it.
pub struct Produce {
    pub(crate) writer: Arc<Writer>,
    pub(crate) topics: Arc<Topics>,
    pub(crate) plane: Arc<dyn ControlPlane>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<Ids>,
}

/// The records of an atomic request, or of one chunk of a stream. They may be read more than once: where a
/// record goes depends on its topic, which may turn out to be another than was remembered.
pub trait RecordSource: Send + Sync + 'static {
    /// What is wrong with the input, in the door's own terms.
    type Refusal: Send + 'static;

    /// Pushes every record, in the order of the request.
    fn read(&self, into: &mut AppendBuilder) -> Result<(), Self::Refusal>;

    /// Size of the input, which decides whether it is parsed on an async thread.
    fn input_bytes(&self) -> usize;

    /// Hash over `shape` and all that the input says: two requests with one key must agree in it.
    fn content_hash(&self, shape: &[u8]) -> Uuid;
}

/// What identifies a request when it is sent again.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// The client's idempotency key.
    pub key: Option<String>,
    /// What must not differ between retries besides the content, such as its type and parameters.
    pub shape: Vec<u8>,
}

/// Within what an idempotency key names one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySpace {
    /// The request's one topic; streams share it, so that a key holds whatever the form of the body.
    Topic,
    /// All requests that name their topics themselves.
    Batch,
}

/// Why a produce request stored nothing, or why it is unknown whether it did. `R` is what the door says of its
/// own input.
#[derive(Debug, thiserror::Error)]
pub enum ProduceError<R> {
    #[error("the records cannot be read")]
    Records(R),
    #[error("there is no topic {0}")]
    NoSuchTopic(Name),
    #[error("with an expected offset all records name the same partition")]
    NotOnePartition,
    #[error("the body comes too slowly while others wait for memory")]
    TooSlow,
    #[error("the group offsets cannot be committed")]
    Offsets(#[source] OffsetsError),
    #[error("{} of the acks name records that are no longer held", .0.len())]
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

/// Why an append stored nothing, or why its outcome is unknown to us.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error("a partition is gone: the topic was deleted")]
    PartitionGone,
    #[error("the idempotency key was used before with another request")]
    Conflict,
    #[error("the high watermark is {current}")]
    OffsetMismatch { current: Offset },
    #[error("the group offsets were refused")]
    OffsetsRejected(#[source] OffsetsRejected),
    /// By index among the acks.
    #[error("{} of the acks name records that their leases no longer hold", .0.len())]
    LeaseLost(Vec<usize>),
    #[error("the agent has no memory left for more records")]
    Throttled,
    #[error("the control plane does not answer; whether the records were stored is unknown")]
    OutcomeUnknown,
    #[error("the object store does not take the records; nothing was stored")]
    ObjectStore,
    #[error("the agent is shutting down; nothing was stored")]
    ShuttingDown,
}

impl Produce {
    fn basis_of(&self, topic: &Topic) -> BasisTopic {
        BasisTopic { partitions: topic.partition_count(), sticky: self.topics.sticky(topic) }
    }
}

/// Where the key of a chunk counts; an atomic request is a first chunk.
fn key_place(topic: i64, chunk: u64) -> String {
    format!("records/{topic}/{chunk}")
}

fn request_key(scope: &Scope, place: &str, key: &str, content: Uuid) -> RequestKey {
    RequestKey {
        key_hash: hash::of(&[scope.tenant.as_str().as_bytes(), place.as_bytes(), key.as_bytes()]),
        body_hash: content,
        ttl_ms: limits::IDEMPOTENCY_KEY_TTL_MS,
    }
}
