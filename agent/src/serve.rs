//! The part that the commands `dev` and `agent` share: settings, and an agent that is put together from its
//! parts and serves until a signal stops it.

use clap::builder::FalseyValueParser;
use millpond_control_plane::PostgresControlPlane;
use millpond_core::control_plane::Identity;
use millpond_core::{RandomSource, SystemClock};
use millpond_engine::config::Config;
use millpond_engine::marker::{MarkerError, Markers};
use millpond_engine::metrics;
use millpond_engine::store::Store;
use millpond_engine::store::latency::{Pace, StoreLatency};
use millpond_engine::{Engine, Parts};
use millpond_http::origin::AllowedOrigins;
use millpond_http::pace::ReadPace;
use millpond_http::{self as http, Door, DoorConfig};
use std::error::Error;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

/// How long an agent that starts waits for a store or a database that cannot be reached.
const START_WAIT_MAX: Duration = Duration::from_secs(60);
/// Pause between two tries.
const START_PAUSE: Duration = Duration::from_secs(1);

pub type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Debug, clap::Args)]
pub struct ServerArgs {
    /// Number of partitions of a new topic, if it is not given
    #[arg(
        long,
        env = "MILLPOND_DEFAULT_PARTITIONS",
        default_value_t = 8,
        value_parser = clap::value_parser!(i32).range(1..=10_000)
    )]
    default_partitions: i32,
    /// Refuse topics that do not exist, instead of making them when they are first used
    #[arg(long, env = "MILLPOND_NO_AUTO_CREATE", value_parser = FalseyValueParser::new())]
    no_auto_create: bool,
    /// PUTs per second that an agent aims for, as far as it has a choice
    #[arg(long, env = "MILLPOND_PUT_RATE", default_value_t = 4.0, value_parser = rate)]
    put_rate: f64,
    /// Store all records in segments, none inline in the database
    #[arg(long, env = "MILLPOND_NO_INLINE", value_parser = FalseyValueParser::new())]
    no_inline: bool,
    /// Origin of web pages that may use the API, such as https://app.example.org; several with commas
    #[arg(long, env = "MILLPOND_ALLOW_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    allow_origin: Vec<String>,
    /// Bytes per second, on average, that a client takes of an answer that waits for it; the connection of a
    /// slower one is closed
    #[arg(long, env = "MILLPOND_MIN_READ_RATE", value_name = "BYTES", default_value_t = 16_384)]
    min_read_rate: u64,
    /// Milliseconds over which the rate of --min-read-rate is averaged
    #[arg(
        long,
        env = "MILLPOND_MIN_READ_WINDOW_MS",
        value_name = "MS",
        default_value_t = 30_000,
        value_parser = clap::value_parser!(u64).range(100..=3_600_000)
    )]
    min_read_window_ms: u64,
    /// For measurements: delay every request to the store as if it were far away, such as
    /// p50=100ms,p99=300ms
    #[arg(long, env = "MILLPOND_STORE_LATENCY")]
    store_latency: Option<StoreLatency>,
}

impl ServerArgs {
    fn read_pace(&self) -> ReadPace {
        ReadPace {
            min_bytes_per_s: self.min_read_rate,
            window: Duration::from_millis(self.min_read_window_ms),
        }
    }
}

/// A time in milliseconds, such as `90s` or `24h`, for command lines.
pub fn time_ms(text: &str) -> Result<i64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("a time is a number and one of ms, s, m, h, d, such as 24h".to_owned()),
    };
    let number: i64 = number.parse().map_err(|_| "a time begins with a number, such as 24h".to_owned())?;
    number.checked_mul(unit_ms).ok_or_else(|| "that is too long".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if rate.is_finite() && rate > 0.0 { Ok(rate) } else { Err("a rate must be above 0".to_owned()) }
}

/// Serves until SIGINT or SIGTERM, then finishes requests in flight and commits all records that were
/// accepted. `ready` is called once requests can be served.
pub async fn run(
    args: &ServerArgs,
    loopback_only: bool,
    plane: PostgresControlPlane,
    store: Store,
    listener: TcpListener,
    ready: impl FnOnce(),
) -> Outcome<()> {
    let door = DoorConfig { loopback_only, allowed_origins: AllowedOrigins::parse(&args.allow_origin)? };
    let (clock, random) = (Arc::new(SystemClock), Arc::new(RandomSource::from_os()));
    let markers = Markers {
        plane: Arc::new(plane.clone()),
        store: store.clone(),
        clock: clock.clone(),
        random: Arc::clone(&random),
    };
    let Identity { cluster, epoch, .. } = paired(&markers).await?;
    let epoch_at_start = epoch;
    let mut config = Config {
        default_partitions: args.default_partitions,
        auto_create: !args.no_auto_create,
        ..Config::default()
    };
    config.batcher.puts_per_s = args.put_rate;
    config.batcher.put_burst = config.batcher.put_burst.max(args.put_rate);
    config.batcher.inline = !args.no_inline;
    let pace = args.store_latency.map(|latency| Pace { latency, random: Arc::new(RandomSource::from_os()) });
    let parts = Parts {
        plane: Arc::new(plane.clone()),
        store: store.slowed(pace),
        clock,
        random,
        cluster,
        epoch,
        prometheus: metrics::install(),
    };
    let engine = Engine::start(parts, &config);
    let signal = stop_signal()?;
    let waiting = Arc::clone(&engine);
    let later_epoch = Arc::new(OnceLock::new());
    let found = Arc::clone(&later_epoch);
    let stop = async move {
        tokio::select! {
            () = signal => {}
            epoch = waiting.later_epoch() => {
                found.set(epoch).ok();
            }
        }
        waiting.stop_waiting();
    };
    ready();
    http::server::serve(listener, http::router(Door::new(Arc::clone(&engine), door)), args.read_pace(), stop)
        .await;
    tracing::info!("the agent is stopping");
    engine.close().await;
    plane.close().await;
    match later_epoch.get() {
        Some(epoch) => Err(format!(
            "the cluster has begun epoch {epoch}, since its database was restored; this agent began in epoch \
             {epoch_at_start}: start it again"
        )
        .into()),
        None => Ok(()),
    }
}

/// Compares database and store; waits for those that cannot be reached, for a while.
async fn paired(markers: &Markers) -> Result<Identity, MarkerError> {
    let start = Instant::now();
    loop {
        match markers.pair().await {
            Err(error) if !error.is_alarm() && start.elapsed() < START_WAIT_MAX => {
                let error = millpond_engine::error_chain(&error);
                tracing::warn!(error, "database and store cannot be compared yet");
                tokio::time::sleep(START_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
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
