//! Pooled connections with time limits: for every statement, and for the return to the pool.
//!
//! When a connection is returned, sqlx pings it without a time limit. Without a limit of ours, a connection
//! whose peer has vanished would occupy a slot of the pool for ever.

use super::PostgresControlPlane;
use super::pool::PoolName;
use millpond_core::Error;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, Postgres};
use std::ops::{Deref, DerefMut};
use std::time::Duration;

/// Kind of a statement: whose connections it uses, and how long it may take. The server's own
/// `statement_timeout` does not help if the server or the network hangs.
#[derive(Clone, Copy)]
pub(super) struct Class {
    pool: PoolName,
    pub limit: Duration,
}

/// A commit, and what has to be known for its answer. A second sending waits for the locks of the first if
/// that is still running.
pub(super) const COMMIT: Class = Class { pool: PoolName::Commit, limit: Duration::from_secs(6) };
/// A read.
pub(super) const READ: Class = Class { pool: PoolName::Serve, limit: Duration::from_secs(5) };
/// A mutation of a few rows that a client waits for.
pub(super) const WRITE: Class = Class { pool: PoolName::Serve, limit: Duration::from_secs(6) };
/// A mutation or count that may touch all rows of a topic or queue. The limit is longer than the server's
/// `statement_timeout`.
pub(super) const ADMIN: Class = Class { pool: PoolName::Admin, limit: Duration::from_secs(32) };
/// A statement of a background job.
pub(super) const BACKGROUND: Class = Class { pool: PoolName::Jobs, limit: Duration::from_secs(32) };
/// Time limit of the ping when a connection is returned to the pool.
const RETURN: Duration = Duration::from_secs(5);

/// A pooled connection. When it is dropped, it returns to the pool if it answers a ping in time, else it is
/// closed.
pub(super) struct Held {
    connection: PoolConnection<Postgres>,
    discarded: bool,
}

impl Held {
    /// Closes the connection, because an answer is still outstanding or its state is unknown.
    pub fn discard(mut self) {
        self.discarded = true;
        self.connection.close_on_drop();
    }
}

impl Deref for Held {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.discarded {
            let way_back = self.connection.return_to_pool();
            tokio::spawn(tokio::time::timeout(RETURN, way_back));
        }
    }
}

impl PostgresControlPlane {
    pub(super) async fn connection(&self, class: Class) -> Result<Held, Error> {
        let acquired = self.pools.of(class.pool).acquire().await;
        let connection = acquired.map_err(|error| Error::NotApplied(self.pools.explained(error)))?;
        Ok(Held { connection, discarded: false })
    }

    /// Number of connections that may turn out to be dead one after the other.
    pub(super) fn connections(&self, class: Class) -> u32 {
        self.pools.of(class.pool).options().get_max_connections()
    }
}

/// Runs a read, of class [`READ`] unless another is named, and runs it again on a new connection if the
/// pooled one turns out to be dead.
macro_rules! retried {
    ($plane:expr, $connection:ident => $call:expr) => {
        crate::postgres::connection::retried!($plane, crate::postgres::connection::READ, $connection => $call)
    };
    ($plane:expr, $class:expr, $connection:ident => $call:expr) => {
        async {
            let mut attempts = $plane.connections($class);
            loop {
                let mut held = $plane.connection($class).await?;
                let $connection = &mut *held;
                let Ok(outcome) = tokio::time::timeout($class.limit, $call).await else {
                    held.discard();
                    break Err(millpond_core::Error::NotApplied(
                        "the database did not answer in time".into(),
                    ));
                };
                match outcome {
                    Ok(value) => break Ok(value),
                    Err(e) if crate::postgres::error::is_disconnect(&e) && attempts > 0 => {
                        attempts -= 1;
                        $plane.pools.renew();
                        held.discard();
                    }
                    Err(e) => break Err(crate::postgres::error::read(e)),
                }
            }
        }
        .await
    };
}
pub(super) use retried;

/// Sends a mutation once. The inner result is that of sqlx; if there is no answer in time, the outer result
/// says that the outcome is unknown.
macro_rules! sent {
    ($plane:expr, $class:expr, $connection:ident => $call:expr) => {
        async {
            let mut held = $plane.connection($class).await?;
            let $connection = &mut *held;
            match tokio::time::timeout($class.limit, $call).await {
                Ok(outcome) => {
                    if let Err(error) = &outcome
                        && crate::postgres::error::EndsConnections::ends_connections(error)
                    {
                        $plane.pools.renew();
                        held.discard();
                    }
                    Ok(outcome)
                }
                Err(_) => {
                    held.discard();
                    Err(millpond_core::Error::MaybeApplied("the database did not answer in time".into()))
                }
            }
        }
        .await
    };
}
pub(super) use sent;
