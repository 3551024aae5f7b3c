//! Errors as clients see them: problem documents (RFC 9457).
//!
//! Owns the table of error codes with status, title and whether a retry can succeed, and the conversion of
//! every error of the engine into a [`Problem`]. All these matches are exhaustive. Codes are part of the API
//! and never change; titles and details may.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use millpond_core::group::{DeleteGroupRejected, NoSuchGroup, OffsetsRejected, RenewRejected, ResetRejected};
use millpond_core::topic::PutTopicRejected;
use millpond_core::{Error, NameError, Offset};
use millpond_engine::error_chain;
use millpond_engine::fetch::FetchError;
use millpond_engine::fetch::ReadError;
use millpond_engine::group::offsets::OffsetsError;
use millpond_engine::group::poll::PollError;
use millpond_engine::produce::append::RecordError;
use millpond_engine::produce::{AppendError, ProduceError};
use millpond_engine::queue::receipt::Receipt;
use millpond_engine::queue::{QueueAdminError, QueueError};
use millpond_engine::topics::TopicError;
use serde::Serialize;
use serde_json::{Map, Value};

/// The stable `code` of a problem.
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
    /// Name in the API, HTTP status, whether the same request can succeed when it is sent again, and title.
    const fn row(self) -> (&'static str, u16, bool, &'static str) {
        match self {
            Self::BadRequest => ("bad_request", 400, false, "The request cannot be understood"),
            Self::Forbidden => ("forbidden", 403, false, "Not allowed"),
            Self::NotFound => ("not_found", 404, false, "There is nothing at this path"),
            Self::TopicNotFound => ("topic_not_found", 404, false, "There is no such topic"),
            Self::PartitionNotFound => ("partition_not_found", 404, false, "The topic has no such partition"),
            Self::GroupNotFound => ("group_not_found", 404, false, "There is no such consumer group"),
            Self::MemberNotFound => ("member_not_found", 404, false, "The group has no such member"),
            Self::GenerationFenced => {
                ("generation_fenced", 409, false, "The partition is not assigned to the member")
            }
            Self::GroupNotEmpty => ("group_not_empty", 409, false, "The group has members"),
            Self::QueueNotFound => ("queue_not_found", 404, false, "There is no such queue"),
            Self::DeadNotFound => ("dead_not_found", 404, false, "The queue has no such dead record"),
            Self::LeaseLost => ("lease_lost", 409, false, "The lease is no longer held"),
            Self::OffsetMismatch => ("offset_mismatch", 409, false, "The high watermark is a different one"),
            Self::InvalidChange => ("invalid_change", 409, false, "The change is not possible"),
            Self::IdempotencyConflict => {
                ("idempotency_conflict", 409, false, "The idempotency key was used with another request")
            }
            Self::MethodNotAllowed => {
                ("method_not_allowed", 405, false, "The path does not take this method")
            }
            Self::NotAcceptable => {
                ("not_acceptable", 406, false, "No acceptable content type for the answer")
            }
            Self::HeadersTooLarge => ("headers_too_large", 431, false, "A record's headers are too large"),
            Self::Internal => ("internal", 500, true, "Something went wrong in the server"),
            Self::Corrupt => ("corrupt", 500, true, "Stored records cannot be read"),
            Self::RecordTooLarge => ("record_too_large", 413, false, "A record is too large for its topic"),
            Self::BodyTooLarge => {
                ("body_too_large", 413, false, "The body is too large for one atomic request")
            }
            Self::UnsupportedMediaType => {
                ("unsupported_media_type", 415, false, "The content type is not supported here")
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

/// An error as the client sees it: code, a detail for people, and members that depend on the code.
#[derive(Debug, Clone)]
pub struct Problem {
    pub code: Code,
    detail: String,
    extensions: Map<String, Value>,
}

/// A problem document (RFC 9457). It can have more members, which depend on the code.
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

    /// Adds a member to the problem document.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extensions.insert(name.to_owned(), value.into());
        self
    }

    /// The problem document as JSON, also for a streamed answer whose headers have already been sent.
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

/// Conversion of control-plane errors. A rejection has a conversion of its own; any other failure is answered
/// as [`Code::ControlPlaneUnavailable`].
impl<R: Into<Problem>> From<Error<R>> for Problem
where
    Error<R>: std::error::Error + 'static,
{
    fn from(error: Error<R>) -> Self {
        match error {
            Error::Rejected(rejected) => rejected.into(),
            failure => control_plane_failed(&failure),
        }
    }
}

impl From<std::convert::Infallible> for Problem {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

fn control_plane_failed(error: &(dyn std::error::Error + 'static)) -> Problem {
    tracing::warn!(error = %error_chain(error), "a call to the control plane failed");
    Problem::new(Code::ControlPlaneUnavailable, "the database does not answer: try again")
}

impl From<TopicError> for Problem {
    fn from(error: TopicError) -> Self {
        match error {
            TopicError::NoSuchTopic(_) => Self::new(Code::TopicNotFound, error.to_string()),
            TopicError::ControlPlane(failure) => failure.into(),
        }
    }
}

impl From<PutTopicRejected> for Problem {
    fn from(rejected: PutTopicRejected) -> Self {
        let code = match rejected {
            PutTopicRejected::PartitionsShrink { .. } => Code::InvalidChange,
            PutTopicRejected::PartitionsOutOfRange => Code::BadRequest,
        };
        Self::new(code, rejected.to_string())
    }
}

impl From<NoSuchGroup> for Problem {
    fn from(NoSuchGroup: NoSuchGroup) -> Self {
        Self::new(Code::GroupNotFound, "there is no such group")
    }
}

impl From<RenewRejected> for Problem {
    fn from(rejected: RenewRejected) -> Self {
        match rejected {
            RenewRejected::NoSuchGroup => NoSuchGroup.into(),
            RenewRejected::NoSuchMember => Self::new(
                Code::MemberNotFound,
                "there is no such member: it has left or its session has ended; join again",
            ),
        }
    }
}

impl From<DeleteGroupRejected> for Problem {
    fn from(rejected: DeleteGroupRejected) -> Self {
        match rejected {
            DeleteGroupRejected::NoSuchGroup => NoSuchGroup.into(),
            DeleteGroupRejected::NotEmpty => {
                Self::new(Code::GroupNotEmpty, "the group has members: they leave first")
            }
        }
    }
}

fn topic_deleted() -> Problem {
    Problem::new(Code::TopicNotFound, "the topic was deleted")
}

/// `nth` is the index of the offset in the request.
fn beyond_high_watermark(nth: usize, high_watermark: Offset) -> Problem {
    let detail = format!("an offset is beyond the high watermark {high_watermark}");
    Problem::new(Code::OffsetOutOfRange, detail).with("nth", nth).with("high_watermark", high_watermark.0)
}

impl From<OffsetsRejected> for Problem {
    fn from(rejected: OffsetsRejected) -> Self {
        match rejected {
            OffsetsRejected::NoSuchGroup => NoSuchGroup.into(),
            OffsetsRejected::PartitionGone { .. } => topic_deleted(),
            OffsetsRejected::Fenced { nth } => Self::new(
                Code::GenerationFenced,
                "the member does not have a partition, or not since the generation named: poll",
            )
            .with("nth", nth),
            OffsetsRejected::BeyondHighWatermark { nth, high_watermark } => {
                beyond_high_watermark(nth, high_watermark)
            }
        }
    }
}

impl From<ResetRejected> for Problem {
    fn from(rejected: ResetRejected) -> Self {
        match rejected {
            ResetRejected::NotEmpty => Self::new(
                Code::GroupNotEmpty,
                "offsets are set without a member only while the group has none",
            ),
            ResetRejected::PartitionGone { .. } => topic_deleted(),
            ResetRejected::BeyondHighWatermark { nth, high_watermark } => {
                beyond_high_watermark(nth, high_watermark)
            }
        }
    }
}

impl From<OffsetsError> for Problem {
    fn from(error: OffsetsError) -> Self {
        let detail = error.to_string();
        match error {
            OffsetsError::NoSuchTopic(_) => Self::new(Code::TopicNotFound, detail),
            OffsetsError::NoSuchPartition { .. } => Self::new(Code::PartitionNotFound, detail),
            OffsetsError::TooMany | OffsetsError::NamedTwice { .. } => Self::bad_request(detail),
            OffsetsError::Rejected(rejected) => rejected.into(),
            OffsetsError::ResetRejected(rejected) => rejected.into(),
            OffsetsError::Read(error) => error.into(),
            OffsetsError::ControlPlane(failure) => failure.into(),
        }
    }
}

impl From<PollError> for Problem {
    fn from(error: PollError) -> Self {
        match error {
            PollError::Renew(error) => error.into(),
            PollError::NotAPosition => Self::bad_request(error.to_string()),
            PollError::Fetch(error) => error.into(),
        }
    }
}

impl From<QueueError> for Problem {
    fn from(error: QueueError) -> Self {
        let detail = error.to_string();
        match error {
            QueueError::NoSuchQueue => Self::new(Code::QueueNotFound, detail),
            QueueError::Throttled => Self::new(Code::Throttled, detail),
            QueueError::OutcomeUnknown => Self::new(
                Code::ControlPlaneUnavailable,
                "the database does not answer: try again, a settlement with the same request_id",
            ),
            QueueError::ControlPlane(failure) => control_plane_failed(&*failure),
            QueueError::Read(error) => (&*error).into(),
        }
    }
}

impl From<QueueAdminError> for Problem {
    fn from(error: QueueAdminError) -> Self {
        let detail = error.to_string();
        match error {
            QueueAdminError::NoSuchQueue => Self::new(Code::QueueNotFound, detail),
            QueueAdminError::NoSuchTopic(_) => Self::new(Code::TopicNotFound, detail),
            QueueAdminError::Put(_) => Self::new(Code::InvalidChange, detail),
            QueueAdminError::NoSuchPartition { nth, .. } => {
                Self::new(Code::PartitionNotFound, detail).with("nth", nth)
            }
            QueueAdminError::NotDead { nth } => Self::new(Code::DeadNotFound, detail).with("nth", nth),
            QueueAdminError::OutOfRange { nth, log_start_offset, high_watermark, .. } => {
                out_of_range(detail, log_start_offset, high_watermark).with("nth", nth)
            }
            QueueAdminError::NamedTwice { .. } | QueueAdminError::NotAPlace => Self::bad_request(detail),
            QueueAdminError::Read(error) => error.into(),
            QueueAdminError::ControlPlane(failure) => failure.into(),
        }
    }
}

impl From<ProduceError<Problem>> for Problem {
    fn from(error: ProduceError<Problem>) -> Self {
        let detail = error.to_string();
        match error {
            ProduceError::Records(refusal) => refusal,
            ProduceError::NoSuchTopic(_) => Self::new(Code::TopicNotFound, detail),
            ProduceError::NotOnePartition => {
                Self::bad_request("with If-Match all records name the same partition")
            }
            ProduceError::TooSlow => Self::new(
                Code::Throttled,
                "the body comes too slowly while others wait for memory: send it again",
            ),
            ProduceError::Offsets(error) => error.into(),
            ProduceError::LeaseLost(lost) => {
                let receipts: Vec<String> = lost.iter().map(Receipt::text).collect();
                Self::new(Code::LeaseLost, format!("{detail}: nothing was stored")).with("receipts", receipts)
            }
            ProduceError::ControlPlane(failure) => failure.into(),
            ProduceError::Append(error) => error.into(),
        }
    }
}

impl From<AppendError> for Problem {
    fn from(error: AppendError) -> Self {
        let detail = error.to_string();
        match error {
            AppendError::PartitionGone => topic_deleted(),
            AppendError::Conflict => Self::new(Code::IdempotencyConflict, detail),
            AppendError::OffsetMismatch { current } => {
                Self::new(Code::OffsetMismatch, detail).with("high_watermark", current.0)
            }
            AppendError::OffsetsRejected(rejected) => rejected.into(),
            AppendError::LeaseLost(_) => Self::new(Code::LeaseLost, detail),
            AppendError::Throttled => Self::new(Code::Throttled, detail),
            AppendError::OutcomeUnknown => Self::new(Code::ControlPlaneUnavailable, detail),
            AppendError::ObjectStore => Self::new(Code::ObjectStoreUnavailable, detail),
            // Nothing was stored: a retry on another agent, or on this one after its restart, can succeed.
            AppendError::ShuttingDown => Self::new(Code::Throttled, detail),
        }
    }
}

impl From<RecordError> for Problem {
    fn from(error: RecordError) -> Self {
        let code = match error {
            RecordError::TooLarge { .. } => Code::RecordTooLarge,
            RecordError::Throttled => Code::Throttled,
            RecordError::NoSuchPartition { .. } => Code::PartitionNotFound,
            RecordError::NegativePartition { .. } => Code::InvalidRecord,
        };
        Self::new(code, error.to_string())
    }
}

fn out_of_range(detail: String, log_start_offset: Offset, high_watermark: Offset) -> Problem {
    Problem::new(Code::OffsetOutOfRange, detail)
        .with("log_start_offset", log_start_offset.0)
        .with("high_watermark", high_watermark.0)
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        let detail = error.to_string();
        match error {
            ReadError::NoSuchTopic(_) => Self::new(Code::TopicNotFound, detail),
            ReadError::NoSuchPartition { .. } => Self::new(Code::PartitionNotFound, detail),
            ReadError::OutOfRange { log_start_offset, high_watermark, .. } => {
                out_of_range(detail, log_start_offset, high_watermark)
            }
            ReadError::NotAPosition => Self::bad_request(detail),
            ReadError::Fetch(error) => error.into(),
        }
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
            FetchError::ControlPlane(_) => control_plane_failed(error),
            FetchError::ObjectStore(_) => {
                tracing::warn!(error = %error_chain(error), "a request to the object store failed");
                Self::new(Code::ObjectStoreUnavailable, "the object store does not answer: try again")
            }
            FetchError::Throttled => Self::new(Code::Throttled, error.to_string()),
            FetchError::Corrupt { .. } => Self::new(Code::Corrupt, error.to_string()),
        }
    }
}

/// A record cannot be decoded, although the checksum of its batch was right.
impl From<millpond_format::Corrupt> for Problem {
    fn from(error: millpond_format::Corrupt) -> Self {
        Self::new(Code::Corrupt, error.to_string())
    }
}
