//! Two queues over one topic, and their workers on all agents: some behave well, some badly, and some are
//! killed with records in hand.

use super::WORK;
use crate::nemesis::{Goal, Nemesis};
use crate::rig::Rig;
use millpond_tests::harness::client::Api;
use millpond_tests::harness::floor::Floor;
use millpond_tests::harness::workers::{Habits, Worker, crew, stop};
use millpond_tests::history::Op;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

pub const QUEUES: [&str; 2] = ["shared", "keyed"];
/// Topic into which each acked record is transformed, in the same request as its ack.
const DONE_TOPIC: &str = "done";
const LEASE_MS: i64 = 2_000;
const MAX_FAILURES: u32 = 4;
/// Time after the last fault within which all records must be acked or dead, in seconds.
const DRAIN_WAIT_MAX_S: u64 = 120;
const WORKERS: usize = 3;
/// Required number of leases for every kill that the goal asks for.
const LEASES_PER_KILL: u64 = 30;

/// True for records that no worker can process.
fn is_poison(record: &Value) -> bool {
    record["offset"].as_i64().is_some_and(|offset| offset % 97 == 5)
}

fn habits(queue: usize, delay_ms: Option<i64>) -> Habits {
    Habits {
        batch: 15,
        wait_ms: 300,
        lease_ms: LEASE_MS,
        work_ms: 0..300,
        nack: 60,
        delay_ms,
        put_back: 20,
        reject: 3,
        renew: 100,
        die: 20,
        late: 20,
        twice: 50,
        insist: 600,
        transform: 150,
        into: DONE_TOPIC,
        forge: 10,
        other: Some(QUEUES[1 - queue]),
        poison: is_poison,
        ..Habits::default()
    }
}

/// All workers of a run.
pub struct Shift {
    floor: Arc<Floor>,
    workers: Arc<Mutex<Vec<(usize, Worker)>>>,
    turnover: JoinHandle<()>,
}

impl Shift {
    /// Creates the queues, on an agent without faults yet, and starts the workers.
    pub async fn start(rig: &Rig, seed: u64) -> Self {
        let apis: Vec<Api> = rig
            .agents
            .iter()
            .map(|agent| Api::hasty(agent.front.address(), Duration::from_secs(5)))
            .collect();
        let floor = Floor::over(apis.clone());
        apis[0].topic(DONE_TOPIC, 2).await;
        let retry = json!({"base_ms": 50, "cap_ms": 400, "max_failures": MAX_FAILURES});
        let mut workers = Vec::new();
        for (n, queue) in QUEUES.into_iter().enumerate() {
            floor
                .make(
                    &apis[0],
                    queue,
                    json!({"topic": WORK.name, "mode": queue, "lease_ms": LEASE_MS, "retry": retry}),
                )
                .await;
            for (delay_ms, seed) in [(None, seed ^ 0x100), (Some(150), seed ^ 0x200)] {
                let hired = crew(&apis, &floor, queue, &habits(n, delay_ms), WORKERS, seed);
                workers.extend(hired.into_iter().map(|worker| (n, worker)));
            }
        }
        let workers = Arc::new(Mutex::new(workers));
        let turnover = tokio::spawn(turn_over(
            apis,
            Arc::clone(&floor),
            Arc::clone(&workers),
            StdRng::seed_from_u64(seed),
        ));
        Self { floor, workers, turnover }
    }

    /// Waits, after all faults and producers have ended, until the queues are drained.
    pub async fn end(&self, rig: &Rig) {
        let api = Api::hasty(rig.agents[0].front.address(), Duration::from_secs(20));
        for queue in QUEUES {
            self.floor.drained(&api, queue, DRAIN_WAIT_MAX_S).await;
        }
        self.turnover.abort();
        let workers = std::mem::take(&mut *self.workers.lock());
        stop(workers.into_iter().map(|(_, worker)| worker).collect()).await;
    }

    /// Records the final state.
    pub async fn read(&self, rig: &Rig) {
        let api = Api::hasty(rig.agents[0].front.address(), Duration::from_secs(20));
        self.floor.read(&api, WORK.name).await;
        let log = api.topic_log(WORK.name).await;
        let poison = log.iter().filter(|record| is_poison(record)).count();
        assert!(poison > 0, "only {} records", log.len());
        for queue in QUEUES {
            let rest = self.floor.rest(&api, queue).await;
            let dead = &rest.dead_listed;
            assert_eq!(
                dead.iter().filter(|dead| dead.offset % 97 == 5).count(),
                poison,
                "{queue}: poison is dead: {dead:?}"
            );
            let unfit = |reason: &Option<Box<str>>| reason.as_deref() == Some("unfit");
            assert!(
                dead.iter().all(|dead| dead.failures == MAX_FAILURES || unfit(&dead.reason)),
                "{queue}: {dead:?}"
            );
            println!("{queue}: {} records, {poison} of them poison, {} dead", log.len(), dead.len());
        }
        let done: Vec<String> =
            api.topic_log(DONE_TOPIC).await.iter().map(|record| record["value"].to_string()).collect();
        let distinct: BTreeSet<&String> = done.iter().collect();
        assert_eq!(done.len(), distinct.len(), "what was acked with a commit was done once");
        println!("{} records acked with a commit", done.len());
    }

    /// Checks the history, and that enough leases, outcomes and kills occurred.
    pub fn check(&self, nemesis: &Nemesis, goal: Goal) {
        let tally = self.floor.tally();
        println!(
            "queues: {} operations, {tally:?}, {} kills with leases",
            self.floor.history().ops.len(),
            nemesis.kills_with_leases
        );
        let history = self.floor.history();
        for violation in self.floor.violations() {
            let near = |op: &&Op| {
                violation
                    .ops
                    .iter()
                    .any(|id| id.client == op.id.client && id.number.abs_diff(op.id.number) <= 2)
            };
            history.ops.iter().filter(near).for_each(|op| println!("    {op:?}"));
        }
        self.floor.check();
        let kills = goal.agent_kills + goal.postgres_kills;
        let least = usize::try_from(LEASES_PER_KILL * kills).expect("a number");
        assert!(
            tally.get("leases").is_some_and(|leases| *leases >= least),
            "fewer than {least} leases: {tally:?}"
        );
        for told in ["acked", "released", "dead", "renewed", "lost", "unknown"] {
            assert!(tally.contains_key(told), "nothing was {told}: {tally:?}");
        }
        assert!(
            nemesis.kills_with_leases * 2 >= kills,
            "{} of {kills} kills hit leases",
            nemesis.kills_with_leases
        );
    }
}

/// Every few seconds kills a random worker and starts another on a random agent.
async fn turn_over(
    apis: Vec<Api>,
    floor: Arc<Floor>,
    workers: Arc<Mutex<Vec<(usize, Worker)>>>,
    mut rng: StdRng,
) {
    loop {
        tokio::time::sleep(Duration::from_millis(rng.random_range(500..3_000))).await;
        let killed = {
            let mut workers = workers.lock();
            let nth = rng.random_range(0..workers.len());
            let (queue, killed) = workers.swap_remove(nth);
            let api = &apis[rng.random_range(0..apis.len())];
            let delay_ms = rng.random_bool(0.5).then_some(150);
            workers.push((
                queue,
                Worker::start(api, &floor, QUEUES[queue], habits(queue, delay_ms), rng.random()),
            ));
            killed
        };
        killed.kill().await;
    }
}
