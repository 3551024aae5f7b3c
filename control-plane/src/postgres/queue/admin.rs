//! Creates, changes, lists, pauses and deletes queues.

use crate::postgres::PostgresControlPlane;
use crate::postgres::connection::{ADMIN, WRITE, retried, sent};
use crate::postgres::error::classify;
use millpond_core::group::Start;
use millpond_core::queue::{Mode, NoSuchQueue, PutQueueRejected, Queue, QueueChange, QueueConfig, Rate};
use millpond_core::retry::RetryPolicy;
use millpond_core::{Error, Name, PartitionId, QueueId, Scope, TopicId};
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

struct Row {
    queue_id: i64,
    name: String,
    topic: String,
    topic_id: i64,
    keyed: bool,
    latest: bool,
    lease_ms: i64,
    base_ms: i64,
    factor: f64,
    cap_ms: i64,
    jitter: f64,
    max_failures: i32,
    rate_limit: Option<i32>,
    rate_per_ms: Option<i64>,
    max_in_flight: i64,
    secret: Uuid,
    paused: bool,
    partitions: Vec<i64>,
}

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

impl Row {
    /// `None` if a stored name is not valid, which no statement writes.
    fn queue(self, tenant: &Name) -> Option<Queue> {
        Some(Queue {
            id: QueueId(self.queue_id),
            tenant: tenant.clone(),
            name: Name::new(&self.name).ok()?,
            topic: Name::new(&self.topic).ok()?,
            topic_id: TopicId(self.topic_id),
            mode: mode(self.keyed),
            from: start(self.latest),
            config: config_of!(self),
            paused: self.paused,
            secret: self.secret,
            partitions: self.partitions.into_iter().map(PartitionId).collect(),
        })
    }
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
    let row = sqlx::query_file_as!(Row, "queries/queue/get.sql", tenant.as_str(), name.as_str());
    let row = row.fetch_one(&mut *tx).await.map_err(lift)?;
    tx.commit().await.map_err(lift)?;
    let queue = row.queue(tenant).ok_or_else(|| Error::NotApplied("a stored name is not one".into()))?;
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
        c => sqlx::query_file_as!(
            Row, "queries/queue/get.sql", scope.tenant.as_str(), name.as_str()
        )
        .fetch_optional(c)
    )
    .map_err(Error::from_infallible)?;
    row.and_then(|row| row.queue(&scope.tenant)).ok_or(Error::Rejected(NoSuchQueue))
}

pub(super) async fn all(plane: &PostgresControlPlane, scope: &Scope) -> Result<Vec<Queue>, Error> {
    let rows = retried!(
        plane,
        c => sqlx::query_file_as!(Row, "queries/queue/all.sql", scope.tenant.as_str()).fetch_all(c)
    )?;
    Ok(rows.into_iter().filter_map(|row| row.queue(&scope.tenant)).collect())
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
