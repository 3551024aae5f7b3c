//! Puts an agent together: control plane, store, write path, read path, background work.

use crate::admission::Admission;
use crate::background;
use crate::config::Config;
use crate::fetch::cache::BlockCache;
use crate::fetch::reader::Reader;
use crate::fetch::watcher::Watcher;
use crate::group::Groups;
use crate::health::Health;
use crate::plane::Timed;
use crate::produce::committer::Committer;
use crate::produce::flush::Origin;
use crate::produce::parts::PartPool;
use crate::produce::writer::{Shared, Writer};
use crate::queue::{self, Queues};
use crate::store::Store;
use crate::topics::Topics;
use metrics_exporter_prometheus::PrometheusHandle;
use millpond_core::{AgentId, Clock, ControlPlane, Ids};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// At its end an agent waits so long for commits and uploads. Whoever waited for their outcome was told
/// "unknown" well before.
const CLOSE: Duration = Duration::from_secs(30);

/// One agent; nothing in it outlives the process.
pub struct Engine {
    pub agent: AgentId,
    pub cluster: String,
    pub epoch: i64,
    pub plane: Arc<dyn ControlPlane>,
    pub store: Store,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<Ids>,
    pub topics: Topics,
    pub groups: Groups,
    pub writer: Arc<Writer>,
    pub reader: Arc<Reader>,
    pub queues: Queues,
    pub cache: Arc<BlockCache>,
    pub watcher: Arc<Watcher>,
    pub admission: Admission,
    pub prometheus: Option<PrometheusHandle>,
    background: JoinHandle<()>,
}

/// What an agent is made of, besides its settings.
pub struct Parts {
    pub plane: Arc<dyn ControlPlane>,
    pub store: Store,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<Ids>,
    pub cluster: String,
    pub epoch: i64,
    pub prometheus: Option<PrometheusHandle>,
}

impl Engine {
    #[must_use]
    pub fn start(parts: Parts, config: &Config) -> Arc<Self> {
        let Parts { plane, store, clock, ids, cluster, epoch, prometheus } = parts;
        let plane = Timed::around(plane);
        let agent = AgentId(ids.uuid(clock.now_ms()));
        let origin = Origin { cluster: cluster.clone(), epoch, agent: agent.to_string() };
        let health = Health::start(Arc::clone(&plane));
        let cache = BlockCache::new(config.cache_bytes, store.clone(), cluster.clone());
        let watcher = Watcher::start(Arc::clone(&plane));
        let pool = PartPool::new(Arc::clone(&plane), agent, Arc::clone(&ids), Arc::clone(&clock));
        let committer = Arc::new(Committer {
            plane: Arc::clone(&plane),
            cache: Arc::clone(&cache),
            watcher: Arc::clone(&watcher),
            health: Arc::clone(&health),
        });
        let shared = Shared::new(committer, Arc::clone(&pool), store.clone(), origin.clone(), health);
        let writer = Writer::start(shared, config.batcher);
        let jobs = background::Jobs {
            plane: Arc::clone(&plane),
            store: store.clone(),
            clock: Arc::clone(&clock),
            ids: Arc::clone(&ids),
            parts: pool,
            origin,
            agent,
            writer: Arc::clone(&writer),
        };
        let reader = Arc::new(Reader::new(
            Arc::clone(&plane),
            Arc::clone(&cache),
            config.read_bytes,
            config.decoded_bytes,
        ));
        let queues = Queues::new(queue::Shared {
            plane: Arc::clone(&plane),
            reader: Arc::clone(&reader),
            watcher: Arc::clone(&watcher),
            ids: Arc::clone(&ids),
            clock: Arc::clone(&clock),
            agent,
            fills: tokio::sync::Semaphore::new(millpond_core::limits::LOOKUPS_AT_ONCE),
        });
        Arc::new(Self {
            agent,
            cluster,
            epoch,
            topics: Topics::new(Arc::clone(&plane), config.default_partitions, config.auto_create),
            groups: Groups::new(Arc::clone(&plane)),
            reader,
            queues,
            admission: Admission::new(config.admission_bytes),
            plane,
            store,
            clock,
            ids,
            writer,
            cache,
            watcher,
            prometheus,
            background: tokio::spawn(jobs.run()),
        })
    }

    /// Flushes and commits what was taken in, within [`CLOSE`], and stops background work. Call it when no
    /// request is in flight any more.
    pub async fn close(&self) {
        if tokio::time::timeout(CLOSE, self.writer.close()).await.is_err() {
            tracing::warn!(
                seconds = CLOSE.as_secs(),
                "stopping, though what became of the last requests is not known yet"
            );
        }
        self.background.abort();
    }
}
