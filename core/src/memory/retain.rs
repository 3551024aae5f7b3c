//! Batches that go by age, by size or with their topic.

use super::State;
use crate::id::{Offset, PartitionId};
use crate::number::saturated;
use crate::topic::Topic;

struct Row {
    at: i64,
    partition: PartitionId,
    base: Offset,
    bytes: i64,
    end: Offset,
}

impl State {
    pub(super) fn retain(&mut self, limit: i64, now: i64) -> i64 {
        let of_dead = |topic: &Topic| -> Vec<(PartitionId, Offset)> {
            topic.partitions.iter().flat_map(|id| self.batches_of(*id).map(|b| (*id, b.batch.base))).collect()
        };
        let mut doomed: Vec<(PartitionId, Offset)> = self.dead_topics.iter().flat_map(of_dead).collect();
        doomed.extend(self.topics.values().flat_map(|topic| self.let_go(topic, now)));
        doomed.truncate(saturated::<usize, _>(limit));
        for key in &doomed {
            let end = self.batches.get(key).map(|b| b.batch.end());
            self.unlink(*key, now);
            if let (Some(end), Some(row)) = (end, self.partitions.get_mut(&key.0)) {
                row.log_start = row.log_start.max(end);
            }
        }
        i64::try_from(doomed.len()).unwrap_or(0)
    }

    /// Batches of a topic that its age or size lets go and its queues do not hold, oldest first. What is held
    /// by its age goes so much later, what is held by the topic's size when it is so old.
    fn let_go(&self, topic: &Topic, now: i64) -> Vec<(PartitionId, Offset)> {
        let mut rows: Vec<Row> = topic
            .partitions
            .iter()
            .flat_map(|partition| self.batches_of(*partition).map(|b| (*partition, &b.batch)))
            .map(|(partition, b)| Row {
                at: b.committed_at_ms,
                partition,
                base: b.base,
                bytes: i64::from(b.byte_length),
                end: b.end(),
            })
            .collect();
        rows.sort_unstable_by_key(|row| (row.at, row.partition, row.base));
        let total: i64 = rows.iter().map(|row| row.bytes).sum();
        let over = topic.config.retention_bytes.map_or(0, |max| total - max);
        let hold_ms = topic.config.retention_hold_ms;
        let mut upto = 0;
        let mut goes = |row: &Row| {
            upto += row.bytes;
            let held = self.held_from(row.partition).is_some_and(|from| row.end.0 > from);
            let longer = if held { hold_ms } else { 0 };
            let aged = topic
                .config
                .retention_ms
                .is_some_and(|ms| row.at < now.saturating_sub(ms).saturating_sub(longer));
            aged || (upto <= over && (!held || row.at < now.saturating_sub(hold_ms)))
        };
        rows.iter().filter(|row| goes(row)).map(|row| (row.partition, row.base)).collect()
    }
}
