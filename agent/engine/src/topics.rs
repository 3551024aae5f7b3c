//! Topics by name, remembered for some seconds: another agent's change is seen within them, a deletion at the
//! next commit or read.

use millpond_core::topic::{NoSuchTopic, PutTopicRejected};
use millpond_core::{ControlPlane, Error, Name, Topic, TopicChange};
use moka::future::Cache;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::Instant;

const REMEMBERED: Duration = Duration::from_secs(5);
const TOPICS_REMEMBERED: u64 = 100_000;
/// After which the memory of what nobody asked for is given back.
const KEPT: Duration = Duration::from_secs(60);

pub struct Topics {
    plane: Arc<dyn ControlPlane>,
    /// With the instant from which each is known: what is told is never decided by the cache's own time,
    /// which no simulation can pause.
    known: Cache<(Name, Name), (Instant, Arc<Topic>)>,
    turn: AtomicU32,
    default_partitions: i32,
    auto_create: bool,
}

impl Topics {
    #[must_use]
    pub fn new(plane: Arc<dyn ControlPlane>, default_partitions: i32, auto_create: bool) -> Self {
        let known = Cache::builder().max_capacity(TOPICS_REMEMBERED).time_to_live(KEPT).build();
        Self { plane, known, turn: AtomicU32::new(0), default_partitions, auto_create }
    }

    pub async fn get(&self, tenant: &Name, name: &Name) -> Result<Arc<Topic>, Error<NoSuchTopic>> {
        let key = (tenant.clone(), name.clone());
        if let Some((since, topic)) = self.known.get(&key).await
            && since.elapsed() < REMEMBERED
        {
            return Ok(topic);
        }
        let topic = Arc::new(self.plane.topic(tenant, name).await?);
        self.remember(key, &topic).await;
        Ok(topic)
    }

    async fn remember(&self, key: (Name, Name), topic: &Arc<Topic>) {
        self.known.insert(key, (Instant::now(), Arc::clone(topic))).await;
    }

    /// The topic, made with the defaults if there is none and the server makes topics by itself.
    pub async fn get_or_create(&self, tenant: &Name, name: &Name) -> Result<Arc<Topic>, Error<NoSuchTopic>> {
        match self.get(tenant, name).await {
            Err(Error::Rejected(NoSuchTopic)) if self.auto_create => {}
            outcome => return outcome,
        }
        let (topic, _) = self.put(tenant, name, &TopicChange::default()).await.map_err(|e| match e {
            Error::Rejected(_) => Error::Rejected(NoSuchTopic),
            Error::NotApplied(source) => Error::NotApplied(source),
            Error::MaybeApplied(source) => Error::MaybeApplied(source),
        })?;
        Ok(topic)
    }

    pub async fn put(
        &self,
        tenant: &Name,
        name: &Name,
        change: &TopicChange,
    ) -> Result<(Arc<Topic>, bool), Error<PutTopicRejected>> {
        let (topic, made) = self.plane.put_topic(tenant, name, change, self.default_partitions).await?;
        let topic = Arc::new(topic);
        self.remember((tenant.clone(), name.clone()), &topic).await;
        Ok((topic, made))
    }

    pub async fn delete(&self, tenant: &Name, name: &Name) -> Result<bool, Error> {
        let deleted = self.plane.delete_topic(tenant, name).await;
        self.forget(tenant, name).await;
        deleted
    }

    /// What is remembered of a name turned out to be old.
    pub async fn forget(&self, tenant: &Name, name: &Name) {
        self.known.invalidate(&(tenant.clone(), name.clone())).await;
    }

    /// Partition for the records without key of one request: each request takes the next.
    #[must_use]
    pub fn sticky(&self, topic: &Topic) -> i32 {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = u32::try_from(topic.partition_count()).unwrap_or(1).max(1);
        i32::try_from(turn % count).unwrap_or(0)
    }
}
