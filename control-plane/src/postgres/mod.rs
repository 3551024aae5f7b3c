//! The Postgres implementation of [`ControlPlane`](millpond_core::ControlPlane), one file per noun and
//! trait.
//!
//! Every mutation is either one autocommitted statement, or a transaction that runs in a task of its own. A
//! cancelled caller therefore cannot leave a transaction open on a pooled connection (which happens with
//! sqlx 0.9.0 if `begin()` is cancelled).

mod background;
mod cluster;
mod commit;
mod connection;
mod error;
pub mod examine;
mod find;
mod group;
mod guarded;
mod log;
mod pool;
mod queue;
pub mod schema;
mod topic;

pub use error::{ConnectError, Refused};
use millpond_core::limits;
use parking_lot::RwLock;
pub use pool::Connections;
use pool::{PoolName, Pools};
pub use schema::MIGRATIONS;
use schema::{Migrated, Schema, SchemaRange};
use sqlx::postgres::PgConnectOptions;
use std::sync::Arc;

#[derive(Clone)]
pub struct PostgresControlPlane {
    pools: Arc<Pools>,
    /// Which grant statement to try first, by queue.
    hints: Arc<RwLock<queue::QueueHints>>,
    /// How long the object of a segment is kept after its last batch was unlinked.
    unlinked_wait_ms: i64,
}

impl PostgresControlPlane {
    /// Connects. Fails if the database's settings could lose committed data, or do not arrive.
    pub async fn connect(options: PgConnectOptions) -> Result<Self, ConnectError> {
        Self::connect_with(options, Connections::DEFAULT).await
    }

    /// The same with pools of these sizes.
    pub async fn connect_with(
        options: PgConnectOptions,
        connections: Connections,
    ) -> Result<Self, ConnectError> {
        let pools = Arc::new(Pools::connect(options, connections).await?);
        Ok(Self { pools, hints: Arc::default(), unlinked_wait_ms: limits::PLAN_TTL_MS })
    }

    /// The same, in which objects are deleted no earlier than this after they were unlinked, and never before
    /// the longest read plan has ended.
    #[must_use]
    pub fn with_restore_window_ms(self, restore_window_ms: i64) -> Self {
        Self { unlinked_wait_ms: restore_window_ms.max(limits::PLAN_TTL_MS), ..self }
    }

    /// Applies the missing migrations. If another process is doing so, waits for it.
    pub async fn migrate(options: PgConnectOptions) -> Result<Migrated, ConnectError> {
        schema::migrate(options, SchemaRange::of_this_build()).await
    }

    /// Fails if a build that works with these schemas cannot use the database.
    pub async fn check_schema(&self, range: SchemaRange) -> Result<(), ConnectError> {
        let mut connection =
            self.pools.of(PoolName::Serve).acquire().await.map_err(ConnectError::Unreachable)?;
        range.check(&Schema::look(&mut connection).await.map_err(ConnectError::Unreachable)?)
    }

    /// Closes all connections. Those that do not answer are dropped without a farewell.
    pub async fn close(&self) {
        self.pools.close().await;
    }
}
