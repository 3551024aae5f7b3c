//! A Postgres server whose processes can be killed and stopped.

use millpond_control_plane::PostgresControlPlane;
use millpond_control_plane::embedded::{DATABASE, EmbeddedPostgres, Settings};
use millpond_tests::harness::child::signal;
use millpond_tests::postgres::Folder;
use millpond_tests::proxy::Target;
use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use std::time::Duration;

pub struct Postgres {
    server: EmbeddedPostgres,
    _folder: Folder,
}

impl Postgres {
    /// Starts the server with the current schema.
    pub async fn start() -> Self {
        let folder = Folder::new();
        let settings = Settings { data_dir: folder.path.clone(), durable: true };
        let server = EmbeddedPostgres::start(settings).await.expect("a Postgres");
        PostgresControlPlane::migrate(server.connect_options(DATABASE)).await.expect("migrated");
        Self { server, _folder: folder }
    }

    fn options(&self) -> PgConnectOptions {
        self.server.connect_options(DATABASE)
    }

    /// Its address, for a proxy.
    pub fn target(&self) -> Target {
        let options = self.options();
        Target::Unix(options.get_socket().expect("a socket").join(format!(".s.PGSQL.{}", options.get_port())))
    }

    /// Connection URL through a proxy on this port.
    pub fn url_at(&self, port: u16) -> String {
        let options = self.options();
        let (user, database) = (options.get_username(), options.get_database().expect("a database"));
        format!("postgres://{user}@127.0.0.1:{port}/{database}?sslmode=disable")
    }

    /// A direct connection, without a proxy; `None` while the server is down or hangs.
    pub async fn connect(&self) -> Option<PgConnection> {
        tokio::time::timeout(Duration::from_secs(2), PgConnection::connect_with(&self.options()))
            .await
            .ok()?
            .ok()
    }

    /// Process ids of the postmaster, which is first, and its processes; none while it restarts.
    fn processes(&self) -> Vec<u32> {
        let Some(postmaster) = self.server.pid() else { return Vec::new() };
        let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"))
            .unwrap_or_default();
        let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        std::iter::once(postmaster).chain(children).collect()
    }

    /// Kills the server as a crash would; it restarts by itself. False if it was down already.
    pub fn kill(&self) -> bool {
        let processes = self.processes();
        signal("KILL", &processes);
        !processes.is_empty()
    }

    /// Stops every process by SIGSTOP.
    pub fn freeze(&self) -> Vec<u32> {
        let processes = self.processes();
        signal("STOP", &processes);
        processes
    }

    pub async fn stop(self) {
        self.server.stop().await.expect("it stops");
    }
}
