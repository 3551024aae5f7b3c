//! Pooled connections with time limits: for every statement, and for the return to the pool.
//!
//! When a connection is returned, sqlx pings it without a time limit. Without a limit of ours, a connection
//! whose peer has vanished would occupy a slot of the pool for ever.

use super::PostgresControlPlane;
use millpond_core::Error;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, Postgres};
use std::ops::{Deref, DerefMut};
use std::time::Duration;

/// Time limit of a read. The server's `statement_timeout` does not help if the server or the network hangs.
pub(super) const READ: Duration = Duration::from_secs(5);
/// Time limit of a mutation that a client waits for. A second sending waits for the locks of the first if
/// that is still running.
pub(super) const WRITE: Duration = Duration::from_secs(6);
/// Time limit of background statements: longer than the server's `statement_timeout`.
pub(super) const BACKGROUND: Duration = Duration::from_secs(32);
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
    pub(super) async fn connection(&self) -> Result<Held, Error> {
        let connection = self.pool.acquire().await.map_err(|e| Error::NotApplied(e.into()))?;
        Ok(Held { connection, discarded: false })
    }
}

/// Runs a read, and runs it again on a new connection if the pooled one turns out to be dead.
macro_rules! retried {
    ($plane:expr, $connection:ident => $call:expr) => {
        async {
            let mut attempts = crate::postgres::CONNECTIONS;
            loop {
                let mut held = $plane.connection().await?;
                let $connection = &mut *held;
                let Ok(outcome) = tokio::time::timeout(crate::postgres::connection::READ, $call).await else {
                    held.discard();
                    break Err(millpond_core::Error::NotApplied(
                        "the database did not answer in time".into(),
                    ));
                };
                match outcome {
                    Ok(value) => break Ok(value),
                    Err(e) if crate::postgres::error::is_disconnect(&e) && attempts > 0 => {
                        attempts -= 1;
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
    ($plane:expr, $limit:expr, $connection:ident => $call:expr) => {
        async {
            let mut held = $plane.connection().await?;
            let $connection = &mut *held;
            let outcome = tokio::time::timeout($limit, $call).await;
            if outcome.is_err() {
                held.discard();
            }
            outcome
                .map_err(|_| millpond_core::Error::MaybeApplied("the database did not answer in time".into()))
        }
        .await
    };
}
pub(super) use sent;
