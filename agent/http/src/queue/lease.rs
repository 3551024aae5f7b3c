//! `POST /v1/queues/{queue}/leases`: leases records to a worker.

use super::check_range;
use crate::AppState;
use crate::body::json_body;
use crate::error::{Code, Problem, ProblemBody};
use crate::extract::{Caller, Params, QueueName};
use crate::read::answer::AnswerForm;
use crate::read::arrow::ArrowWriter;
use crate::read::pieces::Pieces;
use crate::read::render::{self, Encoding, Prefix};
use crate::read::{RENDER_INLINE_BYTES, ReturnedRecord, form_of};
use arrow_array::builder::{Int32Builder, StringBuilder};
use arrow_schema::{DataType, Field};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use millpond_core::queue::LimitedBy;
use millpond_core::{Name, limits};
use millpond_engine::blocking;
use millpond_engine::queue::{LeaseRequest, Leased, receipt};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use utoipa::IntoParams;

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct LeaseBody {
    /// Number of records, 1 to 1000. Default 1.
    max_records: Option<usize>,
    /// Size of keys, values and headers, 1 to 16777216. The first record is returned even if it is larger.
    /// Default 1048576.
    max_bytes: Option<usize>,
    /// How long to wait for the first record, 0 to 30000. Default 0.
    wait_ms: Option<u64>,
    /// Lease time, 1000 to 43200000. Default: `lease_ms` of the queue.
    lease_ms: Option<i64>,
    /// Name of the client, at most 256 bytes.
    client_id: Option<String>,
    /// 1 to 128 bytes, unique to this call. If the call is sent again with the same id while its lease is
    /// alive, the answer holds the records of the lease that are not settled yet.
    request_id: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LeaseQuery {
    #[serde(default)]
    #[param(inline)]
    encoding: Encoding,
}

#[derive(Serialize, utoipa::ToSchema)]
struct LeasedRecordAnswer {
    #[serde(flatten)]
    record: ReturnedRecord,
    /// Names this record in settlements.
    receipt: String,
    /// How often the record was leased, including this time.
    attempt: i32,
    /// Number of nacks that count, and of leases that expired.
    failures: i32,
}

/// A lease and its records.
#[derive(Serialize, utoipa::ToSchema)]
struct LeaseAnswer {
    /// null if no records were leased.
    lease_id: Option<String>,
    /// The server's clock.
    now_ms: i64,
    /// When the lease expires. Records that are neither settled nor renewed by then go to other workers.
    deadline_ms: Option<i64>,
    records: Vec<LeasedRecordAnswer>,
    /// Why there are no records in the answer although there are some in the queue: `rate`, `max_in_flight`,
    /// `keys` or `paused`.
    #[schema(value_type = Option<String>)]
    limited_by: Option<LimitedBy>,
}

pub(super) fn check_request_id(id: Option<&str>) -> Result<(), Problem> {
    if id.is_some_and(|id| id.is_empty() || id.len() > limits::IDEMPOTENCY_KEY_MAX_BYTES) {
        return Err(Problem::bad_request(format!(
            "a request_id has 1 to {} bytes",
            limits::IDEMPOTENCY_KEY_MAX_BYTES
        )));
    }
    Ok(())
}

impl LeaseBody {
    fn request(self) -> Result<LeaseRequest, Problem> {
        let max_records = self.max_records.unwrap_or(1);
        let max_bytes = self.max_bytes.unwrap_or(limits::READ_MAX_BYTES_DEFAULT);
        let wait_ms = self.wait_ms.unwrap_or(0);
        if !(1..=limits::LEASE_MAX_RECORDS).contains(&max_records) {
            return Err(Problem::bad_request(format!("max_records is 1 to {}", limits::LEASE_MAX_RECORDS)));
        }
        if !(1..=limits::LEASE_MAX_BYTES).contains(&max_bytes) {
            return Err(Problem::bad_request(format!("max_bytes is 1 to {}", limits::LEASE_MAX_BYTES)));
        }
        if wait_ms > limits::WAIT_MAX_MS {
            return Err(Problem::bad_request(format!("wait_ms is at most {}", limits::WAIT_MAX_MS)));
        }
        check_range("lease_ms", self.lease_ms, limits::LEASE_MIN_MS, limits::LEASE_MAX_MS)?;
        check_request_id(self.request_id.as_deref())?;
        if self.client_id.as_ref().is_some_and(|c| c.len() > limits::CLIENT_ID_MAX_BYTES) {
            return Err(Problem::bad_request(format!(
                "client_id has at most {} bytes",
                limits::CLIENT_ID_MAX_BYTES
            )));
        }
        let (wait, request_id) = (Duration::from_millis(wait_ms), self.request_id);
        Ok(LeaseRequest { max_records, max_bytes, lease_ms: self.lease_ms, wait, request_id })
    }
}

/// Leases records to a worker until a deadline, which settlements can renew. A record whose lease expires is
/// leased to another worker, and that counts as a failure. If the client disconnects while it waits, no
/// record is leased and nothing is counted; with a `request_id` the lease stays, for a retry, until it ends.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/leases", operation_id = "lease_records", tag = "queues",
    params(("queue" = String, Path), LeaseQuery),
    request_body = LeaseBody,
    responses((status = 200,
            description = "In Arrow: the columns of records, then receipt, attempt, failures; lease_id, \
                now_ms, deadline_ms and limited_by are in the schema's metadata",
            content((LeaseAnswer = "application/json"), (Vec<u8> = "application/vnd.apache.arrow.stream"))),
        (status = 404, description = "queue_not_found",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request, not_acceptable, throttled",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable, object_store_unavailable, corrupt",
            body = ProblemBody, content_type = "application/problem+json"))
)]
pub(super) async fn lease(
    State(app): State<AppState>,
    Caller(scope): Caller,
    QueueName(name): QueueName,
    Params(query): Params<LeaseQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let form = form_of(&headers, false)?;
    if form == AnswerForm::NdJson {
        return Err(Problem::new(
            Code::NotAcceptable,
            "leased records are available as application/json and application/vnd.apache.arrow.stream",
        ));
    }
    let body: LeaseBody = json_body(&app, body).await?;
    let (topic, leased) = app.engine.queues.lease(&scope, &name, &body.request()?).await?;
    let bytes: usize = leased.records.iter().filter_map(|r| r.view().ok()).map(|v| v.tail.len()).sum();
    let render = move || answer(leased, &topic, form, query.encoding, bytes);
    if bytes <= RENDER_INLINE_BYTES { render() } else { blocking::run(render).await }
}

fn answer(
    mut leased: Leased,
    topic: &Name,
    form: AnswerForm,
    encoding: Encoding,
    bytes: usize,
) -> Result<Response, Problem> {
    let pieces = match form {
        AnswerForm::Arrow => arrow(&leased)?,
        _ => json(&leased, topic, encoding, bytes)?,
    };
    let body = pieces.finish(Some(leased.take_answer_memory()).filter(|_| !leased.records.is_empty()))?;
    leased.delivered();
    Ok(form.response(body))
}

fn limited_by(leased: &Leased) -> String {
    serde_json::to_string(&leased.limited_by).unwrap_or_default()
}

fn json(leased: &Leased, topic: &Name, encoding: Encoding, bytes: usize) -> Result<Pieces, Problem> {
    let expected = bytes * 5 / 4 + leased.records.len() * (receipt::LENGTH + 128) + 256;
    let mut pieces = Pieces::with_capacity(expected);
    let out = &mut pieces.out;
    match leased.lease {
        Some(lease) => write!(
            out,
            "{{\"lease_id\":\"{lease}\",\"now_ms\":{},\"deadline_ms\":{}",
            leased.at_ms, leased.deadline_ms
        ),
        None => write!(out, "{{\"lease_id\":null,\"now_ms\":{},\"deadline_ms\":null", leased.at_ms),
    }
    .unwrap_or_default();
    out.extend_from_slice(b",\"records\":[");
    let mut prefixes: HashMap<i32, Prefix> = HashMap::new();
    for (n, record) in leased.records.iter().enumerate() {
        pieces.cut();
        let out = &mut pieces.out;
        if n > 0 {
            out.push(b',');
        }
        let prefix =
            prefixes.entry(record.number).or_insert_with(|| Prefix::new(topic.as_str(), record.number));
        let view = record.view()?;
        render::record(out, prefix, record.offset.0, &view, record.is_json(), encoding)?;
        out.pop();
        out.extend_from_slice(b",\"receipt\":\"");
        if let Some(lease) = leased.lease {
            record.receipt(lease).write(out);
        }
        write!(out, "\",\"attempt\":{},\"failures\":{}}}", record.attempt, record.failures)
            .unwrap_or_default();
    }
    write!(pieces.out, "],\"limited_by\":{}}}", limited_by(leased)).unwrap_or_default();
    Ok(pieces)
}

fn arrow(leased: &Leased) -> Result<Pieces, Problem> {
    let mut writer = ArrowWriter::default();
    let mut receipts =
        StringBuilder::with_capacity(leased.records.len(), leased.records.len() * receipt::LENGTH);
    let (mut attempts, mut failures) = (Int32Builder::new(), Int32Builder::new());
    for record in &leased.records {
        writer.push(record.number, record.offset.0, &record.view()?)?;
        receipts.append_value(leased.lease.map(|l| record.receipt(l).text()).unwrap_or_default());
        attempts.append_value(record.attempt);
        failures.append_value(record.failures);
    }
    let more: Vec<(Field, arrow_array::ArrayRef)> = vec![
        (Field::new("receipt", DataType::Utf8, false), Arc::new(receipts.finish())),
        (Field::new("attempt", DataType::Int32, false), Arc::new(attempts.finish())),
        (Field::new("failures", DataType::Int32, false), Arc::new(failures.finish())),
    ];
    let mut metadata = HashMap::from([("now_ms".to_owned(), leased.at_ms.to_string())]);
    if let Some(lease) = leased.lease {
        metadata.insert("lease_id".to_owned(), lease.to_string());
        metadata.insert("deadline_ms".to_owned(), leased.deadline_ms.to_string());
    }
    if leased.limited_by.is_some() {
        metadata.insert("limited_by".to_owned(), limited_by(leased).trim_matches('"').to_owned());
    }
    writer.finish_with(more, metadata)
}
