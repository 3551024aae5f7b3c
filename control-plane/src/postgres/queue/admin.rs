//! Creates, changes, lists, pauses and deletes queues.

use super::look;
use crate::postgres::PostgresControlPlane;
use crate::postgres::connection::{ADMIN, WRITE, retried, sent};
use crate::postgres::error::classify;
use millpond_core::group::Start;
use millpond_core::queue::{
    Mode, NoSuchQueue, PutQueueRejected, Queue, QueueChange, QueueConfig, QueueCounts, Rate,
};
use millpond_core::retry::RetryPolicy;
use millpond_core::{Error, Name, Page, PageRequest, PartitionId, QueueId, Scope, TopicId};
use sqlx::Connection;
use sqlx::postgres::PgConnection;

macro_rules! config_of {
    ($row:expr) => {
        QueueConfig {
            lease_ms: $row.lease_ms,
            retry: RetryPolicy {
                base_ms: $row.base_ms,
                factor: $row.factor,
                cap_ms: $row.cap_ms,
                jitter: $row.jitter,
                max_failures: $row.max_failures,
            },
            rate: $row.rate_limit.zip($row.rate_per_ms).map(|(limit, per_ms)| Rate { limit, per_ms }),
            max_in_flight: $row.max_in_flight,
        }
    };
}

fn mode(keyed: bool) -> Mode {
    if keyed { Mode::Keyed } else { Mode::Shared }
}

fn start(latest: bool) -> Start {
    if latest { Start::Latest } else { Start::Earliest }
}

/// The queue of a row; `None` if a stored name is not valid, which no statement writes.
macro_rules! queue_of {
    ($row:expr, $tenant:expr) => {
        match (Name::new(&$row.name), Name::new(&$row.topic)) {
            (Ok(name), Ok(topic)) => Some(Queue {
                id: QueueId($row.queue_id),
                tenant: $tenant.clone(),
                name,
                topic,
                topic_id: TopicId($row.topic_id),
                mode: mode($row.keyed),
                from: start($row.latest),
                config: config_of!($row),
                paused: $row.paused,
                secret: $row.secret,
                partitions: $row.partitions.into_iter().map(PartitionId).collect(),
            }),
            _ => None,
        }
    };
}

pub(super) async fn put(
    plane: &PostgresControlPlane,
    scope: &Scope,
    name: &Name,
    change: &QueueChange,
) -> Result<(Queue, bool), Error<PutQueueRejected>> {
    let (plane, tenant, name, change) = (plane.clone(), scope.tenant.clone(), name.clone(), change.clone());
    let task = tokio::spawn(async move {
        loop {
            let put = sent!(plane, ADMIN, c => put_once(c, &tenant, &name, &change));
            if let Some(done) = put.map_err(Error::from_infallible)?? {
                return Ok(done);
            }
        }
    });
    task.await.unwrap_or_else(|e| Err(Error::MaybeApplied(e.into())))
}

fn lift(error: sqlx::Error) -> Error<PutQueueRejected> {
    Error::from_infallible(classify(error))
}

/// `None` if another session created the queue between the lookup and the insert.
async fn put_once(
    connection: &mut PgConnection,
    tenant: &Name,
    name: &Name,
    change: &QueueChange,
) -> Result<Option<(Queue, bool)>, Error<PutQueueRejected>> {
    let mut tx = connection.begin().await.map_err(|e| Error::NotApplied(e.into()))?;
    let lock = sqlx::query_file!("queries/queue/lock.sql", tenant.as_str(), name.as_str());
    let row = lock.fetch_optional(&mut *tx).await.map_err(lift)?;
    let made = row.is_none();
    match row {
        None if !make(&mut tx, tenant, name, change).await? => return Ok(None),
        None => {}
        Some(row) => {
            if change.topic.as_ref().is_some_and(|t| t.as_str() != row.topic) {
                return Err(Error::Rejected(PutQueueRejected::TopicFixed));
            }
            if change.mode.is_some_and(|m| m != mode(row.keyed)) {
                return Err(Error::Rejected(PutQueueRejected::ModeFixed));
            }
            if change.from.is_some_and(|f| f != start(row.latest)) {
                return Err(Error::Rejected(PutQueueRejected::FromFixed));
            }
            let current = config_of!(row);
            let config = change.apply(&current);
            if config != current {
                update(&mut tx, tenant, row.queue_id, &config).await?;
            }
        }
    }
    let row = sqlx::query_file!("queries/queue/get.sql", tenant.as_str(), name.as_str());
    let row = row.fetch_one(&mut *tx).await.map_err(lift)?;
    tx.commit().await.map_err(lift)?;
    let queue = queue_of!(row, tenant).ok_or_else(|| Error::NotApplied("a stored name is not one".into()))?;
    Ok(Some((queue, made)))
}

/// `false` if another session created it meanwhile.
async fn make(
    connection: &mut PgConnection,
    tenant: &Name,
    name: &Name,
    change: &QueueChange,
) -> Result<bool, Error<PutQueueRejected>> {
    let topic = change.topic.as_ref().unwrap_or(name);
    let topic = sqlx::query_file_scalar!("queries/queue/topic.sql", tenant.as_str(), topic.as_str());
    let topic = topic
        .fetch_optional(&mut *connection)
        .await
        .map_err(lift)?
        .ok_or(Error::Rejected(PutQueueRejected::NoSuchTopic))?;
    let c = change.apply(&QueueConfig::default());
    let latest = change.from == Some(Start::Latest);
    let insert = sqlx::query_file_scalar!(
        "queries/queue/insert.sql",
        tenant.as_str(),
        name.as_str(),
        topic,
        change.mode == Some(Mode::Keyed),
        latest,
        c.lease_ms,
        c.retry.base_ms,
        c.retry.factor,
        c.retry.cap_ms,
        c.retry.jitter,
        c.retry.max_failures,
        &c.retry.ladder(),
        c.rate.map(|r| r.limit) as _,
        c.rate.map(|r| r.per_ms) as _,
        c.max_in_flight,
        c.is_limited()
    );
    let Some(id) = insert.fetch_optional(&mut *connection).await.map_err(lift)? else { return Ok(false) };
    sqlx::query_file!("queries/queue/begin.sql", id, topic, latest)
        .execute(connection)
        .await
        .map_err(lift)?;
    Ok(true)
}

async fn update(
    connection: &mut PgConnection,
    tenant: &Name,
    id: i64,
    c: &QueueConfig,
) -> Result<(), Error<PutQueueRejected>> {
    hold(connection, tenant, &[id]).await.map_err(lift)?;
    let update = sqlx::query_file!(
        "queries/queue/update.sql",
        id,
        c.lease_ms,
        c.retry.base_ms,
        c.retry.factor,
        c.retry.cap_ms,
        c.retry.jitter,
        c.retry.max_failures,
        &c.retry.ladder(),
        c.rate.map(|r| r.limit) as _,
        c.rate.map(|r| r.per_ms) as _,
        c.max_in_flight,
        c.is_limited()
    );
    update.execute(connection).await.map_err(lift)?;
    Ok(())
}

/// Locks these queues against grants, admissions and redrives until the transaction ends.
pub(in crate::postgres) async fn hold(
    connection: &mut PgConnection,
    tenant: &Name,
    queues: &[i64],
) -> Result<(), sqlx::Error> {
    let statement = sqlx::query_file!("queries/queue/hold.sql", queues, tenant.as_str());
    statement.execute(connection).await.map(|_| ())
}

pub(super) async fn get(
    plane: &PostgresControlPlane,
    scope: &Scope,
    name: &Name,
) -> Result<Queue, Error<NoSuchQueue>> {
    let row = retried!(
        plane,
        c => sqlx::query_file!("queries/queue/get.sql", scope.tenant.as_str(), name.as_str())
            .fetch_optional(c)
    )
    .map_err(Error::from_infallible)?;
    row.and_then(|row| queue_of!(row, &scope.tenant)).ok_or(Error::Rejected(NoSuchQueue))
}

/// Two statements, however many queues there are.
pub(super) async fn list(
    plane: &PostgresControlPlane,
    scope: &Scope,
    page: &PageRequest,
) -> Result<Page<(Queue, QueueCounts)>, Error> {
    let (tenant, after) = (scope.tenant.as_str(), page.after.as_ref().map_or("", Name::as_str));
    let (limit, partitions) = (page.limit, page.max_partitions);
    let rows = retried!(
        plane,
        c => sqlx::query_file!("queries/queue/all.sql", tenant, after, limit, partitions).fetch_all(c)
    )?;
    let has_more = rows.last().is_some_and(|row| row.more);
    let queues: Vec<Queue> = rows.into_iter().filter_map(|row| queue_of!(row, &scope.tenant)).collect();
    let ids: Vec<QueueId> = queues.iter().map(|queue| queue.id).collect();
    let mut counts = look::counts_of(plane, scope, &ids).await?;
    // A queue without counts was deleted since the list was read.
    let counted = queues.into_iter().filter_map(|queue| {
        let counts = counts.remove(&queue.id)?;
        Some((queue, counts))
    });
    Ok(Page { items: counted.collect(), has_more })
}

pub(super) async fn delete(plane: &PostgresControlPlane, scope: &Scope, name: &Name) -> Result<bool, Error> {
    let (plane, tenant, name) = (plane.clone(), scope.tenant.clone(), name.clone());
    let task = tokio::spawn(async move { sent!(plane, ADMIN, c => delete_once(c, &tenant, &name))? });
    task.await.unwrap_or_else(|e| Err(Error::MaybeApplied(e.into())))
}

async fn delete_once(connection: &mut PgConnection, tenant: &Name, name: &Name) -> Result<bool, Error> {
    let mut tx = connection.begin().await.map_err(|e| Error::NotApplied(e.into()))?;
    let ended = sqlx::query_file_scalar!("queries/queue/delete.sql", tenant.as_str(), name.as_str());
    let ended = ended.fetch_optional(&mut *tx).await.map_err(classify)?;
    if let Some(id) = ended {
        hold(&mut tx, tenant, &[id]).await.map_err(classify)?;
    }
    tx.commit().await.map_err(classify)?;
    Ok(ended.is_some())
}

pub(super) async fn pause(
    plane: &PostgresControlPlane,
    scope: &Scope,
    queue: QueueId,
    paused: bool,
) -> Result<(), Error<NoSuchQueue>> {
    let statement =
        sqlx::query_file_scalar!("queries/queue/pause.sql", queue.0, paused, scope.tenant.as_str());
    let found = sent!(plane, WRITE, c => statement.fetch_optional(c)).and_then(|sent| sent.map_err(classify));
    found.map_err(Error::from_infallible)?.map(|_| ()).ok_or(Error::Rejected(NoSuchQueue))
}
