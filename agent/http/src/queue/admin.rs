//! Administration of queues: redrive and purge of dead records; pause, resume, purge and seek.

use crate::AppState;
use crate::body::json_body;
use crate::error::{Problem, ProblemBody};
use crate::extract::{Caller, QueueName};
use axum::body::Body;
use axum::extract::State;
use axum::response::Json;
use millpond_core::{Name, Offset, Scope, limits};
use millpond_engine::queue::{DeadSelection, SeekTarget};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct PartitionPlace {
    partition: i32,
    offset: i64,
}

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Filter {
    /// Pattern for the reason of a dead record: `*` matches any text, `?` one character.
    #[schema(example = "smtp*")]
    reason: String,
}

/// Selects dead records: those at `offsets`, those that match `filter`, or all if both are left out.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct DeadBody {
    /// At most 10000. If one of them is not dead, nothing is done.
    offsets: Option<Vec<PartitionPlace>>,
    filter: Option<Filter>,
    /// Redrive only: records per second that become due, 0.001 to 1000000. Default: all at once.
    max_rate: Option<f64>,
}

#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Redriven {
    redriven: i64,
    /// True if the call ended before all was done, since there is much to do: send it again to go on.
    remaining: bool,
}

#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Purged {
    purged: i64,
    /// True if the call ended before all was done, since there is much to do: send it again to go on.
    remaining: bool,
}

#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Paused {
    paused: bool,
}

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
enum To {
    Earliest,
    Latest,
    Timestamp(i64),
    Offsets(Vec<PartitionPlace>),
}

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct SeekBody {
    /// The new position: `"earliest"`, `"latest"`, `{"timestamp":…}` (the first record at or after it), or
    /// `{"offsets":[…]}`.
    #[schema(value_type = Object, example = json!("earliest"))]
    to: To,
}

#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Cursors {
    /// The offset at which the queue continues, for each partition.
    offsets: Vec<PartitionPlace>,
    /// True if the call ended before all was done, since there is much to do: until it is, the queue leases
    /// nothing. Lease calls go on with it, and so does the same call.
    remaining: bool,
}

impl DeadBody {
    fn selection(&self) -> Result<DeadSelection, Problem> {
        match (&self.offsets, &self.filter) {
            (Some(_), Some(_)) => Err(Problem::bad_request("give offsets or a filter, not both")),
            (None, None) => Ok(DeadSelection::All),
            (None, Some(filter)) => Ok(DeadSelection::ReasonLike(filter.reason.clone())),
            (Some(places), None) if places.len() > limits::DEAD_MAX_OFFSETS => {
                Err(Problem::bad_request(format!("give at most {} offsets", limits::DEAD_MAX_OFFSETS)))
            }
            (Some(places), None) => {
                Ok(DeadSelection::Offsets(places.iter().map(PartitionPlace::pair).collect()))
            }
        }
    }
}

impl PartitionPlace {
    fn pair(&self) -> (i32, Offset) {
        (self.partition, Offset(self.offset))
    }
}

impl To {
    fn target(&self) -> SeekTarget {
        match self {
            Self::Earliest => SeekTarget::Earliest,
            Self::Latest => SeekTarget::Latest,
            Self::Timestamp(timestamp) => SeekTarget::Timestamp(*timestamp),
            Self::Offsets(places) => SeekTarget::Offsets(places.iter().map(PartitionPlace::pair).collect()),
        }
    }
}

/// Gives dead records back to this queue, with `failures` 0. With `max_rate` they become due one after the
/// other; the request does not wait for that.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/dead/redrive", operation_id = "redrive_dead", tag = "queues",
    params(("queue" = String, Path)),
    request_body = DeadBody,
    responses((status = 200,
        description = "number of records that were given back; those that retention has removed stay dead",
        body = Redriven),
        (status = 404, description = "queue_not_found; dead_not_found: nothing was done",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable",
            body = ProblemBody, content_type = "application/problem+json"))
)]
pub(super) async fn redrive(
    State(app): State<AppState>,
    Caller(scope): Caller,
    QueueName(name): QueueName,
    body: Body,
) -> Result<Json<Redriven>, Problem> {
    let body: DeadBody = json_body(&app, body).await?;
    if body.max_rate.is_some_and(|rate| !(0.001..=1_000_000.0).contains(&rate)) {
        return Err(Problem::bad_request("max_rate is out of range: 0.001 to 1000000"));
    }
    let worked = app.engine.queues.redrive(&scope, &name, &body.selection()?, body.max_rate).await?;
    Ok(Json(Redriven { redriven: worked.records, remaining: worked.remaining }))
}

/// Forgets dead records for good.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/dead/purge", operation_id = "purge_dead", tag = "queues",
    params(("queue" = String, Path)),
    request_body = DeadBody,
    responses((status = 200, description = "number of records that were forgotten", body = Purged),
        (status = 404, description = "queue_not_found; dead_not_found: nothing was done",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable",
            body = ProblemBody, content_type = "application/problem+json"))
)]
pub(super) async fn purge_dead(
    State(app): State<AppState>,
    Caller(scope): Caller,
    QueueName(name): QueueName,
    body: Body,
) -> Result<Json<Purged>, Problem> {
    let body: DeadBody = json_body(&app, body).await?;
    if body.max_rate.is_some() {
        return Err(Problem::bad_request("max_rate is a parameter of redrive only"));
    }
    let worked = app.engine.queues.purge_dead(&scope, &name, &body.selection()?).await?;
    Ok(Json(Purged { purged: worked.records, remaining: worked.remaining }))
}

async fn set_paused(
    app: &AppState,
    scope: &Scope,
    name: &Name,
    paused: bool,
) -> Result<Json<Paused>, Problem> {
    app.engine.queues.set_paused(scope, name, paused).await?;
    Ok(Json(Paused { paused }))
}

/// Pauses a queue: no records are leased any more. Records that are leased can be settled as usual.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/pause", operation_id = "pause_queue", tag = "queues",
    params(("queue" = String, Path)),
    responses((status = 200, description = "paused", body = Paused),
        (status = 404, description = "queue_not_found",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable",
            body = ProblemBody, content_type = "application/problem+json"))
)]
pub(super) async fn pause(
    State(app): State<AppState>,
    Caller(scope): Caller,
    QueueName(name): QueueName,
) -> Result<Json<Paused>, Problem> {
    set_paused(&app, &scope, &name, true).await
}

/// Resumes a paused queue.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/resume", operation_id = "resume_queue", tag = "queues",
    params(("queue" = String, Path)),
    responses((status = 200, description = "no longer paused", body = Paused),
        (status = 404, description = "queue_not_found",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable",
            body = ProblemBody, content_type = "application/problem+json"))
)]
pub(super) async fn resume(
    State(app): State<AppState>,
    Caller(scope): Caller,
    QueueName(name): QueueName,
) -> Result<Json<Paused>, Problem> {
    set_paused(&app, &scope, &name, false).await
}

/// Skips everything that is in the queue now. Its leases end, and their receipts are lost. Dead records stay.
/// No cursor goes back, and no record that was acknowledged comes back.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/purge", operation_id = "purge_queue", tag = "queues",
    params(("queue" = String, Path)),
    responses((status = 200, description = "number of records that were skipped", body = Purged),
        (status = 404, description = "queue_not_found",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable",
            body = ProblemBody, content_type = "application/problem+json"))
)]
pub(super) async fn purge(
    State(app): State<AppState>,
    Caller(scope): Caller,
    QueueName(name): QueueName,
) -> Result<Json<Purged>, Problem> {
    let worked = app.engine.queues.purge(&scope, &name).await?;
    Ok(Json(Purged { purged: worked.records, remaining: worked.remaining }))
}

/// Moves a queue to another position. In the partitions that are moved, all leases end, waiting records are
/// forgotten, and so are dead records from the new position on.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/seek", operation_id = "seek_queue", tag = "queues",
    params(("queue" = String, Path)),
    request_body = SeekBody,
    responses((status = 200, description = "the new positions", body = Cursors),
        (status = 404, description = "queue_not_found, partition_not_found",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = 416, description = "offset_out_of_range",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable, object_store_unavailable, corrupt",
            body = ProblemBody, content_type = "application/problem+json"))
)]
pub(super) async fn seek(
    State(app): State<AppState>,
    Caller(scope): Caller,
    QueueName(name): QueueName,
    body: Body,
) -> Result<Json<Cursors>, Problem> {
    let body: SeekBody = json_body(&app, body).await?;
    let (cursors, remaining) = app.engine.queues.seek(&scope, &name, &body.to.target()).await?;
    let place = |(partition, offset): (i32, Offset)| PartitionPlace { partition, offset: offset.0 };
    Ok(Json(Cursors { offsets: cursors.into_iter().map(place).collect(), remaining }))
}
