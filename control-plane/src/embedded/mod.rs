//! The embedded Postgres: a server that Millpond runs itself, for development and for a single machine.
//!
//! Owns: finding the programs, creating the database, starting, restarting and stopping the server.
//!
//! Invariants: only one process at a time uses a data folder. The server listens on a socket that only its
//! own user and root can reach. It does not outlive this process, however that ends. Nothing here loses data
//! that a durable server has confirmed. Must not know what is in the database.

mod account;
mod binaries;
mod cluster;
mod error;
mod log;
mod place;
mod server;
mod settings;
mod sync;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sqlx::postgres::PgConnectOptions;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use binaries::Binaries;
pub use error::EmbeddedError;
use log::Log;
use place::{DataPlace, Locks};
use server::Server;

/// Name of the database that holds the control plane.
pub const DATABASE: &str = "millpond";
const SUPERUSER: &str = "millpond";
/// Port number. It is only part of the name of the socket: nothing listens on the network.
const PORT: u16 = 5432;

/// Settings of an embedded Postgres.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder of the database; created if it does not exist. It should hold nothing else: if Millpond runs as
    /// root, the folder is given to the user that Postgres runs as.
    pub data_dir: PathBuf,
    /// `false` makes writes faster but not safe in a power failure, and allows a relocated database to be
    /// removed when its `data_dir` is gone. For tests only.
    pub durable: bool,
}

/// A running server. [`stop`](Self::stop) waits for its end. If this is dropped instead, the server stops in
/// the background.
#[derive(Debug)]
pub struct EmbeddedPostgres {
    server: Arc<Server>,
    location: PathBuf,
    pid: watch::Receiver<Option<u32>>,
    stop: oneshot::Sender<()>,
    supervisor: JoinHandle<()>,
    _locks: Locks,
}

impl EmbeddedPostgres {
    /// Creates the database cluster, with the database [`DATABASE`], if there is none; starts a server on it;
    /// returns when the server answers.
    ///
    /// A server that a killed Millpond left running is stopped first. Later, a server that exits is
    /// restarted. Needs a Tokio runtime with I/O and time, which must outlive the server.
    pub async fn start(settings: Settings) -> Result<Self, EmbeddedError> {
        let Settings { data_dir, durable } = settings;
        let (place, locks) = DataPlace::open(&data_dir, durable).await?;
        let location = place.cluster();
        let made_by = cluster::made_by(&place)?;
        let binaries = Binaries::find(place.account, &location, made_by).await?;
        if made_by.is_none() {
            cluster::create(&place, &binaries, durable).await?;
        }
        let log = Log::new(place.log.clone());
        let server = Arc::new(Server { place, binaries, durable, log });
        let running = server.start().await?;
        let (stop, stopped) = oneshot::channel();
        let (pid_sender, pid) = watch::channel(running.pid());
        let supervised = Arc::clone(&server);
        let supervisor =
            tokio::spawn(async move { supervised.supervise(running, pid_sender, stopped).await });
        Ok(Self { server, location, pid, stop, supervisor, _locks: locks })
    }

    /// Options to connect to `database` as superuser.
    pub fn connect_options(&self, database: &str) -> PgConnectOptions {
        self.server.connect_options(database)
    }

    /// The same as a URL, for sqlx and `psql`.
    pub fn database_url(&self, database: &str) -> String {
        let socket_folder = self.server.place.socket_folder.to_string_lossy();
        let (host, path) = (percent_encoded(&socket_folder), percent_encoded(database));
        format!("postgres://{SUPERUSER}@{host}:{PORT}/{path}?sslmode=disable")
    }

    /// Folder that holds the database (the data directory of Postgres).
    pub fn location(&self) -> &Path {
        &self.location
    }

    /// Whether the database is outside `data_dir`, since the user of the server cannot reach `data_dir`. The
    /// file `location` in `data_dir` then names the folder.
    pub fn relocated(&self) -> bool {
        self.server.place.relocated
    }

    /// Process id of the server; `None` while it is being restarted.
    pub fn pid(&self) -> Option<u32> {
        *self.pid.borrow()
    }

    /// Stops the server: ends all sessions and writes a checkpoint. Returns when the server has ended and the
    /// data folder can be used again.
    pub async fn stop(self) -> Result<(), EmbeddedError> {
        // Fails only if the supervisor has ended, which the next line reports.
        let _ = self.stop.send(());
        self.supervisor.await.map_err(EmbeddedError::Unattended)?;
        let place = &self.server.place;
        if !place.socket_folder.starts_with(&place.home) {
            drop(std::fs::remove_dir(&place.socket_folder));
        }
        Ok(())
    }
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
