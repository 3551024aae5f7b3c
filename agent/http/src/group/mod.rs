//! Routes of consumer groups, `/v1/groups`: join, leave, list, describe and forget. Polls and offsets are in
//! the submodules.

pub mod offsets;
mod poll;

use super::AppState;
use super::body::json_body;
use super::error::{Problem, ProblemBody};
use super::extract::{Caller, GroupName, Member as MemberPath, Params};
use super::page::PageQuery;
use axum::body::Body;
use axum::extract::State;
use axum::response::Json;
use http::StatusCode;
use millpond_core::group::{Member, MemberState, Progress, Start};
use millpond_core::{MemberId, Name, limits};
use millpond_engine::group::{Assignments, DescribedGroup};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(describe, forget))
        .routes(routes!(join))
        .routes(routes!(leave))
        .routes(routes!(poll::poll))
        .routes(routes!(offsets::commit))
}

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct JoinBody {
    /// 1 to 64 topic names. Topics that do not exist are made, unless the server is started not to do so.
    #[schema(example = json!(["orders"]))]
    topics: Vec<String>,
    /// Session time, 1000 to 1800000. Default 30000. A member that has not polled for this time (in the worst
    /// case for 5/6 of it) is removed.
    session_ms: Option<i64>,
    /// Where reading starts in a partition that has no committed offset, or whose committed offset has been
    /// removed by retention. Default earliest.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "earliest")]
    from: Start,
    /// Name of the client, shown in descriptions of the group. At most 256 bytes.
    client_id: Option<String>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Assignment {
    topic: String,
    partitions: Vec<i32>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct JoinAnswer {
    member_id: String,
    generation: i64,
    assignments: Vec<Assignment>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct GroupList {
    groups: Vec<GroupDescription>,
    /// `after` of the next page; null on the last page.
    next: Option<String>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct GroupDescription {
    group: String,
    generation: i64,
    /// Members whose session has not ended, in the order in which they joined.
    members: Vec<MemberDescription>,
    /// Partitions that are assigned to a member or have a committed offset.
    partitions: Vec<PartitionProgress>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct MemberDescription {
    member_id: String,
    client_id: Option<String>,
    topics: Vec<String>,
    session_ms: i64,
    #[schema(value_type = String)]
    from: Start,
    /// When the member was last seen, as far as it was noted.
    seen_at_ms: i64,
    assignments: Vec<Assignment>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct PartitionProgress {
    topic: String,
    partition: i32,
    member_id: Option<String>,
    /// Offset of the next record to read; null if none was committed.
    committed_offset: Option<i64>,
    log_start_offset: i64,
    high_watermark: i64,
    /// Number of offsets from the committed offset, or from the log's start if that is greater, to the high
    /// watermark; null if no offset was committed.
    lag: Option<i64>,
}

fn listed(assignments: Assignments) -> Vec<Assignment> {
    assignments
        .into_iter()
        .map(|(topic, partitions)| Assignment { topic: topic.to_string(), partitions })
        .collect()
}

impl JoinBody {
    fn member(self, id: MemberId) -> Result<Member, Problem> {
        let names: BTreeSet<Name> = self.topics.iter().map(|t| Name::new(t)).collect::<Result<_, _>>()?;
        if names.is_empty() || names.len() > limits::TOPICS_PER_MEMBER {
            return Err(Problem::bad_request(format!(
                "a member subscribes to 1 to {} topics",
                limits::TOPICS_PER_MEMBER
            )));
        }
        let session_ms = self.session_ms.unwrap_or(limits::SESSION_DEFAULT_MS);
        if !(limits::SESSION_MIN_MS..=limits::SESSION_MAX_MS).contains(&session_ms) {
            let detail = format!(
                "session_ms is out of range: {} to {}",
                limits::SESSION_MIN_MS,
                limits::SESSION_MAX_MS
            );
            return Err(Problem::bad_request(detail));
        }
        if self.client_id.as_ref().is_some_and(|c| c.len() > limits::CLIENT_ID_MAX_BYTES || c.contains('\0'))
        {
            return Err(Problem::bad_request(format!(
                "client_id is text of at most {} bytes",
                limits::CLIENT_ID_MAX_BYTES
            )));
        }
        Ok(Member {
            id,
            topics: names.into_iter().collect(),
            session_ms,
            from: self.from,
            client_id: self.client_id,
        })
    }
}

/// Joins a group, which is made if it does not exist, and assigns the new member its share of the partitions.
/// If the answer is lost, the member that was made is removed when its session ends.
#[utoipa::path(
    post, path = "/v1/groups/{group}/members", operation_id = "join_group", tag = "groups",
    params(("group" = String, Path)),
    request_body = JoinBody,
    responses((status = 200, description = "the new member", body = JoinAnswer),
        (status = 404, description = "topic_not_found: the server is started not to make topics",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable",
            body = ProblemBody, content_type = "application/problem+json"))
)]
async fn join(
    State(app): State<AppState>,
    Caller(scope): Caller,
    GroupName(group): GroupName,
    body: Body,
) -> Result<Json<JoinAnswer>, Problem> {
    let body: JoinBody = json_body(&app, body).await?;
    let id = MemberId(app.engine.random.uuid(app.engine.clock.now_ms()));
    let member = body.member(id)?;
    let (generation, assignments) = app.engine.groups.join(&scope, &group, &member).await?;
    Ok(Json(JoinAnswer {
        member_id: member.id.to_string(),
        generation: generation.0,
        assignments: listed(assignments),
    }))
}

/// Leaves a group: the member's partitions are given to the other members at once.
#[utoipa::path(
    delete, path = "/v1/groups/{group}/members/{member}", operation_id = "leave_group", tag = "groups",
    params(("group" = String, Path), ("member" = String, Path)),
    responses((status = 204, description = "the member was removed"),
        (status = 404, description = "group_not_found, member_not_found",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable",
            body = ProblemBody, content_type = "application/problem+json"))
)]
async fn leave(
    State(app): State<AppState>,
    Caller(scope): Caller,
    GroupName(group): GroupName,
    MemberPath(member): MemberPath,
) -> Result<StatusCode, Problem> {
    app.engine.groups.leave(&scope, &group, member).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists the consumer groups of the tenant page by page, ordered by name.
#[utoipa::path(
    get, path = "/v1/groups", operation_id = "list_groups", tag = "groups", params(PageQuery),
    responses((status = 200, description = "members, assignment, committed offset and lag per partition",
        body = GroupList),
        (status = "4XX", description = "bad_request",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable",
            body = ProblemBody, content_type = "application/problem+json"))
)]
async fn list(
    State(app): State<AppState>,
    Caller(scope): Caller,
    Params(query): Params<PageQuery>,
) -> Result<Json<GroupList>, Problem> {
    let page = app.engine.groups.list(&scope, &query.request(limits::PAGE_MAX_PARTITIONS)?).await?;
    let groups: Vec<GroupDescription> =
        page.items.iter().map(|(name, described)| description(name, described)).collect();
    let next = groups.last().filter(|_| page.has_more).map(|last| last.group.clone());
    Ok(Json(GroupList { groups, next }))
}

/// Describes a group: members and their assignments, and the committed offset and lag of each partition.
#[utoipa::path(
    get, path = "/v1/groups/{group}", operation_id = "describe_group", tag = "groups",
    params(("group" = String, Path)),
    responses((status = 200, description = "the group", body = GroupDescription),
        (status = 404, description = "group_not_found",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable",
            body = ProblemBody, content_type = "application/problem+json"))
)]
async fn describe(
    State(app): State<AppState>,
    Caller(scope): Caller,
    GroupName(group): GroupName,
) -> Result<Json<GroupDescription>, Problem> {
    let described = app.engine.groups.describe(&scope, &group).await?;
    Ok(Json(description(&group, &described)))
}

/// Forgets a group that has no members, and its committed offsets.
#[utoipa::path(
    delete, path = "/v1/groups/{group}", operation_id = "forget_group", tag = "groups",
    params(("group" = String, Path)),
    responses((status = 204, description = "forgotten"),
        (status = 404, description = "group_not_found",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "group_not_empty",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable",
            body = ProblemBody, content_type = "application/problem+json"))
)]
async fn forget(
    State(app): State<AppState>,
    Caller(scope): Caller,
    GroupName(group): GroupName,
) -> Result<StatusCode, Problem> {
    app.engine.groups.delete(&scope, &group).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn description(group: &Name, described: &DescribedGroup) -> GroupDescription {
    let DescribedGroup { state, progress } = described;
    let alive: BTreeSet<MemberId> =
        state.members.iter().filter(|m| !m.expired).map(|m| m.member.id).collect();
    let member = |MemberState { member, seen_at_ms, .. }: &MemberState| MemberDescription {
        member_id: member.id.to_string(),
        client_id: member.client_id.clone(),
        topics: member.topics.iter().map(ToString::to_string).collect(),
        session_ms: member.session_ms,
        from: member.from,
        seen_at_ms: *seen_at_ms,
        assignments: listed(described.assignments(member.id)),
    };
    let partition = |p: &Progress| PartitionProgress {
        topic: p.topic.to_string(),
        partition: p.number,
        member_id: p.owner.filter(|m| alive.contains(m)).map(|m| m.to_string()),
        committed_offset: p.committed.map(|o| o.0),
        log_start_offset: p.log_start_offset.0,
        high_watermark: p.high_watermark.0,
        lag: p.committed.map(|o| (p.high_watermark.0 - o.max(p.log_start_offset).0).max(0)),
    };
    GroupDescription {
        group: group.to_string(),
        generation: state.generation.0,
        members: state.members.iter().filter(|m| !m.expired).map(member).collect(),
        partitions: progress.iter().map(partition).collect(),
    }
}
