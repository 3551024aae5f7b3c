//! Measures what queues cost Postgres: rows written, size of tables, and the effect of an open transaction.

use crate::Outcome;
use crate::bare::{Held, Statistics};
use crate::cluster::Cluster;
use crate::float;
use crate::report::Report;
use clap::ValueEnum;
use std::time::Duration;

/// Time within which Postgres sessions report their statistics; an idle session does so after 10 s at the
/// latest.
const STATISTICS_DELAY: Duration = Duration::from_secs(12);

/// The database in which a transaction is held open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Hold {
    Same,
    Other,
}

/// Rows that were written to the tables of queues so far; `None` if it is not `wanted` or not known.
pub async fn written(cluster: &Cluster, wanted: bool) -> Outcome<Option<i64>> {
    let (true, Some(options)) = (wanted, cluster.database_options()) else { return Ok(None) };
    tokio::time::sleep(STATISTICS_DELAY).await;
    Ok(Some(Statistics::of(options).await?.rows_written))
}

/// Reports rows written since `before` per acked record, and sizes; nothing if `before` is `None`.
pub async fn report(
    report: &mut Report,
    cluster: &Cluster,
    before: Option<i64>,
    acked: usize,
) -> Outcome<()> {
    let (Some(before), Some(options)) = (before, cluster.database_options()) else { return Ok(()) };
    tokio::time::sleep(STATISTICS_DELAY).await;
    let rows = usize::try_from(Statistics::of(options).await?.rows_written - before)?;
    report.add("rows written per acked record", "", float(rows) / float(acked.max(1)));
    report_sizes(report, cluster, "").await
}

pub async fn report_sizes(report: &mut Report, cluster: &Cluster, label: &str) -> Outcome<()> {
    let Some(options) = cluster.database_options() else { return Ok(()) };
    let bytes = Statistics::of(options).await?.bytes;
    report.add(
        &format!("tables and indexes of queues{label}"),
        "MiB",
        float(usize::try_from(bytes)? / 1_024) / 1_024.0,
    );
    Ok(())
}

pub async fn vacuum(cluster: &Cluster) -> Outcome<()> {
    match cluster.database_options() {
        Some(options) => Ok(Statistics::vacuum(options).await?),
        None => Ok(()),
    }
}

/// Opens a transaction with a snapshot; it ends when the result is dropped.
pub async fn hold(cluster: &Cluster, hold: Hold) -> Outcome<Held> {
    let options = cluster.database_options().ok_or("a database of our own is needed")?;
    let options = if hold == Hold::Other { options.database("postgres") } else { options };
    Ok(Held::open(options).await?)
}
