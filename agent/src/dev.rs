//! The command `millpond dev`: an agent with a Postgres of its own and a local folder as object store.

use crate::serve::{self, Outcome, ServerArgs};
use millpond_control_plane::embedded::{DATABASE, EmbeddedPostgres, Settings};
use millpond_control_plane::{PostgresControlPlane, SchemaRange};
use millpond_engine::store::Store;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio::net::TcpListener;

#[derive(Debug, clap::Args)]
pub struct DevArgs {
    /// Folder for the database and the records; it is made if it does not exist
    #[arg(long, env = "MILLPOND_DATA_DIR", default_value = "millpond-data")]
    data_dir: PathBuf,
    /// Address to listen on; only loopback addresses, since there is no authentication
    #[arg(long, env = "MILLPOND_LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Use a temporary folder that is deleted at the end
    #[arg(long)]
    ephemeral: bool,
    /// Least age at which an object that nothing refers to any more is deleted
    #[arg(long, env = "MILLPOND_RESTORE_WINDOW", default_value = "10m", value_parser = serve::time_ms)]
    restore_window: i64,
    #[command(flatten)]
    server: ServerArgs,
}

/// Starts Postgres, serves until SIGINT or SIGTERM, and stops Postgres.
pub async fn run(args: DevArgs) -> Outcome<()> {
    if !args.listen.ip().is_loopback() {
        return Err(format!(
            "dev has no authentication and listens on loopback only, not on {}",
            args.listen
        )
        .into());
    }
    // Postgres may run as another user, which must be able to enter the folder, whatever the umask.
    let passable = std::fs::Permissions::from_mode(0o755);
    let temporary = if args.ephemeral {
        Some(tempfile::Builder::new().prefix("millpond-").permissions(passable).tempdir()?)
    } else {
        None
    };
    let data_dir = temporary.as_ref().map_or(args.data_dir.clone(), |t| t.path().to_owned());
    tokio::fs::create_dir_all(&data_dir)
        .await
        .map_err(|e| format!("cannot make {}: {e}", data_dir.display()))?;
    // The socket is bound first, since starting a database is in vain if the address is in use.
    let listener =
        TcpListener::bind(args.listen).await.map_err(|e| format!("cannot listen on {}: {e}", args.listen))?;
    let address = listener.local_addr()?;
    let postgres =
        EmbeddedPostgres::start(Settings { data_dir: data_dir.join("postgres"), durable: true }).await?;
    let served = serve(&args, &data_dir, listener, address, &postgres).await;
    let stopped = postgres.stop().await;
    served?;
    stopped?;
    Ok(())
}

async fn serve(
    args: &DevArgs,
    data_dir: &Path,
    listener: TcpListener,
    address: SocketAddr,
    postgres: &EmbeddedPostgres,
) -> Outcome<()> {
    let options = postgres.connect_options(DATABASE);
    PostgresControlPlane::migrate(options.clone()).await?;
    let plane = PostgresControlPlane::connect(options).await?;
    plane.check_schema(SchemaRange::of_this_build()).await?;
    let plane = plane.with_restore_window_ms(args.restore_window);
    let bucket = data_dir.join("bucket");
    tokio::fs::create_dir_all(&bucket).await?;
    let store = Store::local(&bucket)?;
    serve::run(&args.server, true, plane, store, listener, || {
        welcome(address, data_dir, postgres, args.ephemeral).ok();
    })
    .await
}

/// Prints where everything is and how to try it. The caller ignores errors: standard output may be closed.
fn welcome(
    address: SocketAddr,
    data_dir: &Path,
    postgres: &EmbeddedPostgres,
    ephemeral: bool,
) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "Millpond is ready on http://{address}")?;
    writeln!(out, "  records   {}", data_dir.join("bucket").display())?;
    writeln!(out, "  database  {}", postgres.location().display())?;
    if postgres.relocated() {
        writeln!(out, "            (not in {}, which the database's user cannot enter)", data_dir.display())?;
    }
    writeln!(out, "            psql \"{}\"", postgres.database_url(DATABASE))?;
    if ephemeral {
        writeln!(out, "  everything is deleted at the end")?;
    }
    let records = format!("http://{address}/v1/topics/hello/records");
    writeln!(out, "\nProduce, then consume:")?;
    writeln!(out, "  curl -H 'content-type: application/json' {records} \\")?;
    writeln!(out, "       -d '{{\"records\":[{{\"key\":\"k1\",\"value\":{{\"n\":1}}}}]}}'")?;
    writeln!(
        out,
        "  printf '{{\"n\":2}}\\n{{\"n\":3}}\\n' | \
         curl -X POST -T - -H 'content-type: application/x-ndjson' {records}"
    )?;
    writeln!(out, "  curl '{records}?from=earliest'")?;
    writeln!(out, "  curl -N -H 'accept: text/event-stream' '{records}?from=earliest'")?;
    writeln!(out, "\nThe API is described at http://{address}/openapi.json; Ctrl-C stops.")?;
    out.flush()
}
