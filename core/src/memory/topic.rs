//! Topics of the in-memory control plane.

use super::{MemoryControlPlane, PartitionRow, State};
use crate::control_plane::Topics;
use crate::error::Error;
use crate::id::{Offset, PartitionId, TopicId};
use crate::limits;
use crate::name::Name;
use crate::page::{Page, PageRequest};
use crate::scope::Scope;
use crate::topic::{NoSuchTopic, PartitionStatus, PutTopicRejected, Topic, TopicChange, TopicConfig};
use async_trait::async_trait;

impl State {
    fn add_partitions(&mut self, topic: &mut Topic, to: i32) {
        for number in topic.partition_count()..to {
            let id = PartitionId(self.new_id());
            let row = PartitionRow {
                tenant: topic.tenant.clone(),
                topic: topic.id,
                number,
                log_start: Offset::ZERO,
                high_watermark: Offset::ZERO,
                alive: true,
            };
            self.partitions.insert(id, row);
            topic.partitions.push(id);
        }
    }

    fn status(&self, id: PartitionId, row: &PartitionRow) -> PartitionStatus {
        PartitionStatus {
            partition: row.number,
            id,
            log_start_offset: row.log_start,
            high_watermark: row.high_watermark,
            bytes: self.batches_of(id).map(|b| i64::from(b.batch.byte_length)).sum(),
        }
    }
}

#[async_trait]
impl Topics for MemoryControlPlane {
    async fn put_topic(
        &self,
        scope: &Scope,
        name: &Name,
        change: &TopicChange,
        default_partitions: i32,
    ) -> Result<(Topic, bool), Error<PutTopicRejected>> {
        let mut state = self.state.lock();
        let key = (scope.tenant.clone(), name.clone());
        if change.partitions.is_some_and(|p| !(1..=limits::PARTITIONS_MAX).contains(&p)) {
            return Err(Error::Rejected(PutTopicRejected::PartitionsOutOfRange));
        }
        let existing = state.topics.get(&key).cloned();
        let made = existing.is_none();
        let mut topic = existing.unwrap_or_else(|| Topic {
            id: TopicId(0),
            tenant: scope.tenant.clone(),
            name: name.clone(),
            config: TopicConfig::default(),
            partitions: Vec::new(),
        });
        let current = topic.partition_count();
        let wanted = change.partitions.unwrap_or(if made { default_partitions } else { current });
        if wanted < current {
            return Err(Error::Rejected(PutTopicRejected::PartitionsShrink { current }));
        }
        if made {
            topic.id = TopicId(state.new_id());
        }
        topic.config = change.apply(&topic.config);
        state.add_partitions(&mut topic, wanted);
        state.grow_queues(topic.id, &topic.partitions);
        state.topics.insert(key, topic.clone());
        Ok((topic, made))
    }

    async fn topic(&self, scope: &Scope, name: &Name) -> Result<Topic, Error<NoSuchTopic>> {
        self.state
            .lock()
            .topics
            .get(&(scope.tenant.clone(), name.clone()))
            .cloned()
            .ok_or(Error::Rejected(NoSuchTopic))
    }

    async fn topics(
        &self,
        scope: &Scope,
        page: &PageRequest,
    ) -> Result<Page<(Topic, Vec<PartitionStatus>)>, Error> {
        let state = self.state.lock();
        let all = state.topics.values().filter(|t| t.tenant == scope.tenant);
        let page = page.cut(all, |topic| &topic.name, |topic| topic.partitions.len());
        Ok(page.map(|topic| {
            let status = |id: &PartitionId| Some(state.status(*id, state.partitions.get(id)?));
            (topic.clone(), topic.partitions.iter().filter_map(status).collect())
        }))
    }

    async fn partitions(&self, scope: &Scope, topic: TopicId) -> Result<Vec<PartitionStatus>, Error> {
        let state = self.state.lock();
        let of_topic = state.partitions_of(&scope.tenant, topic);
        let mut all: Vec<PartitionStatus> = of_topic.map(|(id, row)| state.status(*id, row)).collect();
        all.sort_by_key(|p| p.partition);
        Ok(all)
    }

    async fn delete_topic(&self, scope: &Scope, name: &Name) -> Result<bool, Error> {
        let mut state = self.state.lock();
        let Some(topic) = state.topics.remove(&(scope.tenant.clone(), name.clone())) else {
            return Ok(false);
        };
        for id in &topic.partitions {
            if let Some(row) = state.partitions.get_mut(id) {
                row.alive = false;
            }
        }
        state.delete_queues_of(topic.id);
        state.dead_topics.push(topic);
        Ok(true)
    }
}
