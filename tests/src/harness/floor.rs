//! Where workers of queues write down what they ask and what they are told, so that it can be checked in the
//! end.
//!
//! What may have had an effect, an answer of 5xx or none at all, is recorded as unknown; 429 and 404 had
//! none. Anything else that is no success fails the test.

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

const AGAIN: Duration = Duration::from_millis(50);

/// Recorder of the calls to queues, and of their answers, as one history.
pub struct Floor {
    start: Instant,
    shelf: Shelf,
    clients: AtomicU32,
    own: Recorder,
    /// Where calls go that are sent again; nowhere else, if there is none.
    others: Vec<Api>,
}

/// Recorder of one worker's calls, of which several may be under way.
pub struct Pen {
    floor: Arc<Floor>,
    recorder: Recorder,
}

/// What is known of a call: its answer, that it had no effect, or nothing.
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

    /// What is sent again goes to one of these or another.
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

    /// Makes or changes a queue.
    pub async fn make(&self, api: &Api, queue: &str, body: Value) {
        // What the queue will be is known before it is made only by asking: it is recorded as if it had been
        // made by then.
        let at = self.at();
        let Reply::Told(made) = ask(api, Method::PUT, &format!("/v1/queues/{queue}"), Some(&body)).await
        else {
            panic!("{queue} was not made")
        };
        let op = self.own.invoke(at, Call::Queue(QueueCall::Make(spec(queue, &made))));
        self.own.returned(self.at(), op, Outcome::Queue(QueueAnswer::Done));
    }

    /// `to` as the API has it; of all partitions.
    pub async fn seek(&self, api: &Api, queue: &str, to: Value) -> Reply {
        let path = format!("/v1/queues/{queue}/seek");
        let body = json!({ "to": to });
        let reply = ask(api, Method::POST, &path, Some(&body));
        self.record(QueueCall::Seek { queue: queue.to_owned(), partitions: None }, reply, cursors).await
    }

    /// The cursors are not told: nothing is known of what was dropped.
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

    /// Waits until nothing is left to be done.
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

    /// The whole log, as it is in the end.
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

    /// What is left of a queue in the end.
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

    /// Panics with all that was wrong.
    pub fn check(&self) {
        let violations = self.violations();
        violations.iter().for_each(|violation| println!("{violation}"));
        assert!(violations.is_empty(), "{} violations, first: {}", violations.len(), violations[0]);
    }

    /// Leases, hand-outs, calls that nobody saw answered or that were refused, and entries by what they were
    /// told.
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

/// All pages of a listing.
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

    /// A moment later, and where a call goes then that nobody answered.
    async fn again(&self, api: &Api) -> Api {
        sleep(AGAIN).await;
        self.floor.elsewhere(api)
    }

    /// `None`: nothing was given, or nobody knows what.
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

    /// A verdict for each entry, or `None`, if nobody knows; with a request id it is asked until it is known.
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

    /// Records and acks in one request, asked until it is known what came of it: all, or nothing, since a
    /// receipt was lost.
    pub async fn ack_with(&self, api: &Api, topics: &Value, receipts: &[String]) -> bool {
        let body = json!({"topics": topics, "acks": receipts});
        let entries: Vec<Entry> =
            receipts.iter().map(|r| entry(&(Claim::Receipt(r.clone()), Intent::Ack))).collect();
        // Without a key, the receipts are the key.
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
                sleep(AGAIN).await;
                continue;
            };
            let done = verdicts.iter().all(|v| v.status == Status::Acked);
            self.returned(op, Outcome::Queue(QueueAnswer::Settled(verdicts)));
            return done;
        }
    }
}
