//! A member's poll: records of its partitions from where it is, and its sign of life.

use super::{Assignment, json_body, listed};
use crate::AppState;
use crate::chunk::{Chunk, Limits};
use crate::error::{Code, Problem, ProblemBody};
use crate::extract::{GroupName, Member as MemberPath, Params, Principal};
use crate::fetch::{Form, ReturnedRecord, check_limits, find_from, form_of};
use crate::render::Encoding;
use crate::tail::{GROUP, SHARE_MIN_BYTES};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, header};
use millpond_core::group::{Assigned, RenewRejected, Renewed};
use millpond_core::{Error, MemberId, Name, PartitionId, limits};
use millpond_engine::group::Assignments;
use millpond_engine::group::position::{Position, within};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::Instant;
use utoipa::IntoParams;

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct PollBody {
    /// `next` of the last answer. Left out, and for a partition that is new to the member: the committed
    /// offset, else `from`.
    after: Option<String>,
    /// 0 to 100000; 0 only renews the session. Default 500.
    max_records: Option<usize>,
    /// Keys, values and headers, at most 16777216; the first record is given even if larger. Default 1048576.
    max_bytes: Option<usize>,
    /// How long to wait for the first record, at most 30000. Default 0.
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
    /// The member's position, opaque: `after` of the next poll.
    next: String,
    generation: i64,
    assignments: Vec<Assignment>,
}

/// A sign of life and when it was given.
struct Alive {
    renewed: Renewed,
    at: Instant,
}

struct Poll {
    app: AppState,
    tenant: Name,
    group: Name,
    member: MemberId,
    limits: Limits,
    form: Form,
    encoding: Encoding,
}

fn ms(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

impl Alive {
    /// A waiting poll renews the session by then.
    fn renew_at(&self) -> Instant {
        self.at + ms(self.renewed.session_ms / 3)
    }

    /// Whether the sign of life noted last is old enough for another to be noted.
    fn is_due(&self) -> bool {
        self.at.elapsed() + ms(self.renewed.noted_ms_ago)
            >= ms(self.renewed.session_ms / limits::SESSION_NOTED_PARTS)
    }
}

impl Poll {
    async fn renew(&self) -> Result<Alive, Error<RenewRejected>> {
        let at = Instant::now();
        let renewed = self.app.groups.renew(&self.tenant, &self.group, self.member).await?;
        Ok(Alive { renewed, at })
    }

    /// Answers as soon as there are records or another generation, at the latest at the deadline.
    async fn run(&self, after: Option<&str>) -> Result<Response, Problem> {
        let deadline = Instant::now() + self.limits.wait;
        let mut alive = self.renew().await?;
        let (mut position, news) =
            Position::and_news(&alive.renewed, after).map_err(|e| Problem::bad_request(e.to_string()))?;
        if self.limits.max_records == 0 {
            return self.answer(self.chunk(), &position, &alive.renewed);
        }
        // The client does not know its generation yet: what has changed between two polls is told as soon as
        // what changes during one.
        let waits = !self.limits.wait.is_zero() && !news;
        let ids: Vec<PartitionId> = alive.renewed.partitions.iter().map(|p| p.partition).collect();
        let watch = waits.then(|| self.app.watcher.watch(ids));
        let generations =
            waits.then(|| self.app.groups.watcher.watch(alive.renewed.group, alive.renewed.generation));
        loop {
            let mut chunk = self.chunk();
            self.read(&mut chunk, &mut position, &alive.renewed, watch.as_ref()).await?;
            let (Some(watch), Some(generations)) = (&watch, &generations) else {
                return self.finish(chunk, position, &alive).await;
            };
            if chunk.records > 0 || Instant::now() >= deadline || self.app.watcher.is_stopping() {
                return self.finish(chunk, position, &alive).await;
            }
            tokio::select! {
                () = watch.moved() => continue,
                () = generations.moved() => {}
                () = tokio::time::sleep_until(alive.renew_at()) => {}
                () = tokio::time::sleep_until(deadline) => continue,
            }
            let now = self.renew().await?;
            if now.renewed.generation != alive.renewed.generation {
                let position = Position::of(&now.renewed, Some(&position.token()))
                    .map_err(|e| Problem::bad_request(e.to_string()))?;
                return self.answer(chunk, &position, &now.renewed);
            }
            alive = now;
        }
    }

    fn chunk(&self) -> Chunk {
        Chunk::new(self.form, self.encoding, self.limits)
    }

    /// Records of all partitions in turn, within the limits.
    async fn read(
        &self,
        chunk: &mut Chunk,
        position: &mut Position,
        renewed: &Renewed,
        watch: Option<&millpond_engine::fetch::watcher::Watch>,
    ) -> Result<(), Problem> {
        let all = &renewed.partitions;
        let first = position.turn(all.len());
        let turns: Vec<&Assigned> = all[first..].iter().chain(&all[..first]).collect();
        for group in turns.chunks(GROUP) {
            let share =
                (self.limits.max_bytes / group.len().max(1)).max(SHARE_MIN_BYTES.min(self.limits.max_bytes));
            let mut again: Vec<&Assigned> = group.to_vec();
            while !again.is_empty() {
                let requests: Vec<_> =
                    again.iter().map(|a| find_from(a.partition, position.get(a.partition), share)).collect();
                let fetched = self.app.reader.fetch(&requests).await?;
                let mut moved = Vec::new();
                for (assigned, one) in again.iter().zip(&fetched) {
                    // Gone with its topic: the next generation is without it.
                    let Some(one) = one else { continue };
                    let at = position.get(assigned.partition);
                    let mut next = within(Some(at), renewed.from, one.log_start_offset, one.high_watermark);
                    if next != at {
                        moved.push(*assigned);
                    } else {
                        chunk.take(assigned.topic.as_str(), assigned.number, one, &mut next)?;
                    }
                    position.set(assigned.partition, next);
                    if let Some(watch) = watch {
                        watch.saw(assigned.partition, one.high_watermark);
                    }
                }
                again = moved;
            }
            if chunk.full {
                break;
            }
        }
        Ok(())
    }

    /// The session is renewed once more, where that would be noted.
    async fn finish(&self, chunk: Chunk, mut position: Position, alive: &Alive) -> Result<Response, Problem> {
        if chunk.records > 0 {
            position.take_turn();
        }
        if alive.is_due() {
            let outcome = self.app.plane.renew(&self.tenant, &self.group, self.member).await;
            // Of other failures the next poll will tell: the records are there.
            if let Err(rejected @ Error::Rejected(_)) = outcome {
                return Err(rejected.into());
            }
        }
        self.answer(chunk, &position, &alive.renewed)
    }

    fn answer(&self, chunk: Chunk, position: &Position, renewed: &Renewed) -> Result<Response, Problem> {
        let mut assignments = Assignments::new();
        for assigned in &renewed.partitions {
            assignments.entry(assigned.topic.clone()).or_default().push(assigned.number);
        }
        let assignments = serde_json::to_string(&listed(assignments)).unwrap_or_default();
        let more = format!(",\"generation\":{},\"assignments\":{assignments}", renewed.generation);
        let mut response = chunk.finish(&position.token(), &more)?.into_response();
        let content_type =
            if self.form == Form::NdJson { "application/x-ndjson" } else { "application/json" };
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }
}

/// Reads on in the member's partitions, and renews its session: when the poll starts, while it waits, and
/// when it answers. The same `after` gives the same records again. A poll that waits returns at once, without
/// records, when the generation changes.
#[utoipa::path(
    post, path = "/v1/groups/{group}/members/{member}/poll", operation_id = "poll_group", tag = "groups",
    params(("group" = String, Path), ("member" = String, Path), PollQuery), request_body = PollBody,
    responses((status = 200, description = "As NDJSON the last line holds what stands beside the records",
            content((PollAnswer = "application/json"), (String = "application/x-ndjson"))),
        (status = 404, description = "group_not_found; member_not_found: it has left or its session has ended",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request, not_acceptable",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable, object_store_unavailable, corrupt",
            body = ProblemBody, content_type = "application/problem+json"))
)]
pub(super) async fn poll(
    State(app): State<AppState>,
    principal: Principal,
    GroupName(group): GroupName,
    MemberPath(member): MemberPath,
    Params(query): Params<PollQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let form = form_of(&headers, false)?;
    if form == Form::Arrow {
        return Err(Problem::new(
            Code::NotAcceptable,
            "a poll's records come as application/json and application/x-ndjson",
        ));
    }
    let body: PollBody = json_body(body).await?;
    let max_records = body.max_records.unwrap_or(limits::READ_MAX_RECORDS_DEFAULT);
    let max_bytes = body.max_bytes.unwrap_or(limits::READ_MAX_BYTES_DEFAULT);
    let wait_ms = body.wait_ms.unwrap_or(0);
    check_limits(max_records.max(1), max_bytes, wait_ms)?;
    let limits = Limits { max_records, max_bytes, wait: Duration::from_millis(wait_ms), follow: false };
    let poll = Poll { app, tenant: principal.tenant, group, member, limits, form, encoding: query.encoding };
    poll.run(body.after.as_deref()).await
}
