//! Statements of the background jobs: heartbeat, drain, retention, sweep, expiry of leases in queues that
//! nobody polls.

use super::PostgresControlPlane;
use super::connection::{BACKGROUND, READ, retried, sent};
use super::error::classify;
use super::find::ranges;
use async_trait::async_trait;
use bytes::Bytes;
use millpond_core::control_plane::{
    Batch, BatchFlags, Beat, DrainBatch, Jobs, Swap, SwapRejected, TopicLabel,
};
use millpond_core::{AgentId, Error, Name, Offset, PartId, PartitionId, TopicId, limits};
use uuid::Uuid;

const RETAIN_EVERY_MS: i64 = 60_000;
/// Minimum time since the deadline of a lease before this job ends it. Grants end expired leases of their own
/// queue long before that, so such a lease belongs to a queue that nobody polls.
const LEASE_LATE_MS: i64 = 1_000;

#[async_trait]
impl Jobs for PostgresControlPlane {
    async fn beat(&self, agent: AgentId) -> Result<Beat, Error> {
        let statement = sqlx::query_file!(
            "queries/agent/beat.sql",
            agent.0,
            env!("CARGO_PKG_VERSION"),
            limits::INLINE_DRAIN_AFTER_MS,
            limits::PART_PENDING_MAX_MS,
            RETAIN_EVERY_MS,
            LEASE_LATE_MS
        );
        let row = sent!(self, READ, c => statement.fetch_one(c))?.map_err(classify)?;
        let has = |job: &str| row.jobs.iter().any(|j| j == job);
        Ok(Beat {
            inline_live_bytes: row.inline_live_bytes,
            drain: has("drain"),
            sweep: has("sweep"),
            retain: has("retain"),
            expire: has("expire"),
        })
    }

    async fn drain_plan(&self, max_bytes: i64) -> Result<Vec<DrainBatch>, Error> {
        let rows = retried!(
            self,
            c => sqlx::query_file!(
                "queries/inline/drain_plan.sql", limits::INLINE_DRAIN_AFTER_MS, max_bytes
            )
            .fetch_all(c)
        )?;
        let mut plan = Vec::with_capacity(rows.len());
        let mut empty: Vec<Uuid> = Vec::new();
        for row in rows {
            let (Some(partition), Some(base), Some(bytes)) = (row.partition_id, row.base_offset, row.bytes)
            else {
                empty.push(row.payload_id);
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
            sent!(
                self, BACKGROUND,
                c => sqlx::query_file!("queries/inline/mark_drained.sql", &empty).execute(c)
            )?
            .map_err(classify)?;
        }
        Ok(plan)
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
            limits::PLAN_TTL_MS
        );
        let row = sent!(self, BACKGROUND, c => statement.fetch_one(c)).map_err(Error::from_infallible)?;
        let row = row.map_err(|e| Error::from_infallible(classify(e)))?;
        if row.swapped { Ok(()) } else { Err(Error::Rejected(SwapRejected)) }
    }

    async fn retain(&self, limit: i64) -> Result<i64, Error> {
        let statement = sqlx::query_file_scalar!("queries/log/retain.sql", limit, limits::PLAN_TTL_MS);
        sent!(self, BACKGROUND, c => statement.fetch_one(c))?.map_err(classify)
    }

    async fn forget(&self, limit: i64) -> Result<i64, Error> {
        let expired = sqlx::query_file_scalar!("queries/agent/forget.sql", limit, limits::INLINE_PLAN_TTL_MS);
        let expired = sent!(self, BACKGROUND, c => expired.fetch_one(c))?.map_err(classify)?;
        let groups = sqlx::query_file_scalar!(
            "queries/group/forget.sql",
            limit,
            limits::MEMBER_FORGET_AFTER_MS,
            limits::GROUP_FORGET_AFTER_MS
        );
        let groups = sent!(self, BACKGROUND, c => groups.fetch_one(c))?.map_err(classify)?;
        let queues = sqlx::query_file_scalar!("queries/queue/forget.sql", limit);
        Ok(expired + groups + sent!(self, BACKGROUND, c => queues.fetch_one(c))?.map_err(classify)?)
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

    async fn expire(&self, limit: i64, random: f64) -> Result<i64, Error> {
        let statement = sqlx::query_file_scalar!("queries/queue/expire.sql", limit, random);
        sent!(self, BACKGROUND, c => statement.fetch_one(c))?.map_err(classify)
    }

    async fn clamp(&self) -> Result<i64, Error> {
        let statement = sqlx::query_file_scalar!("queries/queue/clamp.sql");
        sent!(self, BACKGROUND, c => statement.fetch_one(c))?.map_err(classify)
    }

    async fn ping(&self) -> Result<(), Error> {
        retried!(self, c => sqlx::query_scalar!(r#"select 1 as "one!""#).fetch_one(c)).map(|_| ())
    }
}
