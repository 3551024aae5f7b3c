//! `millpond dev`: the whole thing in one process, on embedded Postgres and a local folder.

use crate::app::{App, Parts};
use crate::config::Config;
use crate::http;
use crate::metrics;
use crate::store::Store;
use clap::builder::FalseyValueParser;
use millpond_control_plane::PostgresControlPlane;
use millpond_control_plane::embedded::{DATABASE, EmbeddedPostgres, Settings};
use millpond_core::{Ids, SystemClock};
use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, clap::Args)]
pub struct DevArgs {
    /// Folder for the database and the records; made if missing
    #[arg(long, env = "MILLPOND_DATA_DIR", default_value = "millpond-data")]
    data_dir: PathBuf,
    /// Address to listen on: loopback only, since there is no authentication
    #[arg(long, env = "MILLPOND_LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Keep nothing: a temporary folder, deleted at the end
    #[arg(long)]
    ephemeral: bool,
    /// Partitions of topics that are made without saying how many
    #[arg(long, env = "MILLPOND_DEFAULT_PARTITIONS", default_value_t = 8, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    default_partitions: i32,
    /// Refuse to produce to topics that were not made before
    #[arg(long, env = "MILLPOND_NO_AUTO_CREATE", value_parser = FalseyValueParser::new())]
    no_auto_create: bool,
    /// PUTs a second that an agent makes when it has a choice
    #[arg(long, env = "MILLPOND_PUT_RATE", default_value_t = 4.0)]
    put_rate: f64,
    /// Send everything to segments, nothing inline
    #[arg(long, env = "MILLPOND_NO_INLINE", value_parser = FalseyValueParser::new())]
    no_inline: bool,
}

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

pub async fn run(args: DevArgs) -> Outcome<()> {
    if !args.listen.ip().is_loopback() {
        return Err(format!("dev has no authentication and listens on loopback only, not on {}", args.listen).into());
    }
    if !(args.put_rate.is_finite() && args.put_rate > 0.0) {
        return Err("--put-rate is a number above 0".into());
    }
    // Whoever runs the database must be able to pass, whatever the umask.
    let passable = std::fs::Permissions::from_mode(0o755);
    let temporary = if args.ephemeral { Some(tempfile::Builder::new().prefix("millpond-").permissions(passable).tempdir()?) } else { None };
    let data_dir = temporary.as_ref().map_or(args.data_dir.clone(), |t| t.path().to_owned());
    tokio::fs::create_dir_all(&data_dir).await.map_err(|e| format!("cannot make {}: {e}", data_dir.display()))?;
    // The socket is bound first: who cannot listen need not start a database.
    let listener = TcpListener::bind(args.listen).await.map_err(|e| format!("cannot listen on {}: {e}", args.listen))?;
    let address = listener.local_addr()?;
    let postgres = EmbeddedPostgres::start(Settings { data_dir: data_dir.join("postgres"), durable: true }).await?;
    let served = serve(&args, &data_dir, listener, address, &postgres).await;
    let stopped = postgres.stop().await;
    served?;
    stopped?;
    Ok(())
}

async fn serve(args: &DevArgs, data_dir: &Path, listener: TcpListener, address: SocketAddr, postgres: &EmbeddedPostgres) -> Outcome<()> {
    let options = postgres.connect_options(DATABASE);
    PostgresControlPlane::migrate(options.clone()).await?;
    let plane = PostgresControlPlane::connect(options).await?;
    let (cluster, epoch) = plane.cluster().await?;
    let bucket = data_dir.join("bucket");
    tokio::fs::create_dir_all(&bucket).await?;
    let mut config = Config { default_partitions: args.default_partitions, auto_create: !args.no_auto_create, ..Config::default() };
    config.batcher.puts_per_s = args.put_rate;
    config.batcher.put_burst = config.batcher.put_burst.max(args.put_rate);
    config.batcher.inline = !args.no_inline;
    let parts = Parts {
        plane: Arc::new(plane.clone()),
        store: Store::local(&bucket)?,
        clock: Arc::new(SystemClock),
        ids: Arc::new(Ids::from_os()),
        cluster,
        epoch,
        prometheus: metrics::install(),
    };
    let app = App::start(parts, &config);
    let signal = stop_signal()?;
    let watcher = Arc::clone(&app.watcher);
    let stop = async move {
        signal.await;
        watcher.stop();
    };
    welcome(address, data_dir, postgres, args.ephemeral).ok();
    http::server::serve(listener, http::router(Arc::clone(&app)), stop).await;
    tracing::info!("stopping");
    app.close().await;
    plane.close().await;
    Ok(())
}

fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Nobody has to read it: a closed standard output is no reason to stop.
fn welcome(address: SocketAddr, data_dir: &Path, postgres: &EmbeddedPostgres, ephemeral: bool) -> std::io::Result<()> {
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
    writeln!(out, "  printf '{{\"n\":2}}\\n{{\"n\":3}}\\n' | curl -X POST -T - -H 'content-type: application/x-ndjson' {records}")?;
    writeln!(out, "  curl '{records}?from=earliest'")?;
    writeln!(out, "  curl -N -H 'accept: text/event-stream' '{records}?from=earliest'")?;
    writeln!(out, "\nThe API is described at http://{address}/openapi.json; Ctrl-C stops.")?;
    out.flush()
}
