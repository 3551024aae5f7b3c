//! A Postgres that Millpond runs itself, for development and for a single machine.
//!
//! Owns: finding the programs, making the database, starting, restarting and stopping the server. Invariants:
//! one process at a time uses a data folder; the server listens on a socket that only its own user and root
//! can reach; it does not outlive this process, however that ends; nothing here loses what a durable server
//! has confirmed. Must not know what is in the database.

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

/// The database that Millpond keeps its control plane in.
pub const DATABASE: &str = "millpond";
const SUPERUSER: &str = "millpond";
/// Only names the socket: nothing listens on the network.
const PORT: u16 = 5432;

#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder that holds the database; made if missing. It should hold nothing else: where Millpond runs as
    /// root, such a folder becomes the property of the user whom Postgres runs as.
    pub data_dir: PathBuf,
    /// `false` trades safety in a power cut for speed, and permits removal of a relocated database whose
    /// `data_dir` is gone. For tests only.
    pub durable: bool,
}

/// A running server. [`stop`](Self::stop) it to wait for its end; dropped, it stops by itself.
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
    /// Makes the database, with [`DATABASE`] in it, if there is none; starts a server on it; returns when
    /// that answers.
    ///
    /// A server that a killed Millpond left behind is stopped first. From then on, a server that dies is
    /// started again. Needs a Tokio runtime with I/O and time, which must outlive the server.
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

    /// How to connect to `database`, as superuser.
    pub fn connect_options(&self, database: &str) -> PgConnectOptions {
        self.server.connect_options(database)
    }

    /// The same as a URL, for sqlx and for `psql`.
    pub fn database_url(&self, database: &str) -> String {
        let socket_folder = self.server.place.socket_folder.to_string_lossy();
        let (host, path) = (percent_encoded(&socket_folder), percent_encoded(database));
        format!("postgres://{SUPERUSER}@{host}:{PORT}/{path}?sslmode=disable")
    }

    /// The folder in which the database really lies (Postgres' own data directory).
    pub fn location(&self) -> &Path {
        &self.location
    }

    /// Whether that is outside `data_dir`, since the server's user cannot reach `data_dir`. The file
    /// `location` in `data_dir` then names the folder.
    pub fn relocated(&self) -> bool {
        self.server.place.relocated
    }

    /// The server's process; `None` while it is being started again.
    pub fn pid(&self) -> Option<u32> {
        *self.pid.borrow()
    }

    /// Ends all sessions, writes a checkpoint, and returns when the server is gone and the data folder free.
    pub async fn stop(self) -> Result<(), EmbeddedError> {
        // Refused only if the supervisor has ended, which the next line reports.
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
