//! Many agents concurrently lease from one queue, settle partially, late, twice or not at all, sweep, pause,
//! seek and redrive.
//!
//! `MILLPOND_TEST_SEED` repeats each agent's actions, but not their interleaving; `MILLPOND_TEST_STEPS` is
//! the number of steps per agent.

use millpond_core::queue::change::SeekTo;
use millpond_core::queue::{
    Action, Admit, Admitted, Claim, DeadFilter, Entry, Grant, LeasePart, Listing, Mode, Outcome, Queue,
    Settle, Unadmitted, Verdict, Want,
};
use millpond_core::{AgentId, Error, LeaseId, Offset, PartitionId};
use millpond_tests::postgres::Database;
use millpond_tests::queues::{plain, redrive, seek};
use millpond_tests::stage::{Home, PartKind, Stage, home};
use millpond_tests::world::PostgresWorld;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use uuid::Uuid;

const AGENTS: u64 = 6;
const STEPS: usize = 120;
const PARTITIONS: i32 = 3;
const RECORDS: u64 = 900;
/// Number of distinct keys in each partition.
const KEYS: i64 = 40;

/// Finds records that are in flight twice, or both in flight and waiting, and keys with two records in
/// flight.
const COUNT_CONTRADICTIONS: &str = "
    with leased as (select l.partition_id, o as record_offset from lease l, unnest(l.pending) r, generate_series(lower(r), upper(r) - 1) o),
    waits as (select w.partition_id, o as record_offset from waiting w, generate_series(w.lo, w.hi - 1) o),
    todo as (select * from leased union all select * from waits)
    select (select count(*) from (select from todo group by partition_id, record_offset having count(*) > 1) x)
        + (select count(*) from (
            select from todo t join admitted a on a.partition_id = t.partition_id and a.record_offset = t.record_offset
            group by a.partition_id, a.key_hash having count(*) > 1
        ) x)
        + (select count(*) from todo join dead using (partition_id, record_offset))";

type Record = (PartitionId, i64);

#[derive(Default)]
struct History {
    acked: BTreeMap<Record, usize>,
    failures: Vec<String>,
}

struct Storm {
    stage: Stage,
    database: Arc<Database>,
    queue: Queue,
    homes: Vec<Home>,
    seeks: bool,
    over: AtomicBool,
    history: Mutex<History>,
}

struct Agent<'a> {
    storm: &'a Storm,
    id: AgentId,
    rng: StdRng,
    held: Vec<LeasePart>,
}

impl Agent<'_> {
    fn failed<R: std::fmt::Debug>(&self, error: Error<R>) {
        self.storm.history.lock().failures.push(format!("{error:?}"));
    }

    fn uuid(&mut self) -> Uuid {
        Uuid::from_u128(self.rng.random())
    }

    async fn grant(&mut self) {
        let wants = (0..self.rng.random_range(1..4))
            .map(|_| Want {
                lease: LeaseId(self.uuid()),
                records: self.rng.random_range(1..20),
                lease_ms: self.rng.random_range(5..400),
            })
            .collect();
        let from = self.storm.homes[self.rng.random_range(0..self.storm.homes.len())].id;
        let grant = Grant {
            scope: self.storm.stage.scope.clone(),
            queue: self.storm.queue.id,
            agent: self.id,
            wants,
            from,
            from_key: self.rng.random_range(0..KEYS),
            random: self.rng.random(),
        };
        let plane = &self.storm.stage.plane;
        let twice = self.rng.random_bool(0.2);
        let granted = if twice {
            tokio::join!(plane.grant(&grant), plane.grant(&grant)).1
        } else {
            plane.grant(&grant).await
        };
        match granted {
            Ok(granted) => {
                self.held.extend(granted.parts);
                for unadmitted in granted.unadmitted {
                    self.admit(unadmitted).await;
                }
            }
            Err(error) => self.failed(error),
        }
    }

    async fn admit(&mut self, at: Unadmitted) {
        let record =
            |offset: i64| Admitted { offset: Offset(offset), key_hash: offset * 7 % KEYS, due_ms: None };
        let records = (at.from.0..at.end.0).map(record).collect();
        let (queue, agent) = (self.storm.queue.id, self.id);
        let admit = Admit {
            scope: self.storm.stage.scope.clone(),
            queue,
            agent,
            partition: at.partition,
            from: at.from,
            to: at.end,
            runs: Vec::new(),
            records,
        };
        if let Err(error) = self.storm.stage.plane.admit(&admit).await {
            self.failed(error);
        }
    }

    fn action(&mut self) -> Action {
        let counts = self.rng.random_bool(0.5);
        match self.rng.random_range(0..20) {
            0..=9 => Action::Ack,
            10..=13 => Action::Nack {
                delay_ms: self.rng.random_bool(0.7).then(|| self.rng.random_range(0..50)),
                counts,
                reason: None,
            },
            14..=16 => Action::Renew { lease_ms: self.rng.random_range(5..400) },
            17 => Action::Release,
            18 => Action::Expire,
            _ => Action::Reject { reason: Some("rejected".to_owned()) },
        }
    }

    /// Entries for some of the held records, each record in at most one entry; the rest may be left to the
    /// sweep. Held records that are kept are settled again, too late.
    fn entries(&mut self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut kept = Vec::new();
        for _ in 0..self.rng.random_range(1..4) {
            if self.held.is_empty() {
                break;
            }
            let part = self.held.swap_remove(self.rng.random_range(0..self.held.len()));
            let lease = part.lease;
            if self.held.iter().chain(&kept).all(|p| p.lease != lease) && self.rng.random_bool(0.3) {
                entries.push(Entry { lease, claim: Claim::Whole, action: self.action() });
                continue;
            }
            for range in &part.ranges {
                let cut = self.rng.random_range(range.start..=range.end);
                for (lo, hi) in [(range.start, cut), (cut, range.end)] {
                    if lo < hi && self.rng.random_bool(0.9) {
                        let claim = Claim::Run {
                            partition: part.partition,
                            attempt: part.attempt,
                            lo: Offset(lo),
                            hi: Offset(hi),
                        };
                        entries.push(Entry { lease, claim, action: self.action() });
                    }
                }
            }
            if self.rng.random_bool(0.3) {
                kept.push(part);
            }
        }
        self.held.extend(kept);
        entries
    }

    async fn settle(&mut self) {
        let entries = self.entries();
        let (op, random) = (self.uuid(), self.rng.random());
        let settle = Settle {
            scope: self.storm.stage.scope.clone(),
            queue: self.storm.queue.id,
            agent: self.id,
            op,
            keep: self.rng.random_bool(0.2),
            entries,
            random,
            leased: 0,
        };
        let plane = &self.storm.stage.plane;
        let settled = if self.rng.random_bool(0.2) {
            let (one, two) = tokio::join!(plane.settle(&settle), plane.settle(&settle));
            if let (Ok(one), Ok(two)) = (&one, &two) {
                assert!(one.verdicts == two.verdicts, "{settle:?}: {one:?}, {two:?}");
            }
            one
        } else {
            plane.settle(&settle).await
        };
        match settled {
            Ok(settled) => self.storm.note(&settled.verdicts),
            Err(error) => self.failed(error),
        }
    }

    async fn rare(&mut self) {
        let (plane, scope, queue) = (&self.storm.stage.plane, &self.storm.stage.scope, self.storm.queue.id);
        let outcome = match self.rng.random_range(0..8) {
            0 if self.storm.seeks => {
                let to = self
                    .storm
                    .homes
                    .iter()
                    .map(|home| (home.id, Offset(self.rng.random_range(0..900))))
                    .collect::<Vec<_>>();
                let some = self.rng.random_range(0..to.len());
                let to = SeekTo::Offsets(to[some..].to_vec());
                seek(&**plane, scope, queue, &to).await.map(|_| ()).map_err(|e| format!("{e:?}"))
            }
            1 => redrive(&**plane, scope, queue, &DeadFilter::All, Some(10_000.0))
                .await
                .map(|_| ())
                .map_err(|e| format!("{e:?}")),
            2 => {
                let pause = plane.pause_queue(scope, queue, true).await;
                let resume = plane.pause_queue(scope, queue, false).await;
                pause.and(resume).map_err(|e| format!("{e:?}"))
            }
            3 => plane.clamp(&[]).await.map(|_| ()).map_err(|e| format!("{e:?}")),
            4 => plane.forget(100).await.map(|_| ()).map_err(|e| format!("{e:?}")),
            _ => plane.expire(20, self.rng.random()).await.map(|_| ()).map_err(|e| format!("{e:?}")),
        };
        if let Err(error) = outcome {
            self.storm.history.lock().failures.push(error);
        }
    }

    async fn run(mut self, steps: usize) {
        for _ in 0..steps {
            match self.rng.random_range(0..10) {
                0..=3 => self.grant().await,
                4..=7 => self.settle().await,
                8 => self.rare().await,
                _ => self.held.truncate(1),
            }
        }
    }
}

impl Storm {
    async fn new(mode: Mode, seeks: bool, seed: u64) -> Arc<Self> {
        let world = PostgresWorld::new().await;
        let database = Arc::clone(&world.database);
        let stage = Stage::seeded(Box::new(world), seed);
        let topic = stage.topic("q", PARTITIONS).await;
        let homes: Vec<Home> = (0..PARTITIONS).map(|number| home(&topic, number)).collect();
        let mut change = plain(&topic);
        (change.mode, change.base_ms, change.max_failures) = (Some(mode), Some(5), Some(5));
        let queue = stage.put_queue("q", &change).await;
        for home in &homes {
            for part in (0..RECORDS).collect::<Vec<_>>().chunks(100) {
                stage.append(PartKind::Inline, *home, part).await;
            }
        }
        Arc::new(Self {
            stage,
            database,
            queue,
            homes,
            seeks,
            over: AtomicBool::new(false),
            history: Mutex::default(),
        })
    }

    /// Counts records that were settled for good, except dead ones.
    fn note(&self, verdicts: &[Verdict]) {
        let mut history = self.history.lock();
        for v in verdicts.iter().filter(|v| matches!(v.outcome, Outcome::Acked | Outcome::Expired)) {
            (v.lo.0..v.hi.0).for_each(|offset| *history.acked.entry((v.partition, offset)).or_default() += 1);
        }
    }

    /// Checks repeatedly, each time in one snapshot, that nothing is wrong.
    async fn watch(&self) {
        let mut connection = self.database.connect().await;
        while !self.over.load(Ordering::SeqCst) {
            let wrong: i64 =
                sqlx::query_scalar(COUNT_CONTRADICTIONS).fetch_one(&mut connection).await.expect("counted");
            assert_eq!(wrong, 0);
            let ledger = self.stage.plane.ledger(&self.stage.scope, self.queue.id).await.expect("a ledger");
            assert!(ledger.holds(), "{ledger:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Works until only dead records are left.
    async fn finish(&self) {
        let mut last = Agent {
            storm: self,
            id: AgentId(Uuid::from_u128(99)),
            rng: StdRng::seed_from_u64(99),
            held: Vec::new(),
        };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            self.stage.plane.expire(1_000, 0.5).await.expect("an answer");
            last.grant().await;
            let parts = std::mem::take(&mut last.held);
            let entries = parts.iter().map(|p| p.lease).collect::<std::collections::BTreeSet<_>>();
            let entries = entries
                .into_iter()
                .map(|lease| Entry { lease, claim: Claim::Whole, action: Action::Ack })
                .collect::<Vec<_>>();
            let settle =
                Settle { agent: last.id, op: last.uuid(), ..self.stage.settling(&self.queue, &entries) };
            let settled = self.stage.plane.settle(&settle).await.expect("an answer");
            self.note(&settled.verdicts);
            let counts = self.stage.counts(&self.queue).await;
            if counts.ready + counts.delayed + counts.retrying + counts.in_flight == 0 {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{counts:?}");
        }
    }
}

async fn storm(mode: Mode, seeks: bool) {
    let seed = std::env::var("MILLPOND_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1_u64);
    let steps = std::env::var("MILLPOND_TEST_STEPS").ok().and_then(|s| s.parse().ok()).unwrap_or(STEPS);
    println!("MILLPOND_TEST_SEED={seed} MILLPOND_TEST_STEPS={steps}");
    let storm = Storm::new(mode, seeks, seed).await;
    let watch = tokio::spawn({
        let storm = Arc::clone(&storm);
        async move { storm.watch().await }
    });
    let agents: Vec<_> = (0..AGENTS)
        .map(|n| {
            let storm = Arc::clone(&storm);
            tokio::spawn(async move {
                let (id, rng) =
                    (AgentId(Uuid::from_u128(u128::from(n) + 1)), StdRng::seed_from_u64(seed * 1_000 + n));
                Agent { storm: &storm, id, rng, held: Vec::new() }.run(steps).await;
            })
        })
        .collect();
    for agent in agents {
        agent.await.expect("an agent");
    }
    storm.finish().await;
    storm.over.store(true, Ordering::SeqCst);
    watch.await.expect("nothing wrong");
    let storm = Arc::into_inner(storm).expect("no task left");
    let history = storm.history.into_inner();
    assert!(
        history.failures.is_empty(),
        "{} failures, such as {}",
        history.failures.len(),
        history.failures[0]
    );
    let dead: Vec<Record> = {
        let page = storm
            .stage
            .plane
            .list_queue(&storm.stage.scope, storm.queue.id, Listing::Dead, None, 100_000)
            .await
            .expect("a list");
        page.iter().map(|l| (l.partition, l.offset.0)).collect()
    };
    println!("{} acked, {} dead", history.acked.len(), dead.len());
    if !seeks {
        assert!(history.acked.values().all(|times| *times == 1), "acked twice");
        assert!(dead.iter().all(|at| !history.acked.contains_key(at)), "acked and dead");
        let all = usize::try_from(RECORDS).expect("few") * storm.homes.len();
        assert_eq!(history.acked.len() + dead.len(), all);
    }
    storm.stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_storm_settles_every_record_once() {
    storm(Mode::Shared, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_storm_settles_every_record_once_key_by_key() {
    storm(Mode::Keyed, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_storm_with_seeks_leases_nothing_twice() {
    storm(Mode::Shared, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_storm_with_seeks_leases_no_key_twice() {
    storm(Mode::Keyed, true).await;
}
