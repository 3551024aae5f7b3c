//! The `millpond` binary: parses the command line, sets up logging and the runtime, and runs a command.
//!
//! An agent is assembled from its parts in [`serve`].

mod agent;
mod dev;
mod doctor;
mod recover;
mod serve;

use clap::{Parser, Subcommand};
use millpond_bench as bench;
use millpond_cli as cli;
use millpond_engine::error_chain;
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A serverless queue on object storage.
#[derive(Parser)]
#[command(version)]
struct Millpond {
    /// Format of log lines
    #[arg(long, global = true, env = "MILLPOND_LOG_FORMAT", value_enum, default_value_t = LogFormat::Human)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    Human,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Run an agent with a Postgres of its own and a local folder, for development
    Dev(dev::DevArgs),
    /// Run one agent on a given Postgres and object store
    Agent(agent::AgentArgs),
    /// Migrate a database to this version's schema
    Migrate(agent::DatabaseArgs),
    /// Let a database that was restored from a backup go on with its object store
    Recover(recover::RecoverArgs),
    /// Measure latency and throughput, of agents that it starts or of a running server
    Bench(bench::BenchArgs),
    /// Check whether database and object store are fit for agents, and advise what to do if not
    Doctor(doctor::DoctorArgs),
    #[command(flatten)]
    Client(cli::ClientCommand),
}

/// Sends log lines to standard error. `default` is the filter if `MILLPOND_LOG` is not set.
fn log(format: LogFormat, default: &str) {
    let filter = EnvFilter::try_from_env("MILLPOND_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Human => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// Threads for blocking work: files, compression, parsing of large bodies. The number is small because the
/// allocator keeps freed memory per thread.
const BLOCKING_THREADS_MAX: usize = 8;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(run()),
        Err(error) => {
            eprintln!("error: the runtime cannot be started: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> ExitCode {
    let args = Millpond::parse();
    let outcome = match args.command {
        Command::Dev(dev) => server(args.log_format, dev::run(dev)).await,
        Command::Agent(agent) => server(args.log_format, agent::run(agent)).await,
        Command::Migrate(database) => server(args.log_format, agent::migrate(database)).await,
        Command::Recover(recover) => server(args.log_format, recover::run(recover)).await,
        Command::Bench(bench) => {
            log(args.log_format, "warn");
            bench::run(bench).await.map_err(|error| format!("error: {}", error_chain(&*error)))
        }
        Command::Doctor(doctor) => return doctor::run(doctor).await,
        Command::Client(command) => cli::run(command).await.map_err(|error| error.report()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(report) => {
            eprintln!("{report}");
            ExitCode::FAILURE
        }
    }
}

async fn server(format: LogFormat, run: impl Future<Output = serve::Outcome<()>>) -> Result<(), String> {
    log(format, "info");
    run.await.map_err(|error| format!("error: {}", error_chain(&*error)))
}
