//! Problems (RFC 9457): one table of codes, one exhaustive match to statuses.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use millpond_core::group::{DeleteGroupRejected, NoSuchGroup, OffsetsRejected, RenewRejected, ResetRejected};
use millpond_core::queue::{DeadRejected, NoSuchQueue, PutQueueRejected};
use millpond_core::topic::{NoSuchTopic, PutTopicRejected};
use millpond_core::{Error, NameError, Offset};
use millpond_engine::fetch::reader::FetchError;
use millpond_engine::produce::AppendError;
use millpond_engine::produce::append::InputError;
use millpond_engine::queue::QueueError;
use serde::Serialize;
use serde_json::{Map, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    BadRequest,
    Forbidden,
    NotFound,
    TopicNotFound,
    PartitionNotFound,
    GroupNotFound,
    MemberNotFound,
    GenerationFenced,
    GroupNotEmpty,
    QueueNotFound,
    DeadNotFound,
    LeaseLost,
    OffsetMismatch,
    InvalidChange,
    IdempotencyConflict,
    MethodNotAllowed,
    NotAcceptable,
    HeadersTooLarge,
    Internal,
    Corrupt,
    RecordTooLarge,
    BodyTooLarge,
    UnsupportedMediaType,
    OffsetOutOfRange,
    InvalidRecord,
    Throttled,
    ControlPlaneUnavailable,
    ObjectStoreUnavailable,
}

impl Code {
    /// Stable name, status, whether sending the same request again can succeed, title.
    const fn row(self) -> (&'static str, u16, bool, &'static str) {
        match self {
            Self::BadRequest => ("bad_request", 400, false, "The request cannot be understood"),
            Self::Forbidden => ("forbidden", 403, false, "Not allowed"),
            Self::NotFound => ("not_found", 404, false, "There is nothing at this path"),
            Self::TopicNotFound => ("topic_not_found", 404, false, "There is no such topic"),
            Self::PartitionNotFound => ("partition_not_found", 404, false, "The topic has no such partition"),
            Self::GroupNotFound => ("group_not_found", 404, false, "There is no such consumer group"),
            Self::MemberNotFound => ("member_not_found", 404, false, "The group has no such member"),
            Self::GenerationFenced => ("generation_fenced", 409, false, "The partition is not the member's"),
            Self::GroupNotEmpty => ("group_not_empty", 409, false, "The group has members"),
            Self::QueueNotFound => ("queue_not_found", 404, false, "There is no such queue"),
            Self::DeadNotFound => ("dead_not_found", 404, false, "The queue has no such dead record"),
            Self::LeaseLost => ("lease_lost", 409, false, "The lease is no longer held"),
            Self::OffsetMismatch => ("offset_mismatch", 409, false, "The high watermark is another"),
            Self::InvalidChange => ("invalid_change", 409, false, "The change is not possible"),
            Self::IdempotencyConflict => {
                ("idempotency_conflict", 409, false, "The idempotency key was used with another request")
            }
            Self::MethodNotAllowed => {
                ("method_not_allowed", 405, false, "The path does not take this method")
            }
            Self::NotAcceptable => ("not_acceptable", 406, false, "No acceptable form of answer"),
            Self::HeadersTooLarge => ("headers_too_large", 431, false, "A record's headers are too large"),
            Self::Internal => ("internal", 500, true, "Something went wrong in the server"),
            Self::Corrupt => ("corrupt", 500, true, "Stored records cannot be read"),
            Self::RecordTooLarge => ("record_too_large", 413, false, "A record is too large for its topic"),
            Self::BodyTooLarge => {
                ("body_too_large", 413, false, "The body is too large for one atomic request")
            }
            Self::UnsupportedMediaType => {
                ("unsupported_media_type", 415, false, "The content type is not one of those taken here")
            }
            Self::OffsetOutOfRange => ("offset_out_of_range", 416, false, "The offset is outside the log"),
            Self::InvalidRecord => ("invalid_record", 422, false, "A record is not valid"),
            Self::Throttled => ("throttled", 429, true, "The agent is busy"),
            Self::ControlPlaneUnavailable => {
                ("control_plane_unavailable", 503, true, "The database does not answer")
            }
            Self::ObjectStoreUnavailable => {
                ("object_store_unavailable", 503, true, "The object store does not answer")
            }
        }
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.row().0
    }

    #[must_use]
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.row().1).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// An error as the client sees it.
#[derive(Debug, Clone)]
pub struct Problem {
    pub code: Code,
    detail: String,
    extensions: Map<String, Value>,
}

/// The shape of a problem, for the OpenAPI document. Further members depend on the code.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ProblemBody {
    #[schema(example = "urn:millpond:problem:topic_not_found")]
    r#type: String,
    title: String,
    status: u16,
    detail: String,
    #[schema(example = "topic_not_found")]
    code: String,
    /// Whether the same request, with the same `Idempotency-Key`, may be sent again.
    retryable: bool,
}

impl Problem {
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), extensions: Map::new() }
    }

    #[must_use]
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(Code::BadRequest, detail)
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extensions.insert(name.to_owned(), value.into());
        self
    }

    /// The problem document alone, for a stream that has already begun.
    #[must_use]
    pub fn body(&self) -> String {
        let (code, status, retryable, title) = self.code.row();
        let mut body = Map::new();
        body.insert("type".into(), format!("urn:millpond:problem:{code}").into());
        body.insert("title".into(), title.into());
        body.insert("status".into(), status.into());
        body.insert("detail".into(), self.detail.clone().into());
        body.insert("code".into(), code.into());
        body.insert("retryable".into(), retryable.into());
        body.extend(self.extensions.clone());
        Value::Object(body).to_string()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.code.status(), self.body()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if matches!(self.code.row().1, 429 | 503) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<NameError> for Problem {
    fn from(error: NameError) -> Self {
        Self::bad_request(error.to_string())
    }
}

fn control_plane(error: &(dyn std::error::Error + 'static)) -> Problem {
    tracing::warn!(error = %millpond_engine::error_chain(error), "the control plane failed");
    Problem::new(Code::ControlPlaneUnavailable, "the database does not answer: try again")
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        control_plane(&error)
    }
}

impl From<Error<NoSuchTopic>> for Problem {
    fn from(error: Error<NoSuchTopic>) -> Self {
        match error {
            Error::Rejected(NoSuchTopic) => Self::new(Code::TopicNotFound, "there is no such topic"),
            other => control_plane(&other),
        }
    }
}

impl From<Error<PutTopicRejected>> for Problem {
    fn from(error: Error<PutTopicRejected>) -> Self {
        match error {
            Error::Rejected(rejected @ PutTopicRejected::PartitionsShrink { .. }) => {
                Self::new(Code::InvalidChange, rejected.to_string())
            }
            Error::Rejected(rejected @ PutTopicRejected::PartitionsOutOfRange) => {
                Self::bad_request(rejected.to_string())
            }
            other => control_plane(&other),
        }
    }
}

fn no_such_group() -> Problem {
    Problem::new(Code::GroupNotFound, "there is no such group")
}

fn gone() -> Problem {
    Problem::new(Code::TopicNotFound, "the topic was deleted")
}

fn beyond(nth: usize, high_watermark: Offset) -> Problem {
    let detail = format!("an offset is beyond the high watermark {high_watermark}");
    Problem::new(Code::OffsetOutOfRange, detail).with("nth", nth).with("high_watermark", high_watermark.0)
}

impl From<OffsetsRejected> for Problem {
    fn from(rejected: OffsetsRejected) -> Self {
        match rejected {
            OffsetsRejected::NoSuchGroup => no_such_group(),
            OffsetsRejected::PartitionGone { .. } => gone(),
            OffsetsRejected::Fenced { nth } => Self::new(
                Code::GenerationFenced,
                "the member does not have a partition, or not since the generation named: poll",
            )
            .with("nth", nth),
            OffsetsRejected::BeyondHighWatermark { nth, high_watermark } => beyond(nth, high_watermark),
        }
    }
}

impl From<Error<OffsetsRejected>> for Problem {
    fn from(error: Error<OffsetsRejected>) -> Self {
        match error {
            Error::Rejected(rejected) => rejected.into(),
            other => control_plane(&other),
        }
    }
}

impl From<Error<NoSuchGroup>> for Problem {
    fn from(error: Error<NoSuchGroup>) -> Self {
        match error {
            Error::Rejected(NoSuchGroup) => no_such_group(),
            other => control_plane(&other),
        }
    }
}

impl From<Error<RenewRejected>> for Problem {
    fn from(error: Error<RenewRejected>) -> Self {
        match error {
            Error::Rejected(RenewRejected::NoSuchGroup) => no_such_group(),
            Error::Rejected(RenewRejected::NoSuchMember) => Self::new(
                Code::MemberNotFound,
                "there is no such member: it has left or its session has ended; join again",
            ),
            other => control_plane(&other),
        }
    }
}

impl From<Error<ResetRejected>> for Problem {
    fn from(error: Error<ResetRejected>) -> Self {
        match error {
            Error::Rejected(ResetRejected::NotEmpty) => Self::new(
                Code::GroupNotEmpty,
                "offsets are set without a member only while the group has none",
            ),
            Error::Rejected(ResetRejected::PartitionGone { .. }) => gone(),
            Error::Rejected(ResetRejected::BeyondHighWatermark { nth, high_watermark }) => {
                beyond(nth, high_watermark)
            }
            other => control_plane(&other),
        }
    }
}

impl From<Error<DeleteGroupRejected>> for Problem {
    fn from(error: Error<DeleteGroupRejected>) -> Self {
        match error {
            Error::Rejected(DeleteGroupRejected::NoSuchGroup) => no_such_group(),
            Error::Rejected(DeleteGroupRejected::NotEmpty) => {
                Self::new(Code::GroupNotEmpty, "the group has members: they leave first")
            }
            other => control_plane(&other),
        }
    }
}

pub fn no_such_queue() -> Problem {
    Problem::new(Code::QueueNotFound, "there is no such queue")
}

impl From<Error<NoSuchQueue>> for Problem {
    fn from(error: Error<NoSuchQueue>) -> Self {
        match error {
            Error::Rejected(NoSuchQueue) => no_such_queue(),
            other => control_plane(&other),
        }
    }
}

impl From<Error<PutQueueRejected>> for Problem {
    fn from(error: Error<PutQueueRejected>) -> Self {
        match error {
            Error::Rejected(PutQueueRejected::NoSuchTopic) => {
                Self::new(Code::TopicNotFound, "there is no such topic")
            }
            Error::Rejected(rejected) => Self::new(Code::InvalidChange, rejected.to_string()),
            other => control_plane(&other),
        }
    }
}

impl From<Error<DeadRejected>> for Problem {
    fn from(error: Error<DeadRejected>) -> Self {
        match error {
            Error::Rejected(DeadRejected::NoSuchQueue) => no_such_queue(),
            Error::Rejected(rejected @ DeadRejected::NotDead { nth }) => {
                Self::new(Code::DeadNotFound, rejected.to_string()).with("nth", nth)
            }
            other => control_plane(&other),
        }
    }
}

impl From<QueueError> for Problem {
    fn from(error: QueueError) -> Self {
        let detail = error.to_string();
        match error {
            QueueError::NoSuchQueue => no_such_queue(),
            QueueError::Throttled => Self::new(Code::Throttled, detail),
            QueueError::ControlPlane => Self::new(
                Code::ControlPlaneUnavailable,
                "the database does not answer: try again, a settlement with the same request_id",
            ),
            QueueError::Read(error) => (&*error).into(),
        }
    }
}

impl From<AppendError> for Problem {
    fn from(error: AppendError) -> Self {
        let detail = error.to_string();
        match error {
            AppendError::PartitionGone => Self::new(Code::TopicNotFound, "the topic was deleted"),
            AppendError::Conflict => Self::new(Code::IdempotencyConflict, detail),
            AppendError::OffsetMismatch { current } => {
                Self::new(Code::OffsetMismatch, detail).with("high_watermark", current.0)
            }
            AppendError::OffsetsRejected(rejected) => rejected.into(),
            AppendError::LeaseLost(_) => Self::new(Code::LeaseLost, detail),
            AppendError::Throttled => Self::new(Code::Throttled, detail),
            AppendError::ControlPlane => Self::new(Code::ControlPlaneUnavailable, detail),
            AppendError::ObjectStore => Self::new(Code::ObjectStoreUnavailable, detail),
            AppendError::ShuttingDown => Self::new(Code::ControlPlaneUnavailable, detail),
        }
    }
}

impl From<InputError> for Problem {
    fn from(error: InputError) -> Self {
        let code = match error {
            InputError::TooLarge { .. } => Code::RecordTooLarge,
            InputError::NoSuchPartition { .. } => Code::PartitionNotFound,
            InputError::NegativePartition { .. } => Code::InvalidRecord,
        };
        Self::new(code, error.to_string())
    }
}

impl From<FetchError> for Problem {
    fn from(error: FetchError) -> Self {
        (&error).into()
    }
}

impl From<&FetchError> for Problem {
    fn from(error: &FetchError) -> Self {
        match error {
            FetchError::ControlPlane(_) => control_plane(error),
            FetchError::ObjectStore(_) => {
                tracing::warn!(error = %millpond_engine::error_chain(error), "the object store failed");
                Self::new(Code::ObjectStoreUnavailable, "the object store does not answer: try again")
            }
            FetchError::Corrupt { .. } => Self::new(Code::Corrupt, error.to_string()),
        }
    }
}
