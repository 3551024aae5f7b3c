//! Admission: moves cursors past records that need their headers or keys read first (delayed records, keyed
//! queues).

use super::again;
use crate::postgres::PostgresControlPlane;
use crate::postgres::connection::{WRITE, sent};
use crate::postgres::error::classify;
use millpond_core::Error;
use millpond_core::queue::{Admit, NoSuchQueue};

const SENDINGS_MAX: usize = 50;

pub(super) async fn admit(plane: &PostgresControlPlane, admit: &Admit) -> Result<bool, Error<NoSuchQueue>> {
    let (los, his): (Vec<i64>, Vec<i64>) =
        admit.runs.iter().map(|(range, _)| (range.start, range.end)).unzip();
    let run_dues: Vec<Option<i64>> = admit.runs.iter().map(|(_, due)| *due).collect();
    let (offsets, hashes): (Vec<i64>, Vec<i64>) =
        admit.records.iter().map(|r| (r.offset.0, r.key_hash)).unzip();
    let dues: Vec<Option<i64>> = admit.records.iter().map(|r| r.due_ms).collect();
    for _ in 0..SENDINGS_MAX {
        let statement = sqlx::query_file_scalar!(
            "queries/queue/admit.sql",
            admit.queue.0,
            admit.agent.0,
            admit.partition.0,
            admit.from.0,
            admit.to.0,
            &los,
            &his,
            &run_dues as _,
            &offsets,
            &hashes,
            &dues as _,
            admit.scope.tenant.as_str()
        );
        let status = sent!(plane, WRITE, c => statement.fetch_one(c)).and_then(|sent| sent.map_err(classify));
        match status.map_err(Error::from_infallible)?.as_str() {
            "moved" => return Ok(true),
            "stale" => return Ok(false),
            "gone" => return Err(Error::Rejected(NoSuchQueue)),
            _ => {}
        }
    }
    Err(again())
}
