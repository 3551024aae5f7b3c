//! Pages of what is in flight, waits or is dead, and a look at what comes next. Nothing here leases.

use crate::AppState;
use crate::error::{Problem, ProblemBody};
use crate::extract::{Caller, Params, QueueName};
use crate::read::ReturnedRecord;
use crate::read::render::{self, Encoding, Prefix};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use millpond_core::queue::{Listed, Listing};
use millpond_core::{Name, Offset, Scope, limits};
use millpond_engine::fetch::lookup::FoundRecord;
use serde::{Deserialize, Serialize};
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

/// A place between two pages: partition and offset.
fn place(token: &str) -> Result<(i32, Offset), Problem> {
    let parse = || {
        let (partition, offset) = token.split_once('.')?;
        Some((partition.parse().ok()?, Offset(offset.parse().ok()?)))
    };
    parse().ok_or_else(|| Problem::bad_request("after is the next of an earlier page"))
}

/// Writes a record as reads return it.
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
    let mut out = b"{\"records\":[".to_vec();
    for (n, one) in page.records.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        out.extend_from_slice(fields(&one.listed, one.partition, listing).to_string().as_bytes());
        if let Some(record) = &one.record {
            out.pop();
            out.extend_from_slice(b",\"record\":");
            write_record(&mut out, &page.topic, one.partition, record, query.encoding)?;
            out.push(b'}');
        }
    }
    let token = |(partition, offset): (i32, Offset)| format!("\"{partition}.{offset}\"");
    let next = page.next.map_or_else(|| "null".to_owned(), token);
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
            Caller(scope): Caller,
            QueueName(name): QueueName,
            Params(query): Params<ListQuery>,
        ) -> Result<Response, Problem> {
            page(&app, &scope, &name, &query, $listing).await
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
    Caller(scope): Caller,
    QueueName(name): QueueName,
    Params(query): Params<PeekQuery>,
) -> Result<Response, Problem> {
    let size = page_size(query.max_records, 10)?;
    let (topic, records) = app.engine.queues.peek(&scope, &name, size).await?;
    let mut out = b"{\"records\":[".to_vec();
    for (n, one) in records.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        write_record(&mut out, &topic, one.partition, &one.record, query.encoding)?;
    }
    out.extend_from_slice(b"]}");
    Ok(json(out))
}
