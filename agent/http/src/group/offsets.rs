//! Offsets of a consumer group: a member commits them, alone or together with a batch of records; without a
//! member they are reset, which needs a group that has no members.

use crate::AppState;
use crate::body::json_body;
use crate::error::{Problem, ProblemBody};
use crate::extract::{Caller, GroupName};
use crate::read::From;
use axum::body::Body;
use axum::extract::State;
use axum::response::Json;
use millpond_core::{Generation, MemberId, Name, Offset};
use millpond_engine::group::offsets::{GroupOffsets, NamedOffset, OffsetReset, ResetTo};
use serde::{Deserialize, Serialize};

/// An offset to set. A member's commit names `topic`, `partition` and `offset`. A reset (without a member)
/// names one of `offset`, `timestamp` and `from`, for one partition, or for the whole topic if `partition` is
/// left out.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OffsetEntry {
    #[schema(example = "orders")]
    topic: String,
    partition: Option<i32>,
    /// Offset of the next record to read.
    #[schema(example = 812)]
    offset: Option<i64>,
    /// Resets to the first record at or after this timestamp, or to the high watermark if there is none.
    timestamp: Option<i64>,
    #[schema(inline)]
    from: Option<From>,
}

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct OffsetsBody {
    /// Given together with `generation`. Left out to reset the offsets of a group without members.
    member_id: Option<String>,
    /// The generation of the poll that returned the records.
    generation: Option<i64>,
    offsets: Vec<OffsetEntry>,
}

/// Offsets of a consumer group that are committed together with a batch of records.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchOffsets {
    group: String,
    member_id: String,
    generation: i64,
    offsets: Vec<OffsetEntry>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct CommittedOffsets {
    /// What is committed now. A member's commit never lowers an offset: the greater of the old and the new
    /// one is kept.
    offsets: Vec<CommittedOffset>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct CommittedOffset {
    topic: String,
    partition: i32,
    offset: i64,
}

fn member_id(text: &str) -> Result<MemberId, Problem> {
    text.parse()
        .map(MemberId)
        .map_err(|_| Problem::bad_request("member_id is not an id that joining a group returns"))
}

fn not_negative(offset: i64) -> Result<Offset, Problem> {
    if offset < 0 { Err(Problem::bad_request("an offset cannot be negative")) } else { Ok(Offset(offset)) }
}

impl BatchOffsets {
    /// The commit in the engine's terms.
    pub fn commit(self) -> Result<GroupOffsets, Problem> {
        let group = Name::new(&self.group)?;
        commit_of(group, &self.member_id, self.generation, &self.offsets)
    }
}

fn commit_of(
    group: Name,
    member: &str,
    generation: i64,
    entries: &[OffsetEntry],
) -> Result<GroupOffsets, Problem> {
    let member = member_id(member)?;
    let offsets = entries.iter().map(OffsetEntry::named).collect::<Result<_, _>>()?;
    Ok(GroupOffsets { group, member, generation: Generation(generation), offsets })
}

impl OffsetEntry {
    /// The entry of a member's commit.
    fn named(&self) -> Result<NamedOffset, Problem> {
        let (Some(partition), Some(offset), None, None) =
            (self.partition, self.offset, self.timestamp, self.from)
        else {
            return Err(Problem::bad_request("a member's commit names topic, partition and offset"));
        };
        Ok(NamedOffset { topic: Name::new(&self.topic)?, partition, offset: not_negative(offset)? })
    }

    /// The entry of a reset.
    fn reset(&self) -> Result<OffsetReset, Problem> {
        let to = match (self.offset, self.timestamp, self.from) {
            (Some(offset), None, None) => ResetTo::Offset(not_negative(offset)?),
            (None, Some(timestamp), None) => ResetTo::Timestamp(timestamp),
            (None, None, Some(From::Earliest)) => ResetTo::Earliest,
            (None, None, Some(From::Latest)) => ResetTo::Latest,
            _ => return Err(Problem::bad_request("a reset names one of offset, timestamp and from")),
        };
        Ok(OffsetReset { topic: Name::new(&self.topic)?, partition: self.partition, to })
    }
}

/// Commits a member's offsets, all or none. Without a member it resets the offsets of a group that has no
/// members; the group is made if it does not exist.
#[utoipa::path(
    post, path = "/v1/groups/{group}/offsets", operation_id = "commit_offsets", tag = "groups",
    params(("group" = String, Path)),
    request_body = OffsetsBody,
    responses((status = 200, description = "what is committed now", body = CommittedOffsets),
        (status = 404, description = "group_not_found, topic_not_found, partition_not_found",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = 409,
            description = "generation_fenced: a partition is not assigned to the member, or was assigned to \
                it after the given generation; group_not_empty",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = 416, description = "offset_out_of_range: beyond the high watermark, which is given",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable",
            body = ProblemBody, content_type = "application/problem+json"))
)]
pub(super) async fn commit(
    State(app): State<AppState>,
    Caller(scope): Caller,
    GroupName(group): GroupName,
    body: Body,
) -> Result<Json<CommittedOffsets>, Problem> {
    let body: OffsetsBody = json_body(&app, body).await?;
    let groups = &app.engine.groups;
    let committed = match (&body.member_id, body.generation) {
        (Some(member), Some(generation)) => {
            let commit = commit_of(group, member, generation, &body.offsets)?;
            groups.commit_offsets(&scope, &commit).await?
        }
        (None, None) => {
            let resets: Vec<OffsetReset> =
                body.offsets.iter().map(OffsetEntry::reset).collect::<Result<_, _>>()?;
            groups.reset_offsets(&scope, &group, &resets).await?
        }
        _ => return Err(Problem::bad_request("give both member_id and generation, or neither")),
    };
    let listed = |o: NamedOffset| CommittedOffset {
        topic: o.topic.to_string(),
        partition: o.partition,
        offset: o.offset.0,
    };
    Ok(Json(CommittedOffsets { offsets: committed.into_iter().map(listed).collect() }))
}
