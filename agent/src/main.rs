use clap::Parser;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: millpond::cli::ClientCommand,
}

#[tokio::main]
async fn main() {
    if let Err(error) = millpond::cli::run(Cli::parse().command).await {
        eprintln!("{}", error.report());
        std::process::exit(1);
    }
}
