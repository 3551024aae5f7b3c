//! The Postgres implementation of [`ControlPlane`](millpond_core::ControlPlane), one file per noun and
//! trait.
//!
//! Every mutation is either one autocommitted statement, or a transaction that runs in a task of its own. A
//! cancelled caller therefore cannot leave a transaction open on a pooled connection (which happens with
//! sqlx 0.9.0 if `begin()` is cancelled).

mod background;
mod commit;
mod connection;
mod error;
pub mod examine;
mod find;
mod group;
mod guarded;
mod log;
mod queue;
pub mod schema;
mod topic;

use connection::retried;
pub use error::ConnectError;
use millpond_core::Error;
use parking_lot::RwLock;
pub use schema::MIGRATIONS;
use schema::{Migrated, Schema, SchemaRange};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use std::sync::Arc;
use std::time::Duration;

const CONNECTIONS: u32 = 16;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for connections in use when the pool is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub struct PostgresControlPlane {
    pool: PgPool,
    /// Which grant statement to try first, by queue.
    hints: Arc<RwLock<queue::QueueHints>>,
}

/// Settings of every session. They keep plans independent of the moment at which ANALYZE saw tables that are
/// mostly empty, and they make commits durable before they are answered.
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
    /// Connects. Fails if the database's settings could lose committed data.
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
            None => Ok(Self { pool, hints: Arc::default() }),
        }
    }

    /// Applies the missing migrations. If another process is doing so, waits for it.
    pub async fn migrate(options: PgConnectOptions) -> Result<Migrated, ConnectError> {
        schema::migrate(options, SchemaRange::of_this_build()).await
    }

    /// Fails if a build that works with these schemas cannot use the database.
    pub async fn check_schema(&self, range: SchemaRange) -> Result<(), ConnectError> {
        let mut connection = self.pool.acquire().await.map_err(ConnectError::Unreachable)?;
        range.check(&Schema::look(&mut connection).await.map_err(ConnectError::Unreachable)?)
    }

    /// Id of the cluster, generated when its database was created, and its epoch.
    pub async fn cluster(&self) -> Result<(String, i64), Error> {
        let row = retried!(self, c => sqlx::query!("select cluster, epoch from cluster").fetch_one(c))?;
        Ok((row.cluster, row.epoch))
    }

    /// Closes all connections. Those that do not answer are dropped without a farewell.
    pub async fn close(&self) {
        tokio::time::timeout(CLOSE_TIMEOUT, self.pool.close()).await.ok();
    }
}
