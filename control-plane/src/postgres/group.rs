//! Consumer groups: membership, assignment, committed offsets.

mod state;

use super::PostgresControlPlane;
use super::connection::{WRITE, retried, sent};
use super::error::classify;
use async_trait::async_trait;
use millpond_core::control_plane::Groups;
use millpond_core::group::{
    Assigned, DeleteGroupRejected, GenerationMoved, GroupState, ListedGroup, NoSuchGroup, OffsetCommit,
    OffsetsRejected, Progress, Regroup, RenewRejected, Renewed, ResetRejected, Start,
};
use millpond_core::{
    Error, Generation, GroupId, MemberId, Name, Offset, Page, PageRequest, PartitionId, Scope, limits,
};
use sqlx::PgConnection;
use uuid::Uuid;

/// Maximum number of times that a statement is sent. A statement that waited for the lock of its group finds
/// that the group changed meanwhile and has to be sent again; more often in a row, something is wrong.
const SENDINGS_MAX: usize = 50;

fn changing<R>() -> Error<R> {
    Error::NotApplied("the group changes all the time".into())
}

#[async_trait]
impl Groups for PostgresControlPlane {
    async fn group(
        &self,
        scope: &Scope,
        name: &Name,
        also: &[Name],
    ) -> Result<GroupState, Error<NoSuchGroup>> {
        let row = retried!(
            self,
            c => sqlx::query_file!(
                "queries/group/get.sql", scope.tenant.as_str(), name.as_str()
            )
            .fetch_optional(c)
        )
        .map_err(Error::from_infallible)?;
        let row = row.ok_or(Error::Rejected(NoSuchGroup))?;
        let group = state::Listed {
            id: row.group_id,
            generation: row.generation,
            topic_ids: row.topic_ids,
            partition_counts: row.partition_counts,
        };
        let states = state::states(self, scope, vec![group], also).await.map_err(Error::from_infallible)?;
        states.into_iter().next().ok_or(Error::Rejected(NoSuchGroup))
    }

    async fn make_group(&self, scope: &Scope, name: &Name) -> Result<(), Error> {
        let statement = sqlx::query_file!("queries/group/make.sql", scope.tenant.as_str(), name.as_str());
        sent!(self, WRITE, c => statement.execute(c))?.map(|_| ()).map_err(classify)
    }

    /// Five statements, however many groups there are.
    async fn groups(&self, scope: &Scope, page: &PageRequest) -> Result<Page<ListedGroup>, Error> {
        let (tenant, after) = (scope.tenant.as_str(), page.after.as_ref().map_or("", Name::as_str));
        let (limit, partitions) = (page.limit, page.max_partitions);
        let rows = retried!(
            self,
            c => sqlx::query_file!("queries/group/list.sql", tenant, after, limit, partitions).fetch_all(c)
        )?;
        let has_more = rows.last().is_some_and(|row| row.more);
        let names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
        let ids: Vec<i64> = rows.iter().map(|row| row.group_id).collect();
        let listed = rows.into_iter().map(|row| state::Listed {
            id: row.group_id,
            generation: row.generation,
            topic_ids: row.topic_ids,
            partition_counts: row.partition_counts,
        });
        let states = state::states(self, scope, listed.collect(), &[]).await?;
        let mut progress = state::progress_of(self, scope, &ids).await?;
        let groups = names.iter().zip(states).filter_map(|(name, state)| {
            let progress = progress.remove(&state.id.0).unwrap_or_default();
            Some(ListedGroup { name: Name::new(name).ok()?, state, progress })
        });
        Ok(Page { items: groups.collect(), has_more })
    }

    async fn progress(&self, scope: &Scope, group: GroupId) -> Result<Vec<Progress>, Error> {
        Ok(state::progress_of(self, scope, &[group.0]).await?.remove(&group.0).unwrap_or_default())
    }

    async fn regroup(&self, change: &Regroup) -> Result<Generation, Error<GenerationMoved>> {
        let topics: Vec<i64> = change.basis.iter().map(|(topic, _)| topic.0).collect();
        let counts: Vec<i32> = change.basis.iter().map(|(_, partitions)| *partitions).collect();
        let remove: Vec<Uuid> = change.remove.iter().map(|m| m.0).collect();
        let partitions: Vec<i64> = change.owners.iter().map(|(partition, _)| partition.0).collect();
        let members: Vec<Uuid> = change.owners.iter().map(|(_, member)| member.0).collect();
        let add = change.add.as_ref();
        let subscribed: Vec<String> = add.iter().flat_map(|m| &m.topics).map(ToString::to_string).collect();
        let statement = sqlx::query_file_scalar!(
            "queries/group/regroup.sql",
            change.group.0,
            change.generation.0,
            &topics,
            &counts,
            &remove,
            add.map(|m| m.id.0) as _,
            add.and_then(|m| m.client_id.clone()) as _,
            &subscribed,
            add.map_or(0, |m| m.session_ms),
            add.is_some_and(|m| m.from == Start::Latest),
            &partitions,
            &members,
            change.scope.tenant.as_str()
        );
        let generation =
            sent!(self, WRITE, c => statement.fetch_optional(c)).and_then(|sent| sent.map_err(classify));
        let generation = generation.map_err(Error::from_infallible)?;
        generation.map(Generation).ok_or(Error::Rejected(GenerationMoved))
    }

    async fn renew(
        &self,
        scope: &Scope,
        group: &Name,
        member: MemberId,
    ) -> Result<Renewed, Error<RenewRejected>> {
        let rows = retried!(
            self,
            c => sqlx::query_file!(
                "queries/group/renew.sql",
                scope.tenant.as_str(), group.as_str(), member.0, limits::SESSION_NOTED_PARTS
            )
            .fetch_all(c)
        )
        .map_err(Error::from_infallible)?;
        let first = rows.first().ok_or(Error::Rejected(RenewRejected::NoSuchGroup))?;
        let (Some(_), Some(session_ms)) = (first.member_id, first.session_ms) else {
            return Err(Error::Rejected(RenewRejected::NoSuchMember));
        };
        let partitions = rows.iter().filter_map(|row| {
            Some(Assigned {
                topic: Name::new(row.topic.as_deref()?).ok()?,
                number: row.number?,
                partition: PartitionId(row.partition_id?),
                since: Generation(row.since?),
                committed: row.committed.map(Offset),
                log_start_offset: Offset(row.log_start_offset?),
                high_watermark: Offset(row.high_watermark?),
            })
        });
        Ok(Renewed {
            group: GroupId(first.group_id),
            generation: Generation(first.generation),
            stale: first.stale,
            session_ms,
            from: state::start(first.latest.unwrap_or(false)),
            noted_ms_ago: first.noted_ms_ago.unwrap_or(0),
            partitions: partitions.collect(),
        })
    }

    async fn renew_sessions(&self, members: &[(Scope, MemberId)]) -> Result<Vec<MemberId>, Error> {
        let ids: Vec<Uuid> = members.iter().map(|(_, member)| member.0).collect();
        let tenants: Vec<&str> = members.iter().map(|(scope, _)| scope.tenant.as_str()).collect();
        let renewed = retried!(
            self,
            c => sqlx::query_file_scalar!("queries/group/renew_sessions.sql", &ids, &tenants as _)
                .fetch_all(c)
        )?;
        Ok(renewed.into_iter().map(MemberId).collect())
    }

    async fn generations(
        &self,
        groups: &[(Scope, GroupId)],
    ) -> Result<Vec<(GroupId, Generation, bool)>, Error> {
        let ids: Vec<i64> = groups.iter().map(|(_, g)| g.0).collect();
        let tenants: Vec<&str> = groups.iter().map(|(scope, _)| scope.tenant.as_str()).collect();
        let rows = retried!(
            self,
            c => sqlx::query_file!("queries/group/generations.sql", &ids, &tenants as _).fetch_all(c)
        )?;
        Ok(rows.into_iter().map(|r| (GroupId(r.group_id), Generation(r.generation), r.stale)).collect())
    }

    async fn commit_offsets(
        &self,
        commit: &OffsetCommit,
    ) -> Result<Vec<(PartitionId, Offset)>, Error<OffsetsRejected>> {
        for _ in 0..SENDINGS_MAX {
            let sent = sent!(self, WRITE, c => send_offsets(c, commit)).and_then(|sent| sent);
            if let Some(decided) = sent.map_err(Error::from_infallible)? {
                return decided.map_err(Error::Rejected);
            }
        }
        Err(changing())
    }

    async fn reset_offsets(
        &self,
        scope: &Scope,
        group: &Name,
        offsets: &[(PartitionId, Offset)],
    ) -> Result<(), Error<ResetRejected>> {
        self.make_group(scope, group).await.map_err(Error::from_infallible)?;
        let (partitions, values) = columns(offsets);
        for _ in 0..SENDINGS_MAX {
            let statement = sqlx::query_file!(
                "queries/group/reset.sql",
                scope.tenant.as_str(),
                group.as_str(),
                &partitions,
                &values
            );
            let rows =
                sent!(self, WRITE, c => statement.fetch_all(c)).and_then(|sent| sent.map_err(classify));
            let rows = rows.map_err(Error::from_infallible)?;
            let Some(first) = rows.first().filter(|first| first.current) else { continue };
            if first.alive {
                return Err(Error::Rejected(ResetRejected::NotEmpty));
            }
            let refused = |reason: &str| {
                rows.iter().enumerate().find(|(_, row)| row.refused.as_deref() == Some(reason))
            };
            if let Some((nth, _)) = refused("gone") {
                return Err(Error::Rejected(ResetRejected::PartitionGone { nth }));
            }
            if let Some((nth, row)) = refused("beyond") {
                let high_watermark = Offset(row.high_watermark.unwrap_or(0));
                return Err(Error::Rejected(ResetRejected::BeyondHighWatermark { nth, high_watermark }));
            }
            return Ok(());
        }
        Err(changing())
    }

    async fn delete_group(&self, scope: &Scope, group: &Name) -> Result<(), Error<DeleteGroupRejected>> {
        for _ in 0..SENDINGS_MAX {
            let statement =
                sqlx::query_file!("queries/group/delete.sql", scope.tenant.as_str(), group.as_str());
            let row =
                sent!(self, WRITE, c => statement.fetch_optional(c)).and_then(|sent| sent.map_err(classify));
            match row.map_err(Error::from_infallible)? {
                None => return Err(Error::Rejected(DeleteGroupRejected::NoSuchGroup)),
                Some(row) if !row.current => {}
                Some(row) if row.alive => return Err(Error::Rejected(DeleteGroupRejected::NotEmpty)),
                Some(_) => return Ok(()),
            }
        }
        Err(changing())
    }
}

fn columns(offsets: &[(PartitionId, Offset)]) -> (Vec<i64>, Vec<i64>) {
    offsets.iter().map(|(partition, offset)| (partition.0, offset.0)).unzip()
}

type Kept = Vec<(PartitionId, Offset)>;

/// Sends the statement once. `None` if the group changed while the statement waited for its lock.
pub(super) async fn send_offsets(
    connection: &mut PgConnection,
    commit: &OffsetCommit,
) -> Result<Option<Result<Kept, OffsetsRejected>>, Error> {
    let (partitions, offsets) = columns(&commit.offsets);
    let statement = sqlx::query_file!(
        "queries/group/commit.sql",
        commit.scope.tenant.as_str(),
        commit.group.as_str(),
        commit.member.0,
        commit.generation.0,
        &partitions,
        &offsets
    );
    let rows = statement.fetch_all(connection).await.map_err(classify)?;
    match rows.first() {
        None => return Ok(Some(Err(OffsetsRejected::NoSuchGroup))),
        Some(first) if !first.current => return Ok(None),
        Some(_) => {}
    }
    for reason in ["gone", "fenced", "beyond"] {
        let Some((nth, row)) =
            rows.iter().enumerate().find(|(_, row)| row.refused.as_deref() == Some(reason))
        else {
            continue;
        };
        return Ok(Some(Err(match reason {
            "gone" => OffsetsRejected::PartitionGone { nth },
            "fenced" => OffsetsRejected::Fenced { nth },
            _ => OffsetsRejected::BeyondHighWatermark {
                nth,
                high_watermark: Offset(row.high_watermark.unwrap_or(0)),
            },
        })));
    }
    let kept = rows.iter().filter_map(|row| Some((PartitionId(row.partition_id?), Offset(row.committed?))));
    Ok(Some(Ok(kept.collect())))
}
