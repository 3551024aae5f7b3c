//! Errors of the embedded Postgres. Each message says what to do next.

use std::path::{Path, PathBuf};

/// Error of the embedded Postgres.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedError {
    #[error(
        "{} is in use by another Millpond: stop that one, or choose another data folder", folder.display()
    )]
    InUse { folder: PathBuf },

    #[error(
        "no usable Postgres on this machine, and none could be downloaded ({reason}): install one \
         (`apt-get install postgresql`, `dnf install postgresql-server` or `brew install postgresql@17`), \
         or set MILLPOND_POSTGRES_BIN to the folder that holds `initdb` and `postgres`"
    )]
    NoPostgres { reason: String },

    #[error(
        "MILLPOND_POSTGRES_BIN is {}, which cannot be used ({reason}): \
         set it to the folder that holds `initdb` and `postgres`, version 14 or newer, or unset it",
        folder.display()
    )]
    BadBinaries { folder: PathBuf, reason: String },

    #[error(
        "{} was made by Postgres {made_by}, but this machine has Postgres {found}: \
         install Postgres {made_by}, or move the data with `pg_upgrade`", location.display()
    )]
    OtherVersion { location: PathBuf, made_by: u32, found: String },

    #[error(
        "{} holds no readable Postgres version, so it is not a complete database: \
         restore it from a backup, or move it away to start with an empty one", path.display()
    )]
    Damaged { path: PathBuf },

    #[error(
        "Postgres does not run as root, and this machine has neither a user `postgres` nor a user `nobody` \
         to run it as: add one (`useradd --system postgres`), or run Millpond as another user"
    )]
    NoAccount,

    #[error(
        "{} holds a database that {account} cannot reach: \
         open its parent folders to that user (`chmod o+x`), or move the data folder", folder.display()
    )]
    Closed { folder: PathBuf, account: String },

    #[error(
        "{account} cannot use {}, and no other folder was found in which it can write (tried {tried}): \
         choose a data folder that this user can reach", folder.display()
    )]
    NoPlace { folder: PathBuf, account: String, tried: String },

    #[error(
        "{} says that the database is in {}, which does not exist: bring that folder back, \
         or delete the file to start with an empty database", pointer.display(), location.display()
    )]
    Gone { pointer: PathBuf, location: PathBuf },

    #[error("{program} failed ({status}); its last lines were:\n{output}")]
    ToolFailed { program: String, status: String, output: String },

    #[error(
        "{program} took longer than {seconds} s: \
         check the load of the machine and its disk, then start again"
    )]
    ToolTimedOut { program: String, seconds: u64 },

    #[error(
        "Postgres stopped while starting ({status}); the last lines of {} were:\n{output}", log.display()
    )]
    ServerExited { status: String, log: PathBuf, output: String },

    #[error(
        "Postgres did not answer within {seconds} s; the last lines of {} were:\n{output}", log.display()
    )]
    NoAnswer { seconds: u64, log: PathBuf, output: String },

    #[error(
        "an older Postgres (process {pid}) still runs on {} and cannot be stopped: \
         stop it with `kill -QUIT {pid}`, then start again", location.display()
    )]
    StillRunning { location: PathBuf, pid: u32 },

    #[error("could not {doing} {}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: std::io::Error },

    #[error("the embedded Postgres refused to {doing}")]
    Database { doing: &'static str, source: sqlx::Error },

    #[error("the task that supervises the embedded Postgres ended early; Postgres will stop by itself")]
    Unattended(#[source] tokio::task::JoinError),
}

impl EmbeddedError {
    /// For `map_err`: makes an error of the failed step, named by a verb, and its path.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { doing, path, source }
    }
}
