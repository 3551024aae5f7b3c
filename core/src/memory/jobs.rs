//! Background jobs of the in-memory control plane.

use super::{BatchRow, MemoryControlPlane, PayloadRow, SegmentRow, SegmentState};
use crate::control_plane::{
    Beat, DrainBatch, Job, Jobs, RetainPlan, RowKind, Swap, SwapInput, SwapOutput, SwapRejected, TopicLabel,
    Unlink,
};
use crate::error::Error;
use crate::id::{AgentId, PartId, PartitionId};
use crate::limits;
use crate::number::saturated;
use async_trait::async_trait;
use std::collections::BTreeSet;

/// Longest pause before an object that could not be deleted is planned again.
const RETRY_DELETE_MAX_MINUTES: i64 = 480;

impl PayloadRow {
    fn is_live(&self) -> bool {
        self.drained_ms.is_none() && !self.set_aside
    }
}

#[async_trait]
impl Jobs for MemoryControlPlane {
    async fn beat(&self, _agent: AgentId, _busy: &[Job]) -> Result<Beat, Error> {
        let state = self.state.lock();
        let live = state.payloads.values().filter(|p| p.is_live());
        let inline_live_bytes = live.map(|p| saturated::<i64, _>(p.bytes.len())).sum();
        let aside = state.payloads.values().filter(|p| p.set_aside);
        let set_aside_bytes = aside.map(|p| saturated::<i64, _>(p.bytes.len())).sum();
        Ok(Beat {
            epoch: state.cluster.identity.epoch,
            inline_live_bytes,
            set_aside_bytes,
            jobs: Job::ALL.to_vec(),
            expired: RowKind::ALL.to_vec(),
            late: Vec::new(),
        })
    }

    async fn drain_plan(&self, slice: Option<u8>, max_bytes: i64) -> Result<Vec<DrainBatch>, Error> {
        let now = self.clock.now_ms();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut budget = max_bytes;
        let in_slice = |p: &PayloadRow| {
            let span = p.committed_ms / limits::DRAIN_SLICE_MS;
            let now_span = (now - limits::INLINE_DRAIN_AFTER_MS) / limits::DRAIN_SLICE_MS;
            slice.is_none_or(|slice| span % limits::DRAIN_SLICES == i64::from(slice) && span < now_span)
        };
        let mut due: Vec<(i64, PartId)> = state
            .payloads
            .iter()
            .filter(|(_, p)| p.is_live() && p.committed_ms <= now - limits::INLINE_DRAIN_AFTER_MS)
            .filter(|(_, p)| in_slice(p))
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

    async fn set_aside(&self, payloads: &[PartId]) -> Result<(), Error> {
        let mut state = self.state.lock();
        for id in payloads {
            if let Some(payload) = state.payloads.get_mut(id).filter(|p| p.drained_ms.is_none()) {
                payload.set_aside = true;
            }
        }
        Ok(())
    }

    async fn mark_drained(&self, payloads: &[PartId]) -> Result<(), Error> {
        let now = self.clock.now_ms();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let used: BTreeSet<PartId> =
            state.batches.values().filter(|b| b.batch.inline).map(|b| b.batch.part).collect();
        for id in payloads.iter().filter(|id| !used.contains(id)) {
            if let Some(payload) = state.payloads.get_mut(id) {
                payload.drained_ms = payload.drained_ms.or(Some(now));
            }
        }
        Ok(())
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
        let there = |o: &SwapOutput| {
            state
                .batches
                .get(&(o.partition, o.batch.base))
                .is_some_and(|b| b.batch.part == swap.segment && b.batch.records == o.batch.records)
        };
        let segment = state.segments.get(&swap.segment).map(|s| s.state);
        if segment == Some(SegmentState::Committed)
            && !swap.outputs.is_empty()
            && swap.outputs.iter().all(there)
        {
            return Ok(());
        }
        let open = matches!(segment, Some(SegmentState::Pending | SegmentState::Committed));
        if !open || !swap.inputs.iter().all(unchanged) {
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
            segment.live_batches += saturated::<i64, _>(swap.outputs.len());
        }
        for id in &swap.drained {
            if let Some(p) = state.payloads.get_mut(id) {
                p.drained_ms = Some(now);
            }
        }
        Ok(())
    }

    async fn retain_plan(&self, begun: Option<i64>) -> Result<RetainPlan, Error> {
        let now = self.clock.now_ms();
        let unlink = if begun.is_none() { self.state.lock().retain_plan(now) } else { Vec::new() };
        Ok(RetainPlan { unlink, begun: now, more: false })
    }

    async fn unlink(&self, plan: &[Unlink], limit: i64) -> Result<i64, Error> {
        let now = self.clock.now_ms();
        Ok(self.state.lock().unlink_planned(plan, limit, now))
    }

    async fn forget_rows(&self, kind: RowKind, _limit: i64) -> Result<i64, Error> {
        let now = self.clock.now_ms();
        let mut state = self.state.lock();
        let before = state.keys.len() + state.dedups.len() + state.payloads.len();
        let rows = match kind {
            RowKind::Keys => {
                state.keys.retain(|_, k| k.expires_ms > now);
                before - (state.keys.len() + state.dedups.len() + state.payloads.len())
            }
            RowKind::Dedup => {
                state.dedups.retain(|_, d| d.expires_ms > now);
                before - (state.keys.len() + state.dedups.len() + state.payloads.len())
            }
            RowKind::Payloads => {
                let kept =
                    |p: &PayloadRow| p.drained_ms.is_none_or(|at| at > now - limits::INLINE_PLAN_TTL_MS);
                state.payloads.retain(|_, p| kept(p));
                before - (state.keys.len() + state.dedups.len() + state.payloads.len())
            }
            RowKind::Operations => state.forget_operations(now),
            RowKind::Groups => state.forget_groups(now),
            RowKind::Answers
            | RowKind::Topics
            | RowKind::Queues
            | RowKind::Members
            | RowKind::Agents
            | RowKind::Counts => 0,
        };
        Ok(saturated::<i64, _>(rows))
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
                    row.failures = 0;
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

    async fn undeleted(&self, parts: &[PartId]) -> Result<(), Error> {
        let now = self.clock.now_ms();
        let mut state = self.state.lock();
        for id in parts {
            if let Some(row) = state.segments.get_mut(id)
                && let SegmentState::Unlinked { again, .. } = row.state
            {
                let minutes = 2_i64.pow(row.failures.min(16)).min(RETRY_DELETE_MAX_MINUTES);
                row.state = SegmentState::Unlinked { delete_at_ms: now + minutes * 60_000, again };
                row.failures += 1;
            }
        }
        Ok(())
    }

    async fn expire(&self, limit: i64, random: f64) -> Result<i64, Error> {
        let mut state = self.state.lock();
        let now = self.clock.now_ms();
        Ok(state.expire(limit, random, now))
    }

    async fn clamp(&self, partitions: &[PartitionId]) -> Result<i64, Error> {
        Ok(self.state.lock().clamp(partitions))
    }

    async fn ping(&self) -> Result<(), Error> {
        Ok(())
    }
}
