//! The Postgres implementation of [`ControlPlane`], one file per noun.
//!
//! Every mutation is one autocommitted statement, or a transaction that runs in a task of its own: a caller
//! that goes away cannot leave a transaction open on a pooled connection (sqlx 0.9.0 can when `begin()` is
//! cancelled).

mod background;
mod commit;
mod connection;
mod error;
pub mod examine;
mod find;
mod group;
mod guarded;
mod queue;
mod topic;

use async_trait::async_trait;
use bytes::Bytes;
use connection::retried;
use millpond_core::control_plane::{
    Beat, Commit, Committed, ControlPlane, DrainBatch, FindRequest, Found, PayloadRange, Swap, SwapRejected,
};
use millpond_core::group::{
    DeleteGroupRejected, GenerationMoved, GroupState, NoSuchGroup, OffsetCommit, OffsetsRejected, Progress,
    Regroup, RenewRejected, Renewed, ResetRejected,
};
use millpond_core::topic::{NoSuchTopic, PartitionStatus, PutTopicRejected};
use millpond_core::{
    AgentId, Error, Generation, GroupId, MemberId, Name, Offset, PartId, PartitionId, Topic, TopicChange,
    TopicId,
};
use parking_lot::RwLock;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");

const CONNECTIONS: u32 = 16;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// Of the wait for connections that are in use, at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub struct PostgresControlPlane {
    pool: PgPool,
    /// Which statement a queue's next grant is tried with.
    manners: Arc<RwLock<queue::Manners>>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot reach the database")]
    Unreachable(#[source] sqlx::Error),
    #[error("the database runs with {setting} = off, which can lose acknowledged records: turn it on")]
    Unsafe { setting: String },
    #[error("the database's schema could not be brought to this version")]
    Schema(#[source] sqlx::migrate::MigrateError),
    #[error(
        "the database has schema {found}, this version needs {wanted}: \
         run `millpond migrate` of the newest version in use"
    )]
    OtherSchema { found: i64, wanted: i64 },
}

/// Session settings: plans must not depend on when ANALYZE looked at tables that are empty most of the time,
/// and a commit that is answered must be on disk.
fn session(options: PgConnectOptions) -> PgConnectOptions {
    options.application_name("millpond").options([
        ("plan_cache_mode", "force_generic_plan"),
        ("jit", "off"),
        ("enable_seqscan", "off"),
        ("enable_mergejoin", "off"),
        ("synchronous_commit", "on"),
        ("default_transaction_isolation", "read committed"),
        ("statement_timeout", "30s"),
        ("idle_in_transaction_session_timeout", "10s"),
        ("timezone", "UTC"),
    ])
}

impl PostgresControlPlane {
    /// Connects, and refuses a database that could lose what it has committed.
    pub async fn connect(options: PgConnectOptions) -> Result<Self, ConnectError> {
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(Duration::from_secs(600))
            .test_before_acquire(false)
            .connect_with(session(options))
            .await
            .map_err(ConnectError::Unreachable)?;
        let settings = sqlx::query_scalar!(
            r#"select name as "name!" from pg_settings
            where name in ('fsync', 'full_page_writes', 'synchronous_commit') and setting = 'off'"#
        );
        let off = settings.fetch_optional(&pool).await.map_err(ConnectError::Unreachable)?;
        match off {
            Some(setting) => Err(ConnectError::Unsafe { setting }),
            None => Ok(Self { pool, manners: Arc::default() }),
        }
    }

    /// Applies the migrations that are missing; waits for another that does.
    pub async fn migrate(options: PgConnectOptions) -> Result<(), ConnectError> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .connect_with(options)
            .await
            .map_err(ConnectError::Unreachable)?;
        let outcome = MIGRATIONS.run(&pool).await.map_err(ConnectError::Schema);
        pool.close().await;
        outcome
    }

    /// Refuses a database whose schema is older or newer than this version's.
    pub async fn check_schema(&self) -> Result<(), ConnectError> {
        let exists = sqlx::query_scalar::<_, bool>("select to_regclass('_sqlx_migrations') is not null");
        let newest = match exists.fetch_one(&self.pool).await.map_err(ConnectError::Unreachable)? {
            true => sqlx::query_scalar::<_, i64>(
                "select coalesce(max(version), 0) from _sqlx_migrations where success",
            )
            .fetch_one(&self.pool)
            .await
            .map_err(ConnectError::Unreachable)?,
            false => 0,
        };
        let wanted = MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0);
        if newest == wanted { Ok(()) } else { Err(ConnectError::OtherSchema { found: newest, wanted }) }
    }

    /// Name of the cluster, drawn when its database was made, and its epoch.
    pub async fn cluster(&self) -> Result<(String, i64), Error> {
        let row = retried!(self, c => sqlx::query!("select cluster, epoch from cluster").fetch_one(c))?;
        Ok((row.cluster, row.epoch))
    }

    /// Ends its sessions, those that are silent without a word.
    pub async fn close(&self) {
        tokio::time::timeout(CLOSE_TIMEOUT, self.pool.close()).await.ok();
    }
}

#[async_trait]
impl ControlPlane for PostgresControlPlane {
    async fn put_topic(
        &self,
        tenant: &Name,
        name: &Name,
        change: &TopicChange,
        default_partitions: i32,
    ) -> Result<(Topic, bool), Error<PutTopicRejected>> {
        topic::put(self, tenant, name, change, default_partitions).await
    }

    async fn topic(&self, tenant: &Name, name: &Name) -> Result<Topic, Error<NoSuchTopic>> {
        topic::get(self, tenant, name).await
    }

    async fn topics(&self, tenant: &Name) -> Result<Vec<Topic>, Error> {
        topic::list(self, tenant).await
    }

    async fn partitions(&self, topic: TopicId) -> Result<Vec<PartitionStatus>, Error> {
        topic::partitions(self, topic).await
    }

    async fn delete_topic(&self, tenant: &Name, name: &Name) -> Result<bool, Error> {
        topic::delete(self, tenant, name).await
    }

    async fn register_parts(&self, agent: AgentId, ids: &[PartId]) -> Result<(), Error> {
        commit::register(self, agent, ids).await
    }

    async fn commit(&self, commit: &Commit) -> Result<Committed, Error> {
        commit::commit(self, commit).await
    }

    async fn dedup_offsets(
        &self,
        topic: TopicId,
        id_hashes: &[Uuid],
    ) -> Result<Vec<Option<(i32, Offset)>>, Error> {
        commit::dedup_offsets(self, topic, id_hashes).await
    }

    async fn find(&self, requests: &[FindRequest]) -> Result<Vec<Option<Found>>, Error> {
        find::find(self, requests).await
    }

    async fn payloads(&self, ranges: &[PayloadRange]) -> Result<Vec<Option<Bytes>>, Error> {
        find::payloads(self, ranges).await
    }

    async fn high_watermarks(&self, partitions: &[PartitionId]) -> Result<Vec<(PartitionId, Offset)>, Error> {
        find::high_watermarks(self, partitions).await
    }

    async fn offsets_at(
        &self,
        topic: TopicId,
        timestamp_ms: i64,
    ) -> Result<Vec<(i32, PartitionId, Offset)>, Error> {
        find::offsets_at(self, topic, timestamp_ms).await
    }

    async fn group(
        &self,
        tenant: &Name,
        name: &Name,
        also: &[Name],
    ) -> Result<GroupState, Error<NoSuchGroup>> {
        group::get(self, tenant, name, also).await
    }

    async fn make_group(&self, tenant: &Name, name: &Name) -> Result<(), Error> {
        group::make(self, tenant, name).await
    }

    async fn groups(&self, tenant: &Name) -> Result<Vec<Name>, Error> {
        group::list(self, tenant).await
    }

    async fn progress(&self, group: GroupId) -> Result<Vec<Progress>, Error> {
        group::progress(self, group).await
    }

    async fn regroup(&self, change: &Regroup) -> Result<Generation, Error<GenerationMoved>> {
        group::regroup(self, change).await
    }

    async fn renew(
        &self,
        tenant: &Name,
        group: &Name,
        member: MemberId,
    ) -> Result<Renewed, Error<RenewRejected>> {
        group::renew(self, tenant, group, member).await
    }

    async fn generations(&self, groups: &[GroupId]) -> Result<Vec<(GroupId, Generation, bool)>, Error> {
        group::generations(self, groups).await
    }

    async fn commit_offsets(
        &self,
        commit: &OffsetCommit,
    ) -> Result<Vec<(PartitionId, Offset)>, Error<OffsetsRejected>> {
        group::commit_offsets(self, commit).await
    }

    async fn reset_offsets(
        &self,
        tenant: &Name,
        group: &Name,
        offsets: &[(PartitionId, Offset)],
    ) -> Result<(), Error<ResetRejected>> {
        group::reset_offsets(self, tenant, group, offsets).await
    }

    async fn delete_group(&self, tenant: &Name, group: &Name) -> Result<(), Error<DeleteGroupRejected>> {
        group::delete(self, tenant, group).await
    }

    async fn beat(&self, agent: AgentId) -> Result<Beat, Error> {
        background::beat(self, agent).await
    }

    async fn drain_plan(&self, max_bytes: i64) -> Result<Vec<DrainBatch>, Error> {
        background::drain_plan(self, max_bytes).await
    }

    async fn swap(&self, swap: &Swap) -> Result<(), Error<SwapRejected>> {
        background::swap(self, swap).await
    }

    async fn retain(&self, limit: i64) -> Result<i64, Error> {
        background::retain(self, limit).await
    }

    async fn forget(&self, limit: i64) -> Result<i64, Error> {
        background::forget(self, limit).await
    }

    async fn sweep_plan(&self, limit: i64) -> Result<Vec<PartId>, Error> {
        background::sweep_plan(self, limit).await
    }

    async fn swept(&self, parts: &[PartId]) -> Result<(), Error> {
        background::swept(self, parts).await
    }

    async fn ping(&self) -> Result<(), Error> {
        retried!(self, c => sqlx::query_scalar!(r#"select 1 as "one!""#).fetch_one(c)).map(|_| ())
    }
}
