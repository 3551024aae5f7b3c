//! What queues cost Postgres: rows written, sizes of tables, and what an open transaction does to them.

use crate::Outcome;
use crate::bare::{Held, Statistics};
use crate::cluster::Cluster;
use crate::float;
use crate::report::Report;
use clap::ValueEnum;
use std::time::Duration;

/// Sessions report what they wrote within so long.
const REPORTED: Duration = Duration::from_secs(12);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Hold {
    Same,
    Other,
}

/// Rows that were written to queues so far; `None` when nobody wants to know.
pub async fn written(cluster: &Cluster, wanted: bool) -> Outcome<Option<i64>> {
    let (true, Some(options)) = (wanted, cluster.database_options()) else { return Ok(None) };
    tokio::time::sleep(REPORTED).await;
    Ok(Some(Statistics::of(options).await?.rows_written))
}

pub async fn report(
    report: &mut Report,
    cluster: &Cluster,
    before: Option<i64>,
    acked: usize,
) -> Outcome<()> {
    let (Some(before), Some(options)) = (before, cluster.database_options()) else { return Ok(()) };
    tokio::time::sleep(REPORTED).await;
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

/// A transaction with a snapshot, open until it is dropped.
pub async fn hold(cluster: &Cluster, hold: Hold) -> Outcome<Held> {
    let options = cluster.database_options().ok_or("a database of our own is needed")?;
    let options = if hold == Hold::Other { options.database("postgres") } else { options };
    Ok(Held::open(options).await?)
}
