//! Classifies failures of statements: certainly not applied, or perhaps applied.

use millpond_core::Error;

/// A statement that the server answered with an error changed nothing, unless the server was shutting down or
/// waiting for a standby (SQLSTATE classes 57P, 08, XX). After any other failure of a statement in flight,
/// the outcome is unknown.
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

/// The error of a failed read, which changes nothing in any case.
pub(super) fn read(error: sqlx::Error) -> Error {
    Error::NotApplied(error.into())
}

/// True if the connection broke during the statement, as all pooled connections do when the server restarts.
pub(super) fn is_disconnect(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(db) => db.code().is_some_and(|c| c.starts_with("57P")),
        _ => false,
    }
}
