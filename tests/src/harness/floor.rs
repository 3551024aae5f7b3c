//! Recorder of what queue workers ask and are told, so that the whole history can be checked in the end.
//!
//! A call that was answered with 5xx, or not at all, may have had an effect: it is recorded as unknown. 429
//! and 404 mean that it had none. Any other failure fails the test.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use crate::history::{
    Call, Entry, History, Intent, Lease, Log, OpId, Outcome, QueueAnswer, QueueCall, QueueOptions,
    ReadAnswer, Recorder, Rest, Seen, Settle, Shelf, Status, Verdict, Violation, check_queues,
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::client::{Api, list, try_send};
use super::wait::until;
use super::wire::{
    Claim, Taken, cursors, dead_of, entry, leased, number, refused, seen, settlement, spec, taken, verdicts,
    which,
};

const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Recorder that keeps all workers' calls to queues, and their answers, as one history.
pub struct Floor {
    start: Instant,
    shelf: Shelf,
    clients: AtomicU32,
    own: Recorder,
    /// Addresses for repeated calls, in turn; if empty, a call is repeated where it was sent first.
    others: Vec<Api>,
}

/// Recorder of one worker's calls, which may overlap.
pub struct Pen {
    floor: Arc<Floor>,
    recorder: Recorder,
}

/// Outcome of a call: its answer, certainly no effect, or unknown.
pub enum Reply {
    Told(Value),
    Refused,
    Unknown,
}

impl Reply {
    fn outcome(&self, told: impl Fn(&Value) -> QueueAnswer) -> Outcome {
        match self {
            Self::Told(body) => Outcome::Queue(told(body)),
            Self::Refused => Outcome::Fail { current: None },
            Self::Unknown => Outcome::Info,
        }
    }
}

pub async fn ask(api: &Api, method: Method, path: &str, body: Option<&Value>) -> Reply {
    let request = api.request(method, path);
    match try_send(body.into_iter().fold(request, |request, body| request.json(body))).await {
        Ok(answer) if matches!(answer.status, 200 | 201) => Reply::Told(answer.json()),
        Ok(answer) if matches!(answer.status, 404 | 429) => Reply::Refused,
        Ok(answer) if answer.status < 500 => panic!("{path}: {answer:?}"),
        _ => Reply::Unknown,
    }
}

impl Floor {
    pub fn new() -> Arc<Self> {
        Self::over(Vec::new())
    }

    /// A recorder that sends repeated calls to these addresses in turn.
    pub fn over(others: Vec<Api>) -> Arc<Self> {
        let shelf = Shelf::memory();
        let own = shelf.client(0).expect("the first");
        Arc::new(Self { start: Instant::now(), shelf, clients: AtomicU32::new(1), own, others })
    }

    fn at(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).expect("less than centuries")
    }

    pub fn pen(self: &Arc<Self>) -> Pen {
        let number = self.clients.fetch_add(1, Ordering::SeqCst);
        Pen { floor: Arc::clone(self), recorder: self.shelf.client(number).expect("a new one") }
    }

    async fn record(
        &self,
        call: QueueCall,
        reply: impl Future<Output = Reply>,
        told: impl Fn(&Value) -> QueueAnswer,
    ) -> Reply {
        let op = self.own.invoke(self.at(), Call::Queue(call));
        let reply = reply.await;
        self.own.returned(self.at(), op, reply.outcome(told));
        reply
    }

    /// Creates or changes a queue.
    pub async fn make(&self, api: &Api, queue: &str, body: Value) {
        // The answer tells the queue's settings, so the call is recorded afterwards, with the time before it
        // was sent.
        let at = self.at();
        let Reply::Told(made) = ask(api, Method::PUT, &format!("/v1/queues/{queue}"), Some(&body)).await
        else {
            panic!("{queue} was not made")
        };
        let op = self.own.invoke(at, Call::Queue(QueueCall::Make(spec(queue, &made))));
        self.own.returned(self.at(), op, Outcome::Queue(QueueAnswer::Done));
    }

    /// Moves the cursors of all partitions; `to` as in the API.
    pub async fn seek(&self, api: &Api, queue: &str, to: Value) -> Reply {
        let path = format!("/v1/queues/{queue}/seek");
        let body = json!({ "to": to });
        let reply = ask(api, Method::POST, &path, Some(&body));
        self.record(QueueCall::Seek { queue: queue.to_owned(), partitions: None }, reply, cursors).await
    }

    /// Purges the queue. Its cursors are not recorded: the checker does not learn which records were dropped.
    pub async fn purge(&self, api: &Api, queue: &str) -> Reply {
        let path = format!("/v1/queues/{queue}/purge");
        let reply = ask(api, Method::POST, &path, None);
        self.record(QueueCall::Purge { queue: queue.to_owned() }, reply, |_| QueueAnswer::Done).await
    }

    pub async fn redrive(&self, api: &Api, queue: &str, body: Value) -> Reply {
        let path = format!("/v1/queues/{queue}/dead/redrive");
        let reply = ask(api, Method::POST, &path, Some(&body));
        self.record(QueueCall::Redrive { queue: queue.to_owned(), which: which(&body) }, reply, |_| {
            QueueAnswer::Done
        })
        .await
    }

    pub async fn purge_dead(&self, api: &Api, queue: &str, body: Value) -> Reply {
        let path = format!("/v1/queues/{queue}/dead/purge");
        let reply = ask(api, Method::POST, &path, Some(&body));
        self.record(QueueCall::PurgeDead { queue: queue.to_owned(), which: which(&body) }, reply, |_| {
            QueueAnswer::Done
        })
        .await
    }

    fn elsewhere(&self, api: &Api) -> Api {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let nth = NEXT.fetch_add(1, Ordering::Relaxed) % self.others.len().max(1);
        self.others.get(nth).unwrap_or(api).clone()
    }

    /// Waits until the queue has no record that is ready, delayed, retrying or in flight.
    pub async fn drained(&self, api: &Api, queue: &str, seconds: u64) {
        until(seconds, &format!("{queue} to be drained"), || async {
            let Reply::Told(told) = ask(api, Method::GET, &format!("/v1/queues/{queue}"), None).await else {
                return None;
            };
            let left: i64 = ["ready", "delayed", "retrying", "in_flight"]
                .iter()
                .map(|name| number(&told, name).abs())
                .sum();
            (left == 0).then_some(())
        })
        .await;
    }

    /// Records the final content of all partitions of a topic.
    pub async fn read(&self, api: &Api, topic: &str) {
        let description = api.get(&format!("/v1/topics/{topic}")).await.ok();
        for partition in 0..i32::try_from(list(&description, "partitions").len()).expect("few") {
            let op = self.own.invoke(self.at(), Call::Final(Log::new(topic, partition)));
            let records: Vec<(i64, Seen)> =
                api.log(topic, partition).await.iter().map(|r| (number(r, "offset"), seen(r))).collect();
            let answer =
                ReadAnswer { log_start: Some(0), high_watermark: i64::try_from(records.len()).ok(), records };
            self.own.returned(self.at(), op, Outcome::Records(answer));
        }
    }

    /// Records and returns the final state of a queue.
    pub async fn rest(&self, api: &Api, queue: &str) -> Rest {
        let op = self.own.invoke(self.at(), Call::Queue(QueueCall::Rest { queue: queue.to_owned() }));
        let told = api.get(&format!("/v1/queues/{queue}")).await.ok();
        let dead = listed(api, queue, "dead").await;
        let rest = Rest {
            ready: number(&told, "ready"),
            delayed: number(&told, "delayed"),
            retrying: number(&told, "retrying"),
            in_flight: number(&told, "in_flight"),
            dead: number(&told, "dead"),
            in_flight_listed: listed(api, queue, "in-flight").await.len(),
            waiting_listed: listed(api, queue, "waiting").await.len(),
            dead_listed: dead.iter().map(dead_of).collect(),
        };
        self.own.returned(self.at(), op, Outcome::Queue(QueueAnswer::Rest(rest.clone())));
        rest
    }

    pub fn violations(&self) -> Vec<Violation> {
        check_queues(&self.shelf.history().expect("in memory"), QueueOptions::default())
    }

    /// Prints all violations and panics if there are any.
    pub fn check(&self) {
        let violations = self.violations();
        violations.iter().for_each(|violation| println!("{violation}"));
        assert!(violations.is_empty(), "{} violations, first: {}", violations.len(), violations[0]);
    }

    /// Number of leases, hand-outs, calls without an answer, refused calls, and settled entries by status.
    pub fn tally(&self) -> BTreeMap<String, usize> {
        let mut tally: BTreeMap<String, usize> = BTreeMap::new();
        for op in &self.history().ops {
            match op.outcome() {
                Outcome::Queue(QueueAnswer::Leased(leased)) => {
                    *tally.entry("leases".to_owned()).or_default() += usize::from(!leased.records.is_empty());
                    *tally.entry("handed out".to_owned()).or_default() += leased.records.len();
                }
                Outcome::Queue(QueueAnswer::Settled(verdicts)) => {
                    for verdict in verdicts {
                        *tally.entry(format!("{:?}", verdict.status).to_lowercase()).or_default() += 1;
                    }
                }
                Outcome::Info => *tally.entry("unknown".to_owned()).or_default() += 1,
                Outcome::Fail { .. } => *tally.entry("refused".to_owned()).or_default() += 1,
                _ => {}
            }
        }
        tally
    }

    pub fn history(&self) -> History {
        self.shelf.history().expect("in memory")
    }
}

/// All records of a listing, over all its pages.
pub async fn listed(api: &Api, queue: &str, listing: &str) -> Vec<Value> {
    let mut all = Vec::new();
    let mut after = String::new();
    loop {
        let page = api.get(&format!("/v1/queues/{queue}/{listing}?max_records=1000{after}")).await.ok();
        all.extend(list(&page, "records").iter().cloned());
        let Some(next) = page["next"].as_str() else { return all };
        after = format!("&after={next}");
    }
}

impl Pen {
    fn invoke(&self, call: QueueCall) -> OpId {
        self.recorder.invoke(self.floor.at(), Call::Queue(call))
    }

    fn returned(&self, op: OpId, outcome: Outcome) {
        self.recorder.returned(self.floor.at(), op, outcome);
    }

    /// Pauses, and returns the address to which an unanswered call is sent again.
    async fn again(&self, api: &Api) -> Api {
        sleep(RETRY_PAUSE).await;
        self.floor.elsewhere(api)
    }

    /// Leases records; `None` if none were given or the outcome is unknown.
    pub async fn lease(&self, api: &Api, queue: &str, body: &Value) -> Option<Taken> {
        let request = body["request_id"].as_str().map(str::to_owned);
        let mut api = api.clone();
        loop {
            let op =
                self.invoke(QueueCall::Lease(Lease { queue: queue.to_owned(), request: request.clone() }));
            let reply = ask(&api, Method::POST, &format!("/v1/queues/{queue}/leases"), Some(body)).await;
            self.returned(op, reply.outcome(|told| QueueAnswer::Leased(leased(told))));
            match reply {
                Reply::Told(told) => return taken(queue, &told),
                Reply::Unknown if request.is_some() => api = self.again(&api).await,
                Reply::Refused | Reply::Unknown => return None,
            }
        }
    }

    /// Returns a verdict for each entry, or `None` if the outcome is unknown. With a request id, the call is
    /// repeated until its outcome is known.
    pub async fn settle(
        &self,
        api: &Api,
        queue: &str,
        request: Option<&str>,
        entries: &[(Claim, Intent)],
    ) -> Option<Vec<Verdict>> {
        let (body, order) = settlement(request, entries);
        let entries: Vec<Entry> = order.iter().map(|n| entry(&entries[*n])).collect();
        let mut api = api.clone();
        loop {
            let settle = Settle {
                queue: Some(queue.to_owned()),
                request: request.map(str::to_owned),
                entries: entries.clone(),
            };
            let op = self.invoke(QueueCall::Settle(settle));
            let reply =
                ask(&api, Method::POST, &format!("/v1/queues/{queue}/settlements"), Some(&body)).await;
            self.returned(op, reply.outcome(|told| QueueAnswer::Settled(verdicts(told))));
            match reply {
                Reply::Told(told) => {
                    let told = verdicts(&told);
                    let mut verdicts: Vec<(usize, Verdict)> = order.into_iter().zip(told).collect();
                    verdicts.sort_unstable_by_key(|(n, _)| *n);
                    return Some(verdicts.into_iter().map(|(_, verdict)| verdict).collect());
                }
                Reply::Refused => return None,
                Reply::Unknown if request.is_some() => api = self.again(&api).await,
                Reply::Unknown => return None,
            }
        }
    }

    /// Sends records and acks in one atomic request until its outcome is known. True: all of it was stored;
    /// false: nothing, since a receipt was lost.
    pub async fn ack_with(&self, api: &Api, topics: &Value, receipts: &[String]) -> bool {
        let body = json!({"topics": topics, "acks": receipts});
        let entries: Vec<Entry> =
            receipts.iter().map(|r| entry(&(Claim::Receipt(r.clone()), Intent::Ack))).collect();
        // The server derives the request's identity from the receipts when there is no idempotency key.
        let settle = Settle { queue: None, request: Some(receipts.concat()), entries };
        let mut api = api.clone();
        loop {
            let op = self.invoke(QueueCall::Settle(settle.clone()));
            let told = match try_send(api.request(Method::POST, "/v1/batches").json(&body)).await {
                Ok(answer) if answer.status == 200 => Some(vec![Verdict::new(Status::Acked); receipts.len()]),
                Ok(answer) if answer.status == 409 => {
                    Some(refused(&answer.problem(409, "lease_lost"), receipts))
                }
                Ok(answer) if answer.status == 429 => None,
                Ok(answer) if answer.status < 500 => panic!("{answer:?}"),
                _ => {
                    self.returned(op, Outcome::Info);
                    api = self.again(&api).await;
                    continue;
                }
            };
            let Some(verdicts) = told else {
                self.returned(op, Outcome::Fail { current: None });
                sleep(RETRY_PAUSE).await;
                continue;
            };
            let done = verdicts.iter().all(|v| v.status == Status::Acked);
            self.returned(op, Outcome::Queue(QueueAnswer::Settled(verdicts)));
            return done;
        }
    }
}
