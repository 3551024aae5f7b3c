//! Reading SQL failures: what certainly did not happen, and what may have.

use millpond_core::Error;

/// A statement that the server answered with an error changed nothing, unless the server was going down or
/// waiting for a standby (classes 57P, 08, XX). Everything else that breaks a statement in flight leaves its
/// outcome open.
pub(super) fn classify(error: sqlx::Error) -> Error {
    let decided = match &error {
        sqlx::Error::Database(db) => {
            !db.code().is_some_and(|c| c.starts_with("57P") || c.starts_with("08") || c.starts_with("XX"))
        }
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Configuration(_) => true,
        _ => false,
    };
    if decided { Error::NotApplied(error.into()) } else { Error::MaybeApplied(error.into()) }
}

/// A read has no outcome to doubt.
pub(super) fn read(error: sqlx::Error) -> Error {
    Error::NotApplied(error.into())
}

/// True for a connection that broke under a statement, as all pooled ones do when the server restarts.
pub(super) fn is_disconnect(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(db) => db.code().is_some_and(|c| c.starts_with("57P")),
        _ => false,
    }
}
