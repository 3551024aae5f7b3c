//! Topics: looked up by name, created, changed, listed, deleted.
//!
//! Topics are cached for some seconds (see [`NamedCache`]). A change by another agent becomes visible after
//! that. A deletion is noticed by the next commit or read, whose caller then looks the name up again.

use crate::named::NamedCache;
use millpond_core::topic::{NoSuchTopic, PartitionStatus, PutTopicRejected};
use millpond_core::{ControlPlane, Error, Name, Page, PageRequest, PartitionId, Scope, Topic, TopicChange};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Why a topic could not be looked up, created or deleted.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    #[error("there is no topic {0}")]
    NoSuchTopic(Name),
    #[error("the control plane failed")]
    ControlPlane(#[source] Error),
}

/// A topic with the state of its partitions.
#[derive(Debug, Clone)]
pub struct DescribedTopic {
    pub topic: Arc<Topic>,
    /// By partition number.
    pub partitions: Vec<PartitionStatus>,
}

/// The topics of all tenants, as this agent knows them.
pub struct Topics {
    plane: Arc<dyn ControlPlane>,
    known: NamedCache<Topic>,
    /// Chooses the partition of records without a key: each request takes the next one.
    sticky_turn: AtomicU32,
    default_partitions: i32,
    auto_create: bool,
}

impl Topics {
    #[must_use]
    pub fn new(plane: Arc<dyn ControlPlane>, default_partitions: i32, auto_create: bool) -> Self {
        Self {
            plane,
            known: NamedCache::default(),
            sticky_turn: AtomicU32::new(0),
            default_partitions,
            auto_create,
        }
    }

    /// The topic, possibly from the cache.
    pub async fn get(&self, scope: &Scope, name: &Name) -> Result<Arc<Topic>, TopicError> {
        let found = self.known.get(scope, name, self.plane.topic(scope, name)).await;
        found.map_err(|e| topic_error(name, e))
    }

    /// The topic as it is now, read from the control plane.
    pub async fn look_up(&self, scope: &Scope, name: &Name) -> Result<Arc<Topic>, TopicError> {
        match self.plane.topic(scope, name).await {
            Ok(topic) => Ok(self.known.remember(scope, name, topic).await),
            Err(error) => {
                self.known.forget(scope, name).await;
                Err(topic_error(name, error))
            }
        }
    }

    /// The topic and the id of one of its partitions. If the cached topic lacks the partition, it is read
    /// again.
    pub async fn with_partition(
        &self,
        scope: &Scope,
        name: &Name,
        partition: i32,
    ) -> Result<(Arc<Topic>, Option<PartitionId>), TopicError> {
        let mut topic = self.get(scope, name).await?;
        if topic.partition_id(partition).is_none() {
            topic = self.look_up(scope, name).await?;
        }
        let id = topic.partition_id(partition);
        Ok((topic, id))
    }

    /// The topic. If it does not exist, it is created with the defaults, provided that the server is
    /// configured so. Callers that find at the same time that it is missing create it by one statement.
    pub async fn get_or_create(&self, scope: &Scope, name: &Name) -> Result<Arc<Topic>, TopicError> {
        match self.get(scope, name).await {
            Err(TopicError::NoSuchTopic(_)) if self.auto_create => {}
            outcome => return outcome,
        }
        let change = TopicChange::default();
        let make = async {
            let made = self.plane.put_topic(scope, name, &change, self.default_partitions).await;
            made.map(|(topic, _)| topic)
        };
        let made = self.known.get(scope, name, make).await;
        made.map_err(|error: Error<PutTopicRejected>| topic_error(name, error.map_rejection(|_| NoSuchTopic)))
    }

    /// Creates or changes a topic; `true` if it was created.
    pub async fn put(
        &self,
        scope: &Scope,
        name: &Name,
        change: &TopicChange,
    ) -> Result<(Arc<Topic>, bool), Error<PutTopicRejected>> {
        let (topic, made) = self.plane.put_topic(scope, name, change, self.default_partitions).await?;
        Ok((self.known.remember(scope, name, topic).await, made))
    }

    /// The topic and its partitions as they are now.
    pub async fn describe(&self, scope: &Scope, name: &Name) -> Result<DescribedTopic, TopicError> {
        let topic = self.look_up(scope, name).await?;
        self.partitions(scope, topic).await.map_err(TopicError::ControlPlane)
    }

    /// The state of a topic's partitions.
    pub async fn partitions(&self, scope: &Scope, topic: Arc<Topic>) -> Result<DescribedTopic, Error> {
        let partitions = self.plane.partitions(scope, topic.id).await?;
        Ok(DescribedTopic { topic, partitions })
    }

    /// A page of the tenant's topics, in the order of their names.
    pub async fn list(&self, scope: &Scope, page: &PageRequest) -> Result<Page<DescribedTopic>, Error> {
        let page = self.plane.topics(scope, page).await?;
        Ok(page.map(|(topic, partitions)| DescribedTopic { topic: Arc::new(topic), partitions }))
    }

    /// Deletes a topic and its records.
    pub async fn delete(&self, scope: &Scope, name: &Name) -> Result<(), TopicError> {
        let deleted = self.plane.delete_topic(scope, name).await;
        self.forget(scope, name).await;
        match deleted {
            Ok(true) => Ok(()),
            Ok(false) => Err(TopicError::NoSuchTopic(name.clone())),
            Err(error) => Err(TopicError::ControlPlane(error)),
        }
    }

    /// Drops the cached topic of a name because it turned out to be out of date.
    pub async fn forget(&self, scope: &Scope, name: &Name) {
        self.known.forget(scope, name).await;
    }

    /// The partition for the records of one request that have no key. Each call returns the next partition.
    #[must_use]
    pub fn sticky(&self, topic: &Topic) -> i32 {
        let number = self.sticky_turn.fetch_add(1, Ordering::Relaxed);
        let count = u32::try_from(topic.partition_count()).unwrap_or(1).max(1);
        i32::try_from(number % count).unwrap_or(0)
    }
}

fn topic_error(name: &Name, error: Error<NoSuchTopic>) -> TopicError {
    match error.into_rejection() {
        Ok(NoSuchTopic) => TopicError::NoSuchTopic(name.clone()),
        Err(error) => TopicError::ControlPlane(error),
    }
}
