//! Control plane calls for topics: create, change, list, delete.

use crate::error::Error;
use crate::id::TopicId;
use crate::name::Name;
use crate::page::{Page, PageRequest};
use crate::scope::Scope;
use crate::topic::{NoSuchTopic, PartitionStatus, PutTopicRejected, Topic, TopicChange};
use async_trait::async_trait;

/// Topics of a tenant, by name, and what their partitions hold.
#[async_trait]
pub trait Topics: Send + Sync + 'static {
    /// Creates or changes a topic. The `bool` is true if the topic was created. The number of partitions can
    /// only grow.
    async fn put_topic(
        &self,
        scope: &Scope,
        name: &Name,
        change: &TopicChange,
        default_partitions: i32,
    ) -> Result<(Topic, bool), Error<PutTopicRejected>>;
    async fn topic(&self, scope: &Scope, name: &Name) -> Result<Topic, Error<NoSuchTopic>>;
    /// A page of the tenant's topics, by name, each with its partitions by number.
    async fn topics(
        &self,
        scope: &Scope,
        page: &PageRequest,
    ) -> Result<Page<(Topic, Vec<PartitionStatus>)>, Error>;
    /// Partitions of a topic, by number; empty if the topic is gone.
    async fn partitions(&self, scope: &Scope, topic: TopicId) -> Result<Vec<PartitionStatus>, Error>;
    /// Deletes a topic; `false` if there was none. From then on, its partitions accept no commit, and
    /// [`Log::find`](super::Log::find) does not find them.
    async fn delete_topic(&self, scope: &Scope, name: &Name) -> Result<bool, Error>;
}
