//! Queues that are right by being simple: a state for each record, changed by one step at a time.

use millpond_tests::history::{Dead, Entry, HandOut, Intent, Leased, Placed, Seen, Sent, Status, Target, Token, Verdict};
use std::collections::{BTreeMap, BTreeSet};

pub const QUEUES: [&str; 2] = ["shared", "keyed"];
pub const MAX_FAILURES: u32 = 3;
pub const BACKOFF_MS: [i64; 2] = [50, 100];
pub const LEASE_MS: i64 = 200;
const KEYS: u64 = 3;

type Place = (i32, i64);

#[derive(Clone, Debug, PartialEq)]
enum At {
    /// Free from this instant on.
    Free(i64),
    Leased {
        receipt: Token,
        deadline_ms: i64,
    },
    Dead(Option<Box<str>>),
    Acked,
}

#[derive(Clone, Debug)]
struct Record {
    at: At,
    attempt: u32,
    failures: u32,
    /// It has been handed out and is not over: in keyed queues, none else of its key is handed out.
    begun: bool,
}

#[derive(Default)]
pub struct State {
    pub now_ms: i64,
    pub tokens: u64,
    pub logs: BTreeMap<i32, Vec<Sent>>,
    queues: BTreeMap<&'static str, BTreeMap<Place, Record>>,
}

fn key(place: Place) -> u64 {
    u64::try_from(place.1).expect("an offset") % KEYS
}

impl State {
    pub fn produce(&mut self, sent: Sent) -> Placed {
        let partition = sent.partition.expect("it is named");
        let log = self.logs.entry(partition).or_default();
        let offset = i64::try_from(log.len()).expect("few");
        let due_ms = self.now_ms + sent.timing.delay_ms.unwrap_or(0);
        log.push(sent);
        for queue in QUEUES {
            let fresh = Record { at: At::Free(due_ms), attempt: 0, failures: 0, begun: false };
            self.queues.entry(queue).or_default().insert((partition, offset), fresh);
        }
        Placed { partition, offset }
    }

    pub fn grant(&mut self, queue: &'static str, limit: usize) -> Leased {
        self.tokens += 1;
        let (lease, deadline_ms) = (Token(self.tokens), self.now_ms + LEASE_MS);
        let records = self.queues.entry(queue).or_default();
        let is_over = |record: &Record| matches!(record.at, At::Acked | At::Dead(_));
        let mut busy: BTreeSet<(i32, u64)> = BTreeSet::new();
        if queue == "keyed" {
            busy.extend(records.iter().filter(|(_, r)| r.begun && !is_over(r)).map(|(place, _)| (place.0, key(*place))));
        }
        let mut given = Vec::new();
        for (place, record) in records.iter_mut().filter(|(_, record)| !is_over(record)) {
            let lane = (place.0, key(*place));
            let blocked = queue == "keyed" && !record.begun && !busy.insert(lane);
            let due = matches!(record.at, At::Free(due_ms) if due_ms <= self.now_ms);
            if blocked || !due || given.len() >= limit {
                continue;
            }
            self.tokens += 1;
            let receipt = Token(self.tokens);
            record.attempt += 1;
            record.begun = true;
            record.at = At::Leased { receipt, deadline_ms };
            let index = usize::try_from(place.1).expect("an offset");
            given.push(HandOut {
                partition: place.0,
                offset: place.1,
                seen: Seen::Record(self.logs[&place.0][index].id),
                key: Some(key(*place).to_string().into()),
                attempt: record.attempt,
                failures: record.failures,
                receipt,
            });
        }
        Leased { lease, now_ms: self.now_ms, deadline_ms, records: given }
    }

    pub fn settle(&mut self, queue: &str, entry: &Entry) -> Verdict {
        let Target::Receipt(token) = entry.target else { panic!("a receipt") };
        let now_ms = self.now_ms;
        let held = |record: &&mut Record| matches!(record.at, At::Leased { receipt, .. } if receipt == token);
        let Some(record) = self.queues.get_mut(queue).and_then(|q| q.values_mut().find(held)) else { return Verdict::new(Status::Lost) };
        match &entry.intent {
            Intent::Ack => {
                record.at = At::Acked;
                Verdict::new(Status::Acked)
            }
            Intent::Reject { reason } => {
                record.at = At::Dead(reason.clone());
                Verdict::new(Status::Dead)
            }
            Intent::Renew { lease_ms } => {
                let deadline_ms = now_ms + lease_ms;
                record.at = At::Leased { receipt: token, deadline_ms };
                Verdict { deadline_ms: Some(deadline_ms), ..Verdict::new(Status::Renewed) }
            }
            Intent::Nack { counts: false, delay_ms, .. } => {
                record.at = At::Free(now_ms + delay_ms.unwrap_or(0));
                Verdict::new(Status::Released)
            }
            Intent::Nack { delay_ms, reason, .. } => Verdict::new(fail(record, now_ms, *delay_ms, reason.clone())),
        }
    }

    pub fn redrive(&mut self, queue: &str) {
        let records = self.queues.get_mut(queue).into_iter().flat_map(BTreeMap::values_mut);
        for record in records.filter(|r| matches!(r.at, At::Dead(_))) {
            *record = Record { at: At::Free(self.now_ms), failures: 0, begun: false, ..record.clone() };
        }
    }

    /// Ends leases whose deadline is past.
    pub fn sweep(&mut self) {
        let now_ms = self.now_ms;
        for record in self.queues.values_mut().flat_map(BTreeMap::values_mut) {
            if matches!(record.at, At::Leased { deadline_ms, .. } if deadline_ms <= now_ms) {
                fail(record, now_ms, None, Some("lease expired".into()));
            }
        }
    }

    pub fn is_left(&self) -> bool {
        self.queues.values().flat_map(BTreeMap::values).any(|record| matches!(record.at, At::Free(_) | At::Leased { .. }))
    }

    pub fn dead(&self, queue: &str) -> Vec<Dead> {
        let dead = |(place, record): (&Place, &Record)| match &record.at {
            At::Dead(reason) => {
                let (attempt, failures, reason) = (record.attempt, record.failures, reason.clone());
                Some(Dead { partition: place.0, offset: place.1, attempt, failures, reason })
            }
            _ => None,
        };
        self.queues.get(queue).into_iter().flatten().filter_map(dead).collect()
    }
}

fn fail(record: &mut Record, now_ms: i64, delay_ms: Option<i64>, reason: Option<Box<str>>) -> Status {
    record.failures += 1;
    if record.failures >= MAX_FAILURES {
        record.at = At::Dead(reason);
        return Status::Dead;
    }
    let step = usize::try_from(record.failures - 1).expect("small").min(1);
    record.at = At::Free(now_ms + delay_ms.unwrap_or(BACKOFF_MS[step]));
    Status::Released
}
