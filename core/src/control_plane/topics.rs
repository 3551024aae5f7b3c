//! Topics: made, changed, listed, deleted.

use crate::error::Error;
use crate::id::TopicId;
use crate::name::Name;
use crate::scope::Scope;
use crate::topic::{NoSuchTopic, PartitionStatus, PutTopicRejected, Topic, TopicChange};
use async_trait::async_trait;

/// Topics of a tenant, by name, and what their partitions hold.
#[async_trait]
pub trait Topics: Send + Sync + 'static {
    /// Makes the topic or changes it; `bool` says that it was made. Partitions only grow.
    async fn put_topic(
        &self,
        scope: &Scope,
        name: &Name,
        change: &TopicChange,
        default_partitions: i32,
    ) -> Result<(Topic, bool), Error<PutTopicRejected>>;
    async fn topic(&self, scope: &Scope, name: &Name) -> Result<Topic, Error<NoSuchTopic>>;
    /// All topics of the tenant by name.
    async fn topics(&self, scope: &Scope) -> Result<Vec<Topic>, Error>;
    /// By partition number; empty when the topic is gone.
    async fn partitions(&self, scope: &Scope, topic: TopicId) -> Result<Vec<PartitionStatus>, Error>;
    /// `false`: there was none. Its partitions take no commit and answer no find from then on.
    async fn delete_topic(&self, scope: &Scope, name: &Name) -> Result<bool, Error>;
}
