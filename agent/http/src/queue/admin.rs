//! Dead records given back or forgotten; pause, resume, purge, seek.

use super::{current, number_of, partition_of};
use crate::AppState;
use crate::error::{Code, Problem, ProblemBody};
use crate::extract::{Principal, QueueName};
use crate::fetch::offsets_at;
use crate::group::json_body;
use axum::body::Body;
use axum::extract::State;
use axum::response::Json;
use millpond_core::queue::{DeadFilter, Queue};
use millpond_core::{Name, Offset, PartitionId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct PartitionPlace {
    partition: i32,
    offset: i64,
}

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Filter {
    /// `*` stands for any text, `?` for one character.
    #[schema(example = "smtp*")]
    reason: String,
}

/// Which dead records: those at these offsets, those that the filter names, or all.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct DeadBody {
    offsets: Option<Vec<PartitionPlace>>,
    filter: Option<Filter>,
    /// Redrive: so many records a second, one after the other.
    max_rate: Option<f64>,
}

#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Redriven {
    redriven: i64,
}

#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Purged {
    purged: i64,
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
    /// `"earliest"`, `"latest"`, `{"timestamp":…}` (the first record at or after it), or `{"offsets":[…]}`.
    #[schema(value_type = Object, example = json!("earliest"))]
    to: To,
}

#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Cursors {
    /// Where the queue goes on in each partition.
    offsets: Vec<PartitionPlace>,
}

impl DeadBody {
    fn filter(&self, queue: &Queue) -> Result<DeadFilter, Problem> {
        match (&self.offsets, &self.filter) {
            (Some(_), Some(_)) => Err(Problem::bad_request("give offsets or a filter, not both")),
            (None, None) => Ok(DeadFilter::All),
            (None, Some(filter)) => Ok(DeadFilter::Reason(like(&filter.reason))),
            (Some(places), None) => {
                let place = |(nth, place): (usize, &PartitionPlace)| {
                    let missing = || {
                        Problem::new(Code::DeadNotFound, "an offset names no dead record").with("nth", nth)
                    };
                    partition_of(queue, place.partition)
                        .map(|p| (p, Offset(place.offset)))
                        .ok_or_else(missing)
                };
                let places: Vec<(PartitionId, Offset)> =
                    places.iter().enumerate().map(place).collect::<Result<_, _>>()?;
                let mut sorted = places.clone();
                sorted.sort_unstable();
                if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
                    return Err(Problem::bad_request("an offset stands twice"));
                }
                Ok(DeadFilter::Offsets(places))
            }
        }
    }
}

/// A glob as a `LIKE` pattern with `\` as escape.
fn like(glob: &str) -> String {
    let mut pattern = String::with_capacity(glob.len());
    for c in glob.chars() {
        match c {
            '*' => pattern.push('%'),
            '?' => pattern.push('_'),
            '%' | '_' | '\\' => pattern.extend(['\\', c]),
            '\0' => pattern.push('\u{fffd}'),
            c => pattern.push(c),
        }
    }
    pattern
}

/// Gives dead records back to this queue, with `failures` 0. With `max_rate` they become due one after the
/// other; the answer comes at once.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/dead/redrive", operation_id = "redrive_dead", tag = "queues",
    params(("queue" = String, Path)),
    request_body = DeadBody,
    responses((status = 200, description = "how many; those that retention has let go stay dead",
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
    principal: Principal,
    QueueName(name): QueueName,
    body: Body,
) -> Result<Json<Redriven>, Problem> {
    let body: DeadBody = json_body(body).await?;
    if body.max_rate.is_some_and(|rate| !(0.001..=1_000_000.0).contains(&rate)) {
        return Err(Problem::bad_request("max_rate is out of range: 0.001 to 1000000"));
    }
    let queue = current(&app, &principal.tenant, &name).await?;
    let redriven = app.plane.redrive(queue.id, &body.filter(&queue)?, body.max_rate).await?;
    app.queues.nudge(queue.id);
    Ok(Json(Redriven { redriven }))
}

/// Forgets dead records.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/dead/purge", operation_id = "purge_dead", tag = "queues",
    params(("queue" = String, Path)),
    request_body = DeadBody,
    responses((status = 200, description = "how many", body = Purged),
        (status = 404, description = "queue_not_found; dead_not_found: nothing was done",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable",
            body = ProblemBody, content_type = "application/problem+json"))
)]
pub(super) async fn purge_dead(
    State(app): State<AppState>,
    principal: Principal,
    QueueName(name): QueueName,
    body: Body,
) -> Result<Json<Purged>, Problem> {
    let body: DeadBody = json_body(body).await?;
    if body.max_rate.is_some() {
        return Err(Problem::bad_request("max_rate is for a redrive"));
    }
    let queue = current(&app, &principal.tenant, &name).await?;
    let purged = app.plane.purge_dead(queue.id, &body.filter(&queue)?).await?;
    Ok(Json(Purged { purged }))
}

async fn set_paused(
    app: &AppState,
    tenant: &Name,
    name: &Name,
    paused: bool,
) -> Result<Json<Paused>, Problem> {
    let queue = current(app, tenant, name).await?;
    let done = app.plane.pause_queue(queue.id, paused).await;
    app.queues.forget(tenant, name).await;
    app.queues.nudge(queue.id);
    done?;
    Ok(Json(Paused { paused }))
}

/// Stops handing out records. What is leased stays so and is settled as always.
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
    principal: Principal,
    QueueName(name): QueueName,
) -> Result<Json<Paused>, Problem> {
    set_paused(&app, &principal.tenant, &name, true).await
}

/// Goes on handing out records.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/resume", operation_id = "resume_queue", tag = "queues",
    params(("queue" = String, Path)),
    responses((status = 200, description = "not paused", body = Paused),
        (status = 404, description = "queue_not_found",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable",
            body = ProblemBody, content_type = "application/problem+json"))
)]
pub(super) async fn resume(
    State(app): State<AppState>,
    principal: Principal,
    QueueName(name): QueueName,
) -> Result<Json<Paused>, Problem> {
    set_paused(&app, &principal.tenant, &name, false).await
}

/// Passes over everything that is in the queue now; its leases end, and their receipts are lost. Dead records
/// stay.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/purge", operation_id = "purge_queue", tag = "queues",
    params(("queue" = String, Path)),
    responses((status = 200, description = "how many records were still to be done", body = Purged),
        (status = 404, description = "queue_not_found",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable",
            body = ProblemBody, content_type = "application/problem+json"))
)]
pub(super) async fn purge(
    State(app): State<AppState>,
    principal: Principal,
    QueueName(name): QueueName,
) -> Result<Json<Purged>, Problem> {
    let queue = current(&app, &principal.tenant, &name).await?;
    let ends: Vec<(PartitionId, Offset)> =
        app.plane.partitions(queue.topic_id).await?.into_iter().map(|p| (p.id, p.high_watermark)).collect();
    let (_, purged) = app.plane.seek(queue.id, &ends).await?;
    Ok(Json(Purged { purged }))
}

/// Goes on from elsewhere. In the partitions concerned all leases end, and what was waiting, and dead records
/// from there on are forgotten.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/seek", operation_id = "seek_queue", tag = "queues",
    params(("queue" = String, Path)),
    request_body = SeekBody,
    responses((status = 200, description = "where it goes on now", body = Cursors),
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
    principal: Principal,
    QueueName(name): QueueName,
    body: Body,
) -> Result<Json<Cursors>, Problem> {
    let body: SeekBody = json_body(body).await?;
    let queue = current(&app, &principal.tenant, &name).await?;
    let to = targets(&app, &principal, &queue, &body.to).await?;
    let (cursors, _) = app.plane.seek(queue.id, &to).await?;
    app.queues.nudge(queue.id);
    let place = |(id, offset): (PartitionId, Offset)| {
        Some(PartitionPlace { partition: number_of(&queue, id)?, offset: offset.0 })
    };
    Ok(Json(Cursors { offsets: cursors.into_iter().filter_map(place).collect() }))
}

async fn targets(
    app: &AppState,
    principal: &Principal,
    queue: &Arc<Queue>,
    to: &To,
) -> Result<Vec<(PartitionId, Offset)>, Problem> {
    let status = app.plane.partitions(queue.topic_id).await?;
    Ok(match to {
        To::Earliest => status.into_iter().map(|p| (p.id, p.log_start_offset)).collect(),
        To::Latest => status.into_iter().map(|p| (p.id, p.high_watermark)).collect(),
        To::Timestamp(timestamp) => {
            let topic = app.topics.get(&principal.tenant, &queue.topic).await?;
            offsets_at(app, &topic, *timestamp).await?.into_iter().map(|(_, p, o)| (p, o)).collect()
        }
        To::Offsets(places) => {
            let mut targets = BTreeMap::new();
            for (nth, place) in places.iter().enumerate() {
                let missing = || {
                    Problem::new(
                        Code::PartitionNotFound,
                        format!("there is no partition {}", place.partition),
                    )
                    .with("nth", nth)
                };
                let id = partition_of(queue, place.partition).ok_or_else(missing)?;
                let at = status.iter().find(|p| p.id == id).ok_or_else(missing)?;
                if !(at.log_start_offset.0..=at.high_watermark.0).contains(&place.offset) {
                    let detail = format!(
                        "offset {} is outside {} to {}",
                        place.offset, at.log_start_offset, at.high_watermark
                    );
                    return Err(Problem::new(Code::OffsetOutOfRange, detail)
                        .with("nth", nth)
                        .with("log_start_offset", at.log_start_offset.0)
                        .with("high_watermark", at.high_watermark.0));
                }
                if targets.insert(id, Offset(place.offset)).is_some() {
                    return Err(Problem::bad_request(format!("partition {} stands twice", place.partition)));
                }
            }
            targets.into_iter().collect()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_becomes_a_like_pattern() {
        assert_eq!(like("smtp*"), "smtp%");
        assert_eq!(like("a?c_100%\\"), "a_c\\_100\\%\\\\");
    }
}
