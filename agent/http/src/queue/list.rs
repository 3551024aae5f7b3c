//! Pages of what is in flight, waits or is dead, and a look at what comes next. Nothing here leases.

use super::{current, number_of, partition_of};
use crate::AppState;
use crate::error::{Code, Problem, ProblemBody};
use crate::extract::{Params, Principal, QueueName};
use crate::fetch::{ReturnedRecord, find_from};
use crate::render::{self, Encoding, Prefix};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use millpond_core::control_plane::BatchFlags;
use millpond_core::queue::{Listed, Listing, Queue};
use millpond_core::{Name, Offset, PartitionId, limits};
use millpond_engine::fetch::lookup::{Records, Wanted};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::IntoParams;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// 1 to 1000. Default 100.
    max_records: Option<usize>,
    /// `next` of the last page.
    after: Option<String>,
    /// With the records themselves.
    #[serde(default)]
    payload: bool,
    #[serde(default)]
    #[param(inline)]
    encoding: Encoding,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PeekQuery {
    /// 1 to 1000. Default 10.
    max_records: Option<usize>,
    #[serde(default)]
    #[param(inline)]
    encoding: Encoding,
}

/// One record; which members there are depends on the listing.
#[derive(Serialize, utoipa::ToSchema)]
struct ListedRecord {
    partition: i32,
    offset: i64,
    attempt: i32,
    failures: i32,
    /// In flight.
    deadline_ms: Option<i64>,
    /// Waiting; null while it waits for its key only.
    due_at_ms: Option<i64>,
    /// Waiting: `delayed`, `retrying`, or `blocked` by another record of its key.
    state: Option<String>,
    /// Dead.
    died_at_ms: Option<i64>,
    reason: Option<String>,
    /// Dead: retention has let the record go.
    gone: Option<bool>,
    record: Option<ReturnedRecord>,
}

#[derive(Serialize, utoipa::ToSchema)]
struct ListAnswer {
    records: Vec<ListedRecord>,
    /// `after` of the next page; null on the last.
    next: Option<String>,
}

#[derive(Serialize, utoipa::ToSchema)]
struct PeekAnswer {
    records: Vec<ReturnedRecord>,
}

fn page_size(given: Option<usize>, default: usize) -> Result<usize, Problem> {
    let size = given.unwrap_or(default);
    if !(1..=limits::LEASE_MAX_RECORDS).contains(&size) {
        return Err(Problem::bad_request(format!("max_records is 1 to {}", limits::LEASE_MAX_RECORDS)));
    }
    Ok(size)
}

fn place(queue: &Queue, token: &str) -> Result<(PartitionId, Offset), Problem> {
    let parse = || {
        let (partition, offset) = token.split_once('.')?;
        Some((partition_of(queue, partition.parse().ok()?)?, Offset(offset.parse().ok()?)))
    };
    parse().ok_or_else(|| Problem::bad_request("after is the next of an earlier page"))
}

/// Writes a record as reads return it; `false` if it is no more.
fn write_record(
    out: &mut Vec<u8>,
    topic: &Name,
    number: i32,
    found: &Records,
    at: (PartitionId, Offset),
    encoding: Encoding,
) -> Result<bool, Problem> {
    let corrupt = |e: millpond_format::Corrupt| Problem::new(Code::Corrupt, e.to_string());
    let Some(batch) = found.batch_of(at.0, at.1) else { return Ok(false) };
    let Some(view) = batch.record(at.1).transpose().map_err(corrupt)? else { return Ok(false) };
    let json = batch.batch.flags.has(BatchFlags::JSON);
    render::record(out, &Prefix::new(topic.as_str(), number), at.1.0, &view, json, encoding)
        .map_err(corrupt)?;
    Ok(true)
}

async fn lookup(
    app: &AppState,
    places: impl Iterator<Item = (PartitionId, Offset)>,
) -> Result<Records, Problem> {
    Ok(app.reader.lookup(&Wanted::new(places.map(|(p, o)| (p, o.0..o.0 + 1)))).await?)
}

async fn page(
    app: &AppState,
    principal: &Principal,
    name: &Name,
    query: &ListQuery,
    listing: Listing,
) -> Result<Response, Problem> {
    let size = page_size(query.max_records, 100)?;
    let queue = current(app, &principal.tenant, name).await?;
    let after = query.after.as_deref().map(|token| place(&queue, token)).transpose()?;
    let limit = i64::try_from(size).unwrap_or(i64::MAX);
    let mut listed = app.plane.list_queue(queue.id, listing, after, limit + 1).await?;
    let mut more = listed.len() > size;
    listed.truncate(size);
    let found = match query.payload {
        true => Some(lookup(app, listed.iter().filter(|l| !l.gone).map(|l| (l.partition, l.offset))).await?),
        false => None,
    };
    let mut out = b"{\"records\":[".to_vec();
    let mut last = None;
    for (n, one) in listed.iter().enumerate() {
        let number = number_of(&queue, one.partition).unwrap_or(-1);
        // A page with records is no longer than what is read at once.
        if n > 0 && found.as_ref().is_some_and(|found| found.is_unread(one.partition, one.offset)) {
            more = true;
            break;
        }
        if n > 0 {
            out.push(b',');
        }
        out.extend_from_slice(fields(one, number, listing).to_string().as_bytes());
        if let Some(found) = &found {
            let mut record = Vec::new();
            if write_record(
                &mut record,
                &queue.topic,
                number,
                found,
                (one.partition, one.offset),
                query.encoding,
            )? {
                out.pop();
                out.extend_from_slice(b",\"record\":");
                out.extend_from_slice(&record);
                out.push(b'}');
            }
        }
        last = Some(format!("\"{number}.{}\"", one.offset));
    }
    let next = last.filter(|_| more).unwrap_or_else(|| "null".to_owned());
    out.extend_from_slice(format!("],\"next\":{next}}}").as_bytes());
    Ok(json(out))
}

fn fields(one: &Listed, number: i32, listing: Listing) -> serde_json::Value {
    let mut fields = serde_json::json!({
        "partition": number, "offset": one.offset.0, "attempt": one.attempt, "failures": one.failures,
    });
    match listing {
        Listing::InFlight => fields["deadline_ms"] = one.at_ms.into(),
        Listing::Waiting => {
            let state = match (one.at_ms, one.attempt) {
                (None, _) => "blocked",
                (Some(_), 0) => "delayed",
                (Some(_), _) => "retrying",
            };
            fields["due_at_ms"] = one.at_ms.into();
            fields["state"] = state.into();
            fields["reason"] = one.reason.clone().into();
        }
        Listing::Dead => {
            fields["died_at_ms"] = one.at_ms.into();
            fields["reason"] = one.reason.clone().into();
            if one.gone {
                fields["gone"] = true.into();
            }
        }
    }
    fields
}

fn json(body: Vec<u8>) -> Response {
    let mut response = body.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

macro_rules! listing {
    ($(#[$doc:meta])* $name:ident, $path:literal, $id:literal, $listing:expr) => {
        $(#[$doc])*
        #[utoipa::path(
            get, path = $path, operation_id = $id, tag = "queues",
            params(("queue" = String, Path), ListQuery),
            responses((status = 200, description = "a page, by partition and offset", body = ListAnswer),
                (status = 404, description = "queue_not_found",
                    body = ProblemBody, content_type = "application/problem+json"),
                (status = "4XX", description = "bad_request",
                    body = ProblemBody, content_type = "application/problem+json"),
                (status = "5XX", description = "control_plane_unavailable, object_store_unavailable, corrupt",
                    body = ProblemBody, content_type = "application/problem+json"))
        )]
        pub(super) async fn $name(
            State(app): State<AppState>,
            principal: Principal,
            QueueName(name): QueueName,
            Params(query): Params<ListQuery>,
        ) -> Result<Response, Problem> {
            page(&app, &principal, &name, &query, $listing).await
        }
    };
}

listing!(
    /// Records that workers hold.
    in_flight, "/v1/queues/{queue}/in-flight", "list_in_flight", Listing::InFlight
);
listing!(
    /// Records that wait: for their time, for a retry, or for the record of their key before them.
    waiting, "/v1/queues/{queue}/waiting", "list_waiting", Listing::Waiting
);
listing!(
    /// Records that have failed too often or were rejected. They stay in the log; the queue remembers where
    /// and why.
    dead, "/v1/queues/{queue}/dead", "list_dead", Listing::Dead
);

/// The records that are next, without leasing them: those that wait and are due, then fresh ones.
#[utoipa::path(
    get, path = "/v1/queues/{queue}/peek", operation_id = "peek_queue", tag = "queues",
    params(("queue" = String, Path), PeekQuery),
    responses((status = 200, description = "as reads return them", body = PeekAnswer),
        (status = 404, description = "queue_not_found",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable, object_store_unavailable, corrupt",
            body = ProblemBody, content_type = "application/problem+json"))
)]
pub(super) async fn peek(
    State(app): State<AppState>,
    principal: Principal,
    QueueName(name): QueueName,
    Params(query): Params<PeekQuery>,
) -> Result<Response, Problem> {
    let size = page_size(query.max_records, 10)?;
    let queue = current(&app, &principal.tenant, &name).await?;
    let now = app.clock.now_ms();
    let limit = i64::try_from(limits::LEASE_MAX_RECORDS).unwrap_or(i64::MAX);
    let waiting = app.plane.list_queue(queue.id, Listing::Waiting, None, limit).await?;
    let mut next: Vec<(PartitionId, Offset)> = waiting
        .iter()
        .filter(|w| w.at_ms.is_none_or(|at| at <= now))
        .map(|w| (w.partition, w.offset))
        .take(size)
        .collect();
    if next.len() < size {
        next.extend(fresh(&app, &queue, size - next.len()).await?);
    }
    let found = lookup(&app, next.iter().copied()).await?;
    let mut out = b"{\"records\":[".to_vec();
    let mut first = true;
    for (partition, offset) in next {
        if found.is_unread(partition, offset) {
            break;
        }
        let start = out.len();
        if !first {
            out.push(b',');
        }
        let number = number_of(&queue, partition).unwrap_or(-1);
        if write_record(&mut out, &queue.topic, number, &found, (partition, offset), query.encoding)? {
            first = false;
        } else {
            out.truncate(start);
        }
    }
    out.extend_from_slice(b"]}");
    Ok(json(out))
}

/// Places from the cursors on, partition after partition.
async fn fresh(
    app: &AppState,
    queue: &Arc<Queue>,
    size: usize,
) -> Result<Vec<(PartitionId, Offset)>, Problem> {
    let mut places = Vec::new();
    let requests: Vec<_> =
        app.plane.cursors(queue.id).await?.into_iter().map(|(p, o)| find_from(p, o, 1)).collect();
    for (request, found) in requests.iter().zip(app.plane.find(&requests).await?) {
        let Some(found) = found else { continue };
        let from = request.offset.max(found.log_start_offset).0;
        let room = i64::try_from(size - places.len()).unwrap_or(i64::MAX);
        places.extend(
            (from..found.high_watermark.0.min(from.saturating_add(room)))
                .map(|o| (request.partition, Offset(o))),
        );
        if places.len() >= size {
            break;
        }
    }
    Ok(places)
}
