//! The command `millpond doctor`: checks the database and the object store that agents are to use, and gives
//! advice for each finding that is a problem.
//!
//! It must not change anything, except for a probe object, which it deletes.

mod bucket;
mod database;
mod folder;
mod marker;
mod probe;
mod report;
#[cfg(test)]
mod tests;

use millpond_control_plane::DatabaseOptions;
use millpond_core::{Clock, RandomSource, SystemClock};
use millpond_engine::store::StoreLocation;
use report::Report;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true, args = ["database_url", "store"])]
pub struct DoctorArgs {
    /// URL of the control plane's database, as postgres://user:password@host/name
    #[arg(long, env = "MILLPOND_DATABASE_URL", hide_env_values = true)]
    database_url: Option<DatabaseOptions>,
    /// Where segments are stored: s3://bucket/prefix or file:///folder
    #[arg(long, env = "MILLPOND_STORE")]
    store: Option<String>,
    /// Print findings as JSON: `{"healthy":…,"findings":[{"check","status","detail","advice"}]}`
    #[arg(long)]
    json: bool,
}

/// Prints all findings. The exit code is a failure if an agent could not work, or could lose records.
pub async fn run(args: DoctorArgs) -> ExitCode {
    let mut report = Report::default();
    let clock = SystemClock;
    if let Some(options) = args.database_url.clone() {
        database::check(options, &clock, &mut report).await;
    }
    let lasting = matches!(
        args.store.as_deref().map(StoreLocation::parse),
        Some(Ok(StoreLocation::Bucket { .. } | StoreLocation::Folder(_)))
    );
    if let Some(url) = args.store.clone() {
        let probe = format!("doctor/{}", RandomSource::from_os().uuid(clock.now_ms()));
        match StoreLocation::parse(&url) {
            Ok(StoreLocation::Bucket { s3, bucket, prefix }) => {
                bucket::check(*s3, &bucket, &prefix, &probe, &clock, &mut report).await
            }
            Ok(StoreLocation::Folder(folder)) => folder::check(&folder, &probe, &mut report).await,
            Ok(StoreLocation::Memory) => {
                report.warn(
                    "store.place",
                    "in memory",
                    "for tests only: its content is lost when the process ends; use s3://bucket/prefix or \
                     file:///folder",
                );
            }
            Err(error) => report.fail(
                "store.url",
                millpond_engine::error_chain(&error),
                "--store takes s3://bucket/prefix or file:///folder",
            ),
        }
    }
    if let (Some(options), Some(store)) = (args.database_url, args.store)
        && lasting
        && !report.failed()
    {
        marker::check(options, &store, &mut report).await;
    }
    // Standard output may be closed; the exit code still tells the outcome.
    report.print(&mut std::io::stdout().lock(), args.json).ok();
    if report.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
