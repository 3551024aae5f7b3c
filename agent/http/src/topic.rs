//! Routes of topics, `/v1/topics`: make, change, list, describe and delete.

use super::AppState;
use super::body::json_body;
use super::error::{Problem, ProblemBody};
use super::extract::{Caller, Params, TopicName};
use super::page::PageQuery;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Json, Response};
use http::StatusCode;
use millpond_core::topic::PartitionStatus;
use millpond_core::{Placement, TopicChange, limits};
use millpond_engine::topics::DescribedTopic;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(put, describe, delete))
}

/// Configuration of a topic. A field that is left out keeps its value; in a new topic it gets its default.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TopicSettings {
    /// Number of partitions, 1 to 10,000; it can only grow. Default 8, or what the server was started with.
    #[schema(example = 8)]
    partitions: Option<i32>,
    /// Age, by commit time, after which records are removed; null keeps them for ever. Default 604800000.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    retention_ms: Option<Option<i64>>,
    /// Size of all partitions together, beyond which the oldest records are removed; null means no limit.
    /// Default null.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    retention_bytes: Option<Option<i64>>,
    /// How long queues may keep records from being removed by retention. Default 1209600000.
    retention_hold_ms: Option<i64>,
    /// Where records are stored first: `inline` in the database, as far as its budget allows; `object` always
    /// in segments in the bucket; `auto` where the agent chooses. Default auto.
    #[schema(value_type = Option<String>, example = "auto")]
    placement: Option<Placement>,
    /// For how long a `dedup_id` is remembered, 0 (off) to 86400000. Default 0.
    dedup_window_ms: Option<i64>,
    /// Size of the largest record, 1 to 8388608. Default 1048576.
    max_record_bytes: Option<i32>,
    /// What is done with records that retention removes; `delete` is the only value so far.
    #[schema(example = "delete")]
    archive: Option<String>,
    /// Columns for the archive. They are stored and returned, but not used yet.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Object>)]
    columns: Option<Option<Box<RawValue>>>,
}

/// Deserializes a field so that `null` (`Some(None)`) differs from an absent field (`None`, by `default`).
pub fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct TopicDescription {
    name: String,
    partitions: Vec<PartitionDescription>,
    retention_ms: Option<i64>,
    retention_bytes: Option<i64>,
    retention_hold_ms: i64,
    #[schema(value_type = String)]
    placement: Placement,
    dedup_window_ms: i64,
    max_record_bytes: i32,
    archive: String,
    #[schema(value_type = Option<Object>)]
    columns: Option<Box<RawValue>>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct PartitionDescription {
    partition: i32,
    log_start_offset: i64,
    /// The offset of the next record; records below it can be read.
    high_watermark: i64,
    /// Size of the records as they are stored, compressed.
    bytes: i64,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct TopicList {
    topics: Vec<TopicDescription>,
    /// `after` of the next page; null on the last page.
    next: Option<String>,
}

impl TopicSettings {
    fn change(self) -> Result<TopicChange, Problem> {
        let ranges = [
            ("partitions", self.partitions.map(i64::from), 1, i64::from(limits::PARTITIONS_MAX)),
            ("retention_ms", self.retention_ms.flatten(), 1, limits::RETENTION_MAX_MS),
            ("retention_bytes", self.retention_bytes.flatten(), 0, i64::MAX),
            ("retention_hold_ms", self.retention_hold_ms, 0, limits::RETENTION_MAX_MS),
            ("dedup_window_ms", self.dedup_window_ms, 0, limits::DEDUP_WINDOW_MAX_MS),
            (
                "max_record_bytes",
                self.max_record_bytes.map(i64::from),
                1,
                i64::from(limits::RECORD_MAX_BYTES_CAP),
            ),
        ];
        for (name, value, min, max) in ranges {
            if value.is_some_and(|v| !(min..=max).contains(&v)) {
                return Err(Problem::bad_request(format!("{name} is out of range: {min} to {max}")));
            }
        }
        if self.archive.as_deref().is_some_and(|a| a != "delete") {
            return Err(Problem::bad_request("archive can only be \"delete\""));
        }
        Ok(TopicChange {
            partitions: self.partitions,
            retention_ms: self.retention_ms,
            retention_bytes: self.retention_bytes,
            retention_hold_ms: self.retention_hold_ms,
            placement: self.placement,
            dedup_window_ms: self.dedup_window_ms,
            max_record_bytes: self.max_record_bytes,
            archive: self.archive,
            columns: self.columns.map(|c| c.map(|raw| raw.get().to_owned())),
        })
    }
}

fn description(described: &DescribedTopic) -> TopicDescription {
    let DescribedTopic { topic, partitions } = described;
    let config = &topic.config;
    let partition = |p: &PartitionStatus| PartitionDescription {
        partition: p.partition,
        log_start_offset: p.log_start_offset.0,
        high_watermark: p.high_watermark.0,
        bytes: p.bytes,
    };
    TopicDescription {
        name: topic.name.to_string(),
        partitions: partitions.iter().map(partition).collect(),
        retention_ms: config.retention_ms,
        retention_bytes: config.retention_bytes,
        retention_hold_ms: config.retention_hold_ms,
        placement: config.placement,
        dedup_window_ms: config.dedup_window_ms,
        max_record_bytes: config.max_record_bytes,
        archive: config.archive.clone(),
        columns: config.columns.clone().and_then(|c| RawValue::from_string(c).ok()),
    }
}

/// Makes a topic or changes its configuration.
#[utoipa::path(
    put, path = "/v1/topics/{topic}", tag = "topics",
    params(("topic" = String, Path)),
    request_body = TopicSettings,
    responses((status = 201, description = "made", body = TopicDescription),
        (status = 200, description = "changed, or unchanged", body = TopicDescription),
        (status = 409, description = "invalid_change: partitions only grow",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable",
            body = ProblemBody, content_type = "application/problem+json"))
)]
async fn put(
    State(app): State<AppState>,
    Caller(scope): Caller,
    TopicName(name): TopicName,
    body: Body,
) -> Result<Response, Problem> {
    let settings: TopicSettings = json_body(&app, body).await?;
    let topics = &app.engine.topics;
    let (topic, made) = topics.put(&scope, &name, &settings.change()?).await?;
    let described = topics.partitions(&scope, topic).await?;
    let status = if made { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(description(&described))).into_response())
}

/// Lists the topics of the tenant page by page, ordered by name.
#[utoipa::path(
    get, path = "/v1/topics", tag = "topics", params(PageQuery),
    responses((status = 200, description = "topics with the state of their partitions", body = TopicList),
        (status = "4XX", description = "bad_request",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable",
            body = ProblemBody, content_type = "application/problem+json"))
)]
async fn list(
    State(app): State<AppState>,
    Caller(scope): Caller,
    Params(query): Params<PageQuery>,
) -> Result<Json<TopicList>, Problem> {
    let page = app.engine.topics.list(&scope, &query.request(limits::PAGE_MAX_PARTITIONS)?).await?;
    let topics: Vec<TopicDescription> = page.items.iter().map(description).collect();
    let next = topics.last().filter(|_| page.has_more).map(|last| last.name.clone());
    Ok(Json(TopicList { topics, next }))
}

/// Describes a topic: its configuration and the state of each partition.
#[utoipa::path(
    get, path = "/v1/topics/{topic}", tag = "topics", params(("topic" = String, Path)),
    responses((status = 200, description = "the topic", body = TopicDescription),
        (status = 404, description = "topic_not_found",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable",
            body = ProblemBody, content_type = "application/problem+json"))
)]
async fn describe(
    State(app): State<AppState>,
    Caller(scope): Caller,
    TopicName(name): TopicName,
) -> Result<Json<TopicDescription>, Problem> {
    Ok(Json(description(&app.engine.topics.describe(&scope, &name).await?)))
}

/// Deletes a topic and its records. A topic that is made later under the same name shares nothing with it.
#[utoipa::path(
    delete, path = "/v1/topics/{topic}", tag = "topics", params(("topic" = String, Path)),
    responses((status = 204, description = "deleted"),
        (status = 404, description = "topic_not_found",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable",
            body = ProblemBody, content_type = "application/problem+json"))
)]
async fn delete(
    State(app): State<AppState>,
    Caller(scope): Caller,
    TopicName(name): TopicName,
) -> Result<StatusCode, Problem> {
    app.engine.topics.delete(&scope, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
