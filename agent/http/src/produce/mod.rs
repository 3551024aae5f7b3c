//! Routes that produce: `POST /v1/topics/{topic}/records` and `POST /v1/batches`.
//!
//! Each content type has a parser in a submodule; all are turned into requests of the engine here.

pub mod arrow;
mod batch;
pub mod json;
pub mod ndjson;
mod octets;
mod results;

use super::AppState;
use super::error::{Code, Problem, ProblemBody};
use super::extract::{Caller, Params, TopicName, text_header};
use crate::body::{self, BodyFrames};
use crate::group::offsets::BatchOffsets;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Json, Response};
use http::{HeaderMap, header};
use json::{JsonRecords, Pointer, RecordDefaults};
use millpond_core::{Name, Offset, Scope, limits};
use millpond_engine::produce::atomic::AtomicRequest;
use millpond_engine::produce::stream::{Chunker, StreamStored};
use millpond_engine::produce::{Identity, KeySpace, RecordSource};
use octets::OctetRecord;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(records)).routes(routes!(batches))
}

#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ProduceQuery {
    /// NDJSON: JSON pointer to the record's key in each line.
    #[param(example = "/tailnum")]
    key: Option<String>,
    /// NDJSON: each line is a whole record, as in a JSON body, instead of a value.
    #[serde(default)]
    records: bool,
    /// octet-stream: the record's partition.
    partition: Option<i32>,
}

/// A record to produce. It has at most one of `value`, `text` and `base64`; without them its value is null.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ProducedRecord {
    #[schema(example = "c7")]
    key: Option<String>,
    key_base64: Option<String>,
    /// Any JSON value, stored as this JSON text.
    value: Option<serde_json::Value>,
    text: Option<String>,
    base64: Option<String>,
    /// By name: text, `{"base64":…}`, or a list of these.
    headers: Option<serde_json::Map<String, serde_json::Value>>,
    partition: Option<i32>,
    timestamp: Option<i64>,
    dedup_id: Option<String>,
    delay_ms: Option<i64>,
    deliver_at_ms: Option<i64>,
    ttl_ms: Option<i64>,
}

#[derive(Serialize, utoipa::ToSchema)]
pub struct ProducedRecords {
    records: Vec<ProducedRecord>,
}

#[derive(Serialize, utoipa::ToSchema)]
pub struct ProduceResult {
    partition: i32,
    /// null for a duplicate by `dedup_id` whose deduplication window has ended in the meantime.
    offset: Option<i64>,
    timestamp: i64,
    duplicate: bool,
}

/// The answer to an atomic request has one result per record; the answer to a stream says what was stored in
/// each partition.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum ProduceAnswer {
    Atomic {
        results: Vec<ProduceResult>,
        /// Present and true if the request was stored before under the same `Idempotency-Key`.
        duplicate: Option<bool>,
    },
    Stream(StreamAnswer),
}

#[derive(Serialize, utoipa::ToSchema)]
pub struct StreamAnswer {
    pub count: u64,
    pub partitions: Vec<PartitionRange>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
}

#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct PartitionRange {
    pub partition: i32,
    pub first_offset: i64,
    pub last_offset: i64,
    pub count: u64,
}

impl From<&StreamStored> for StreamAnswer {
    fn from(stored: &StreamStored) -> Self {
        let range =
            |(partition, range): (&i32, &millpond_engine::produce::stream::StoredRange)| PartitionRange {
                partition: *partition,
                first_offset: range.first_offset,
                last_offset: range.last_offset,
                count: range.count,
            };
        let partitions: Vec<PartitionRange> = stored.partitions.iter().map(range).collect();
        Self { count: partitions.iter().map(|p| p.count).sum(), partitions, duplicate: stored.duplicate }
    }
}

/// Records, acks and offsets that are stored in one commit.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "only for the OpenAPI document: the body is parsed without this type")]
pub struct BatchBody {
    /// Records of each topic.
    topics: std::collections::BTreeMap<String, Vec<ProducedRecord>>,
    /// Receipts of queue records, of any queues. They are acked with the commit; if one is lost, nothing is
    /// stored. Without an `Idempotency-Key` the receipts serve as the key.
    acks: Option<Vec<String>>,
    /// Offsets of a member of a consumer group, committed together with the records or not at all.
    offsets: Option<BatchOffsets>,
}

#[derive(Serialize, utoipa::ToSchema)]
pub struct BatchAnswer {
    results: std::collections::BTreeMap<String, Vec<ProduceResult>>,
    duplicate: Option<bool>,
}

/// Content type of a produce request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyForm {
    Json,
    NdJson,
    Octets,
    Arrow,
}

fn form_of(headers: &HeaderMap) -> Result<BodyForm, Problem> {
    if text_header(headers, "content-encoding")?.is_some_and(|e| !e.eq_ignore_ascii_case("identity")) {
        return Err(Problem::new(Code::UnsupportedMediaType, "a body is sent without content-encoding"));
    }
    let full = text_header(headers, header::CONTENT_TYPE.as_str())?.unwrap_or("");
    match full.split(';').next().unwrap_or("").trim().to_ascii_lowercase().as_str() {
        "application/json" => Ok(BodyForm::Json),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Ok(BodyForm::NdJson),
        "application/octet-stream" => Ok(BodyForm::Octets),
        "application/vnd.apache.arrow.stream" => Ok(BodyForm::Arrow),
        other => Err(Problem::new(
            Code::UnsupportedMediaType,
            format!(
                "{other:?} is not one of application/json, application/x-ndjson, application/octet-stream, \
                 application/vnd.apache.arrow.stream"
            ),
        )),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let key = text_header(headers, "idempotency-key")?;
    if key.is_some_and(|k| k.is_empty() || k.len() > limits::IDEMPOTENCY_KEY_MAX_BYTES) {
        return Err(Problem::bad_request(format!(
            "an Idempotency-Key has 1 to {} bytes",
            limits::IDEMPOTENCY_KEY_MAX_BYTES
        )));
    }
    Ok(key.map(str::to_owned))
}

fn if_match(headers: &HeaderMap) -> Result<Option<Offset>, Problem> {
    let Some(text) = text_header(headers, "if-match")? else { return Ok(None) };
    let plain = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
    let offset = plain.parse::<i64>().ok().filter(|o| *o >= 0);
    offset.map(|o| Some(Offset(o))).ok_or_else(|| Problem::bad_request("If-Match is an offset"))
}

/// The `traceparent` header of the request, if it has the form of W3C Trace Context.
fn traceparent(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let valid = text.len() == 55 && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    valid.then(|| text.to_owned())
}

/// Everything in a produce request but its records, for all content types.
struct ProduceCall {
    scope: Scope,
    identity: Identity,
    expect: Option<Offset>,
    defaults: RecordDefaults,
}

impl ProduceCall {
    /// An atomic request for one topic.
    fn atomic<S: RecordSource>(
        self,
        topic: Name,
        records: S,
        permit: Option<OwnedSemaphorePermit>,
    ) -> AtomicRequest<S> {
        AtomicRequest {
            topics: vec![topic],
            records: Arc::new(records),
            identity: self.identity,
            key_space: KeySpace::Topic,
            expect: self.expect,
            offsets: None,
            acks: Vec::new(),
            timestamp: self.defaults.now_ms,
            permit,
        }
    }
}

/// Streams a body into the engine. A problem carries what had been committed before it.
async fn streamed<C>(
    app: &AppState,
    call: ProduceCall,
    topic: Name,
    chunker: C,
    body: Body,
) -> Result<Response, Problem>
where
    C: Chunker,
    C::Chunk: RecordSource<Refusal = Problem>,
{
    let stored =
        app.engine.produce.stream(&call.scope, topic, call.identity, chunker, BodyFrames(body)).await;
    match stored {
        Ok(stored) => Ok(Json(StreamAnswer::from(&stored)).into_response()),
        Err(failed) => {
            let committed = serde_json::to_value(StreamAnswer::from(&failed.committed)).unwrap_or_default();
            Err(Problem::from(failed.error).with("committed", committed))
        }
    }
}

/// Produces records into a topic. JSON and octet-stream bodies are stored atomically. NDJSON and Arrow bodies
/// can have any length; they are streamed and committed in chunks of 8 MiB or 65,536 records, so that after
/// an error a prefix of the records is stored.
#[utoipa::path(
    post, path = "/v1/topics/{topic}/records", tag = "produce",
    params(("topic" = String, Path), ProduceQuery,
        ("Idempotency-Key" = Option<String>, Header,
            description = "At most 128 bytes. For one hour the request is stored once, and each retry gets \
                the first answer."),
        ("If-Match" = Option<String>, Header,
            description = "Append only if this is the high watermark of the one partition that all records \
                name.")),
    request_body(content((ProducedRecords = "application/json"), (String = "application/x-ndjson"),
        (Vec<u8> = "application/octet-stream"), (Vec<u8> = "application/vnd.apache.arrow.stream"))),
    responses((status = 200, description = "durable and committed", body = ProduceAnswer),
        (status = 409, description = "offset_mismatch, idempotency_conflict",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "record_too_large, body_too_large",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "invalid_record",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX",
            description = "bad_request, topic_not_found, partition_not_found, unsupported_media_type, \
                headers_too_large, throttled",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "unknown outcome: retry with the same Idempotency-Key",
            body = ProblemBody, content_type = "application/problem+json"))
)]
async fn records(
    State(app): State<AppState>,
    Caller(scope): Caller,
    TopicName(topic): TopicName,
    Params(query): Params<ProduceQuery>,
    RawQuery(raw_query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let form = form_of(&headers)?;
    let expect = if_match(&headers)?;
    let content_type = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |v| v.as_bytes());
    let shape = [content_type, raw_query.unwrap_or_default().as_bytes()].join(&b'?');
    let identity = Identity { key: idempotency_key(&headers)?, shape };
    let defaults = RecordDefaults { now_ms: app.engine.clock.now_ms(), traceparent: traceparent(&headers) };
    let call = ProduceCall { scope, identity, expect, defaults: defaults.clone() };
    if form != BodyForm::NdJson && (query.key.is_some() || query.records) {
        return Err(Problem::bad_request("key and records are parameters of NDJSON bodies"));
    }
    if form != BodyForm::Octets && query.partition.is_some() {
        return Err(Problem::bad_request(
            "partition is a parameter of octet-stream bodies; records name their own",
        ));
    }
    if expect.is_some() && matches!(form, BodyForm::NdJson | BodyForm::Arrow) {
        return Err(Problem::bad_request("If-Match needs an atomic request: JSON or octet-stream"));
    }
    let scope = call.scope.clone();
    let admission = &app.engine.admission;
    match form {
        BodyForm::Json => {
            let (body, permit) = body::admitted(body, limits::REQUEST_MAX_BYTES, admission).await?;
            let request = call.atomic(topic, JsonRecords { body, defaults }, Some(permit));
            Ok(results::of_topic(&app.engine.produce.atomic(&scope, request).await?))
        }
        BodyForm::Octets => {
            let (value, permit) = body::admitted(body, limits::REQUEST_MAX_BYTES, admission).await?;
            let record = OctetRecord::new(value, &headers, query.partition, defaults.traceparent)?;
            let request = call.atomic(topic, record, Some(permit));
            Ok(results::of_topic(&app.engine.produce.atomic(&scope, request).await?))
        }
        BodyForm::NdJson => {
            let pointer = query.key.as_deref().map(Pointer::parse).transpose()?;
            let lines = ndjson::Lines::new(pointer, query.records, defaults);
            streamed(&app, call, topic, lines, body).await
        }
        BodyForm::Arrow => streamed(&app, call, topic, arrow::Rows::default(), body).await,
    }
}

/// Stores records of several topics, offsets of a consumer group and acks of queue records in one atomic
/// commit. The `Idempotency-Key` is checked before acks and offsets, so the retry of a request that succeeded
/// succeeds again.
#[utoipa::path(
    post, path = "/v1/batches", tag = "produce",
    params(("Idempotency-Key" = Option<String>, Header)),
    request_body = BatchBody,
    responses((status = 200, description = "durable and committed, in every topic", body = BatchAnswer),
        (status = 409,
            description = "idempotency_conflict, generation_fenced; lease_lost, with the receipts that are \
                lost: nothing was stored",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = 416, description = "offset_out_of_range: a group offset beyond the high watermark",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX",
            description = "bad_request, topic_not_found, partition_not_found, group_not_found, \
                record_too_large, body_too_large, invalid_record, throttled",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "unknown outcome: retry with the same Idempotency-Key",
            body = ProblemBody, content_type = "application/problem+json"))
)]
async fn batches(
    State(app): State<AppState>,
    Caller(scope): Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    if form_of(&headers)? != BodyForm::Json {
        return Err(Problem::new(Code::UnsupportedMediaType, "a batch is application/json"));
    }
    if headers.contains_key(header::IF_MATCH) {
        return Err(Problem::bad_request(
            "If-Match is not supported for batches, only for the records of one topic",
        ));
    }
    let identity = Identity { key: idempotency_key(&headers)?, shape: Vec::new() };
    let defaults = RecordDefaults { now_ms: app.engine.clock.now_ms(), traceparent: traceparent(&headers) };
    let (body, permit) = body::admitted(body, limits::REQUEST_MAX_BYTES, &app.engine.admission).await?;
    let batch::BatchShape { topics, acks, offsets } = batch::read_batch_shape(&body)?;
    let topics: Vec<Name> = topics.iter().map(|n| Name::new(n)).collect::<Result<_, _>>()?;
    let request = AtomicRequest {
        topics: topics.clone(),
        timestamp: defaults.now_ms,
        records: Arc::new(batch::JsonBatch { body, defaults }),
        identity,
        key_space: KeySpace::Batch,
        expect: None,
        offsets,
        acks,
        permit: Some(permit),
    };
    let stored = app.engine.produce.atomic(&scope, request).await?;
    Ok(results::by_topic(&stored, &topics))
}
