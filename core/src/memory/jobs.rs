//! Background jobs of the in-memory control plane.

use super::{BatchRow, MemoryControlPlane, SegmentRow, SegmentState};
use crate::control_plane::{Beat, DrainBatch, Jobs, Swap, SwapInput, SwapRejected, TopicLabel};
use crate::error::Error;
use crate::id::{AgentId, PartId};
use crate::limits;
use crate::number::saturated;
use async_trait::async_trait;
use std::collections::BTreeSet;

#[async_trait]
impl Jobs for MemoryControlPlane {
    async fn beat(&self, _agent: AgentId) -> Result<Beat, Error> {
        let state = self.state.lock();
        let live = state.payloads.values().filter(|p| p.drained_ms.is_none());
        let inline_live_bytes = live.map(|p| saturated::<i64, _>(p.bytes.len())).sum();
        Ok(Beat { inline_live_bytes, drain: true, sweep: true, retain: true, expire: true })
    }

    async fn drain_plan(&self, max_bytes: i64) -> Result<Vec<DrainBatch>, Error> {
        let now = self.clock.now_ms();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut budget = max_bytes;
        let mut due: Vec<(i64, PartId)> = state
            .payloads
            .iter()
            .filter(|(_, p)| p.drained_ms.is_none() && p.committed_ms <= now - limits::INLINE_DRAIN_AFTER_MS)
            .map(|(id, p)| (p.committed_ms, *id))
            .collect();
        due.sort_unstable();
        let mut chosen = BTreeSet::new();
        for (_, id) in due {
            let size = saturated::<i64, _>(state.payloads[&id].bytes.len());
            if !chosen.is_empty() && size > budget {
                break;
            }
            budget -= size;
            chosen.insert(id);
        }
        let mut plan = Vec::new();
        for ((partition, _), row) in
            state.batches.iter().filter(|(_, b)| b.batch.inline && chosen.contains(&b.batch.part))
        {
            let Some(home) = state.partitions.get(partition) else { continue };
            let Some(topic) = state.topics.values().chain(&state.dead_topics).find(|t| t.id == home.topic)
            else {
                continue;
            };
            let from = saturated::<usize, _>(row.batch.byte_offset);
            let to = from + saturated::<usize, _>(row.batch.byte_length);
            plan.push(DrainBatch {
                topic: TopicLabel {
                    tenant: topic.tenant.clone(),
                    topic: topic.name.clone(),
                    topic_id: topic.id,
                    partition: home.number,
                },
                partition_id: *partition,
                batch: row.batch.clone(),
                expires_at_ms: row.expires_at_ms,
                bytes: state.payloads[&row.batch.part].bytes.slice(from..to),
            });
        }
        let used: BTreeSet<PartId> = plan.iter().map(|d| d.batch.part).collect();
        for id in chosen.difference(&used) {
            if let Some(p) = state.payloads.get_mut(id) {
                p.drained_ms = Some(now);
            }
        }
        Ok(plan)
    }

    async fn swap(&self, swap: &Swap) -> Result<(), Error<SwapRejected>> {
        let now = self.clock.now_ms();
        let mut state = self.state.lock();
        let unchanged = |i: &SwapInput| {
            state
                .batches
                .get(&(i.partition, i.base))
                .is_some_and(|b| b.batch.part == i.part && b.batch.records == i.records)
        };
        let applied = state.segments.get(&swap.segment).is_some_and(|s| s.state == SegmentState::Committed);
        if applied {
            return Ok(());
        }
        let pending = state.segments.get(&swap.segment).is_some_and(|s| s.state == SegmentState::Pending);
        if !pending || !swap.inputs.iter().all(unchanged) {
            return Err(Error::Rejected(SwapRejected));
        }
        for input in &swap.inputs {
            state.unlink((input.partition, input.base), now);
        }
        for output in &swap.outputs {
            let row = BatchRow { batch: output.batch.clone(), expires_at_ms: output.expires_at_ms };
            state.batches.insert((output.partition, output.batch.base), row);
        }
        if let Some(segment) = state.segments.get_mut(&swap.segment) {
            segment.state = SegmentState::Committed;
            segment.live_batches = saturated::<i64, _>(swap.outputs.len());
        }
        for id in &swap.drained {
            if let Some(p) = state.payloads.get_mut(id) {
                p.drained_ms = Some(now);
            }
        }
        Ok(())
    }

    async fn retain(&self, limit: i64) -> Result<i64, Error> {
        Ok(self.state.lock().retain(limit, self.clock.now_ms()))
    }

    async fn forget(&self, _limit: i64) -> Result<i64, Error> {
        let now = self.clock.now_ms();
        let mut state = self.state.lock();
        let before = state.keys.len() + state.dedups.len() + state.payloads.len();
        state.keys.retain(|_, k| k.expires_ms > now);
        state.dedups.retain(|_, d| d.expires_ms > now);
        state.payloads.retain(|_, p| p.drained_ms.is_none_or(|at| at > now - limits::INLINE_PLAN_TTL_MS));
        let rows = before - (state.keys.len() + state.dedups.len() + state.payloads.len());
        Ok(i64::try_from(rows + state.forget_groups(now) + state.forget_operations(now)).unwrap_or(0))
    }

    async fn sweep_plan(&self, limit: i64) -> Result<Vec<PartId>, Error> {
        let now = self.clock.now_ms();
        let mut state = self.state.lock();
        for row in state.segments.values_mut() {
            if row.state == SegmentState::Pending && row.registered_ms <= now - limits::PART_PENDING_MAX_MS {
                row.state = SegmentState::Unlinked { delete_at_ms: now, again: false };
            }
        }
        let due = |row: &SegmentRow| match row.state {
            SegmentState::Unlinked { delete_at_ms, .. } => delete_at_ms <= now,
            _ => false,
        };
        let limit = saturated::<usize, _>(limit);
        Ok(state.segments.iter().filter(|(_, row)| due(row)).take(limit).map(|(id, _)| *id).collect())
    }

    async fn swept(&self, parts: &[PartId]) -> Result<(), Error> {
        let now = self.clock.now_ms();
        let mut state = self.state.lock();
        for id in parts {
            match state.segments.get_mut(id).map(|row| (row.state, row)) {
                Some((SegmentState::Unlinked { again: false, .. }, row)) => {
                    row.state = SegmentState::Unlinked {
                        delete_at_ms: now + limits::OBJECT_FORGET_AFTER_MS,
                        again: true,
                    };
                }
                Some((SegmentState::Unlinked { again: true, delete_at_ms }, _)) if delete_at_ms <= now => {
                    state.segments.remove(id);
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn expire(&self, limit: i64, random: f64) -> Result<i64, Error> {
        let mut state = self.state.lock();
        let now = self.clock.now_ms();
        Ok(state.expire(limit, random, now))
    }

    async fn clamp(&self) -> Result<i64, Error> {
        Ok(self.state.lock().clamp())
    }

    async fn ping(&self) -> Result<(), Error> {
        Ok(())
    }
}
