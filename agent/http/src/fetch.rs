//! Reads: one partition, a whole topic (also as a tail), offsets by timestamp.

use super::AppState;
use super::arrow::ArrowWriter;
use super::error::{Code, Problem, ProblemBody};
use super::extract::{Params, PartitionNumber, Principal, TopicName};
use super::render::{self, Encoding, Prefix};
use super::tail::{Position, tail};
use axum::extract::State;
use axum::response::{IntoResponse, Json, Response};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use millpond_core::control_plane::FindRequest;
use millpond_core::{Name, Offset, PartitionId, Topic, limits};
use millpond_engine::fetch::reader::Fetched;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

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
    /// Where to begin: one of offset, timestamp (first record at or after it) and from. Default:
    /// from=earliest.
    offset: Option<i64>,
    timestamp: Option<i64>,
    #[param(inline)]
    from: Option<From>,
    /// 1 to 100000.
    #[serde(default = "default_records")]
    max_records: usize,
    /// Keys, values and headers, at most 16777216; the first record is given even if larger.
    #[serde(default = "default_bytes")]
    max_bytes: usize,
    /// How long to wait for the first record, at most 30000.
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
    /// SSE and NDJSON: go on with what comes.
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

/// A record as returned. `value` is JSON; bytes that are not come back as `text` if UTF-8, else `base64`.
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
    /// Every partition's position, opaque: `after` of the next call.
    next: String,
}

#[derive(Serialize, utoipa::ToSchema)]
pub struct OffsetsAnswer {
    partitions: Vec<PartitionOffset>,
}

#[derive(Serialize, utoipa::ToSchema)]
pub struct PartitionOffset {
    partition: i32,
    /// Of the first record at or after the timestamp, else the high watermark.
    offset: i64,
}

/// Forms of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Json,
    NdJson,
    Arrow,
    Events,
}

pub fn form_of(headers: &HeaderMap, events: bool) -> Result<Form, Problem> {
    let refuse = || {
        Problem::new(
            Code::NotAcceptable,
            "records come as application/json, application/x-ndjson, application/vnd.apache.arrow.stream, and tails as text/event-stream",
        )
    };
    let Some(accept) = headers.get(header::ACCEPT) else { return Ok(Form::Json) };
    for choice in accept.to_str().map_err(|_| refuse())?.split(',') {
        match choice.split(';').next().unwrap_or("").trim() {
            "application/json" | "application/*" | "*/*" | "" => return Ok(Form::Json),
            "application/x-ndjson" => return Ok(Form::NdJson),
            "application/vnd.apache.arrow.stream" => return Ok(Form::Arrow),
            "text/event-stream" if events => return Ok(Form::Events),
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

pub fn gone() -> Problem {
    Problem::new(Code::TopicNotFound, "there is no such topic")
}

/// The one find request of a partition read, from an exact offset.
pub fn find_from(partition: PartitionId, offset: Offset, max_bytes: usize) -> FindRequest {
    FindRequest { partition, offset, end: None, max_bytes: i64::try_from(max_bytes).unwrap_or(i64::MAX) }
}

/// First offset at or after a timestamp: the control plane names the batch, its records say the rest.
pub async fn offset_at(
    app: &AppState,
    partition: PartitionId,
    batch_start: Offset,
    timestamp: i64,
) -> Result<Offset, Problem> {
    let found = app.reader.fetch(&[find_from(partition, batch_start, 1)]).await?;
    let Some(fetched) = found.into_iter().next().flatten() else { return Err(gone()) };
    let mut end = batch_start;
    for batch in &fetched.batches {
        for record in batch.records() {
            let (offset, record) = record.map_err(|e| Problem::new(Code::Corrupt, e.to_string()))?;
            if offset >= batch_start && record.timestamp >= timestamp {
                return Ok(offset);
            }
        }
        end = batch.batch.end();
    }
    Ok(end)
}

pub async fn offsets_at(
    app: &AppState,
    topic: &Topic,
    timestamp: i64,
) -> Result<Vec<(i32, PartitionId, Offset)>, Problem> {
    let mut offsets = app.plane.offsets_at(topic.id, timestamp).await?;
    for (_, partition, offset) in &mut offsets {
        *offset = offset_at(app, *partition, *offset, timestamp).await?;
    }
    Ok(offsets)
}

async fn start_of(
    app: &AppState,
    name: &Name,
    topic: &Topic,
    partition: i32,
    query: &PartitionQuery,
) -> Result<(PartitionId, Offset), Problem> {
    let no_partition = || {
        Problem::new(
            Code::PartitionNotFound,
            format!("{name} has partitions 0 to {}", topic.partition_count() - 1),
        )
    };
    let id = topic.partition_id(partition).ok_or_else(no_partition)?;
    let offset = match (query.offset, query.timestamp, query.from) {
        (Some(offset), None, None) if offset >= 0 => Offset(offset),
        (Some(_), None, None) => return Err(Problem::bad_request("an offset is not negative")),
        (None, Some(timestamp), None) => {
            let at = offsets_at_one(app, topic, id, timestamp).await?;
            return Ok((id, at));
        }
        (None, None, from) => {
            let status = app.plane.partitions(topic.id).await?;
            let status = status.into_iter().find(|p| p.id == id).ok_or_else(gone)?;
            if from == Some(From::Latest) { status.high_watermark } else { status.log_start_offset }
        }
        _ => return Err(Problem::bad_request("give one of offset, timestamp and from")),
    };
    Ok((id, offset))
}

async fn offsets_at_one(
    app: &AppState,
    topic: &Topic,
    id: PartitionId,
    timestamp: i64,
) -> Result<Offset, Problem> {
    let batches = app.plane.offsets_at(topic.id, timestamp).await?;
    let (_, _, start) = batches.into_iter().find(|(_, p, _)| *p == id).ok_or_else(gone)?;
    offset_at(app, id, start, timestamp).await
}

/// Reads one partition from an offset on.
#[utoipa::path(
    get, path = "/v1/topics/{topic}/partitions/{partition}/records", tag = "read",
    params(("topic" = String, Path), ("partition" = i32, Path), PartitionQuery),
    responses((status = 200, description = "As NDJSON and Arrow the headers Millpond-Next-Offset, Millpond-High-Watermark and Millpond-Log-Start-Offset say what stands beside the records",
            content((PartitionAnswer = "application/json"), (String = "application/x-ndjson"), (Vec<u8> = "application/vnd.apache.arrow.stream"))),
        (status = 404, description = "topic_not_found, partition_not_found",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = 416, description = "offset_out_of_range, with log_start_offset and high_watermark",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request, not_acceptable",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable, object_store_unavailable, corrupt",
            body = ProblemBody, content_type = "application/problem+json"))
)]
async fn partition_records(
    State(app): State<AppState>,
    principal: Principal,
    TopicName(name): TopicName,
    PartitionNumber(partition): PartitionNumber,
    Params(query): Params<PartitionQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let form = form_of(&headers, false)?;
    check_limits(query.max_records, query.max_bytes, query.wait_ms)?;
    let topic = app.topics.get(&principal.tenant, &name).await?;
    // A partition that is new, or a topic that is another by now, is not known yet.
    let topic = if topic.partition_id(partition).is_none() {
        app.topics.forget(&principal.tenant, &name).await;
        app.topics.get(&principal.tenant, &name).await?
    } else {
        topic
    };
    let outcome = read_partition(&app, &name, &topic, partition, &query, form).await;
    match outcome {
        Err(problem) if problem.code == Code::TopicNotFound => {
            app.topics.forget(&principal.tenant, &name).await;
            let topic = app.topics.get(&principal.tenant, &name).await?;
            read_partition(&app, &name, &topic, partition, &query, form).await
        }
        outcome => outcome,
    }
}

async fn read_partition(
    app: &AppState,
    name: &Name,
    topic: &Arc<Topic>,
    partition: i32,
    query: &PartitionQuery,
    form: Form,
) -> Result<Response, Problem> {
    let deadline = Instant::now() + Duration::from_millis(query.wait_ms);
    let (id, start) = start_of(app, name, topic, partition, query).await?;
    let watch = (query.wait_ms > 0).then(|| app.watcher.watch(vec![id]));
    loop {
        let fetched = app
            .reader
            .fetch(&[find_from(id, start, query.max_bytes)])
            .await?
            .into_iter()
            .next()
            .flatten()
            .ok_or_else(gone)?;
        if start < fetched.log_start_offset || start > fetched.high_watermark {
            let detail = format!(
                "offset {start} is outside {} to {}",
                fetched.log_start_offset, fetched.high_watermark
            );
            return Err(Problem::new(Code::OffsetOutOfRange, detail)
                .with("log_start_offset", fetched.log_start_offset.0)
                .with("high_watermark", fetched.high_watermark.0));
        }
        match &watch {
            Some(watch)
                if fetched.batches.is_empty() && Instant::now() < deadline && !app.watcher.is_stopping() =>
            {
                watch.saw(id, fetched.high_watermark);
                tokio::time::timeout_at(deadline, watch.moved()).await.ok();
            }
            _ => return answer(name.clone(), partition, start, query.clone(), form, fetched).await,
        }
    }
}

/// Where a read stopped.
struct Reached {
    records: usize,
    bytes: usize,
    next: Offset,
}

/// Hands on records from an offset until a limit is reached.
fn each(
    fetched: &Fetched,
    reached: &mut Reached,
    query: &PartitionQuery,
    mut take: impl FnMut(
        Offset,
        &millpond_format::record::RecordView<'_>,
        bool,
    ) -> Result<(), millpond_format::Corrupt>,
) -> Result<(), Problem> {
    use millpond_core::control_plane::BatchFlags;
    let corrupt = |e: millpond_format::Corrupt| Problem::new(Code::Corrupt, e.to_string());
    for batch in &fetched.batches {
        let json = batch.batch.flags.has(BatchFlags::JSON);
        for record in batch.records() {
            let (offset, record) = record.map_err(corrupt)?;
            if offset < reached.next {
                continue;
            }
            let bytes = record.tail.len();
            if reached.records == query.max_records
                || (reached.records > 0 && reached.bytes + bytes > query.max_bytes)
            {
                return Ok(());
            }
            take(offset, &record, json).map_err(corrupt)?;
            reached.records += 1;
            reached.bytes += bytes;
            reached.next = offset.plus(1);
        }
    }
    Ok(())
}

async fn answer(
    name: Name,
    partition: i32,
    start: Offset,
    query: PartitionQuery,
    form: Form,
    fetched: Fetched,
) -> Result<Response, Problem> {
    let large = fetched.batches.iter().map(|b| b.batch.raw_bytes).sum::<i32>() > 262_144;
    let build = move || -> Result<Response, Problem> {
        let mut reached = Reached { records: 0, bytes: 0, next: start };
        let (body, content_type) = match form {
            Form::Arrow => {
                let mut writer = ArrowWriter::default();
                each(&fetched, &mut reached, &query, |offset, record, _| {
                    writer.push(partition, offset.0, record)
                })?;
                (writer.finish()?, "application/vnd.apache.arrow.stream")
            }
            Form::NdJson => {
                let prefix = Prefix::new(name.as_str(), partition);
                let mut out = Vec::with_capacity(out_capacity(&fetched, &query));
                each(&fetched, &mut reached, &query, |offset, record, json| {
                    render::record(&mut out, &prefix, offset.0, record, json, query.encoding)?;
                    out.push(b'\n');
                    Ok(())
                })?;
                (out, "application/x-ndjson")
            }
            Form::Json | Form::Events => {
                let prefix = Prefix::new(name.as_str(), partition);
                let mut out = Vec::with_capacity(out_capacity(&fetched, &query));
                out.extend_from_slice(b"{\"records\":[");
                let mut first = true;
                each(&fetched, &mut reached, &query, |offset, record, json| {
                    if !std::mem::take(&mut first) {
                        out.push(b',');
                    }
                    render::record(&mut out, &prefix, offset.0, record, json, query.encoding)
                })?;
                let (next, high, low) = (reached.next, fetched.high_watermark, fetched.log_start_offset);
                out.extend_from_slice(
                    format!(
                        "],\"next_offset\":{next},\"high_watermark\":{high},\"log_start_offset\":{low}}}"
                    )
                    .as_bytes(),
                );
                (out, "application/json")
            }
        };
        let mut response = body.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(HeaderName::from_static("millpond-next-offset"), HeaderValue::from(reached.next.0));
        headers.insert(
            HeaderName::from_static("millpond-high-watermark"),
            HeaderValue::from(fetched.high_watermark.0),
        );
        headers.insert(
            HeaderName::from_static("millpond-log-start-offset"),
            HeaderValue::from(fetched.log_start_offset.0),
        );
        Ok(response)
    };
    if !large {
        return build();
    }
    tokio::task::spawn_blocking(build).await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
}

fn out_capacity(fetched: &Fetched, query: &PartitionQuery) -> usize {
    let raw: usize = fetched.batches.iter().map(|b| usize::try_from(b.batch.raw_bytes).unwrap_or(0)).sum();
    raw.min(query.max_bytes) * 5 / 4 + 256
}

/// Reads all partitions of a topic, each in its order, with no order promised between them; as SSE or NDJSON
/// also as a tail.
#[utoipa::path(
    get, path = "/v1/topics/{topic}/records", tag = "read",
    params(("topic" = String, Path), TopicQuery, ("Last-Event-ID" = Option<String>, Header, description = "SSE: goes on behind this event")),
    responses((status = 200, description = "`next` comes once per chunk: as JSON beside the records, as NDJSON in a line of its own, as SSE in `id:`",
            content((TopicAnswer = "application/json"), (String = "application/x-ndjson"), (String = "text/event-stream"), (Vec<u8> = "application/vnd.apache.arrow.stream"))),
        (status = 404, description = "topic_not_found",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request, not_acceptable",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable, object_store_unavailable, corrupt",
            body = ProblemBody, content_type = "application/problem+json"))
)]
async fn topic_records(
    State(app): State<AppState>,
    principal: Principal,
    TopicName(name): TopicName,
    Params(query): Params<TopicQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let form = form_of(&headers, true)?;
    check_limits(query.max_records, query.max_bytes, query.wait_ms)?;
    if query.follow && !matches!(form, Form::NdJson | Form::Events) {
        return Err(Problem::new(
            Code::NotAcceptable,
            "follow needs Accept: text/event-stream or application/x-ndjson",
        ));
    }
    app.topics.forget(&principal.tenant, &name).await;
    let topic = app.topics.get(&principal.tenant, &name).await?;
    let last_event = headers
        .get("last-event-id")
        .and_then(|v| v.to_str().ok())
        .filter(|_| form == Form::Events)
        .map(str::to_owned);
    let position = match (last_event.or(query.after), query.timestamp, query.from) {
        (Some(after), None, _) => Position::parse(&after, &topic)?,
        (None, Some(timestamp), None) => Position::new(
            &topic,
            offsets_at(&app, &topic, timestamp).await?.into_iter().map(|(p, _, o)| (p, o)),
        ),
        (None, None, from) => {
            let status = app.plane.partitions(topic.id).await?;
            let latest = from == Some(From::Latest);
            Position::new(
                &topic,
                status
                    .iter()
                    .map(|p| (p.partition, if latest { p.high_watermark } else { p.log_start_offset })),
            )
        }
        _ => return Err(Problem::bad_request("give one of from, timestamp and after")),
    };
    tail(
        app,
        topic,
        position,
        form,
        query.encoding,
        super::chunk::Limits {
            max_records: query.max_records,
            max_bytes: query.max_bytes,
            wait: Duration::from_millis(query.wait_ms),
            follow: query.follow,
        },
    )
    .await
}

/// For each partition the first offset at or after a timestamp.
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
    principal: Principal,
    TopicName(name): TopicName,
    Params(query): Params<OffsetsQuery>,
) -> Result<Json<OffsetsAnswer>, Problem> {
    app.topics.forget(&principal.tenant, &name).await;
    let topic = app.topics.get(&principal.tenant, &name).await?;
    let offsets = offsets_at(&app, &topic, query.timestamp).await?;
    let partitions = offsets
        .into_iter()
        .map(|(partition, _, offset)| PartitionOffset { partition, offset: offset.0 })
        .collect();
    Ok(Json(OffsetsAnswer { partitions }))
}
