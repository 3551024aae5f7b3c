//! The command `millpond recover`, which lets a database that was set back to an earlier state go on with its
//! store.

use crate::agent::DatabaseArgs;
use crate::serve::{self, Outcome};
use millpond_core::{RandomSource, SystemClock};
use millpond_engine::marker::Markers;
use millpond_engine::store::Store;
use std::io::Write;
use std::sync::Arc;

/// What the command does, for whoever has not confirmed it.
const EXPLAINED: &str = "recover --new-epoch makes this database the only one that works with the \
    store: agents of any other copy of it delete nothing more and do not start again, and this one deletes \
    nothing for a restore window. Records whose commits the restored database does not know are lost. Stop \
    all agents of other copies, then repeat the command with --new-epoch --yes";

#[derive(Debug, clap::Args)]
pub struct RecoverArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Where segments are stored: s3://bucket/prefix or file:///folder
    #[arg(long, env = "MILLPOND_STORE")]
    store: String,
    /// Begin a new epoch of the cluster in database and store
    #[arg(long)]
    new_epoch: bool,
    /// Do it
    #[arg(long)]
    yes: bool,
    /// How long no object is deleted
    #[arg(long, env = "MILLPOND_RESTORE_WINDOW", default_value = "24h", value_parser = serve::time_ms)]
    restore_window: i64,
}

/// Begins a new epoch, and prints `epoch 1 → 2`.
pub async fn run(args: RecoverArgs) -> Outcome<()> {
    if !args.new_epoch || !args.yes {
        return Err(EXPLAINED.into());
    }
    let plane = args.database.connect().await?;
    let markers = Markers {
        plane: Arc::new(plane.clone()),
        store: Store::open(&args.store)?,
        clock: Arc::new(SystemClock),
        random: Arc::new(RandomSource::from_os()),
    };
    let (before, after) = markers.begin_epoch(args.restore_window).await?;
    plane.close().await;
    // Standard output may be closed; the exit code still tells the outcome.
    writeln!(std::io::stdout().lock(), "epoch {before} → {after}").ok();
    Ok(())
}
