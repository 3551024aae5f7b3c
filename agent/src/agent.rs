//! `millpond agent` and `millpond migrate`: one of any number of agents on a given Postgres and bucket.

use crate::serve::{self, Outcome, ServerArgs};
use millpond_control_plane::{DatabaseOptions, PostgresControlPlane};
use millpond_engine::store::Store;
use std::io::Write;
use std::net::SocketAddr;
use tokio::net::TcpListener;

#[derive(Debug, clap::Args)]
pub struct DatabaseArgs {
    /// The control plane's database, as postgres://user:password@host/name; a database of its own
    #[arg(long, env = "MILLPOND_DATABASE_URL", hide_env_values = true)]
    database_url: DatabaseOptions,
}

#[derive(Debug, clap::Args)]
pub struct AgentArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Where segments lie: s3://bucket/prefix (credentials, region and endpoint from the usual AWS_*
    /// variables) or file:///folder; `memory:` is for tests: what it holds ends with the process, and the
    /// database then refers to nothing
    #[arg(long, env = "MILLPOND_STORE")]
    store: String,
    /// Address to listen on
    #[arg(long, env = "MILLPOND_LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Listen beyond loopback although nobody is asked who they are
    #[arg(long, env = "MILLPOND_INSECURE", value_parser = clap::builder::FalseyValueParser::new())]
    insecure: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Serves until it is told to stop.
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
    let plane = PostgresControlPlane::connect(args.database.database_url).await?;
    plane.check_schema().await?;
    serve::run(&args.server, loopback, plane, store, listener, || ready(address)).await
}

/// On standard output for who started the agent, since the port may be any; nobody has to read it.
fn ready(address: SocketAddr) {
    tracing::info!(%address, "ready");
    let mut out = std::io::stdout().lock();
    writeln!(out, "Millpond is ready on http://{address}").and_then(|()| out.flush()).ok();
}

/// Brings the database to this version's schema; does nothing where it is that already.
pub async fn migrate(args: DatabaseArgs) -> Outcome<()> {
    PostgresControlPlane::migrate(args.database_url).await?;
    Ok(())
}
