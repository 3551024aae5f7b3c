//! Offsets of a group: committed by members, also within a batch of records, and reset while there is none.

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

/// Of a member: one offset per partition. Without one: of the partition named, or of all of the topic, one of
/// `offset`, `timestamp`, `from`.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OffsetEntry {
    #[schema(example = "orders")]
    topic: String,
    partition: Option<i32>,
    /// The next record to read.
    #[schema(example = 812)]
    offset: Option<i64>,
    /// First record at or after it, else the high watermark.
    timestamp: Option<i64>,
    #[schema(inline)]
    from: Option<From>,
}

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct OffsetsBody {
    /// With `generation`; left out to reset the offsets of a group without members.
    member_id: Option<String>,
    /// That of the poll which brought the records.
    generation: Option<i64>,
    offsets: Vec<OffsetEntry>,
}

/// `offsets` of `/v1/batches`.
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
    /// What is committed now: of a member's offset and what was committed before, the greater one.
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
        .map_err(|_| Problem::bad_request("member_id is what joining the group has answered"))
}

fn not_negative(offset: i64) -> Result<Offset, Problem> {
    if offset < 0 { Err(Problem::bad_request("an offset is not negative")) } else { Ok(Offset(offset)) }
}

impl BatchOffsets {
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
    /// A member's entry.
    fn named(&self) -> Result<NamedOffset, Problem> {
        let (Some(partition), Some(offset), None, None) =
            (self.partition, self.offset, self.timestamp, self.from)
        else {
            return Err(Problem::bad_request("a member's offset names topic, partition and offset"));
        };
        Ok(NamedOffset { topic: Name::new(&self.topic)?, partition, offset: not_negative(offset)? })
    }

    /// An entry of a group without members.
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

/// Commits a member's offsets, all or none; or resets those of a group without members, which is made if
/// there is none.
#[utoipa::path(
    post, path = "/v1/groups/{group}/offsets", operation_id = "commit_offsets", tag = "groups",
    params(("group" = String, Path)),
    request_body = OffsetsBody,
    responses((status = 200, description = "what is committed now", body = CommittedOffsets),
        (status = 404, description = "group_not_found, topic_not_found, partition_not_found",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "generation_fenced: a partition is not the member's, or not since the generation named; group_not_empty",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = 416, description = "offset_out_of_range: beyond the high watermark, which is named",
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
    let body: OffsetsBody = json_body(body).await?;
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
        _ => return Err(Problem::bad_request("member_id and generation stand together, or neither")),
    };
    let listed = |o: NamedOffset| CommittedOffset {
        topic: o.topic.to_string(),
        partition: o.partition,
        offset: o.offset.0,
    };
    Ok(Json(CommittedOffsets { offsets: committed.into_iter().map(listed).collect() }))
}
