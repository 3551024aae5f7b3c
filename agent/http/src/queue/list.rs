//! Listings of a queue's records that are in flight, waiting or dead, page by page, and a peek at the records
//! that come next. Nothing here leases or changes a record.

use crate::AppState;
use crate::error::{Problem, ProblemBody};
use crate::extract::{Caller, Params, QueueName};
use crate::read::ReturnedRecord;
use crate::read::pieces::Pieces;
use crate::read::render::{self, Encoding, Prefix};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use millpond_core::queue::{Listed, Listing};
use millpond_core::{Name, Offset, Scope, limits};
use millpond_engine::fetch::lookup::FoundRecord;
use millpond_engine::queue::ListedMemory;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Records of a page, 1 to 1000. Default 100.
    max_records: Option<usize>,
    /// `next` of the previous page.
    after: Option<String>,
    /// Whether to return the records' keys, values and headers too.
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
    /// Number of records, 1 to 1000. Default 10.
    max_records: Option<usize>,
    #[serde(default)]
    #[param(inline)]
    encoding: Encoding,
}

/// One record of a listing; which members it has depends on the listing.
#[derive(Serialize, utoipa::ToSchema)]
struct ListedRecord {
    partition: i32,
    offset: i64,
    attempt: i32,
    failures: i32,
    /// In flight: when the lease expires.
    deadline_ms: Option<i64>,
    /// Waiting: when the record becomes due; null if it only waits for another record of its key.
    due_at_ms: Option<i64>,
    /// Waiting: `delayed`, `retrying`, or `blocked` by another record of its key.
    state: Option<String>,
    /// Dead: when the record died.
    died_at_ms: Option<i64>,
    /// Waiting and dead: the reason of the last nack or rejection.
    reason: Option<String>,
    /// Dead: true if retention has removed the record.
    gone: Option<bool>,
    record: Option<ReturnedRecord>,
}

#[derive(Serialize, utoipa::ToSchema)]
struct ListAnswer {
    records: Vec<ListedRecord>,
    /// `after` of the next page; null on the last page.
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

/// Parses the token of a page: the partition and offset after which it begins.
fn place(token: &str) -> Result<(i32, Offset), Problem> {
    let parse = || {
        let (partition, offset) = token.split_once('.')?;
        Some((partition.parse().ok()?, Offset(offset.parse().ok()?)))
    };
    parse().ok_or_else(|| Problem::bad_request("after is not the next of an earlier page"))
}

/// Writes a record as JSON, in the same form as reads return it.
fn write_record(
    out: &mut Vec<u8>,
    topic: &Name,
    partition: i32,
    record: &FoundRecord,
    encoding: Encoding,
) -> Result<(), Problem> {
    let prefix = Prefix::new(topic.as_str(), partition);
    render::record(out, &prefix, record.offset.0, &record.view()?, record.is_json(), encoding)?;
    Ok(())
}

async fn page(
    app: &AppState,
    scope: &Scope,
    name: &Name,
    query: &ListQuery,
    listing: Listing,
) -> Result<Response, Problem> {
    let size = page_size(query.max_records, 100)?;
    let after = query.after.as_deref().map(place).transpose()?;
    let page = app.engine.queues.page(scope, name, listing, after, size, query.payload).await?;
    let mut pieces = begin_records();
    for (n, one) in page.records.iter().enumerate() {
        pieces.cut();
        let out = &mut pieces.out;
        if n > 0 {
            out.push(b',');
        }
        out.extend_from_slice(fields(&one.listed, one.partition, listing).to_string().as_bytes());
        if let Some(record) = &one.record {
            out.pop();
            out.extend_from_slice(b",\"record\":");
            write_record(out, &page.topic, one.partition, record, query.encoding)?;
            out.push(b'}');
        }
    }
    let token = |(partition, offset): (i32, Offset)| format!("\"{partition}.{offset}\"");
    let next = page.next.map_or_else(|| "null".to_owned(), token);
    pieces.out.extend_from_slice(format!("],\"next\":{next}}}").as_bytes());
    answer(pieces, page.memory)
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

fn begin_records() -> Pieces {
    let mut pieces = Pieces::default();
    pieces.out.extend_from_slice(b"{\"records\":[");
    pieces
}

/// The answer, which holds its memory until the client has taken it. Without payload it has none.
fn answer(pieces: Pieces, memory: ListedMemory) -> Result<Response, Problem> {
    let mut response = pieces.finish(Some(memory.answer).filter(|m| m.bytes() > 0))?.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Defines the route of one listing.
macro_rules! listing {
    ($(#[$doc:meta])* $name:ident, $path:literal, $id:literal, $listing:expr) => {
        $(#[$doc])*
        #[utoipa::path(
            get, path = $path, operation_id = $id, tag = "queues",
            params(("queue" = String, Path), ListQuery),
            responses((status = 200, description = "a page, ordered by partition and offset",
                    body = ListAnswer),
                (status = 404, description = "queue_not_found",
                    body = ProblemBody, content_type = "application/problem+json"),
                (status = "4XX", description = "bad_request, throttled",
                    body = ProblemBody, content_type = "application/problem+json"),
                (status = "5XX", description = "control_plane_unavailable, object_store_unavailable, corrupt",
                    body = ProblemBody, content_type = "application/problem+json"))
        )]
        pub(super) async fn $name(
            State(app): State<AppState>,
            Caller(scope): Caller,
            QueueName(name): QueueName,
            Params(query): Params<ListQuery>,
        ) -> Result<Response, Problem> {
            page(&app, &scope, &name, &query, $listing).await
        }
    };
}

listing!(
    /// Lists records that are leased to workers.
    in_flight, "/v1/queues/{queue}/in-flight", "list_in_flight", Listing::InFlight
);
listing!(
    /// Lists records that wait for their delivery time, for a retry, or for an earlier record of their key.
    waiting, "/v1/queues/{queue}/waiting", "list_waiting", Listing::Waiting
);
listing!(
    /// Lists records that have failed too often or were rejected. They stay in the log; the queue stores
    /// their offsets and the reasons.
    dead, "/v1/queues/{queue}/dead", "list_dead", Listing::Dead
);

/// Returns the records that come next, without leasing them: waiting records that are due, then new ones.
#[utoipa::path(
    get, path = "/v1/queues/{queue}/peek", operation_id = "peek_queue", tag = "queues",
    params(("queue" = String, Path), PeekQuery),
    responses((status = 200, description = "records in the form that reads return", body = PeekAnswer),
        (status = 404, description = "queue_not_found",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request, throttled",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable, object_store_unavailable, corrupt",
            body = ProblemBody, content_type = "application/problem+json"))
)]
pub(super) async fn peek(
    State(app): State<AppState>,
    Caller(scope): Caller,
    QueueName(name): QueueName,
    Params(query): Params<PeekQuery>,
) -> Result<Response, Problem> {
    let size = page_size(query.max_records, 10)?;
    let (topic, records, memory) = app.engine.queues.peek(&scope, &name, size).await?;
    let mut pieces = begin_records();
    for (n, one) in records.iter().enumerate() {
        pieces.cut();
        let out = &mut pieces.out;
        if n > 0 {
            out.push(b',');
        }
        write_record(out, &topic, one.partition, &one.record, query.encoding)?;
    }
    pieces.out.extend_from_slice(b"]}");
    answer(pieces, memory)
}
