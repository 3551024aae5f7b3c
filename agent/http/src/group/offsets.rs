//! Offsets of a group: committed by members, also within a batch of records, and reset while there is none.

use super::json_body;
use crate::AppState;
use crate::error::{Code, Problem, ProblemBody};
use crate::extract::{GroupName, Principal};
use crate::fetch::{From, offsets_at};
use axum::body::Body;
use axum::extract::State;
use axum::response::Json;
use millpond_core::group::OffsetCommit;
use millpond_core::topic::NoSuchTopic;
use millpond_core::{Error, Generation, MemberId, Name, Offset, PartitionId, Topic, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

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

impl BatchOffsets {
    /// The commit, once the group's name is one.
    pub fn check(&self) -> Result<(), Problem> {
        Name::new(&self.group)?;
        member_id(&self.member_id).map(|_| ())
    }

    /// Names of the topics, each once.
    pub fn topics(&self) -> Vec<Name> {
        let mut names: Vec<Name> = self.offsets.iter().filter_map(|e| Name::new(&e.topic).ok()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The commit, and what is wrong with its partitions if they are not there: whether that matters is for
    /// the control plane to say, for the retry of a success is a success though its topic is gone. Refuses
    /// what is beyond a high watermark before anything is sent, so that what was refused cannot be stored
    /// later by a sending that is late: a member that is fenced stays so, but a log grows.
    pub async fn resolve(
        &self,
        app: &AppState,
        tenant: &Name,
    ) -> Result<(OffsetCommit, Option<Problem>), Problem> {
        let (placed, missing) = place(app, tenant, &self.offsets).await?;
        let offsets: Vec<(PartitionId, Offset)> =
            placed.iter().map(|(id, (_, _, offset))| (*id, *offset)).collect();
        let ids: Vec<PartitionId> = offsets.iter().map(|(id, _)| *id).collect();
        let ends: BTreeMap<PartitionId, Offset> =
            app.plane.high_watermarks(&ids).await?.into_iter().collect();
        if let Some(nth) =
            offsets.iter().position(|(id, offset)| ends.get(id).is_some_and(|end| offset > end))
        {
            let high_watermark = ends[&offsets[nth].0];
            return Err(
                millpond_core::group::OffsetsRejected::BeyondHighWatermark { nth, high_watermark }.into()
            );
        }
        let (group, member) = (Name::new(&self.group)?, member_id(&self.member_id)?);
        Ok((
            OffsetCommit {
                tenant: tenant.clone(),
                group,
                member,
                generation: Generation(self.generation),
                offsets,
            },
            missing,
        ))
    }
}

type Placed = BTreeMap<PartitionId, (Name, i32, Offset)>;

async fn topic_of(app: &AppState, tenant: &Name, name: &Name) -> Result<Arc<Topic>, Problem> {
    app.topics.get(tenant, name).await.map_err(|e| match e {
        Error::Rejected(NoSuchTopic) => {
            Problem::new(Code::TopicNotFound, format!("there is no topic {name}"))
        }
        other => other.into(),
    })
}

/// The topic, looked up again if it is not known to have the partition.
async fn topic_with(
    app: &AppState,
    tenant: &Name,
    name: &Name,
    partition: i32,
) -> Result<(Arc<Topic>, PartitionId), Problem> {
    let mut topic = topic_of(app, tenant, name).await?;
    if topic.partition_id(partition).is_none() {
        app.topics.forget(tenant, name).await;
        topic = topic_of(app, tenant, name).await?;
    }
    match topic.partition_id(partition) {
        Some(id) => Ok((topic, id)),
        None => {
            let detail =
                format!("{name} has partitions 0 to {}, not {partition}", topic.partition_count() - 1);
            Err(Problem::new(Code::PartitionNotFound, detail))
        }
    }
}

/// A member's entries: an offset for each partition. One that is not there takes the place of none that is.
async fn place(
    app: &AppState,
    tenant: &Name,
    entries: &[OffsetEntry],
) -> Result<(Placed, Option<Problem>), Problem> {
    check_count(entries.len())?;
    let (mut placed, mut missing) = (Placed::new(), None);
    for (nobody, entry) in (0..).map(|n: i64| PartitionId(-1 - n)).zip(entries) {
        let (Some(partition), Some(offset), None, None) =
            (entry.partition, entry.offset, entry.timestamp, entry.from)
        else {
            return Err(Problem::bad_request("a member's offset names topic, partition and offset"));
        };
        let name = Name::new(&entry.topic)?;
        let id = match topic_with(app, tenant, &name, partition).await {
            Ok((_, id)) => id,
            Err(problem) if matches!(problem.code, Code::TopicNotFound | Code::PartitionNotFound) => {
                missing.get_or_insert(problem);
                nobody
            }
            Err(problem) => return Err(problem),
        };
        put(&mut placed, id, (name, partition, not_negative(offset)?))?;
    }
    Ok((placed, missing))
}

fn check_count(entries: usize) -> Result<(), Problem> {
    if entries > limits::OFFSETS_PER_COMMIT {
        return Err(Problem::bad_request(format!(
            "at most {} offsets at a time",
            limits::OFFSETS_PER_COMMIT
        )));
    }
    Ok(())
}

fn not_negative(offset: i64) -> Result<Offset, Problem> {
    if offset < 0 { Err(Problem::bad_request("an offset is not negative")) } else { Ok(Offset(offset)) }
}

fn put(placed: &mut Placed, id: PartitionId, entry: (Name, i32, Offset)) -> Result<(), Problem> {
    let twice = || Problem::bad_request(format!("partition {} of {} stands twice", entry.1, entry.0));
    if placed.contains_key(&id) {
        return Err(twice());
    }
    placed.insert(id, entry);
    Ok(())
}

/// Entries of a reset, each for one partition or for all of its topic.
async fn place_reset(app: &AppState, tenant: &Name, entries: &[OffsetEntry]) -> Result<Placed, Problem> {
    check_count(entries.len())?;
    let mut placed = Placed::new();
    for entry in entries {
        let name = Name::new(&entry.topic)?;
        let topic = match entry.partition {
            Some(partition) => topic_with(app, tenant, &name, partition).await?.0,
            None => {
                app.topics.forget(tenant, &name).await;
                topic_of(app, tenant, &name).await?
            }
        };
        let wanted = |partition: i32| entry.partition.is_none_or(|p| p == partition);
        let found: Vec<(i32, PartitionId, Offset)> = match (entry.offset, entry.timestamp, entry.from) {
            (Some(offset), None, None) => {
                let offset = not_negative(offset)?;
                (0..).zip(&topic.partitions).map(|(number, id)| (number, *id, offset)).collect()
            }
            (None, Some(timestamp), None) => offsets_at(app, &topic, timestamp).await?,
            (None, None, Some(from)) => {
                let at = |p: &millpond_core::topic::PartitionStatus| match from {
                    From::Earliest => p.log_start_offset,
                    From::Latest => p.high_watermark,
                };
                app.plane.partitions(topic.id).await?.iter().map(|p| (p.partition, p.id, at(p))).collect()
            }
            _ => return Err(Problem::bad_request("a reset names one of offset, timestamp and from")),
        };
        for (number, id, offset) in found.into_iter().filter(|(number, _, _)| wanted(*number)) {
            put(&mut placed, id, (name.clone(), number, offset))?;
        }
    }
    Ok(placed)
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
    principal: Principal,
    GroupName(group): GroupName,
    body: Body,
) -> Result<Json<CommittedOffsets>, Problem> {
    let body: OffsetsBody = json_body(body).await?;
    let outcome = carry_out(&app, &principal.tenant, &group, &body).await;
    match outcome {
        // What is remembered of a topic may be that of one deleted since.
        Err(problem) if problem.code == Code::TopicNotFound => {
            for name in body.offsets.iter().filter_map(|e| Name::new(&e.topic).ok()) {
                app.topics.forget(&principal.tenant, &name).await;
            }
            carry_out(&app, &principal.tenant, &group, &body).await
        }
        outcome => outcome,
    }
}

async fn carry_out(
    app: &AppState,
    tenant: &Name,
    group: &Name,
    body: &OffsetsBody,
) -> Result<Json<CommittedOffsets>, Problem> {
    let mut placed;
    match (&body.member_id, body.generation) {
        (Some(member), Some(generation)) => {
            let missing;
            (placed, missing) = place(app, tenant, &body.offsets).await?;
            if let Some(problem) = missing {
                return Err(problem);
            }
            let offsets = placed.iter().map(|(id, (_, _, offset))| (*id, *offset)).collect();
            let (tenant, group, member) = (tenant.clone(), group.clone(), member_id(member)?);
            let commit = OffsetCommit { tenant, group, member, generation: Generation(generation), offsets };
            for (id, committed) in app.groups.commit(&commit).await? {
                if let Some((_, _, offset)) = placed.get_mut(&id) {
                    *offset = committed;
                }
            }
        }
        (None, None) => {
            placed = place_reset(app, tenant, &body.offsets).await?;
            let offsets: Vec<(PartitionId, Offset)> =
                placed.iter().map(|(id, (_, _, offset))| (*id, *offset)).collect();
            app.groups.reset(tenant, group, &offsets).await?;
        }
        _ => return Err(Problem::bad_request("member_id and generation stand together, or neither")),
    }
    let mut offsets: Vec<CommittedOffset> = placed
        .into_values()
        .map(|(topic, partition, offset)| CommittedOffset {
            topic: topic.to_string(),
            partition,
            offset: offset.0,
        })
        .collect();
    offsets.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    Ok(Json(CommittedOffsets { offsets }))
}
