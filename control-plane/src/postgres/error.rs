//! Errors of connecting, and the classification of failures of statements: certainly not applied, or perhaps
//! applied.

use millpond_core::Error;

/// Why a database cannot be used, or could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot reach the database")]
    Unreachable(#[source] sqlx::Error),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("the database's schema could not be brought to this version")]
    Migration(#[source] sqlx::migrate::MigrateError),
    #[error(
        "migration {version} did not get the locks that it needs in {attempts} tries: another transaction \
         holds them; end it (see pg_stat_activity), and run `millpond migrate` again"
    )]
    MigrationLocked { version: i64, attempts: u32 },
    #[error("the database has schema {found}, this build needs {oldest} or newer: run `millpond migrate`")]
    SchemaTooOld { found: i64, oldest: i64 },
    #[error(
        "the database has schema {found}, which agents can use that know schema {oldest_agent}; this build \
         knows {newest}: use a newer version of millpond"
    )]
    SchemaTooNew { found: i64, oldest_agent: i64, newest: i64 },
}

/// Why a connection is not used although it could be opened.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    #[error("the database runs with {setting} = off, which can lose acknowledged records: turn it on")]
    Unsafe { setting: String },
    #[error("the database is a standby: give agents the primary's address")]
    Standby,
    #[error(
        "session settings do not reach the database ({setting} is {found} instead of {wanted}): a connection \
         pooler in between drops them; give agents the database's own address"
    )]
    Pooler { setting: String, wanted: String, found: String },
}

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

/// SQLSTATE of a write to a database that is read-only, as a primary is that was demoted.
const READ_ONLY: &str = "25006";

/// True if the connection broke during the statement, as all pooled connections do when the server restarts.
pub(super) fn is_disconnect(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(db) => db.code().is_some_and(|c| c.starts_with("57P")),
        _ => false,
    }
}

/// Failures after which no connection that is open now is used again: the server ended it, or is not the
/// primary any more.
pub(super) trait EndsConnections {
    fn ends_connections(&self) -> bool;
}

impl EndsConnections for sqlx::Error {
    fn ends_connections(&self) -> bool {
        is_disconnect(self)
            || self.as_database_error().and_then(|db| db.code()).is_some_and(|code| code == READ_ONLY)
    }
}

impl<R> EndsConnections for Error<R> {
    fn ends_connections(&self) -> bool {
        match self {
            Self::Rejected(_) => false,
            Self::NotApplied(source) | Self::MaybeApplied(source) => {
                source.downcast_ref::<sqlx::Error>().is_some_and(EndsConnections::ends_connections)
            }
        }
    }
}
