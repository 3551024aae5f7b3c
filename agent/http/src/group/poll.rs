//! A member's poll: returns the next records of its partitions and renews its session.

use super::{Assignment, listed};
use crate::AppState;
use crate::body::json_body;
use crate::error::{Code, Problem, ProblemBody};
use crate::extract::{Caller, GroupName, Member as MemberPath, Params};
use crate::read::answer::{AnswerForm, RecordsAnswer};
use crate::read::render::Encoding;
use crate::read::{ReturnedRecord, check_limits, form_of};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use millpond_core::limits;
use millpond_engine::fetch::ReadLimits;
use millpond_engine::group::poll::PollRequest;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::IntoParams;

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct PollBody {
    /// `next` of the previous answer. Without it, and in partitions that are new to the member, reading
    /// starts at the committed offset, or where the member's `from` says if there is none.
    after: Option<String>,
    /// Number of records, 0 to 100000; 0 only renews the session. Default 500.
    max_records: Option<usize>,
    /// Size of keys, values and headers, 1 to 16777216. The first record is returned even if it is larger.
    /// Default 1048576.
    max_bytes: Option<usize>,
    /// How long to wait for the first record, 0 to 30000. Default 0.
    wait_ms: Option<u64>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PollQuery {
    #[serde(default)]
    #[param(inline)]
    encoding: Encoding,
}

#[derive(Serialize, utoipa::ToSchema)]
struct PollAnswer {
    records: Vec<ReturnedRecord>,
    /// The member's position, an opaque token: `after` of the next poll.
    next: String,
    generation: i64,
    assignments: Vec<Assignment>,
}

/// Returns the next records of the member's partitions and renews its session: when the poll starts, while it
/// waits, and when it answers. The same `after` returns the same records again. A poll that waits returns at
/// once, without records, when the generation changes.
#[utoipa::path(
    post, path = "/v1/groups/{group}/members/{member}/poll", operation_id = "poll_group", tag = "groups",
    params(("group" = String, Path), ("member" = String, Path), PollQuery), request_body = PollBody,
    responses((status = 200, description = "In NDJSON the last line holds the members other than records",
            content((PollAnswer = "application/json"), (String = "application/x-ndjson"))),
        (status = 404,
            description = "group_not_found; member_not_found: it has left or its session has ended",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request, not_acceptable, throttled",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable, object_store_unavailable, corrupt",
            body = ProblemBody, content_type = "application/problem+json"))
)]
pub(super) async fn poll(
    State(app): State<AppState>,
    Caller(scope): Caller,
    GroupName(group): GroupName,
    MemberPath(member): MemberPath,
    Params(query): Params<PollQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let form = form_of(&headers, false)?;
    if form == AnswerForm::Arrow {
        return Err(Problem::new(
            Code::NotAcceptable,
            "polled records are available as application/json and application/x-ndjson",
        ));
    }
    let body: PollBody = json_body(&app, body).await?;
    let max_records = body.max_records.unwrap_or(limits::READ_MAX_RECORDS_DEFAULT);
    let max_bytes = body.max_bytes.unwrap_or(limits::READ_MAX_BYTES_DEFAULT);
    let wait_ms = body.wait_ms.unwrap_or(0);
    check_limits(max_records.max(1), max_bytes, wait_ms)?;
    let request = PollRequest {
        group,
        member,
        after: body.after,
        limits: ReadLimits { max_records, max_bytes },
        wait: Duration::from_millis(wait_ms),
    };
    let mut answer = RecordsAnswer::new(form, query.encoding);
    let polled = app.engine.groups.poll(&scope, &request, &mut answer).await?;
    let assignments = serde_json::to_string(&listed(polled.assignments)).unwrap_or_default();
    let more = format!(",\"generation\":{},\"assignments\":{assignments}", polled.generation);
    Ok(form.response(answer.finish(&polled.next, &more)?))
}
