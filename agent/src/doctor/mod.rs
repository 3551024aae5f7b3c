//! `millpond doctor`: looks at what agents will depend on, and says of each thing that is not well what to do
//! about it.
//!
//! Changes nothing but a probe object, which it deletes.

mod bucket;
mod database;
mod folder;
mod probe;
mod report;
#[cfg(test)]
mod tests;

use millpond_control_plane::DatabaseOptions;
use millpond_core::{Clock, Ids, SystemClock};
use millpond_engine::store::StoreLocation;
use report::Report;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true, args = ["database_url", "store"])]
pub struct DoctorArgs {
    /// The control plane's database, as postgres://user:password@host/name
    #[arg(long, env = "MILLPOND_DATABASE_URL", hide_env_values = true)]
    database_url: Option<DatabaseOptions>,
    /// Where segments lie: s3://bucket/prefix or file:///folder
    #[arg(long, env = "MILLPOND_STORE")]
    store: Option<String>,
    /// Findings as JSON: `{"healthy":…,"findings":[{"check","status","detail","advice"}]}`
    #[arg(long)]
    json: bool,
}

/// Checks and prints; fails if an agent could not work, or could lose records, as things are.
pub async fn run(args: DoctorArgs) -> ExitCode {
    let mut report = Report::default();
    let clock = SystemClock;
    if let Some(options) = args.database_url {
        database::check(options, &clock, &mut report).await;
    }
    if let Some(url) = args.store {
        let probe = format!("doctor/{}", Ids::from_os().uuid(clock.now_ms()));
        match StoreLocation::parse(&url) {
            Ok(StoreLocation::Bucket { s3, bucket, prefix }) => {
                bucket::check(*s3, &bucket, &prefix, &probe, &clock, &mut report).await
            }
            Ok(StoreLocation::Folder(folder)) => folder::check(&folder, &probe, &mut report).await,
            Ok(StoreLocation::Memory) => {
                report.warn(
                    "store.place",
                    "in memory",
                    "for tests only: its content ends with the process; use s3://bucket/prefix or file:///folder",
                );
            }
            Err(error) => report.fail(
                "store.url",
                millpond_engine::error_chain(&error),
                "--store takes s3://bucket/prefix or file:///folder",
            ),
        }
    }
    // Nobody has to read it.
    report.print(&mut std::io::stdout().lock(), args.json).ok();
    if report.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
