//! Retention of the in-memory control plane: unlinks batches by age, by size, or because their topic was
//! deleted.

use super::State;
use crate::control_plane::Unlink;
use crate::id::{Offset, PartitionId};
use crate::number::saturated;
use crate::topic::Topic;
use std::collections::BTreeMap;

/// A batch, as far as retention looks at it.
struct Row {
    committed_at_ms: i64,
    partition: PartitionId,
    base: Offset,
    bytes: i64,
    end: Offset,
}

impl State {
    /// Up to where each partition loses its batches.
    pub(super) fn retain_plan(&self, now: i64) -> Vec<Unlink> {
        let of_dead = |topic: &Topic| -> Vec<(PartitionId, Offset)> {
            topic.partitions.iter().flat_map(|id| self.batches_of(*id).map(|b| (*id, b.batch.base))).collect()
        };
        let mut doomed: Vec<(PartitionId, Offset)> = self.dead_topics.iter().flat_map(of_dead).collect();
        doomed.extend(self.topics.values().flat_map(|topic| self.over_limit(topic, now)));
        let mut ends: BTreeMap<PartitionId, Offset> = BTreeMap::new();
        for key in doomed {
            if let Some(row) = self.batches.get(&key) {
                let end = ends.entry(key.0).or_default();
                *end = row.batch.end().max(*end);
            }
        }
        ends.into_iter().map(|(partition, until)| Unlink { partition, until }).collect()
    }

    /// Returns how many batches were unlinked.
    pub(super) fn unlink_planned(&mut self, plan: &[Unlink], limit: i64, now: i64) -> i64 {
        let mut doomed: Vec<(PartitionId, Offset)> = Vec::new();
        for step in plan {
            let below = self.batches_of(step.partition).filter(|b| b.batch.end() <= step.until);
            doomed.extend(below.map(|b| (step.partition, b.batch.base)));
        }
        doomed.truncate(saturated::<usize, _>(limit));
        for key in &doomed {
            let end = self.batches.get(key).map(|b| b.batch.end());
            self.unlink(*key, now);
            if let (Some(end), Some(row)) = (end, self.partitions.get_mut(&key.0)) {
                row.log_start = row.log_start.max(end);
            }
        }
        saturated::<i64, _>(doomed.len())
    }

    /// Batches of a topic to be unlinked because of its age or size limit, oldest first. Batches with records
    /// that a queue of the topic has not settled are held: the age limit deletes them `retention_hold_ms`
    /// later, and the size limit only once they are older than `retention_hold_ms`.
    fn over_limit(&self, topic: &Topic, now: i64) -> Vec<(PartitionId, Offset)> {
        let mut rows: Vec<Row> = topic
            .partitions
            .iter()
            .flat_map(|partition| self.batches_of(*partition).map(|b| (*partition, &b.batch)))
            .map(|(partition, b)| Row {
                committed_at_ms: b.committed_at_ms,
                partition,
                base: b.base,
                bytes: i64::from(b.byte_length),
                end: b.end(),
            })
            .collect();
        rows.sort_unstable_by_key(|row| (row.committed_at_ms, row.partition, row.base));
        let total: i64 = rows.iter().map(|row| row.bytes).sum();
        let surplus_bytes = topic.config.retention_bytes.map_or(0, |max| total - max);
        let hold_ms = topic.config.retention_hold_ms;
        let mut bytes_so_far = 0;
        let mut is_over = |row: &Row| {
            bytes_so_far += row.bytes;
            let held = self.held_from(row.partition).is_some_and(|from| row.end.0 > from);
            let extra_ms = if held { hold_ms } else { 0 };
            let aged = topic
                .config
                .retention_ms
                .is_some_and(|ms| row.committed_at_ms < now.saturating_sub(ms).saturating_sub(extra_ms));
            aged || (bytes_so_far <= surplus_bytes
                && (!held || row.committed_at_ms < now.saturating_sub(hold_ms)))
        };
        rows.iter().filter(|row| is_over(row)).map(|row| (row.partition, row.base)).collect()
    }
}
