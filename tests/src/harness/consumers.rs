//! Members of consumer groups that work as applications do: they poll, process, commit, and rejoin when their
//! session is over. One ledger per group records what all its members received, and fails as soon as an
//! invariant is broken.
//!
//! Checked at once: within a generation a member reads without a gap, and a partition has one owner; no
//! answer and no description shows that a committed offset went back; commits of a fenced member are refused.
//! Checked at the end: every record was delivered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::client::{Answer, Api, list, try_send};
use super::member::{Member, place};
use super::wait::{until, within};

const RETRY_PAUSE: Duration = Duration::from_millis(50);

pub type Partition = (String, i64);

/// Record of what all members of one group received and were told.
#[derive(Default)]
pub struct Ledger {
    group: String,
    topics: Vec<String>,
    session_ms: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    delivered: BTreeSet<(String, i64, i64)>,
    /// Number of repeated deliveries.
    again: usize,
    /// Greatest committed offset that any member was told.
    committed: BTreeMap<Partition, i64>,
    /// Owner of each partition in each generation, as members were told.
    owners: BTreeMap<(i64, Partition), String>,
    /// Number of refused commits, by member.
    fenced: BTreeMap<String, usize>,
}

/// Instruction to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Work,
    /// Wait with uncommitted records until the next order, then commit them and go on.
    Stall,
    /// End without leaving the group, as a crash would.
    Die,
    Leave,
}

/// A member of a group as a task: polls, enters what it gets in the ledger, commits.
pub struct Worker {
    order: watch::Sender<Order>,
    /// True while the worker waits with uncommitted records.
    stalled: watch::Receiver<bool>,
    id: watch::Receiver<String>,
    task: JoinHandle<()>,
}

impl Ledger {
    pub fn new(group: &str, topics: &[&str], session_ms: u64) -> Arc<Self> {
        let topics = topics.iter().map(|t| (*t).to_owned()).collect();
        Arc::new(Self { group: group.to_owned(), topics, session_ms, state: Mutex::default() })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no check failed before")
    }

    /// Checks that no other member was told to own these partitions in that generation.
    fn saw_assignment(&self, member: &Member) {
        let mut state = self.state();
        for partition in &member.assigned {
            let owner = state
                .owners
                .entry((member.generation, partition.clone()))
                .or_insert_with(|| member.id.clone());
            assert_eq!(
                *owner, member.id,
                "{partition:?} of {} in generation {} has two owners",
                self.group, member.generation
            );
        }
    }

    fn saw_committed(&self, partition: &Partition, offset: i64) {
        let mut state = self.state();
        let known = state.committed.entry(partition.clone()).or_insert(offset);
        *known = offset.max(*known);
    }

    fn deliver(&self, record: &Value) {
        let mut state = self.state();
        if !state.delivered.insert(place(record)) {
            state.again += 1;
        }
    }

    pub fn delivered(&self) -> usize {
        self.state().delivered.len()
    }

    /// Number of commits of a member that were refused.
    pub fn fenced(&self, member: &str) -> usize {
        self.state().fenced.get(member).copied().unwrap_or(0)
    }

    /// Number of repeated deliveries.
    pub fn again(&self) -> usize {
        self.state().again
    }

    pub async fn describe(&self, api: &Api) -> Option<Value> {
        let answer = try_send(api.request(Method::GET, &format!("/v1/groups/{}", self.group))).await.ok()?;
        (answer.status == 200).then(|| answer.json())
    }

    /// Polls the group until stopped, and fails if a committed offset goes back.
    pub fn watch(self: &Arc<Self>, api: &Api) -> JoinHandle<()> {
        let (ledger, api) = (Arc::clone(self), api.clone());
        tokio::spawn(async move {
            let mut seen: BTreeMap<Partition, i64> = BTreeMap::new();
            loop {
                let described = ledger.describe(&api).await.unwrap_or_else(|| json!({"partitions": []}));
                for row in list(&described, "partitions") {
                    let partition = (
                        row["topic"].as_str().expect("a name").to_owned(),
                        row["partition"].as_i64().expect("a number"),
                    );
                    if let Some(offset) = row["committed_offset"].as_i64() {
                        let known = seen.entry(partition.clone()).or_insert(offset);
                        assert!(offset >= *known, "{partition:?} went back from {known} to {offset}");
                        *known = offset;
                    }
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        })
    }

    /// Waits until `members` members share all partitions as evenly as possible; returns each partition's
    /// owner.
    pub async fn settled(&self, api: &Api, members: usize) -> BTreeMap<Partition, String> {
        until(60, &format!("{members} members of {} to share", self.group), || async {
            let described = self.describe(api).await?;
            let mut owners = BTreeMap::new();
            let mut shares = Vec::new();
            for member in list(&described, "members") {
                let own = super::member::assigned(member);
                shares.push(own.len());
                owners.extend(
                    own.into_iter().map(|p| (p, member["member_id"].as_str().expect("an id").to_owned())),
                );
            }
            let even = shares.iter().max()? - shares.iter().min()? <= 1;
            // The partitions of a dead member have no owner until the next generation.
            let all = list(&described, "partitions").iter().all(|row| !row["member_id"].is_null());
            (shares.len() == members && even && all && owners.len() == list(&described, "partitions").len())
                .then_some(owners)
        })
        .await
    }

    /// Checks that every record of the topics was delivered, and that every acknowledged commit still holds.
    pub async fn check(&self, api: &Api) {
        let described = self.describe(api).await.expect("a group");
        for (partition, offset) in &self.state().committed {
            let is_it =
                |row: &&Value| row["topic"] == json!(partition.0) && row["partition"] == json!(partition.1);
            let committed = list(&described, "partitions")
                .iter()
                .find(is_it)
                .and_then(|row| row["committed_offset"].as_i64());
            assert!(
                committed >= Some(*offset),
                "{partition:?} of {}: {committed:?} after {offset}",
                self.group
            );
        }
        for topic in &self.topics {
            let log: BTreeSet<_> = api.topic_log(topic).await.iter().map(place).collect();
            let state = self.state();
            let missing: Vec<_> = log.difference(&state.delivered).take(5).collect();
            assert!(missing.is_empty(), "{} never got {missing:?} of {} records", self.group, log.len());
            let strange: Vec<_> = state
                .delivered
                .iter()
                .filter(|(t, _, _)| t == topic)
                .filter(|r| !log.contains(*r))
                .take(5)
                .collect();
            assert!(strange.is_empty(), "{} got {strange:?}", self.group);
        }
    }

    /// Waits until `records` records were delivered and every partition is committed up to its end.
    pub async fn caught_up(&self, api: &Api, records: usize) {
        until(90, &format!("{} to catch up", self.group), || async {
            let described = self.describe(api).await?;
            let left: i64 = list(&described, "partitions")
                .iter()
                .map(|row| row["lag"].as_i64().or(row["high_watermark"].as_i64()).unwrap_or(1))
                .sum();
            (left == 0 && self.delivered() >= records).then_some(())
        })
        .await;
    }
}

/// Partitions of `before` that have another owner, or none, in `after`.
pub fn moved(
    before: &BTreeMap<Partition, String>,
    after: &BTreeMap<Partition, String>,
) -> BTreeSet<Partition> {
    before
        .iter()
        .filter(|(partition, owner)| after.get(*partition) != Some(owner))
        .map(|(partition, _)| partition.clone())
        .collect()
}

impl Worker {
    pub fn start(api: &Api, ledger: &Arc<Ledger>) -> Self {
        let (order, orders) = watch::channel(Order::Work);
        let (stalls, stalled) = watch::channel(false);
        let (ids, id) = watch::channel(String::new());
        let task = Task { api: api.clone(), ledger: Arc::clone(ledger), orders, stalls, ids };
        Self { order, stalled, id, task: tokio::spawn(task.run()) }
    }

    pub fn id(&self) -> String {
        self.id.borrow().clone()
    }

    /// Waits until the worker holds records that it has not committed.
    pub async fn stall(&mut self) {
        self.order.send_replace(Order::Stall);
        within(60, "a worker to hold records", self.stalled.wait_for(|stalled| *stalled))
            .await
            .expect("it works");
    }

    pub fn go_on(&self) {
        self.order.send_replace(Order::Work);
    }

    /// Ends the worker; panics if it found a broken invariant.
    pub async fn end(self, order: Order) {
        self.order.send_replace(order);
        within(60, "a worker to end", self.task).await.expect("nothing was wrong");
    }
}

struct Task {
    api: Api,
    ledger: Arc<Ledger>,
    orders: watch::Receiver<Order>,
    stalls: watch::Sender<bool>,
    ids: watch::Sender<String>,
}

impl Task {
    async fn run(mut self) {
        let mut member: Option<Member> = None;
        loop {
            let order = *self.orders.borrow();
            match (order, &member) {
                (Order::Die, _) | (Order::Leave, None) => return,
                (Order::Leave, Some(joined)) => {
                    let left = try_send(self.api.request(Method::DELETE, &joined.path())).await;
                    if left.is_ok_and(|answer| answer.status < 500) {
                        return;
                    }
                }
                (_, None) => member = self.join().await,
                (_, Some(_)) => {
                    let lives = match &mut member {
                        Some(joined) => self.work(joined).await,
                        None => false,
                    };
                    if !lives {
                        member = None;
                    }
                }
            }
        }
    }

    async fn join(&self) -> Option<Member> {
        let body = json!({"topics": self.ledger.topics, "session_ms": self.ledger.session_ms});
        let path = format!("/v1/groups/{}/members", self.ledger.group);
        let joined = try_send(self.api.request(Method::POST, &path).json(&body)).await;
        let Some(answer) = joined.ok().filter(|answer| answer.status == 200).map(|answer| answer.json())
        else {
            tokio::time::sleep(RETRY_PAUSE).await;
            return None;
        };
        let member = Member {
            group: self.ledger.group.clone(),
            id: answer["member_id"].as_str().expect("an id").to_owned(),
            generation: answer["generation"].as_i64().expect("a generation"),
            assigned: super::member::assigned(&answer),
            after: None,
        };
        self.ledger.saw_assignment(&member);
        self.ids.send_replace(member.id.clone());
        Some(member)
    }

    /// Polls once, then processes and commits; false when the session is over.
    async fn work(&mut self, member: &mut Member) -> bool {
        let answer = match member.try_poll(&self.api, json!({"wait_ms": 500, "max_records": 50})).await {
            Ok(answer) if answer.status == 200 => answer.json(),
            Ok(answer) if answer.status == 404 => {
                answer.problem(404, "member_not_found");
                return false;
            }
            other => {
                self.failed(&other);
                tokio::time::sleep(RETRY_PAUSE).await;
                return true;
            }
        };
        let before = (member.generation, member.assigned.clone());
        let held = member.after.is_some();
        let records = member.take(&answer);
        self.ledger.saw_assignment(member);
        if before.0 == member.generation && held {
            assert_eq!(before.1, member.assigned, "an assignment belongs to its generation");
        }
        let next = next_of(&records);
        records.iter().for_each(|record| self.ledger.deliver(record));
        if next.is_empty() {
            return true;
        }
        let stalls = *self.orders.borrow() == Order::Stall;
        if stalls {
            self.stalls.send_replace(true);
            self.orders.wait_for(|order| *order != Order::Stall).await.ok();
            self.stalls.send_replace(false);
        }
        self.commit(member, &next).await
    }

    /// Repeats a commit until its outcome is known; false when the session is over.
    async fn commit(&self, member: &Member, next: &BTreeMap<Partition, i64>) -> bool {
        let offsets: Vec<(&str, i64, i64)> =
            next.iter().map(|((topic, partition), offset)| (topic.as_str(), *partition, *offset)).collect();
        let path = format!("/v1/groups/{}/offsets", member.group);
        loop {
            let answer =
                try_send(self.api.request(Method::POST, &path).json(&member.offsets(&offsets))).await;
            match answer {
                Ok(answer) if answer.status == 200 => {
                    for row in list(&answer.json(), "offsets") {
                        let partition = (
                            row["topic"].as_str().expect("a name").to_owned(),
                            row["partition"].as_i64().expect("a number"),
                        );
                        let committed = row["offset"].as_i64().expect("an offset");
                        assert!(
                            committed >= next[&partition],
                            "{partition:?}: {committed} is less than was committed"
                        );
                        self.ledger.saw_committed(&partition, committed);
                    }
                    return true;
                }
                Ok(answer) if answer.status == 409 => {
                    answer.problem(409, "generation_fenced");
                    *self.ledger.state().fenced.entry(member.id.clone()).or_default() += 1;
                    return true;
                }
                other => {
                    self.failed(&other);
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// Panics unless the failure is a lost connection, 429 or 5xx.
    fn failed(&self, outcome: &Result<Answer, reqwest::Error>) {
        if let Ok(answer) = outcome {
            assert!(matches!(answer.status, 429 | 500..), "{answer:?}");
        }
    }
}

/// Next offset of each partition. Panics if the records of a partition have a gap.
fn next_of(records: &[Value]) -> BTreeMap<Partition, i64> {
    let mut next: BTreeMap<Partition, i64> = BTreeMap::new();
    for (topic, partition, offset) in records.iter().map(place) {
        let following = next.entry((topic, partition)).or_insert(offset);
        assert_eq!(*following, offset, "an answer has a gap in partition {partition}");
        *following = offset + 1;
    }
    next
}
