//! Routes that read: the records of one partition, the records of a whole topic (also as a tail), and offsets
//! by timestamp.

pub mod answer;
pub mod arrow;
pub mod pieces;
pub mod render;
mod tail;

use super::AppState;
use super::error::{Code, Problem, ProblemBody};
use super::extract::{Caller, Params, PartitionNumber, TopicName};
use answer::{AnswerForm, RecordsAnswer};
use axum::extract::State;
use axum::response::{Json, Response};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use millpond_core::saturated;
use millpond_core::{Offset, limits};
use millpond_engine::blocking;
use millpond_engine::fetch::partition::{PartitionRead, PartitionRecords};
use millpond_engine::fetch::tail::TopicStart;
use millpond_engine::fetch::{ReadLimits, RecordSink, Selection, Start};
use render::Encoding;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Answers of more raw bytes than this are written on a blocking thread, so as not to hold up async tasks.
pub const RENDER_INLINE_BYTES: usize = 256 * limits::KIB;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(partition_records))
        .routes(routes!(topic_records))
        .routes(routes!(offsets))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum From {
    Earliest,
    Latest,
}

#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PartitionQuery {
    /// Where to begin: one of offset, timestamp (the first record at or after it) and from. Default:
    /// from=earliest.
    offset: Option<i64>,
    timestamp: Option<i64>,
    #[param(inline)]
    from: Option<From>,
    /// Number of records, 1 to 100000.
    #[serde(default = "default_records")]
    max_records: usize,
    /// Size of keys, values and headers, 1 to 16777216. The first record is returned even if it is larger.
    #[serde(default = "default_bytes")]
    max_bytes: usize,
    /// How long to wait for the first record, 0 to 30000.
    #[serde(default)]
    wait_ms: u64,
    #[serde(default)]
    #[param(inline)]
    encoding: Encoding,
}

fn default_records() -> usize {
    limits::READ_MAX_RECORDS_DEFAULT
}

fn default_bytes() -> usize {
    limits::READ_MAX_BYTES_DEFAULT
}

#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TopicQuery {
    /// Where to begin: one of from, timestamp and after. Default: from=earliest.
    #[param(inline)]
    from: Option<From>,
    timestamp: Option<i64>,
    /// `next` of an earlier answer.
    after: Option<String>,
    /// SSE and NDJSON: continue with new records as they arrive.
    #[serde(default)]
    follow: bool,
    #[serde(default = "default_records")]
    max_records: usize,
    #[serde(default = "default_bytes")]
    max_bytes: usize,
    #[serde(default)]
    wait_ms: u64,
    #[serde(default)]
    #[param(inline)]
    encoding: Encoding,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OffsetsQuery {
    timestamp: i64,
}

/// A record that was read. A value that is JSON is in `value`, one that is other UTF-8 text in `text`, any
/// other in `base64`.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ReturnedRecord {
    topic: String,
    partition: i32,
    offset: i64,
    timestamp: i64,
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<serde_json::Value>,
    text: Option<String>,
    base64: Option<String>,
    headers: serde_json::Map<String, serde_json::Value>,
}

#[derive(Serialize, utoipa::ToSchema)]
pub struct PartitionAnswer {
    records: Vec<ReturnedRecord>,
    next_offset: i64,
    high_watermark: i64,
    log_start_offset: i64,
}

#[derive(Serialize, utoipa::ToSchema)]
pub struct TopicAnswer {
    records: Vec<ReturnedRecord>,
    /// The positions in all partitions, an opaque token: `after` of the next call.
    next: String,
}

#[derive(Serialize, utoipa::ToSchema)]
pub struct OffsetsAnswer {
    partitions: Vec<PartitionOffset>,
}

#[derive(Serialize, utoipa::ToSchema)]
pub struct PartitionOffset {
    partition: i32,
    /// Offset of the first record at or after the timestamp, or the high watermark if there is none.
    offset: i64,
}

/// The first content type in `Accept` that is supported; JSON without `Accept`. `events`: whether SSE is.
pub fn form_of(headers: &HeaderMap, events: bool) -> Result<AnswerForm, Problem> {
    let refuse = || {
        Problem::new(
            Code::NotAcceptable,
            "records are available as application/json, application/x-ndjson and \
             application/vnd.apache.arrow.stream, tails also as text/event-stream",
        )
    };
    let Some(accept) = headers.get(header::ACCEPT) else { return Ok(AnswerForm::Json) };
    for choice in accept.to_str().map_err(|_| refuse())?.split(',') {
        match choice.split(';').next().unwrap_or("").trim() {
            "application/json" | "application/*" | "*/*" | "" => return Ok(AnswerForm::Json),
            "application/x-ndjson" => return Ok(AnswerForm::NdJson),
            "application/vnd.apache.arrow.stream" => return Ok(AnswerForm::Arrow),
            "text/event-stream" if events => return Ok(AnswerForm::Events),
            _ => {}
        }
    }
    Err(refuse())
}

pub fn check_limits(max_records: usize, max_bytes: usize, wait_ms: u64) -> Result<(), Problem> {
    if !(1..=limits::READ_MAX_RECORDS).contains(&max_records) {
        return Err(Problem::bad_request(format!("max_records is 1 to {}", limits::READ_MAX_RECORDS)));
    }
    if !(1..=limits::READ_MAX_BYTES).contains(&max_bytes) {
        return Err(Problem::bad_request(format!("max_bytes is 1 to {}", limits::READ_MAX_BYTES)));
    }
    if wait_ms > limits::WAIT_MAX_MS {
        return Err(Problem::bad_request(format!("wait_ms is at most {}", limits::WAIT_MAX_MS)));
    }
    Ok(())
}

impl PartitionQuery {
    fn start(&self) -> Result<Start, Problem> {
        match (self.offset, self.timestamp, self.from) {
            (Some(offset), None, None) if offset >= 0 => Ok(Start::Offset(Offset(offset))),
            (Some(_), None, None) => Err(Problem::bad_request("an offset cannot be negative")),
            (None, Some(timestamp), None) => Ok(Start::Timestamp(timestamp)),
            (None, None, from) => Ok(from.unwrap_or(From::Earliest).start()),
            _ => Err(Problem::bad_request("give one of offset, timestamp and from")),
        }
    }
}

impl From {
    fn start(self) -> Start {
        match self {
            Self::Earliest => Start::Earliest,
            Self::Latest => Start::Latest,
        }
    }
}

/// Reads records of one partition.
#[utoipa::path(
    get, path = "/v1/topics/{topic}/partitions/{partition}/records", tag = "read",
    params(("topic" = String, Path), ("partition" = i32, Path), PartitionQuery),
    responses((status = 200,
            description = "The members other than records are also in the headers Millpond-Next-Offset, \
                Millpond-High-Watermark and Millpond-Log-Start-Offset, for NDJSON and Arrow",
            content((PartitionAnswer = "application/json"), (String = "application/x-ndjson"),
                (Vec<u8> = "application/vnd.apache.arrow.stream"))),
        (status = 404, description = "topic_not_found, partition_not_found",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = 416, description = "offset_out_of_range, with log_start_offset and high_watermark",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request, not_acceptable, throttled",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable, object_store_unavailable, corrupt",
            body = ProblemBody, content_type = "application/problem+json"))
)]
async fn partition_records(
    State(app): State<AppState>,
    Caller(scope): Caller,
    TopicName(topic): TopicName,
    PartitionNumber(partition): PartitionNumber,
    Params(query): Params<PartitionQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let form = form_of(&headers, false)?;
    check_limits(query.max_records, query.max_bytes, query.wait_ms)?;
    let read = PartitionRead {
        topic,
        partition,
        start: query.start()?,
        max_bytes: query.max_bytes,
        wait: Duration::from_millis(query.wait_ms),
    };
    let records = app.engine.fetch.partition(&scope, &read).await?;
    let raw_bytes: i64 = records.fetched.batches.iter().map(|b| i64::from(b.batch.raw_bytes)).sum();
    let raw_bytes = saturated::<usize, _>(raw_bytes);
    let render = move || partition_answer(records, &query, form, raw_bytes);
    if raw_bytes <= RENDER_INLINE_BYTES { render() } else { blocking::run(render).await }
}

fn partition_answer(
    mut records: PartitionRecords,
    query: &PartitionQuery,
    form: AnswerForm,
    raw_bytes: usize,
) -> Result<Response, Problem> {
    let mut answer =
        RecordsAnswer::with_capacity(form, query.encoding, raw_bytes.min(query.max_bytes) * 5 / 4 + 256);
    answer.hold(records.fetched.take_answer_memory());
    let fetched = &records.fetched;
    answer.begin_partition(&records.topic, records.partition);
    let limits = ReadLimits { max_records: query.max_records, max_bytes: query.max_bytes };
    let mut next = records.start;
    Selection::new(limits).take(fetched, &mut next, &mut answer)?;
    let (high, low) = (fetched.high_watermark, fetched.log_start_offset);
    let members = format!("\"next_offset\":{next},\"high_watermark\":{high},\"log_start_offset\":{low}");
    let mut response = form.response(answer.finish_with(&members)?);
    let headers = response.headers_mut();
    headers.remove(header::CACHE_CONTROL);
    for (name, offset) in [
        ("millpond-next-offset", next),
        ("millpond-high-watermark", high),
        ("millpond-log-start-offset", low),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from(offset.0));
    }
    Ok(response)
}

/// Reads records of all partitions of a topic. Records of one partition are in order; there is no order
/// between partitions. As SSE or NDJSON the topic can also be followed as a tail.
#[utoipa::path(
    get, path = "/v1/topics/{topic}/records", tag = "read",
    params(("topic" = String, Path), TopicQuery,
        ("Last-Event-ID" = Option<String>, Header, description = "SSE: continue after this event")),
    responses((status = 200,
            description = "`next` is given once per chunk: in JSON beside the records, in NDJSON in a line \
                of its own, in SSE in `id:`",
            content((TopicAnswer = "application/json"), (String = "application/x-ndjson"),
                (String = "text/event-stream"), (Vec<u8> = "application/vnd.apache.arrow.stream"))),
        (status = 404, description = "topic_not_found",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request, not_acceptable, throttled",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable, object_store_unavailable, corrupt",
            body = ProblemBody, content_type = "application/problem+json"))
)]
async fn topic_records(
    State(app): State<AppState>,
    Caller(scope): Caller,
    TopicName(topic): TopicName,
    Params(query): Params<TopicQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let form = form_of(&headers, true)?;
    check_limits(query.max_records, query.max_bytes, query.wait_ms)?;
    if query.follow && !matches!(form, AnswerForm::NdJson | AnswerForm::Events) {
        return Err(Problem::new(
            Code::NotAcceptable,
            "follow needs Accept: text/event-stream or application/x-ndjson",
        ));
    }
    let last_event = headers.get("last-event-id").and_then(|v| v.to_str().ok());
    let last_event = last_event.filter(|_| form == AnswerForm::Events).map(str::to_owned);
    let start = match (last_event.or(query.after.clone()), query.timestamp, query.from) {
        (Some(after), None, _) => TopicStart::Position(after),
        (None, Some(timestamp), None) => TopicStart::At(Start::Timestamp(timestamp)),
        (None, None, from) => TopicStart::At(from.unwrap_or(From::Earliest).start()),
        _ => return Err(Problem::bad_request("give one of from, timestamp and after")),
    };
    let tail = app.engine.fetch.tail(&scope, &topic, start).await?;
    tail::answer(tail, form, &query).await
}

/// Finds, for each partition, the offset of the first record at or after a timestamp.
#[utoipa::path(
    get, path = "/v1/topics/{topic}/offsets", tag = "read", params(("topic" = String, Path), OffsetsQuery),
    responses((status = 200, description = "every partition of the topic", body = OffsetsAnswer),
        (status = 404, description = "topic_not_found",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable, object_store_unavailable, corrupt",
            body = ProblemBody, content_type = "application/problem+json"))
)]
async fn offsets(
    State(app): State<AppState>,
    Caller(scope): Caller,
    TopicName(topic): TopicName,
    Params(query): Params<OffsetsQuery>,
) -> Result<Json<OffsetsAnswer>, Problem> {
    let offsets = app.engine.fetch.offsets_of_topic_at(&scope, &topic, query.timestamp).await?;
    let partitions = offsets
        .into_iter()
        .map(|(partition, _, offset)| PartitionOffset { partition, offset: offset.0 })
        .collect();
    Ok(Json(OffsetsAnswer { partitions }))
}
