//! One run: agents on one control plane and one bucket, clients, and a nemesis that kills agents, all in one
//! thread and in simulated time.

use crate::bucket::Bucket;
use crate::bugs::{Bug, Wrong};
use crate::client::Client;
use crate::fate::{Fates, Weather};
use crate::link::Link;
use axum::Router;
use futures::TryStreamExt;
use millpond_core::control_plane::FindRequest;
use millpond_core::control_plane::around::Wrapped;
use millpond_core::{
    Clock, ControlPlane, MemoryControlPlane, Name, Offset, Placement, RandomSource, Scope, Topic, TopicChange,
};
use millpond_engine::config::Config;
use millpond_engine::produce::batcher::BatcherConfig;
use millpond_engine::store::Store;
use millpond_engine::{Engine, Parts};
use millpond_format::key;
use millpond_tests::history::{Options, Shelf, check};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Start of the simulated clocks: a time in 2023.
const CLOCK_START_MS: i64 = 1_700_000_000_000;

/// Time steps after which an orphaned object is gone: registration of a part expires after an hour, a plan
/// after its lifetime, and an object is deleted a second time after a day.
const AGING_STEPS_MS: [i64; 3] = [3_700_000, 700_000, 90_000_000];

/// A clock that follows simulated time. Agents' clocks are slightly off, and the control plane's clock jumps
/// ahead when a run simulates a long time.
struct SimClock {
    start: Instant,
    skew_ms: Arc<AtomicI64>,
}

impl Clock for SimClock {
    fn now_ms(&self) -> i64 {
        CLOCK_START_MS
            + self.skew_ms.load(Ordering::Relaxed)
            + i64::try_from(self.start.elapsed().as_millis()).unwrap_or(0)
    }
}

/// One agent process, until it dies.
#[derive(Clone)]
pub struct Agent {
    pub number: usize,
    pub engine: Arc<Engine>,
    /// Router of the HTTP API, in runs whose clients use it.
    pub router: Option<Router>,
    pub dead: CancellationToken,
}

pub struct World {
    pub seed: u64,
    pub fates: Arc<Fates>,
    pub topics: Vec<Arc<Topic>>,
    pub retention: bool,
    pub http: bool,
    pub shelf: Shelf,
    pub think_ms: u64,
    pub ops: u64,
    pub bug: Option<Bug>,
    plane: Arc<dyn ControlPlane>,
    objects: Arc<InMemory>,
    config: Config,
    start: Instant,
    age_ms: Arc<AtomicI64>,
    agents: Mutex<Vec<Option<Agent>>>,
    started: AtomicU64,
    /// Clock of the histories: no two events have the same time.
    tick: AtomicU64,
    flaws: Mutex<Vec<String>>,
}

#[derive(Debug)]
pub struct Report {
    pub seed: u64,
    pub trace: u64,
    pub lines: Vec<String>,
    pub flaws: Vec<String>,
    pub ops: u64,
    pub simulated_ms: i64,
    pub fates: Fatal,
}

/// Faults that occurred in the run.
#[derive(Debug)]
pub struct Fatal {
    pub cells: BTreeMap<(crate::fate::Step, crate::fate::Fault), u64>,
    pub calls: u64,
}

#[must_use]
pub fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

/// Tiny limits, so that few records reach every code path.
fn buggify(rng: &mut StdRng) -> Config {
    let mut pick = |choices: &[usize]| choices[rng.random_range(0..choices.len())];
    let mut config = Config { default_partitions: 2, ..Config::default() };
    config.cache_bytes = if pick(&[0, 1]) == 0 { 0 } else { 64 << 20 };
    let linger = pick(&[1, 20, 250]);
    config.batcher = BatcherConfig {
        small_request_max_bytes: pick(&[100, 400, 16 << 10]),
        inline_max_bytes: pick(&[200, 1_000, 64 << 10]),
        segment_max_bytes: pick(&[300, 2_000, 8 << 20]),
        linger: Duration::from_millis(u64::try_from(linger).unwrap_or(1)),
        inline: pick(&[0, 1, 1, 1]) == 1,
        ..BatcherConfig::default()
    };
    config.batcher.puts_per_s = [0.5, 4.0, 1_000.0][pick(&[0, 1, 2])];
    config.batcher.inline_commits_per_s = [2.0, 1_000.0][pick(&[0, 1])];
    config
}

impl World {
    async fn new(seed: u64, bug: Option<Bug>, keep_lines: bool) -> (Arc<Self>, StdRng) {
        let mut rng = StdRng::seed_from_u64(seed);
        let start = Instant::now();
        let weather = Weather::draw(&mut rng);
        let fates = Arc::new(Fates::new(rng.random(), weather, keep_lines));
        let age_ms = Arc::new(AtomicI64::new(0));
        let memory: Arc<dyn ControlPlane> =
            Arc::new(MemoryControlPlane::new(Arc::new(SimClock { start, skew_ms: Arc::clone(&age_ms) })));
        let plane: Arc<dyn ControlPlane> = match bug {
            Some(bug) => Arc::new(Wrapped::new(memory, Arc::new(Wrong::new(bug, Arc::clone(&fates))))),
            None => memory,
        };
        let retention = rng.random_ratio(1, 6);
        let mut topics = Vec::new();
        let placements = [Placement::Auto, [Placement::Object, Placement::Inline][rng.random_range(0..2)]];
        for (text, placement) in ["a", "b"].iter().zip(placements) {
            let change = TopicChange {
                partitions: Some(rng.random_range(1..=3)),
                placement: Some(placement),
                dedup_window_ms: Some(3_600_000),
                retention_bytes: retention.then_some(Some(2_000)),
                ..TopicChange::default()
            };
            let (topic, _) =
                plane.put_topic(&Scope::unauthenticated(), &name(text), &change, 1).await.expect("a topic");
            topics.push(Arc::new(topic));
        }
        let slots = rng.random_range(2..=3);
        let world = Arc::new(Self {
            seed,
            fates,
            topics,
            retention,
            http: rng.random_ratio(1, 3),
            shelf: Shelf::memory(),
            think_ms: [3, 300, 4_000][rng.random_range(0..3)],
            ops: rng.random_range(10..30),
            bug,
            plane,
            objects: Arc::new(InMemory::new()),
            config: buggify(&mut rng),
            start,
            age_ms,
            agents: Mutex::new(vec![None; slots]),
            started: AtomicU64::new(0),
            tick: AtomicU64::new(0),
            flaws: Mutex::new(Vec::new()),
        });
        for slot in 0..slots {
            world.start_agent(slot);
        }
        (world, rng)
    }

    pub fn now(&self) -> u64 {
        self.tick.fetch_add(1, Ordering::Relaxed)
    }

    pub fn flaw(&self, what: String) {
        self.flaws.lock().push(what);
    }

    fn launch(&self) -> Agent {
        let number = usize::try_from(self.started.fetch_add(1, Ordering::Relaxed)).unwrap_or(0);
        let dead = CancellationToken::new();
        let link = Link { fates: Arc::clone(&self.fates), agent: number, dead: dead.clone() };
        let link: Arc<dyn ControlPlane> = Arc::new(Wrapped::new(Arc::clone(&self.plane), Arc::new(link)));
        let bucket = Bucket {
            objects: Arc::clone(&self.objects),
            fates: Arc::clone(&self.fates),
            agent: number,
            dead: dead.clone(),
            forgetful: self.bug == Some(Bug::PutNotStored),
        };
        let skew_ms = Arc::new(AtomicI64::new([0, -5_000, 70_000][number % 3]));
        let random = Arc::new(RandomSource::seeded(
            self.seed ^ (0x9e37_79b9_u64 << 8).wrapping_mul(u64::try_from(number).unwrap_or(0) + 1),
        ));
        let plane = match self.bug {
            Some(Bug::NewPartOnResend) => {
                let wrong = Wrong::new(Bug::NewPartOnResend, Arc::clone(&self.fates));
                Arc::new(Wrapped::new(link, Arc::new(wrong)))
            }
            _ => link,
        };
        let parts = Parts {
            plane,
            store: Store::new(Arc::new(bucket)),
            clock: Arc::new(SimClock { start: self.start, skew_ms }),
            random,
            cluster: "sim".to_owned(),
            epoch: 1,
            prometheus: None,
        };
        let engine = Engine::start(parts, &self.config);
        let router = self.http.then(|| {
            millpond_http::router(millpond_http::Door::new(
                Arc::clone(&engine),
                millpond_http::DoorConfig::default(),
            ))
        });
        Agent { number, engine, router, dead }
    }

    fn start_agent(&self, slot: usize) {
        let agent = self.launch();
        self.agents.lock()[slot] = Some(agent);
    }

    /// Kills an agent: it loses network and memory in the middle of its work. Calls that it has sent still
    /// arrive.
    fn kill(&self, slot: usize) {
        if let Some(agent) = self.agents.lock()[slot].take() {
            self.fates.crash(agent.number);
            agent.dead.cancel();
        }
    }

    /// A live agent, if there is one.
    pub fn agent(&self, choice: u32) -> Option<Agent> {
        let agents = self.agents.lock();
        let alive: Vec<&Agent> = agents.iter().flatten().collect();
        let choice = usize::try_from(choice).unwrap_or(0) % alive.len().max(1);
        alive.get(choice).map(|agent| (*agent).clone())
    }

    /// Lets more than a day pass by the control plane's clock. Then the bucket must hold exactly the objects
    /// that logs refer to.
    async fn grow_old(&self) {
        for age in AGING_STEPS_MS {
            tokio::time::sleep(Duration::from_secs(60)).await;
            self.age_ms.fetch_add(age, Ordering::Relaxed);
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        let mut wanted = BTreeSet::new();
        for partition in self.topics.iter().flat_map(|t| &t.partitions) {
            let request = FindRequest {
                scope: Scope::unauthenticated(),
                partition: *partition,
                offset: Offset::ZERO,
                end: None,
                max_bytes: i64::MAX,
            };
            let start = self
                .plane
                .find(std::slice::from_ref(&request))
                .await
                .ok()
                .and_then(|mut f| f.pop()?)
                .map_or(Offset::ZERO, |f| f.log_start_offset);
            let found = self
                .plane
                .find(&[FindRequest { offset: start, ..request }])
                .await
                .ok()
                .and_then(|mut f| f.pop()?);
            wanted.extend(
                found
                    .into_iter()
                    .flat_map(|f| f.batches)
                    .filter(|b| !b.inline)
                    .map(|b| key::ingest("sim", b.part)),
            );
        }
        let mut there: BTreeSet<Path> =
            self.objects.list(None).map_ok(|o| o.location).try_collect().await.expect("in memory");
        // The marker is named after the control plane's cluster.
        there.remove(&key::marker("memory"));
        let orphans = there.difference(&wanted).count();
        let missing = wanted.difference(&there).count();
        self.fates.note(("objects", there.len(), orphans, missing));
        if orphans + missing > 0 {
            self.flaw(format!(
                "the bucket holds {orphans} objects that nothing refers to, and lacks {missing}"
            ));
        }
    }

    /// Kills agents and starts others in their place.
    async fn nemesis(self: Arc<Self>, mut rng: StdRng) {
        let slots = self.agents.lock().len();
        loop {
            tokio::time::sleep(Duration::from_millis(rng.random_range(1..400))).await;
            let weather = self.fates.weather();
            if weather.crash > 0 && rng.random_ratio(weather.crash, 1_000) {
                let slot = rng.random_range(0..slots);
                self.kill(slot);
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..1_500))).await;
                self.start_agent(slot);
            }
        }
    }
}

thread_local! {
    static PANICS: std::cell::RefCell<Vec<String>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Reports panics of tasks, which would otherwise go unnoticed, as flaws of the run.
fn notice_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.with_borrow_mut(|all| all.push(panic.to_string()));
            before(panic);
        }));
    });
}

/// Runs a seed in its own runtime.
pub fn run(seed: u64, bug: Option<Bug>, keep_lines: bool) -> Report {
    notice_panics();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let mut report = runtime.block_on(play(seed, bug, keep_lines));
    runtime.shutdown_background();
    report.flaws.extend(PANICS.take().into_iter().map(|what| format!("a task {what}")));
    report
}

async fn play(seed: u64, bug: Option<Bug>, keep_lines: bool) -> Report {
    let (world, mut rng) = World::new(seed, bug, keep_lines).await;
    let nemesis = tokio::spawn(Arc::clone(&world).nemesis(StdRng::seed_from_u64(rng.random())));
    let clients: Vec<_> = (0..rng.random_range(2..=5))
        .map(|number| tokio::spawn(Client::new(&world, number, rng.random()).work()))
        .collect();
    for client in clients {
        if tokio::time::timeout(Duration::from_secs(7_200), client).await.is_err() {
            world.flaw("stuck: a client does not come to its end".to_owned());
        }
    }
    nemesis.abort();
    world.fates.heal();
    world.fates.note("healed");
    // Longer than any call can be late, and long enough for a drain.
    tokio::time::sleep(Duration::from_secs(rng.random_range(40..100))).await;
    if rng.random_ratio(1, 8) {
        world.grow_old().await;
    }
    if rng.random() {
        let slots = world.agents.lock().len();
        (0..slots).for_each(|slot| world.kill(slot));
    }
    let fresh = world.launch();
    Client::new(&world, 90, rng.random()).finish(&fresh).await;
    let history = world.shelf.history().expect("in memory");
    let options = Options { retention: world.retention, require_final: true };
    let mut flaws = world.flaws.lock().clone();
    flaws.extend(check(&history, options).iter().map(ToString::to_string));
    for op in &history.ops {
        world.fates.note(format!("{op:?}"));
    }
    Report {
        seed,
        trace: world.fates.trace(),
        lines: world.fates.take_lines(),
        flaws,
        ops: u64::try_from(history.ops.len()).unwrap_or(0),
        simulated_ms: world.fates.elapsed_ms(),
        fates: Fatal { cells: world.fates.cells(), calls: world.fates.calls() },
    }
}
