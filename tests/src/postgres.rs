//! One real Postgres per test process, and a fresh database with the current schema per test.
//!
//! The server ends with the process, however that ends; its folder is removed afterwards.

use crate::proxy::Target;
use millpond_control_plane::PostgresControlPlane;
use millpond_control_plane::embedded::{DATABASE, EmbeddedPostgres, Settings};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{AssertSqlSafe, Connection, Executor};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

const TEMPLATE: &str = "template_millpond";

/// Shell script that waits for its standard input to end (when the test process ends) and for the server to
/// stop, then removes the folder `$1`.
const CLEANER: &str = r#"cat >/dev/null; n=0; while [ -e "$1/postgres/postmaster.pid" ] && [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done; rm -rf "$1""#;

/// Every stored timestamp that the control plane compares with its clock, by table and column.
const INSTANTS: [(&str, &str); 32] = [
    ("cluster", "deletions_held_until"),
    ("topic", "created_at"),
    ("topic", "deleted_at"),
    ("topic", "retain_at"),
    ("segment", "registered_at"),
    ("segment", "committed_at"),
    ("segment", "delete_at"),
    ("inline_payload", "committed_at"),
    ("inline_payload", "drained_at"),
    ("inline_payload", "aside_at"),
    ("batch", "committed_at"),
    ("request_key", "expires_at"),
    ("answer", "expires_at"),
    ("dedup", "expires_at"),
    ("agent", "seen_at"),
    ("job", "until"),
    ("job", "due_at"),
    ("consumer_group", "changed_at"),
    ("group_member", "seen_at"),
    ("group_offset", "committed_at"),
    ("queue", "created_at"),
    ("queue", "deleted_at"),
    ("queue_flow", "refilled_at"),
    ("lease", "deadline"),
    ("waiting", "due_at"),
    ("dead", "died_at"),
    ("admitted", "due_at"),
    ("queue_key", "due_at"),
    ("queue_agent", "settle_at"),
    ("queue_agent", "rated_at"),
    ("queue_operation", "at"),
    ("queue_operation", "expires_at"),
];

struct Server {
    options: PgConnectOptions,
    /// Connection URL of [`TEMPLATE`].
    url: String,
    databases: AtomicU32,
    _folder: Folder,
}

/// A temporary folder for an embedded Postgres. It is removed after this process has ended, however that
/// ends, and the server in it has stopped.
pub struct Folder {
    pub path: PathBuf,
    /// Removes the folder when its standard input closes: when this process ends, or on drop.
    _cleaner: Child,
}

impl Folder {
    #[must_use]
    pub fn new() -> Self {
        let path =
            tempfile::Builder::new().prefix("millpond-test-").tempdir().expect("a temporary folder").keep();
        let cleaner = Command::new("sh")
            .args(["-c", CLEANER, "sh"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("a cleaner");
        Self { path, _cleaner: cleaner }
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

static SERVER: LazyLock<Server> = LazyLock::new(Server::start);

impl Server {
    /// Starts the server in its own thread and runtime, since it serves tests that each have their own.
    fn start() -> Self {
        let folder = Folder::new();
        let data_dir = folder.path.clone();
        let (ready, started) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let postgres =
                    EmbeddedPostgres::start(Settings { data_dir, durable: true }).await.expect("a Postgres");
                let mut connection =
                    PgConnection::connect_with(&postgres.connect_options(DATABASE)).await.expect("connected");
                execute(&mut connection, format!("create database {TEMPLATE}")).await;
                PostgresControlPlane::migrate(postgres.connect_options(TEMPLATE)).await.expect("migrated");
                ready
                    .send((postgres.connect_options(DATABASE), postgres.database_url(TEMPLATE)))
                    .expect("awaited");
                std::future::pending::<()>().await;
            });
        });
        let (options, url) = started.recv().expect("Postgres started");
        Self { options, url, databases: AtomicU32::new(0), _folder: folder }
    }
}

async fn execute(connection: &mut PgConnection, statement: String) {
    connection.execute(AssertSqlSafe(statement.as_str())).await.expect(&statement);
}

/// An empty database with the current schema.
pub struct Database {
    name: String,
}

impl Database {
    pub async fn new() -> Self {
        let name = format!("test_{}", SERVER.databases.fetch_add(1, Ordering::SeqCst));
        let mut connection = PgConnection::connect_with(&SERVER.options).await.expect("connected");
        execute(&mut connection, format!("create database {name} template {TEMPLATE}")).await;
        Self { name }
    }

    /// Creates a database without any schema.
    pub async fn empty() -> Self {
        let name = format!("test_{}", SERVER.databases.fetch_add(1, Ordering::SeqCst));
        let mut connection = PgConnection::connect_with(&SERVER.options).await.expect("connected");
        execute(&mut connection, format!("create database {name} template template0")).await;
        Self { name }
    }

    /// Creates a copy of the database as it is now, to which nobody may be connected.
    pub async fn copy(&self) -> Self {
        let name = format!("test_{}", SERVER.databases.fetch_add(1, Ordering::SeqCst));
        let mut connection = PgConnection::connect_with(&SERVER.options).await.expect("connected");
        execute(&mut connection, format!("create database {name} template {}", self.name)).await;
        Self { name }
    }

    /// The URL `postgres://…`, for processes.
    #[must_use]
    pub fn url(&self) -> String {
        SERVER.url.replace(TEMPLATE, &self.name)
    }

    #[must_use]
    pub fn options(&self) -> PgConnectOptions {
        SERVER.options.clone().database(&self.name)
    }

    /// Address of the server, for a proxy.
    #[must_use]
    pub fn target(&self) -> Target {
        let folder = SERVER.options.get_socket().expect("a socket");
        Target::Unix(folder.join(format!(".s.PGSQL.{}", SERVER.options.get_port())))
    }

    /// Options to connect through a proxy on that port.
    #[must_use]
    pub fn options_at(&self, port: u16) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(port)
            .username(SERVER.options.get_username())
            .database(&self.name)
            .ssl_mode(PgSslMode::Disable)
    }

    /// Executes a statement on its own connection.
    pub async fn run(&self, statement: &str) {
        execute(&mut self.connect().await, statement.to_owned()).await;
    }

    /// Opens a connection beside the control plane's, to hold locks and to look at rows.
    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect_with(&self.options()).await.expect("connected")
    }

    /// Lets time pass. The server's clock cannot be set, so stored timestamps move back instead.
    pub async fn advance(&self, ms: i64) {
        let mut connection = self.connect().await;
        let statements: Vec<String> = INSTANTS
            .iter()
            .map(|(table, column)| format!("update {table} set {column} = {column} - {ms} * interval '1 ms' where {column} is not null"))
            .collect();
        execute(&mut connection, statements.join("; ")).await;
    }

    pub async fn close(&self) {
        let mut connection = PgConnection::connect_with(&SERVER.options).await.expect("connected");
        execute(&mut connection, format!("drop database {} with (force)", self.name)).await;
    }
}
