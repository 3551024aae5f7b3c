//! The log: the trait [`Log`](millpond_core::control_plane::Log) on Postgres.

use super::connection::{COMMIT, retried, sent};
use super::error::classify;
use super::{PostgresControlPlane, commit, find, guarded};
use async_trait::async_trait;
use bytes::Bytes;
use millpond_core::control_plane::{Commit, Committed, FindRequest, Found, Log, PayloadRange, Snapshot};
use millpond_core::{AgentId, Error, Offset, PartId, PartitionId, Scope, TopicId};
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

#[async_trait]
impl Log for PostgresControlPlane {
    async fn register_parts(&self, agent: AgentId, ids: &[PartId]) -> Result<(), Error> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        sent!(self, COMMIT, c => sqlx::query_file!("queries/segment/register.sql", agent.0, &ids).execute(c))?
            .map_err(classify)?;
        Ok(())
    }

    async fn commit(&self, commit: &Commit) -> Result<Committed, Error> {
        if commit.guard.is_some() {
            guarded::commit(self, commit).await
        } else {
            commit::commit(self, commit).await
        }
    }

    async fn dedup_offsets(
        &self,
        scope: &Scope,
        topic: TopicId,
        id_hashes: &[Uuid],
    ) -> Result<Vec<Option<(i32, Offset)>>, Error> {
        let tenant = scope.tenant.as_str();
        let rows = retried!(
            self,
            c => sqlx::query_file!("queries/log/dedup_offsets.sql", topic.0, id_hashes, tenant).fetch_all(c)
        )?;
        let known: HashMap<Uuid, (i32, Offset)> =
            rows.into_iter().map(|r| (r.id_hash, (r.partition, Offset(r.record_offset)))).collect();
        Ok(id_hashes.iter().map(|h| known.get(h).copied()).collect())
    }

    async fn find(&self, requests: &[FindRequest]) -> Result<Vec<Option<Found>>, Error> {
        find::find(self, requests).await
    }

    async fn payloads(&self, ranges: &[PayloadRange]) -> Result<Vec<Option<Bytes>>, Error> {
        find::payloads(self, ranges).await
    }

    async fn snapshot(&self) -> Result<Snapshot, Error> {
        retried!(self, c => sqlx::query_file_scalar!("queries/database/snapshot.sql").fetch_one(c))
            .map(Snapshot)
    }

    async fn high_watermarks(
        &self,
        partitions: &[(Scope, PartitionId)],
    ) -> Result<Vec<(PartitionId, Offset)>, Error> {
        let ids: Vec<i64> = partitions.iter().map(|(_, p)| p.0).collect();
        let asked: HashSet<(i64, &str)> =
            partitions.iter().map(|(scope, p)| (p.0, scope.tenant.as_str())).collect();
        let mut tenants: Vec<&str> = partitions.iter().map(|(scope, _)| scope.tenant.as_str()).collect();
        tenants.sort_unstable();
        tenants.dedup();
        let rows = retried!(
            self,
            c => sqlx::query_file!("queries/log/high_watermarks.sql", &ids, &tenants as _).fetch_all(c)
        )?;
        let own = rows.into_iter().filter(|r| asked.contains(&(r.partition_id, r.tenant_id.as_str())));
        Ok(own.map(|r| (PartitionId(r.partition_id), Offset(r.high_watermark))).collect())
    }

    async fn offsets_at(
        &self,
        scope: &Scope,
        topic: TopicId,
        timestamp_ms: i64,
    ) -> Result<Vec<(i32, PartitionId, Offset)>, Error> {
        let tenant = scope.tenant.as_str();
        let rows = retried!(
            self,
            c => sqlx::query_file!("queries/log/offsets_at.sql", topic.0, timestamp_ms, tenant).fetch_all(c)
        )?;
        Ok(rows
            .into_iter()
            .map(|r| (r.number, PartitionId(r.partition_id), Offset(r.record_offset)))
            .collect())
    }
}
