//! Queue workers, well and badly behaved: they lease, work, hold records, give them back, settle late or
//! twice, or die with records in hand. All calls and answers are recorded in a [`Floor`]'s history.

use std::sync::Arc;
use std::time::Duration;

use crate::history::{Intent, Status};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::client::Api;
use super::floor::{Floor, Pen};
use super::wait::within;
use super::wire::{Claim, Taken};

const IDLE_PAUSE: Duration = Duration::from_millis(20);

/// Behaviour of a worker. Probabilities are in thousandths: of records, or, where a field says so, of leases.
#[derive(Debug, Clone)]
pub struct Habits {
    pub batch: usize,
    pub wait_ms: u64,
    pub lease_ms: i64,
    /// Range of the time that a worker spends on a lease.
    pub work_ms: std::ops::Range<u64>,
    pub nack: u32,
    /// Delay of a nack; `None`: the queue's retry policy decides.
    pub delay_ms: Option<i64>,
    /// Nacked without counting a failure.
    pub put_back: u32,
    pub reject: u32,
    /// Probability that a lease is renewed before the work begins.
    pub renew: u32,
    /// Probability that a lease whose records are all acked is acked as a whole.
    pub whole: u32,
    /// Probability that a worker dies with the lease in hand; another worker takes its place.
    pub die: u32,
    /// Probability that a lease is held beyond its deadline and then settled.
    pub late: u32,
    /// Probability that a lease is settled twice.
    pub twice: u32,
    /// Probability that a lease is settled with a request id, until the outcome is known.
    pub insist: u32,
    /// Probability that the acked records of a lease are acked together with one new record each in the topic
    /// `into`, whose value is `{"queue", "partition", "offset"}`.
    pub transform: u32,
    pub into: &'static str,
    /// Probability that a worker first settles an invented receipt, and the lease's receipts in the queue
    /// `other`.
    pub forge: u32,
    pub other: Option<&'static str>,
    /// True for records that always fail.
    pub poison: fn(&Value) -> bool,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            batch: 20,
            wait_ms: 200,
            lease_ms: 2_000,
            work_ms: 0..5,
            nack: 30,
            delay_ms: None,
            put_back: 5,
            reject: 0,
            renew: 50,
            whole: 300,
            die: 10,
            late: 0,
            twice: 20,
            insist: 500,
            transform: 0,
            into: "transformed",
            forge: 20,
            other: None,
            poison: |_| false,
        }
    }
}

/// A worker of one queue, as a task.
pub struct Worker {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// Starts workers of one queue, distributed over the agents in turn.
pub fn crew(
    apis: &[Api],
    floor: &Arc<Floor>,
    queue: &str,
    habits: &Habits,
    workers: usize,
    seed: u64,
) -> Vec<Worker> {
    let apis = apis.iter().cycle();
    (0..)
        .zip(apis)
        .take(workers)
        .map(|(n, api)| Worker::start(api, floor, queue, habits.clone(), seed + n))
        .collect()
}

/// Stops workers once each has settled its current lease.
pub async fn stop(workers: Vec<Worker>) {
    for worker in &workers {
        worker.stop.send_replace(true);
    }
    for worker in workers {
        within(60, "a worker to end", worker.task).await.expect("nothing was wrong");
    }
}

impl Worker {
    pub fn start(api: &Api, floor: &Arc<Floor>, queue: &str, habits: Habits, seed: u64) -> Self {
        let (stop, stopped) = watch::channel(false);
        let task = Task {
            api: api.clone(),
            floor: Arc::clone(floor),
            queue: queue.to_owned(),
            habits,
            rng: StdRng::seed_from_u64(seed),
            stopped,
        };
        Self { stop, task: tokio::spawn(task.run()) }
    }

    /// Aborts the worker, as a SIGKILL would: calls under way are never answered, its lease is never settled.
    pub async fn kill(self) {
        self.task.abort();
        if let Err(end) = self.task.await {
            assert!(end.is_cancelled(), "a worker had panicked: {end}");
        }
    }
}

struct Task {
    api: Api,
    floor: Arc<Floor>,
    queue: String,
    habits: Habits,
    rng: StdRng,
    stopped: watch::Receiver<bool>,
}

impl Task {
    async fn run(mut self) {
        let mut pen = self.floor.pen();
        while !*self.stopped.borrow() {
            let request = self.by_chance(self.habits.insist).then(|| self.name());
            let body = json!({"max_records": self.habits.batch, "wait_ms": self.habits.wait_ms, "lease_ms": self.habits.lease_ms, "request_id": request});
            let Some(taken) = pen.lease(&self.api, &self.queue, &body).await else {
                sleep(IDLE_PAUSE).await;
                continue;
            };
            if self.by_chance(self.habits.die) {
                pen = self.floor.pen();
                continue;
            }
            self.work(&pen, &taken).await;
        }
    }

    fn by_chance(&mut self, share: u32) -> bool {
        self.rng.random_range(0..1_000) < share
    }

    fn name(&mut self) -> String {
        format!("{:032x}", self.rng.random::<u128>())
    }

    async fn work(&mut self, pen: &Pen, taken: &Taken) {
        let lease_ms = self.habits.lease_ms;
        if self.by_chance(self.habits.renew) {
            let whole = self.rng.random();
            let renewed = self.each(taken, whole, &Intent::Renew { lease_ms });
            pen.settle(&self.api, &self.queue, None, &renewed).await;
        }
        let ms = self.rng.random_range(self.habits.work_ms.clone());
        sleep(Duration::from_millis(ms)).await;
        if self.by_chance(self.habits.late) {
            sleep(Duration::from_millis(u64::try_from(lease_ms).expect("a duration") + 200)).await;
        }
        if self.by_chance(self.habits.forge) {
            self.forge(pen, taken).await;
        }
        let mut entries = self.decide(taken);
        if self.by_chance(self.habits.transform) {
            entries = self.transform(pen, taken, entries).await;
        }
        if entries.is_empty() {
            return;
        }
        if entries.iter().all(|(_, intent)| *intent == Intent::Ack) && self.by_chance(self.habits.whole) {
            entries = self.each(taken, true, &Intent::Ack);
        }
        let request = self.by_chance(self.habits.insist).then(|| self.name());
        let told = pen.settle(&self.api, &self.queue, request.as_deref(), &entries).await;
        if told.is_some() && self.by_chance(self.habits.twice) {
            let again = pen.settle(&self.api, &self.queue, None, &entries).await;
            let is_lost =
                |verdicts: Vec<crate::history::Verdict>| verdicts.iter().all(|v| v.status == Status::Lost);
            assert!(again.is_none_or(is_lost), "settled twice: {entries:?}");
        }
    }

    /// Settles an invented receipt, and this queue's receipts in another queue. The history's check verifies
    /// that neither has an effect.
    async fn forge(&mut self, pen: &Pen, taken: &Taken) {
        let mut forged = text_of(&taken.records[0]).into_bytes();
        let place = self.rng.random_range(4..forged.len());
        forged[place] = if forged[place] == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(forged).expect("ASCII");
        pen.settle(&self.api, &self.queue, None, &[(Claim::Receipt(forged), Intent::Ack)]).await;
        if let Some(other) = self.habits.other {
            let reason = Some("another's".into());
            pen.settle(&self.api, other, None, &self.each(taken, false, &Intent::Reject { reason })).await;
            pen.settle(&self.api, other, None, &self.each(taken, true, &Intent::Ack)).await;
        }
    }

    /// Acks records together with new ones in one commit; returns the entries that remain to be settled.
    async fn transform(
        &mut self,
        pen: &Pen,
        taken: &Taken,
        entries: Vec<(Claim, Intent)>,
    ) -> Vec<(Claim, Intent)> {
        let is_acked = |n: &usize| entries[*n].1 == Intent::Ack;
        let acked: Vec<&Value> = (0..entries.len()).filter(is_acked).map(|n| &taken.records[n]).collect();
        if !acked.is_empty() {
            let made = |r: &&Value| json!({"value": {"queue": self.queue, "partition": r["partition"], "offset": r["offset"]}});
            let topics = json!({ self.habits.into: acked.iter().map(made).collect::<Vec<_>>() });
            let receipts: Vec<String> = acked.iter().map(|record| text_of(record)).collect();
            pen.ack_with(&self.api, &topics, &receipts).await;
        }
        entries.into_iter().filter(|(_, intent)| *intent != Intent::Ack).collect()
    }

    fn each(&self, taken: &Taken, whole: bool, intent: &Intent) -> Vec<(Claim, Intent)> {
        if whole {
            return vec![(Claim::Lease(taken.lease.clone()), intent.clone())];
        }
        taken.records.iter().map(|record| (receipt(record), intent.clone())).collect()
    }

    fn decide(&mut self, taken: &Taken) -> Vec<(Claim, Intent)> {
        taken.records.iter().map(|record| (receipt(record), self.decide_one(record))).collect()
    }

    fn decide_one(&mut self, record: &Value) -> Intent {
        let Habits { nack, put_back, reject, delay_ms, .. } = self.habits;
        let random = self.rng.random_range(0..1_000);
        if (self.habits.poison)(record) {
            return Intent::Nack { counts: true, delay_ms: None, reason: Some("poison".into()) };
        }
        if random < nack {
            return Intent::Nack { counts: true, delay_ms, reason: Some("by chance".into()) };
        }
        if random < nack + put_back {
            return Intent::Nack { counts: false, delay_ms, reason: None };
        }
        if random < nack + put_back + reject {
            return Intent::Reject { reason: Some("unfit".into()) };
        }
        Intent::Ack
    }
}

fn text_of(record: &Value) -> String {
    record["receipt"].as_str().unwrap_or_else(|| panic!("no receipt in {record}")).to_owned()
}

fn receipt(record: &Value) -> Claim {
    Claim::Receipt(text_of(record))
}
