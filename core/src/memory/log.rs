//! The log of the in-memory control plane: parts, commits, reads.

use super::{MemoryControlPlane, SegmentRow, SegmentState};
use crate::control_plane::{Commit, Committed, FindRequest, Found, Log, PayloadRange, Snapshot};
use crate::error::Error;
use crate::id::{AgentId, Offset, PartId, PartitionId, TopicId};
use crate::limits;
use crate::number::saturated;
use crate::scope::Scope;
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::atomic::Ordering;
use uuid::Uuid;

#[async_trait]
impl Log for MemoryControlPlane {
    async fn register_parts(&self, _agent: AgentId, ids: &[PartId]) -> Result<(), Error> {
        let now = self.clock.now_ms();
        let mut state = self.state.lock();
        for id in ids {
            state.segments.entry(*id).or_insert(SegmentRow {
                failures: 0,
                state: SegmentState::Pending,
                registered_ms: now,
                live_batches: 0,
            });
        }
        Ok(())
    }

    async fn commit(&self, commit: &Commit) -> Result<Committed, Error> {
        Ok(self.state.lock().commit(commit, self.clock.now_ms()))
    }

    async fn dedup_offsets(
        &self,
        scope: &Scope,
        topic: TopicId,
        id_hashes: &[Uuid],
    ) -> Result<Vec<Option<(i32, Offset)>>, Error> {
        let now = self.clock.now_ms();
        let state = self.state.lock();
        let is_there = state.has_topic(&scope.tenant, topic);
        let place = |hash: &Uuid| {
            let row = state.dedups.get(&(topic, *hash)).filter(|d| is_there && d.expires_ms > now)?;
            Some((row.partition, row.offset))
        };
        Ok(id_hashes.iter().map(place).collect())
    }

    async fn find(&self, requests: &[FindRequest]) -> Result<Vec<Option<Found>>, Error> {
        let now_ms = self.clock.now_ms();
        let state = self.state.lock();
        let find = |r: &FindRequest| {
            let row = state.alive_partition_of(&r.scope.tenant, r.partition)?;
            let mut raw = 0;
            let batches = state
                .batches_of(r.partition)
                .filter(|b| b.batch.end() > r.offset && r.end.is_none_or(|end| b.batch.base < end))
                .take_while(|b| {
                    let before = raw;
                    raw += i64::from(b.batch.raw_bytes);
                    before < r.max_bytes.max(1)
                })
                .take(saturated::<usize, _>(limits::PLAN_MAX_BATCHES))
                .map(|b| b.batch.clone())
                .collect();
            let batches = if r.offset < row.log_start { Vec::new() } else { batches };
            let (log_start_offset, high_watermark) = (row.log_start, row.high_watermark);
            Some(Found { log_start_offset, high_watermark, now_ms, batches })
        };
        Ok(requests.iter().map(find).collect())
    }

    async fn payloads(&self, ranges: &[PayloadRange]) -> Result<Vec<Option<Bytes>>, Error> {
        let state = self.state.lock();
        let cut = |r: &PayloadRange| {
            let bytes = &state.payloads.get(&r.part)?.bytes;
            let from = usize::try_from(r.byte_offset).ok()?;
            let to = from.checked_add(usize::try_from(r.byte_length).ok()?)?;
            (to <= bytes.len()).then(|| bytes.slice(from..to))
        };
        Ok(ranges.iter().map(cut).collect())
    }

    async fn snapshot(&self) -> Result<Snapshot, Error> {
        Ok(Snapshot(self.snapshots.fetch_add(1, Ordering::Relaxed).to_string()))
    }

    async fn high_watermarks(
        &self,
        partitions: &[(Scope, PartitionId)],
    ) -> Result<Vec<(PartitionId, Offset)>, Error> {
        let state = self.state.lock();
        let end = |(scope, id): &(Scope, PartitionId)| {
            Some((*id, state.alive_partition_of(&scope.tenant, *id)?.high_watermark))
        };
        Ok(partitions.iter().filter_map(end).collect())
    }

    async fn offsets_at(
        &self,
        scope: &Scope,
        topic: TopicId,
        timestamp_ms: i64,
    ) -> Result<Vec<(i32, PartitionId, Offset)>, Error> {
        let state = self.state.lock();
        let mut all: Vec<(i32, PartitionId, Offset)> = state
            .partitions_of(&scope.tenant, topic)
            .map(|(id, p)| {
                let first = state
                    .batches_of(*id)
                    .find(|b| b.batch.max_timestamp >= timestamp_ms)
                    .map(|b| b.batch.base);
                (p.number, *id, first.unwrap_or(p.high_watermark).max(p.log_start))
            })
            .collect();
        all.sort_unstable_by_key(|p| p.0);
        Ok(all)
    }
}
