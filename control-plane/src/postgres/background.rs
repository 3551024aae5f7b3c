//! Statements of the background jobs: heartbeat, drain, retention, deletion of what has expired, sweep,
//! expiry of leases.

use super::PostgresControlPlane;
use super::connection::{BACKGROUND, READ, retried, sent};
use super::error::classify;
use super::find::ranges;
use async_trait::async_trait;
use bytes::Bytes;
use millpond_core::control_plane::{
    Batch, BatchFlags, Beat, DrainBatch, Job, Jobs, RetainPlan, RowKind, Swap, SwapRejected, TopicLabel,
    Unlink,
};
use millpond_core::{AgentId, Error, Name, Offset, PartId, PartitionId, TopicId, limits};
use uuid::Uuid;

/// Jobs that do not run again as long as there is work, and the time between two runs in milliseconds.
const EVERY_MS: [(Job, i64); 4] =
    [(Job::Retain, 60_000), (Job::Forget, 20_000), (Job::Clamp, 3_600_000), (Job::Clean, 3_600_000)];
/// Minimum time since the deadline of a lease before job "expire" ends it. Agents that serve queues end
/// leases long before that, so such a lease belongs to a queue that nobody polls.
const LEASE_LATE_MS: i64 = 1_000;

/// Jobs of these names.
fn jobs_named(names: &[String]) -> Vec<Job> {
    Job::ALL.into_iter().filter(|job| names.iter().any(|name| name == job.name())).collect()
}

/// Runs a statement of a background job that returns how many rows it changed.
macro_rules! rows {
    ($plane:expr, $file:literal, $($argument:expr),*) => {{
        let statement = sqlx::query_file_scalar!($file, $($argument),*);
        sent!($plane, BACKGROUND, c => statement.fetch_one(c))?.map_err(classify)
    }};
}

#[async_trait]
impl Jobs for PostgresControlPlane {
    async fn beat(&self, agent: AgentId, busy: &[Job]) -> Result<Beat, Error> {
        let busy: Vec<String> = busy.iter().map(|job| job.name().to_owned()).collect();
        let names: Vec<String> = EVERY_MS.iter().map(|(job, _)| job.name().to_owned()).collect();
        let every: Vec<i64> = EVERY_MS.iter().map(|(_, ms)| *ms).collect();
        let statement = sqlx::query_file!(
            "queries/agent/beat.sql",
            agent.0,
            env!("CARGO_PKG_VERSION"),
            limits::INLINE_DRAIN_AFTER_MS,
            limits::PART_PENDING_MAX_MS,
            limits::INLINE_PLAN_TTL_MS,
            LEASE_LATE_MS,
            &busy,
            &names,
            &every,
            limits::DRAIN_SLICE_MS,
            limits::DRAIN_SLICES
        );
        let row = sent!(self, READ, c => statement.fetch_one(c))?.map_err(classify)?;
        let late = row.late_jobs.iter().zip(&row.late_ms).filter_map(|(name, ms)| {
            let job = Job::ALL.into_iter().find(|job| job.name() == name)?;
            Some((job, *ms))
        });
        Ok(Beat {
            epoch: row.epoch,
            inline_live_bytes: row.inline_live_bytes,
            set_aside_bytes: row.aside_bytes,
            jobs: jobs_named(&row.jobs),
            expired: RowKind::ALL
                .into_iter()
                .filter(|kind| row.kinds.iter().any(|name| name == kind.name()))
                .collect(),
            late: late.collect(),
        })
    }

    async fn drain_plan(&self, slice: Option<u8>, max_bytes: i64) -> Result<Vec<DrainBatch>, Error> {
        let rows = retried!(
            self, BACKGROUND,
            c => sqlx::query_file!(
                "queries/inline/drain_plan.sql",
                limits::INLINE_DRAIN_AFTER_MS,
                max_bytes,
                slice.map(i64::from),
                limits::DRAIN_PLAN_MAX_BATCHES,
                limits::DRAIN_SLICE_MS,
                limits::DRAIN_SLICES
            )
            .fetch_all(c)
        )?;
        let mut plan = Vec::with_capacity(rows.len());
        let mut empty: Vec<PartId> = Vec::new();
        for row in rows {
            let (Some(partition), Some(base), Some(bytes)) = (row.partition_id, row.base_offset, row.bytes)
            else {
                empty.push(PartId(row.payload_id));
                continue;
            };
            let home = (
                row.tenant_id.as_deref().map(Name::new),
                row.name.as_deref().map(Name::new),
                row.topic_id,
                row.number,
            );
            let (Some(Ok(tenant)), Some(Ok(topic)), Some(topic_id), Some(number)) = home else { continue };
            plan.push(DrainBatch {
                topic: TopicLabel { tenant, topic, topic_id: TopicId(topic_id), partition: number },
                partition_id: PartitionId(partition),
                batch: Batch {
                    base: Offset(base),
                    records: row.records.unwrap_or(0),
                    part: PartId(row.payload_id),
                    inline: true,
                    byte_offset: row.byte_offset.unwrap_or(0),
                    byte_length: row.byte_length.unwrap_or(0),
                    raw_bytes: row.raw_bytes.unwrap_or(0),
                    crc: row.crc.unwrap_or(0),
                    committed_at_ms: row.committed_at_ms.unwrap_or(0),
                    max_timestamp: row.max_timestamp.unwrap_or(0),
                    flags: BatchFlags(row.flags.unwrap_or(0)),
                    skip: ranges(&row.skip_from, &row.skip_to),
                },
                expires_at_ms: row.expires_at_ms,
                bytes: Bytes::from(bytes),
            });
        }
        if !empty.is_empty() {
            self.mark_drained(&empty).await?;
        }
        Ok(plan)
    }

    async fn set_aside(&self, payloads: &[PartId]) -> Result<(), Error> {
        let ids: Vec<Uuid> = payloads.iter().map(|p| p.0).collect();
        let statement = sqlx::query_file!("queries/inline/set_aside.sql", &ids);
        sent!(self, BACKGROUND, c => statement.execute(c))?.map_err(classify)?;
        Ok(())
    }

    async fn mark_drained(&self, payloads: &[PartId]) -> Result<(), Error> {
        let ids: Vec<Uuid> = payloads.iter().map(|p| p.0).collect();
        let statement = sqlx::query_file!("queries/inline/mark_drained.sql", &ids);
        sent!(self, BACKGROUND, c => statement.execute(c))?.map_err(classify)?;
        Ok(())
    }

    async fn swap(&self, swap: &Swap) -> Result<(), Error<SwapRejected>> {
        let in_partitions: Vec<i64> = swap.inputs.iter().map(|i| i.partition.0).collect();
        let in_bases: Vec<i64> = swap.inputs.iter().map(|i| i.base.0).collect();
        let in_records: Vec<i32> = swap.inputs.iter().map(|i| i.records).collect();
        let in_parts: Vec<Uuid> = swap.inputs.iter().map(|i| i.part.0).collect();
        let outputs = &swap.outputs;
        let partitions: Vec<i64> = outputs.iter().map(|o| o.partition.0).collect();
        let bases: Vec<i64> = outputs.iter().map(|o| o.batch.base.0).collect();
        let records: Vec<i32> = outputs.iter().map(|o| o.batch.records).collect();
        let offsets: Vec<i32> = outputs.iter().map(|o| o.batch.byte_offset).collect();
        let lengths: Vec<i32> = outputs.iter().map(|o| o.batch.byte_length).collect();
        let raw: Vec<i32> = outputs.iter().map(|o| o.batch.raw_bytes).collect();
        let crcs: Vec<i32> = outputs.iter().map(|o| o.batch.crc).collect();
        let flags: Vec<i16> = outputs.iter().map(|o| o.batch.flags.0).collect();
        let committed: Vec<i64> = outputs.iter().map(|o| o.batch.committed_at_ms).collect();
        let times: Vec<i64> = outputs.iter().map(|o| o.batch.max_timestamp).collect();
        let expiries: Vec<Option<i64>> = outputs.iter().map(|o| o.expires_at_ms).collect();
        let drained: Vec<Uuid> = swap.drained.iter().map(|p| p.0).collect();
        let statement = sqlx::query_file!(
            "queries/segment/swap.sql",
            swap.segment.0,
            swap.bytes,
            swap.crc,
            &in_partitions,
            &in_bases,
            &in_records,
            &in_parts,
            &partitions,
            &bases,
            &records,
            &offsets,
            &lengths,
            &raw,
            &crcs,
            &flags,
            &committed,
            &times,
            &expiries as _,
            &drained,
            self.unlinked_wait_ms
        );
        let row = sent!(self, BACKGROUND, c => statement.fetch_one(c)).map_err(Error::from_infallible)?;
        let row = row.map_err(|e| Error::from_infallible(classify(e)))?;
        // The statement's snapshot may be older than the end of an earlier sending, so another one looks.
        let before = !row.swapped && row.committed && {
            let statement = sqlx::query_file_scalar!(
                "queries/segment/swapped.sql",
                swap.segment.0,
                &partitions,
                &bases,
                &records
            );
            let seen =
                sent!(self, BACKGROUND, c => statement.fetch_one(c)).map_err(Error::from_infallible)?;
            seen.map_err(|e| Error::from_infallible(classify(e)))?
        };
        if row.swapped || before { Ok(()) } else { Err(Error::Rejected(SwapRejected)) }
    }

    async fn retain_plan(&self, begun: Option<i64>) -> Result<RetainPlan, Error> {
        let statement = sqlx::query_file!("queries/log/retain_plan.sql", begun);
        let rows = sent!(self, BACKGROUND, c => statement.fetch_all(c))?.map_err(classify)?;
        let first = rows.first().map_or((0, false), |row| (row.begun_us, row.more));
        let unlink = rows.iter().filter_map(|row| {
            Some(Unlink { partition: PartitionId(row.partition_id?), until: Offset(row.until?) })
        });
        Ok(RetainPlan { unlink: unlink.collect(), begun: begun.unwrap_or(first.0), more: first.1 })
    }

    async fn unlink(&self, plan: &[Unlink], limit: i64) -> Result<i64, Error> {
        let partitions: Vec<i64> = plan.iter().map(|step| step.partition.0).collect();
        let until: Vec<i64> = plan.iter().map(|step| step.until.0).collect();
        rows!(self, "queries/log/unlink.sql", &partitions, &until, limit, self.unlinked_wait_ms)
    }

    async fn forget_rows(&self, kind: RowKind, limit: i64) -> Result<i64, Error> {
        match kind {
            RowKind::Keys => rows!(self, "queries/log/forget_keys.sql", limit),
            RowKind::Answers => rows!(self, "queries/log/forget_answers.sql", limit),
            RowKind::Dedup => rows!(self, "queries/log/forget_dedup.sql", limit),
            RowKind::Payloads => {
                rows!(self, "queries/inline/forget.sql", limit, limits::INLINE_PLAN_TTL_MS)
            }
            RowKind::Operations => rows!(self, "queries/queue/forget_operations.sql", limit),
            RowKind::Topics => rows!(self, "queries/topic/forget.sql", limit),
            RowKind::Queues => rows!(self, "queries/queue/forget.sql", limit),
            RowKind::Members => {
                rows!(self, "queries/group/forget_members.sql", limit, limits::MEMBER_FORGET_AFTER_MS)
            }
            RowKind::Groups => rows!(self, "queries/group/forget.sql", limit, limits::GROUP_FORGET_AFTER_MS),
            RowKind::Agents => rows!(self, "queries/agent/forget.sql", limit),
            RowKind::Counts => rows!(self, "queries/queue/fold.sql", limit),
        }
    }

    async fn sweep_plan(&self, limit: i64) -> Result<Vec<PartId>, Error> {
        let statement =
            sqlx::query_file_scalar!("queries/segment/sweep_plan.sql", limits::PART_PENDING_MAX_MS, limit);
        let ids = sent!(self, BACKGROUND, c => statement.fetch_all(c))?;
        Ok(ids.map_err(classify)?.into_iter().map(PartId).collect())
    }

    async fn swept(&self, parts: &[PartId]) -> Result<(), Error> {
        let ids: Vec<Uuid> = parts.iter().map(|p| p.0).collect();
        let statement = sqlx::query_file!("queries/segment/swept.sql", &ids, limits::OBJECT_FORGET_AFTER_MS);
        sent!(self, BACKGROUND, c => statement.fetch_optional(c))?.map_err(classify)?;
        Ok(())
    }

    async fn undeleted(&self, parts: &[PartId]) -> Result<(), Error> {
        let ids: Vec<Uuid> = parts.iter().map(|p| p.0).collect();
        let statement = sqlx::query_file!("queries/segment/undeleted.sql", &ids);
        sent!(self, BACKGROUND, c => statement.execute(c))?.map_err(classify)?;
        Ok(())
    }

    async fn expire(&self, limit: i64, random: f64) -> Result<i64, Error> {
        rows!(self, "queries/queue/expire.sql", limit, random)
    }

    async fn clamp(&self, partitions: &[PartitionId]) -> Result<i64, Error> {
        let ids: Vec<i64> = partitions.iter().map(|p| p.0).collect();
        rows!(self, "queries/queue/clamp.sql", &ids)
    }

    async fn ping(&self) -> Result<(), Error> {
        retried!(self, c => sqlx::query_scalar!(r#"select 1 as "one!""#).fetch_one(c)).map(|_| ())
    }
}
