//! Builds an agent from its parts: control plane, object store, write path, read path, consumer groups,
//! queues and background work.

use crate::admission::Admission;
use crate::background;
use crate::config::Config;
use crate::fetch::Fetch;
use crate::fetch::cache::BlockCache;
use crate::fetch::reader::Reader;
use crate::fetch::watcher::Watcher;
use crate::group::Groups;
use crate::health::Health;
use crate::marker::Markers;
use crate::metrics;
use crate::plane::TimeLimits;
use crate::produce::Produce;
use crate::produce::committer::Committer;
use crate::produce::flush::Origin;
use crate::produce::parts::PartPool;
use crate::produce::writer::{WritePath, Writer};
use crate::pulse::Pulse;
use crate::queue::lookout::Lookout;
use crate::queue::{QueueRuntime, Queues};
use crate::store::Store;
use crate::topics::Topics;
use metrics_exporter_prometheus::PrometheusHandle;
use millpond_core::{AgentId, Clock, ControlPlane, PartId, RandomSource, limits};
use millpond_format::key;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// How long [`Engine::close`] waits for pending commits and uploads. Clients get the answer "outcome unknown"
/// well before that.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(30);
/// Timeout of the database ping in a readiness check.
const READY_PING_TIMEOUT: Duration = Duration::from_secs(3);

/// One running agent, as doors use it. It holds no state that has to survive the process.
pub struct Engine {
    /// Identifies this run of the process.
    pub agent: AgentId,
    pub cluster: String,
    /// Epoch of the cluster, written into the footer of every segment.
    pub epoch: i64,
    pub topics: Arc<Topics>,
    pub produce: Produce,
    pub fetch: Arc<Fetch>,
    pub groups: Groups,
    pub queues: Queues,
    /// Memory budget for incoming records; a door acquires from it before it buffers a request body.
    pub admission: Arc<Admission>,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<RandomSource>,
    plane: Arc<dyn ControlPlane>,
    store: Store,
    writer: Arc<Writer>,
    cache: Arc<BlockCache>,
    watcher: Arc<Watcher>,
    prometheus: Option<PrometheusHandle>,
    background: JoinHandle<()>,
    health: Arc<Health>,
}

/// The components that an agent is built from, besides its settings.
pub struct Parts {
    pub plane: Arc<dyn ControlPlane>,
    pub store: Store,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<RandomSource>,
    pub cluster: String,
    pub epoch: i64,
    pub prometheus: Option<PrometheusHandle>,
}

/// Result of a readiness check: for each dependency, `Err` says why it cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    pub database: Result<(), String>,
    pub object_store: Result<(), String>,
}

impl Engine {
    /// Builds the agent and starts its tasks.
    #[must_use]
    pub fn start(parts: Parts, config: &Config) -> Arc<Self> {
        let Parts { plane, store, clock, random, cluster, epoch, prometheus } = parts;
        let plane = TimeLimits::around(plane);
        let agent = AgentId(random.uuid(clock.now_ms()));
        let origin = Origin { cluster: cluster.clone(), epoch, agent: agent.to_string() };
        let health = Health::start(Arc::clone(&plane));
        let cache = BlockCache::new(config.cache_bytes, store.clone(), cluster.clone());
        let pulse = Pulse::start(Arc::clone(&plane));
        let watcher = Watcher::start(Arc::clone(&plane), Arc::clone(&pulse));
        let pool = PartPool::new(Arc::clone(&plane), agent, Arc::clone(&random), Arc::clone(&clock));
        let committer = Arc::new(Committer::new(
            Arc::clone(&plane),
            Arc::clone(&cache),
            Arc::clone(&watcher),
            Arc::clone(&health),
        ));
        let path =
            WritePath::new(committer, Arc::clone(&pool), store.clone(), origin.clone(), Arc::clone(&health));
        let writer = Writer::start(path, config.batcher);
        let jobs = background::Jobs {
            health: Arc::clone(&health),
            plane: Arc::clone(&plane),
            store: store.clone(),
            clock: Arc::clone(&clock),
            random: Arc::clone(&random),
            parts: pool,
            origin,
            agent,
            writer: Arc::clone(&writer),
            markers: Markers {
                plane: Arc::clone(&plane),
                store: store.clone(),
                clock: Arc::clone(&clock),
                random: Arc::clone(&random),
            },
        };
        let reader =
            Reader::new(Arc::clone(&plane), Arc::clone(&cache), config.read_bytes, config.decoded_bytes);
        let reader = Arc::new(reader);
        let topics = Arc::new(Topics::new(Arc::clone(&plane), config.default_partitions, config.auto_create));
        let admission = Arc::new(Admission::new(config.admission_bytes));
        let fetch = Arc::new(Fetch {
            reader: Arc::clone(&reader),
            watcher: Arc::clone(&watcher),
            topics: Arc::clone(&topics),
            plane: Arc::clone(&plane),
        });
        let produce = Produce {
            writer: Arc::clone(&writer),
            topics: Arc::clone(&topics),
            plane: Arc::clone(&plane),
            admission: Arc::clone(&admission),
            clock: Arc::clone(&clock),
            random: Arc::clone(&random),
        };
        let runtime = QueueRuntime {
            plane: Arc::clone(&plane),
            reader,
            watcher: Arc::clone(&watcher),
            lookout: Lookout::start(Arc::clone(&plane), Arc::clone(&pulse)),
            random: Arc::clone(&random),
            clock: Arc::clone(&clock),
            agent,
            fills: Semaphore::new(limits::LOOKUPS_AT_ONCE),
        };
        Arc::new(Self {
            agent,
            cluster,
            epoch,
            produce,
            groups: Groups::new(Arc::clone(&plane), &pulse, Arc::clone(&topics), Arc::clone(&fetch)),
            queues: Queues::new(runtime, Arc::clone(&topics), Arc::clone(&fetch)),
            topics,
            fetch,
            admission,
            clock,
            random,
            plane,
            store,
            writer,
            cache,
            watcher,
            prometheus,
            background: tokio::spawn(jobs.run()),
            health,
        })
    }

    /// Checks the database and the object store concurrently.
    pub async fn readiness(&self) -> Readiness {
        let database = async {
            match tokio::time::timeout(READY_PING_TIMEOUT, self.plane.ping()).await {
                Ok(answered) => answered.map_err(|error| crate::error_chain(&error)),
                Err(_) => Err(format!("no answer within {} s", READY_PING_TIMEOUT.as_secs())),
            }
        };
        let probe = key::ingest(&self.cluster, PartId(Uuid::nil()));
        let object_store =
            async { self.store.ping(&probe).await.map_err(|error| crate::error_chain(&error)) };
        let (database, object_store) = tokio::join!(database, object_store);
        Readiness { database, object_store }
    }

    /// All metrics in Prometheus' text format; empty if another recorder was already installed in the
    /// process.
    #[must_use]
    pub fn metrics(&self) -> String {
        metrics::memory(self.admission.used_bytes(), self.fetch.reader.used_bytes(), self.cache.used_bytes());
        self.prometheus.as_ref().map(PrometheusHandle::render).unwrap_or_default()
    }

    /// Returns the cluster's epoch once it is another than that in which the agent began: the database was
    /// set back, and what the agent remembers of it may be wrong. The agent must end.
    pub async fn later_epoch(&self) -> i64 {
        self.health.later_epoch().await
    }

    /// Ends all long polls and tails: they answer with the records that they have so far.
    pub fn stop_waiting(&self) {
        self.watcher.stop();
    }

    /// Flushes and commits all accepted appends, within [`CLOSE_WAIT_MAX`], and stops background work. To be
    /// called when no request is in flight any more.
    pub async fn close(&self) {
        if tokio::time::timeout(CLOSE_WAIT_MAX, self.writer.close()).await.is_err() {
            tracing::warn!(
                seconds = CLOSE_WAIT_MAX.as_secs(),
                "stopping before the outcome of all accepted requests is known"
            );
        }
        self.background.abort();
    }
}
