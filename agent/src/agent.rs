//! The commands `millpond agent`, which runs one agent on a given Postgres and object store (there can be any
//! number of agents on them), and `millpond migrate`, which prepares the database.

use crate::serve::{self, Outcome, ServerArgs};
use millpond_control_plane::postgres::Connections;
use millpond_control_plane::postgres::schema::{self, Migrated};
use millpond_control_plane::{DatabaseOptions, PostgresControlPlane, SchemaRange};
use millpond_engine::store::Store;
use std::io::Write;
use std::net::SocketAddr;
use tokio::net::TcpListener;

#[derive(Debug, clap::Args)]
pub struct DatabaseArgs {
    /// URL of the control plane's database, as postgres://user:password@host/name; nothing else should be in
    /// this database
    #[arg(long, env = "MILLPOND_DATABASE_URL", hide_env_values = true)]
    database_url: DatabaseOptions,
    /// For tests of upgrades: do as a build would that knows no migration after this one
    #[arg(long, hide = true, value_name = "VERSION")]
    known_schema: Option<i64>,
}

impl DatabaseArgs {
    /// Connects to a database whose schema this build can use.
    pub async fn connect(self) -> Outcome<PostgresControlPlane> {
        let schemas = self.schemas();
        let plane = PostgresControlPlane::connect(self.database_url).await?;
        plane.check_schema(schemas).await?;
        Ok(plane)
    }

    fn schemas(&self) -> SchemaRange {
        self.known_schema.map_or_else(SchemaRange::of_this_build, SchemaRange::known_to)
    }
}

/// Maximum numbers of connections to the database, by what they are used for.
#[derive(Debug, clap::Args)]
pub struct ConnectionArgs {
    /// Connections for commits, at most
    #[arg(
        long,
        env = "MILLPOND_COMMIT_CONNECTIONS",
        default_value_t = Connections::DEFAULT.commit,
        value_parser = clap::value_parser!(u32).range(1..=100)
    )]
    commit_connections: u32,
    /// Connections for reads, leases, settlements and consumer groups, at most
    #[arg(
        long,
        env = "MILLPOND_SERVE_CONNECTIONS",
        default_value_t = Connections::DEFAULT.serve,
        value_parser = clap::value_parser!(u32).range(1..=100)
    )]
    serve_connections: u32,
    /// Connections for changes of topics and queues, at most
    #[arg(
        long,
        env = "MILLPOND_ADMIN_CONNECTIONS",
        default_value_t = Connections::DEFAULT.admin,
        value_parser = clap::value_parser!(u32).range(1..=100)
    )]
    admin_connections: u32,
    /// Connections for background jobs, at most
    #[arg(
        long,
        env = "MILLPOND_JOB_CONNECTIONS",
        default_value_t = Connections::DEFAULT.jobs,
        value_parser = clap::value_parser!(u32).range(1..=100)
    )]
    job_connections: u32,
}

impl ConnectionArgs {
    const fn sizes(&self) -> Connections {
        Connections {
            commit: self.commit_connections,
            serve: self.serve_connections,
            admin: self.admin_connections,
            jobs: self.job_connections,
        }
    }
}

#[derive(Debug, clap::Args)]
pub struct AgentArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Where segments are stored: s3://bucket/prefix (credentials, region and endpoint come from the usual
    /// AWS_* variables) or file:///folder; `memory:` is for tests: its content is lost when the process ends,
    /// and the database then refers to segments that do not exist
    #[arg(long, env = "MILLPOND_STORE")]
    store: String,
    /// Address to listen on
    #[arg(long, env = "MILLPOND_LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Allow listening on addresses other than loopback, although there is no authentication
    #[arg(long, env = "MILLPOND_INSECURE", value_parser = clap::builder::FalseyValueParser::new())]
    insecure: bool,
    /// Least age at which an object that nothing refers to any more is deleted, such as 24h. A backup of the
    /// database that is older than this may refer to objects that are gone
    #[arg(long, env = "MILLPOND_RESTORE_WINDOW", default_value = "24h", value_parser = serve::time_ms)]
    restore_window: i64,
    #[command(flatten)]
    connections: ConnectionArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Serves until SIGINT or SIGTERM. Fails if this build cannot use the database's schema.
pub async fn run(args: AgentArgs) -> Outcome<()> {
    let loopback = args.listen.ip().is_loopback();
    if !loopback && !args.insecure {
        return Err(format!(
            "there is no authentication yet: --insecure is needed to listen on {}",
            args.listen
        )
        .into());
    }
    let store = Store::open(&args.store)?;
    let listener =
        TcpListener::bind(args.listen).await.map_err(|e| format!("cannot listen on {}: {e}", args.listen))?;
    let address = listener.local_addr()?;
    let schemas = args.database.schemas();
    let plane =
        PostgresControlPlane::connect_with(args.database.database_url, args.connections.sizes()).await?;
    plane.check_schema(schemas).await?;
    let plane = plane.with_restore_window_ms(args.restore_window);
    serve::run(&args.server, loopback, plane, store, listener, || ready(address)).await
}

/// Prints the address, which whoever started the agent needs if it listens on port 0. Errors are ignored:
/// standard output may be closed.
fn ready(address: SocketAddr) {
    tracing::info!(%address, "the agent is ready");
    let mut out = std::io::stdout().lock();
    writeln!(out, "Millpond is ready on http://{address}").and_then(|()| out.flush()).ok();
}

/// Migrates the database to this version's schema, and prints `schema 5 → 7`, or `already 7`.
pub async fn migrate(args: DatabaseArgs) -> Outcome<()> {
    let schemas = args.schemas();
    let Migrated { from, to } = schema::migrate(args.database_url, schemas).await?;
    let told = if from == to { format!("already {to}") } else { format!("schema {from} → {to}") };
    // Standard output may be closed; the exit code still tells the outcome.
    writeln!(std::io::stdout().lock(), "{told}").ok();
    Ok(())
}
