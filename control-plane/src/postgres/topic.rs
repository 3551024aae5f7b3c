//! Topics: the trait [`Topics`](millpond_core::control_plane::Topics) on Postgres.

use super::PostgresControlPlane;
use super::connection::{ADMIN, retried, sent};
use super::error::classify;
use super::queue::hold;
use async_trait::async_trait;
use millpond_core::control_plane::Topics;
use millpond_core::topic::{NoSuchTopic, PartitionStatus, PutTopicRejected};
use millpond_core::{
    Error, Name, Offset, Page, PageRequest, PartitionId, Placement, Scope, Topic, TopicChange, TopicConfig,
    TopicId, limits,
};
use sqlx::Connection;
use sqlx::postgres::PgConnection;

macro_rules! config_of {
    ($row:expr) => {
        TopicConfig {
            retention_ms: $row.retention_ms,
            retention_bytes: $row.retention_bytes,
            retention_hold_ms: $row.retention_hold_ms,
            placement: placement_of(&$row.placement),
            dedup_window_ms: $row.dedup_window_ms,
            max_record_bytes: $row.max_record_bytes,
            archive: $row.archive,
            columns: $row.columns,
        }
    };
}

fn placement_of(text: &str) -> Placement {
    match text {
        "inline" => Placement::Inline,
        "object" => Placement::Object,
        _ => Placement::Auto,
    }
}

fn placement_text(placement: Placement) -> &'static str {
    match placement {
        Placement::Auto => "auto",
        Placement::Inline => "inline",
        Placement::Object => "object",
    }
}

#[async_trait]
impl Topics for PostgresControlPlane {
    async fn put_topic(
        &self,
        scope: &Scope,
        name: &Name,
        change: &TopicChange,
        default_partitions: i32,
    ) -> Result<(Topic, bool), Error<PutTopicRejected>> {
        if change.partitions.is_some_and(|p| !(1..=limits::PARTITIONS_MAX).contains(&p)) {
            return Err(Error::Rejected(PutTopicRejected::PartitionsOutOfRange));
        }
        let (plane, tenant, name, change) =
            (self.clone(), scope.tenant.clone(), name.clone(), change.clone());
        let task = tokio::spawn(async move {
            loop {
                let put = sent!(plane, ADMIN, c => put_once(c, &tenant, &name, &change, default_partitions));
                if let Some(done) = put.map_err(Error::from_infallible)?? {
                    return Ok(done);
                }
            }
        });
        task.await.unwrap_or_else(|e| Err(Error::MaybeApplied(e.into())))
    }

    async fn topic(&self, scope: &Scope, name: &Name) -> Result<Topic, Error<NoSuchTopic>> {
        let row = retried!(
            self,
            c => sqlx::query_file!(
                "queries/topic/get.sql", scope.tenant.as_str(), name.as_str()
            )
            .fetch_optional(c)
        )
        .map_err(Error::from_infallible)?;
        let row = row.ok_or(Error::Rejected(NoSuchTopic))?;
        let partitions = row.partitions.iter().copied().map(PartitionId).collect();
        Ok(Topic {
            id: TopicId(row.topic_id),
            tenant: scope.tenant.clone(),
            name: name.clone(),
            config: config_of!(row),
            partitions,
        })
    }

    async fn topics(
        &self,
        scope: &Scope,
        page: &PageRequest,
    ) -> Result<Page<(Topic, Vec<PartitionStatus>)>, Error> {
        let (tenant, after) = (scope.tenant.as_str(), page.after.as_ref().map_or("", Name::as_str));
        let (limit, partitions) = (page.limit, page.max_partitions);
        let rows = retried!(
            self,
            c => sqlx::query_file!("queries/topic/list.sql", tenant, after, limit, partitions).fetch_all(c)
        )?;
        let has_more = rows.last().is_some_and(|row| row.more);
        let topic = rows.into_iter().filter_map(|row| {
            let places = row.starts.into_iter().zip(row.ends).zip(row.bytes);
            let status = |((partition, id), ((start, end), bytes)): ((i32, &i64), ((i64, i64), i64))| {
                PartitionStatus {
                    partition,
                    id: PartitionId(*id),
                    log_start_offset: Offset(start),
                    high_watermark: Offset(end),
                    bytes,
                }
            };
            let partitions: Vec<PartitionStatus> = (0..).zip(&row.ids).zip(places).map(status).collect();
            let topic = Topic {
                id: TopicId(row.topic_id),
                tenant: scope.tenant.clone(),
                name: Name::new(&row.name).ok()?,
                config: config_of!(row),
                partitions: row.ids.into_iter().map(PartitionId).collect(),
            };
            Some((topic, partitions))
        });
        Ok(Page { items: topic.collect(), has_more })
    }

    async fn partitions(&self, scope: &Scope, topic: TopicId) -> Result<Vec<PartitionStatus>, Error> {
        let rows = retried!(
            self,
            c => sqlx::query_file!(
                "queries/topic/partitions.sql", topic.0, scope.tenant.as_str()
            )
            .fetch_all(c)
        )?;
        let status = rows.into_iter().map(|row| PartitionStatus {
            partition: row.number,
            id: PartitionId(row.partition_id),
            log_start_offset: Offset(row.log_start_offset),
            high_watermark: Offset(row.high_watermark),
            bytes: row.bytes,
        });
        Ok(status.collect())
    }

    async fn delete_topic(&self, scope: &Scope, name: &Name) -> Result<bool, Error> {
        let (plane, tenant, name) = (self.clone(), scope.tenant.clone(), name.clone());
        let task = tokio::spawn(async move { sent!(plane, ADMIN, c => delete_once(c, &tenant, &name))? });
        task.await.unwrap_or_else(|e| Err(Error::MaybeApplied(e.into())))
    }
}

/// `None` if another session created the topic between the lookup and the insert.
async fn put_once(
    connection: &mut PgConnection,
    tenant: &Name,
    name: &Name,
    change: &TopicChange,
    default_partitions: i32,
) -> Result<Option<(Topic, bool)>, Error<PutTopicRejected>> {
    let lift = |e| Error::from_infallible(classify(e));
    let mut tx = connection.begin().await.map_err(|e| Error::NotApplied(e.into()))?;
    let row = sqlx::query_file!("queries/topic/lock.sql", tenant.as_str(), name.as_str())
        .fetch_optional(&mut *tx)
        .await
        .map_err(lift)?;
    let made = row.is_none();
    let (id, config, current) = match row {
        Some(row) => {
            let id = row.topic_id;
            let current = sqlx::query_file_scalar!("queries/topic/partition_ids.sql", id)
                .fetch_all(&mut *tx)
                .await
                .map_err(lift)?
                .len();
            (id, change.apply(&config_of!(row)), i32::try_from(current).unwrap_or(i32::MAX))
        }
        None => {
            let c = change.apply(&TopicConfig::default());
            let insert = sqlx::query_file_scalar!(
                "queries/topic/insert.sql",
                tenant.as_str(),
                name.as_str(),
                c.retention_ms,
                c.retention_bytes,
                c.retention_hold_ms,
                placement_text(c.placement),
                c.dedup_window_ms,
                c.max_record_bytes,
                c.archive,
                c.columns
            );
            match insert.fetch_optional(&mut *tx).await.map_err(lift)? {
                Some(id) => (id, c, 0),
                None => return Ok(None),
            }
        }
    };
    let wanted = change.partitions.unwrap_or(if made { default_partitions } else { current });
    if wanted < current {
        return Err(Error::Rejected(PutTopicRejected::PartitionsShrink { current }));
    }
    if !made {
        let update = sqlx::query_file!(
            "queries/topic/update.sql",
            id,
            config.retention_ms,
            config.retention_bytes,
            config.retention_hold_ms,
            placement_text(config.placement),
            config.dedup_window_ms,
            config.max_record_bytes,
            config.archive,
            config.columns
        );
        update.execute(&mut *tx).await.map_err(lift)?;
    }
    if wanted > current {
        sqlx::query_file!("queries/topic/grow.sql", id, wanted, tenant.as_str())
            .execute(&mut *tx)
            .await
            .map_err(lift)?;
        sqlx::query_file!("queries/queue/grow.sql", id).execute(&mut *tx).await.map_err(lift)?;
    }
    let partitions = sqlx::query_file_scalar!("queries/topic/partition_ids.sql", id)
        .fetch_all(&mut *tx)
        .await
        .map_err(lift)?;
    tx.commit().await.map_err(lift)?;
    let partitions = partitions.into_iter().map(PartitionId).collect();
    Ok(Some((
        Topic { id: TopicId(id), tenant: tenant.clone(), name: name.clone(), config, partitions },
        made,
    )))
}

async fn delete_once(connection: &mut PgConnection, tenant: &Name, name: &Name) -> Result<bool, Error> {
    let mut tx = connection.begin().await.map_err(|e| Error::NotApplied(e.into()))?;
    let ended = sqlx::query_file_scalar!("queries/topic/delete.sql", tenant.as_str(), name.as_str());
    let ended = ended.fetch_optional(&mut *tx).await.map_err(classify)?;
    if let Some(id) = ended {
        let queues = sqlx::query_file_scalar!("queries/queue/delete_of_topic.sql", id)
            .fetch_all(&mut *tx)
            .await
            .map_err(classify)?;
        hold(&mut tx, tenant, &queues).await.map_err(classify)?;
        sqlx::query_file!("queries/topic/close.sql", id).execute(&mut *tx).await.map_err(classify)?;
    }
    tx.commit().await.map_err(classify)?;
    Ok(ended.is_some())
}
