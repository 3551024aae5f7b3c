//! Connections that a silent network cannot take away: every statement has a time limit, and so has a
//! connection's way back to the pool.
//!
//! sqlx asks a connection that comes back to answer once more, however long that takes; one whose peer has
//! vanished would keep its place in the pool for ever.

use super::PostgresControlPlane;
use millpond_core::Error;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, Postgres};
use std::ops::{Deref, DerefMut};
use std::time::Duration;

/// Of a read; the server's own timeout is of no use when the server hangs.
pub(super) const READ: Duration = Duration::from_secs(5);
/// Of a mutation that somebody waits for. What is sent again after it waits for the first, should that still
/// be under way.
pub(super) const WRITE: Duration = Duration::from_secs(6);
/// Of background work: longer than the server's own limit of a statement.
pub(super) const BACKGROUND: Duration = Duration::from_secs(32);
/// Of the last answer before a connection is taken back.
const RETURN: Duration = Duration::from_secs(5);

/// A pooled connection. Dropped, it goes back to the pool if it answers in time, and is closed if not.
pub(super) struct Held {
    connection: PoolConnection<Postgres>,
    discarded: bool,
}

impl Held {
    /// Closes it: it owes an answer that nobody waits for any more, or is in an unknown state.
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

/// Runs a read again on a fresh connection when the pooled one turns out to be dead.
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

/// Sends a mutation, once. What sqlx says of it is the inner result; without any answer in time its outcome
/// is open.
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
