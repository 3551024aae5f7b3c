//! Reads of the log's index and of inline payloads.

use super::PostgresControlPlane;

use super::connection::retried;
use bytes::Bytes;
use millpond_core::control_plane::{Batch, BatchFlags, FindRequest, Found, PayloadRange};
use millpond_core::{Error, Offset, PartId, limits};
use std::ops::Range;
use uuid::Uuid;

pub(super) fn ranges(from: &[i32], to: &[i32]) -> Vec<Range<i32>> {
    from.iter().zip(to).map(|(from, to)| *from..*to).collect()
}

pub(super) async fn find(
    plane: &PostgresControlPlane,
    requests: &[FindRequest],
) -> Result<Vec<Option<Found>>, Error> {
    let partitions: Vec<i64> = requests.iter().map(|r| r.partition.0).collect();
    let offsets: Vec<i64> = requests.iter().map(|r| r.offset.0).collect();
    let budgets: Vec<i64> = requests.iter().map(|r| r.max_bytes).collect();
    let ends: Vec<i64> = requests.iter().map(|r| r.end.map_or(i64::MAX, |end| end.0)).collect();
    let tenants: Vec<&str> = requests.iter().map(|r| r.scope.tenant.as_str()).collect();
    let rows = retried!(
        plane,
        c => sqlx::query_file!(
            "queries/log/find.sql",
            &partitions, &offsets, &budgets, limits::PLAN_MAX_BATCHES, &ends, &tenants as _
        )
        .fetch_all(c)
    )?;
    let mut found: Vec<Option<Found>> = requests.iter().map(|_| None).collect();
    for row in rows {
        let Some(slot) = usize::try_from(row.request - 1).ok().and_then(|n| found.get_mut(n)) else {
            continue;
        };
        let one = slot.get_or_insert_with(|| Found {
            log_start_offset: Offset(row.log_start_offset),
            high_watermark: Offset(row.high_watermark),
            now_ms: row.now_ms,
            batches: Vec::new(),
        });
        let (Some(base), Some(part)) = (row.base_offset, row.part_id) else { continue };
        one.batches.push(Batch {
            base: Offset(base),
            records: row.records.unwrap_or(0),
            part: PartId(part),
            inline: row.inline.unwrap_or(false),
            byte_offset: row.byte_offset.unwrap_or(0),
            byte_length: row.byte_length.unwrap_or(0),
            raw_bytes: row.raw_bytes.unwrap_or(0),
            crc: row.crc.unwrap_or(0),
            committed_at_ms: row.committed_at_ms.unwrap_or(0),
            max_timestamp: row.max_timestamp.unwrap_or(0),
            flags: BatchFlags(row.flags.unwrap_or(0)),
            skip: ranges(&row.skip_from, &row.skip_to),
        });
    }
    Ok(found)
}

pub(super) async fn payloads(
    plane: &PostgresControlPlane,
    asked: &[PayloadRange],
) -> Result<Vec<Option<Bytes>>, Error> {
    let parts: Vec<Uuid> = asked.iter().map(|r| r.part.0).collect();
    let offsets: Vec<i32> = asked.iter().map(|r| r.byte_offset).collect();
    let lengths: Vec<i32> = asked.iter().map(|r| r.byte_length).collect();
    let rows = retried!(
        plane,
        c => sqlx::query_file!("queries/inline/read.sql", &parts, &offsets, &lengths).fetch_all(c)
    )?;
    let mut bytes: Vec<Option<Bytes>> = asked.iter().map(|_| None).collect();
    for row in rows {
        if let Some(slot) = usize::try_from(row.number - 1).ok().and_then(|n| bytes.get_mut(n)) {
            *slot = Some(Bytes::from(row.bytes));
        }
    }
    Ok(bytes)
}
