//! Routes of queues, `/v1/queues`: make, change, list, describe and delete. Leases, settlements, listings and
//! administration are in the submodules.

mod admin;
mod lease;
mod list;
mod settle;

use super::AppState;
use super::body::json_body;
use super::error::{Problem, ProblemBody};
use super::extract::{Caller, Params, QueueName};
use super::page::PageQuery;
use super::topic::given;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Json, Response};
use http::StatusCode;
use millpond_core::group::Start;
use millpond_core::queue::{Estimated, Mode, QueueChange, Rate};
use millpond_core::{Name, limits};
use millpond_engine::queue::DescribedQueue;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_all))
        .routes(routes!(put, describe, delete))
        .routes(routes!(lease::lease))
        .routes(routes!(settle::settle))
        .routes(routes!(list::in_flight))
        .routes(routes!(list::waiting))
        .routes(routes!(list::dead))
        .routes(routes!(list::peek))
        .routes(routes!(admin::redrive))
        .routes(routes!(admin::purge_dead))
        .routes(routes!(admin::pause))
        .routes(routes!(admin::resume))
        .routes(routes!(admin::purge))
        .routes(routes!(admin::seek))
}

/// Retry policy. A field that is left out keeps its value; in a new queue it gets its default.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct RetrySettings {
    /// Delay after the first failure, 0 to 31536000000. Default 1000.
    base_ms: Option<i64>,
    /// Factor by which the delay grows with each further failure, 1 to 100. Default 2.
    factor: Option<f64>,
    /// Longest delay, 0 to 31536000000. Default 3600000.
    cap_ms: Option<i64>,
    /// Share of the delay by which it is randomly longer or shorter, 0 to 1. Default 0.2.
    jitter: Option<f64>,
    /// Number of failures after which a record is dead, 1 to 1000. Default 20.
    max_failures: Option<i32>,
}

/// Configuration of a queue. A field that is left out keeps its value; in a new queue it gets its default.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct QueueSettings {
    /// Topic whose records the queue hands out; it cannot be changed. Default: the topic with the queue's
    /// name. If it does not exist it is made, unless the server is started not to do so.
    #[schema(example = "emails")]
    topic: Option<String>,
    /// `shared`, or `keyed`: one record of each key at a time, in order. It cannot be changed. Default
    /// shared.
    #[schema(value_type = Option<String>, example = "shared")]
    mode: Option<Mode>,
    /// Lease time, 1000 to 43200000. Default 30000.
    lease_ms: Option<i64>,
    #[serde(default)]
    retry: RetrySettings,
    /// At most `limit` records are leased in `per_ms`; null means no limit. Default null.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Object>, example = json!({"limit": 100, "per_ms": 1000}))]
    rate: Option<Option<Rate>>,
    /// Records that can be leased at the same time, 1 to 1000000. Default 20000.
    max_in_flight: Option<i64>,
    /// Where a new queue begins, `earliest` or `latest`; it cannot be changed. Default earliest.
    #[schema(value_type = Option<String>, example = "earliest")]
    from: Option<Start>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct RetryDescription {
    base_ms: i64,
    factor: f64,
    cap_ms: i64,
    jitter: f64,
    max_failures: i32,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct QueueDescription {
    queue: String,
    topic: String,
    #[schema(value_type = String)]
    mode: Mode,
    lease_ms: i64,
    retry: RetryDescription,
    #[schema(value_type = Option<Object>)]
    rate: Option<Rate>,
    max_in_flight: i64,
    #[schema(value_type = String)]
    from: Start,
    paused: bool,
    /// Records that could be leased now if there were no limits and no busy keys.
    ready: i64,
    /// Records that were never leased and wait for their delivery time.
    delayed: i64,
    /// Records that were leased before and wait for a retry.
    retrying: i64,
    /// Records that are leased.
    in_flight: i64,
    dead: i64,
    /// Age of the oldest record that could be leased now.
    oldest_age_ms: Option<i64>,
    /// Records leased per second, a moving average over one minute.
    lease_rate: f64,
    /// Records settled per second, a moving average over one minute.
    settle_rate: f64,
    /// Names of the counts that are estimates. If more than 10000 records wait (in a list, which counts many
    /// queues at once: from 100 on), how many of them are due may be estimated.
    #[schema(example = json!([]))]
    approximate: Vec<String>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct QueueList {
    queues: Vec<QueueDescription>,
    /// `after` of the next page; null on the last page.
    next: Option<String>,
}

impl QueueSettings {
    fn change(self) -> Result<QueueChange, Problem> {
        let retry = self.retry;
        let ranges = [
            ("lease_ms", self.lease_ms, limits::LEASE_MIN_MS, limits::LEASE_MAX_MS),
            ("retry.base_ms", retry.base_ms, 0, limits::RETRY_MAX_MS),
            ("retry.cap_ms", retry.cap_ms, 0, limits::RETRY_MAX_MS),
            ("retry.max_failures", retry.max_failures.map(i64::from), 1, i64::from(limits::MAX_FAILURES_MAX)),
            ("max_in_flight", self.max_in_flight, 1, limits::IN_FLIGHT_MAX),
            ("rate.limit", self.rate.flatten().map(|r| i64::from(r.limit)), 1, i64::from(i32::MAX)),
            ("rate.per_ms", self.rate.flatten().map(|r| r.per_ms), 1, limits::RETRY_MAX_MS),
        ];
        for (name, value, min, max) in ranges {
            check_range(name, value, min, max)?;
        }
        for (name, value, min, max) in
            [("retry.factor", retry.factor, 1.0, 100.0), ("retry.jitter", retry.jitter, 0.0, 1.0)]
        {
            if value.is_some_and(|v| !(min..=max).contains(&v)) {
                return Err(Problem::bad_request(format!("{name} is out of range: {min} to {max}")));
            }
        }
        Ok(QueueChange {
            topic: self.topic.map(|t| Name::new(&t)).transpose()?,
            mode: self.mode,
            from: self.from,
            lease_ms: self.lease_ms,
            base_ms: retry.base_ms,
            factor: retry.factor,
            cap_ms: retry.cap_ms,
            jitter: retry.jitter,
            max_failures: retry.max_failures,
            rate: self.rate,
            max_in_flight: self.max_in_flight,
        })
    }
}

fn check_range(name: &str, value: Option<i64>, min: i64, max: i64) -> Result<(), Problem> {
    match value {
        Some(value) if !(min..=max).contains(&value) => {
            Err(Problem::bad_request(format!("{name} is out of range: {min} to {max}")))
        }
        _ => Ok(()),
    }
}

fn description(described: &DescribedQueue, now_ms: i64) -> QueueDescription {
    let DescribedQueue { queue, counts } = described;
    let retry = queue.config.retry;
    QueueDescription {
        queue: queue.name.to_string(),
        topic: queue.topic.to_string(),
        mode: queue.mode,
        lease_ms: queue.config.lease_ms,
        retry: RetryDescription {
            base_ms: retry.base_ms,
            factor: retry.factor,
            cap_ms: retry.cap_ms,
            jitter: retry.jitter,
            max_failures: retry.max_failures,
        },
        rate: queue.config.rate,
        max_in_flight: queue.config.max_in_flight,
        from: queue.from,
        paused: queue.paused,
        ready: counts.ready,
        delayed: counts.delayed,
        retrying: counts.retrying,
        in_flight: counts.in_flight,
        dead: counts.dead,
        oldest_age_ms: counts.oldest_ms.map(|at| (now_ms - at).max(0)),
        lease_rate: counts.lease_rate,
        settle_rate: counts.settle_rate,
        approximate: counts.estimated.iter().map(|count| estimated_name(*count).to_owned()).collect(),
    }
}

fn estimated_name(count: Estimated) -> &'static str {
    match count {
        Estimated::Ready => "ready",
        Estimated::Delayed => "delayed",
        Estimated::Retrying => "retrying",
        Estimated::Oldest => "oldest_age_ms",
    }
}

/// Makes a queue on a topic, or changes its configuration. A topic can have any number of queues; each of
/// them hands out every record.
#[utoipa::path(
    put, path = "/v1/queues/{queue}", operation_id = "put_queue", tag = "queues",
    params(("queue" = String, Path)),
    request_body = QueueSettings,
    responses((status = 201, description = "made", body = QueueDescription),
        (status = 200, description = "changed, or unchanged", body = QueueDescription),
        (status = 404, description = "topic_not_found: the server is started not to make topics",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "invalid_change: topic, mode and from cannot be changed",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable",
            body = ProblemBody, content_type = "application/problem+json"))
)]
async fn put(
    State(app): State<AppState>,
    Caller(scope): Caller,
    QueueName(name): QueueName,
    body: Body,
) -> Result<Response, Problem> {
    let settings: QueueSettings = json_body(&app, body).await?;
    let (described, made) = app.engine.queues.put(&scope, &name, settings.change()?).await?;
    let status = if made { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(description(&described, app.engine.clock.now_ms()))).into_response())
}

/// Lists the queues of the tenant page by page, ordered by name.
#[utoipa::path(
    get, path = "/v1/queues", operation_id = "list_queues", tag = "queues", params(PageQuery),
    responses((status = 200, description = "configuration and counts", body = QueueList),
        (status = "4XX", description = "bad_request",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable",
            body = ProblemBody, content_type = "application/problem+json"))
)]
async fn list_all(
    State(app): State<AppState>,
    Caller(scope): Caller,
    Params(query): Params<PageQuery>,
) -> Result<Json<QueueList>, Problem> {
    let now_ms = app.engine.clock.now_ms();
    let page = app.engine.queues.list(&scope, &query.request(limits::PAGE_MAX_QUEUE_PARTITIONS)?).await?;
    let queues: Vec<QueueDescription> =
        page.items.iter().map(|described| description(described, now_ms)).collect();
    let next = queues.last().filter(|_| page.has_more).map(|last| last.queue.clone());
    Ok(Json(QueueList { queues, next }))
}

/// Describes a queue: its configuration, and how many records are in which state.
#[utoipa::path(
    get, path = "/v1/queues/{queue}", operation_id = "describe_queue", tag = "queues",
    params(("queue" = String, Path)),
    responses((status = 200, description = "the queue", body = QueueDescription),
        (status = 404, description = "queue_not_found",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable",
            body = ProblemBody, content_type = "application/problem+json"))
)]
async fn describe(
    State(app): State<AppState>,
    Caller(scope): Caller,
    QueueName(name): QueueName,
) -> Result<Json<QueueDescription>, Problem> {
    let described = app.engine.queues.describe(&scope, &name).await?;
    Ok(Json(description(&described, app.engine.clock.now_ms())))
}

/// Deletes a queue, but not its topic. All its receipts are lost. A queue that is made later under the same
/// name shares nothing with it.
#[utoipa::path(
    delete, path = "/v1/queues/{queue}", operation_id = "delete_queue", tag = "queues",
    params(("queue" = String, Path)),
    responses((status = 204, description = "deleted"),
        (status = 404, description = "queue_not_found",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable",
            body = ProblemBody, content_type = "application/problem+json"))
)]
async fn delete(
    State(app): State<AppState>,
    Caller(scope): Caller,
    QueueName(name): QueueName,
) -> Result<StatusCode, Problem> {
    app.engine.queues.delete(&scope, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
