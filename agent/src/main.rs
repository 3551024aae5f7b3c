//! The `millpond` binary.

use clap::{Parser, Subcommand};
use millpond::{cli, dev};
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A serverless queue on object storage.
#[derive(Parser)]
#[command(version)]
struct Millpond {
    /// How log lines look
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
    /// Run everything in one process, on embedded Postgres and a local folder
    Dev(dev::DevArgs),
    #[command(flatten)]
    Client(cli::ClientCommand),
}

fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_env("MILLPOND_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    match format {
        LogFormat::Human => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Millpond::parse();
    match args.command {
        Command::Dev(dev) => {
            log(args.log_format);
            match dev::run(dev).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("error: {}", millpond::error_chain(&*error));
                    ExitCode::FAILURE
                }
            }
        }
        Command::Client(command) => match cli::run(command).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{}", error.report());
                ExitCode::FAILURE
            }
        },
    }
}
