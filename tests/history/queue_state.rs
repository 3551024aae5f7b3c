//! Queues that are simple enough to be correct: a state for each record, changed in single steps. A bug can
//! be planted in them.

use millpond_tests::history::{
    Dead, Entry, HandOut, Intent, Leased, Placed, Seen, Sent, Status, Target, Token, Verdict,
};
use std::collections::{BTreeMap, BTreeSet};

pub const QUEUES: [&str; 2] = ["shared", "keyed"];
pub const MAX_FAILURES: u32 = 3;
pub const BACKOFF_MS: [i64; 2] = [50, 100];
pub const LEASE_MS: i64 = 200;
const KEYS: u64 = 3;

type Place = (i32, i64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    AckIsForgotten,
    DeadAreLost,
    DelayIsIgnored,
    DiesEarly,
    DiesLate,
    ExpiryIsForgotten,
    ExpiryIsNotCounted,
    ExpiresEarly,
    KeyIsIgnored,
    KeyIsFreeWhileItsRecordWaits,
    LeasedIsGiven,
    NackIsNotCounted,
    OtherQueueIsHonoured,
    PutBackIsCounted,
    RedriveKeepsFailures,
    RenewalIsIgnored,
    SettledIsHonoured,
    StaleIsHonoured,
    ValidIsLost,
}

impl Bug {
    pub const ALL: [Self; 19] = [
        Self::AckIsForgotten,
        Self::DeadAreLost,
        Self::DelayIsIgnored,
        Self::DiesEarly,
        Self::DiesLate,
        Self::ExpiryIsForgotten,
        Self::ExpiryIsNotCounted,
        Self::ExpiresEarly,
        Self::KeyIsIgnored,
        Self::KeyIsFreeWhileItsRecordWaits,
        Self::LeasedIsGiven,
        Self::NackIsNotCounted,
        Self::OtherQueueIsHonoured,
        Self::PutBackIsCounted,
        Self::RedriveKeepsFailures,
        Self::RenewalIsIgnored,
        Self::SettledIsHonoured,
        Self::StaleIsHonoured,
        Self::ValidIsLost,
    ];
}

#[derive(Clone, Debug, PartialEq)]
enum At {
    /// Ready from this time on, in milliseconds.
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
    /// The record was handed out and is not finished: in keyed queues, no other record of its key is handed
    /// out.
    begun: bool,
}

#[derive(Default)]
pub struct State {
    pub bug: Option<Bug>,
    pub now_ms: i64,
    pub tokens: u64,
    pub logs: BTreeMap<i32, Vec<Sent>>,
    queues: BTreeMap<&'static str, BTreeMap<Place, Record>>,
    /// Queue and record of each receipt.
    receipts: BTreeMap<Token, (&'static str, Place)>,
}

fn key(place: Place) -> u64 {
    u64::try_from(place.1).expect("an offset") % KEYS
}

impl State {
    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

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
        let (keyed, waits_free) =
            (queue == "keyed" && !self.has(Bug::KeyIsIgnored), self.has(Bug::KeyIsFreeWhileItsRecordWaits));
        let twice = self.has(Bug::LeasedIsGiven);
        let records = self.queues.entry(queue).or_default();
        let is_over = |record: &Record| matches!(record.at, At::Acked | At::Dead(_));
        let mut busy: BTreeSet<(i32, u64)> = BTreeSet::new();
        if keyed {
            let holds = |r: &Record| r.begun && !is_over(r) && !(waits_free && matches!(r.at, At::Free(_)));
            busy.extend(records.iter().filter(|(_, r)| holds(r)).map(|(place, _)| (place.0, key(*place))));
        }
        let mut given = Vec::new();
        for (place, record) in records.iter_mut().filter(|(_, record)| !is_over(record)) {
            let lane = (place.0, key(*place));
            let blocked = keyed && !record.begun && !busy.insert(lane);
            let due = match record.at {
                At::Free(due_ms) => due_ms <= self.now_ms,
                _ => twice,
            };
            if blocked || !due || given.len() >= limit {
                continue;
            }
            self.tokens += 1;
            let receipt = Token(self.tokens);
            self.receipts.insert(receipt, (queue, *place));
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
        let (now_ms, bug) = (self.now_ms, self.bug);
        let (of, place) = self.receipts[&token];
        let record =
            self.queues.get_mut(of).and_then(|records| records.get_mut(&place)).expect("it was leased");
        let held = match record.at {
            At::Leased { receipt, .. } => receipt == token || bug == Some(Bug::StaleIsHonoured),
            _ => bug == Some(Bug::SettledIsHonoured),
        };
        if !held
            || (queue != of && bug != Some(Bug::OtherQueueIsHonoured))
            || (bug == Some(Bug::ValidIsLost) && token.0 % 3 == 0)
        {
            return Verdict::new(Status::Lost);
        }
        match &entry.intent {
            Intent::Ack => {
                record.at =
                    if bug == Some(Bug::AckIsForgotten) { At::Free(now_ms + LEASE_MS) } else { At::Acked };
                Verdict::new(Status::Acked)
            }
            Intent::Reject { reason } => {
                record.at = At::Dead(reason.clone());
                Verdict::new(Status::Dead)
            }
            Intent::Renew { lease_ms } => {
                let deadline_ms = now_ms + lease_ms;
                if bug != Some(Bug::RenewalIsIgnored) {
                    record.at = At::Leased { receipt: token, deadline_ms };
                }
                Verdict { deadline_ms: Some(deadline_ms), ..Verdict::new(Status::Renewed) }
            }
            Intent::Nack { counts: false, delay_ms, .. } => {
                record.at = At::Free(now_ms + delay_ms.unwrap_or(0));
                record.failures += u32::from(bug == Some(Bug::PutBackIsCounted));
                Verdict::new(Status::Released)
            }
            Intent::Nack { delay_ms, reason, .. } => {
                Verdict::new(fail(record, now_ms, bug, *delay_ms, reason.clone()))
            }
        }
    }

    pub fn redrive(&mut self, queue: &str) {
        let keeps = self.has(Bug::RedriveKeepsFailures);
        let records = self.queues.get_mut(queue).into_iter().flat_map(BTreeMap::values_mut);
        for record in records.filter(|r| matches!(r.at, At::Dead(_))) {
            *record = Record {
                at: At::Free(self.now_ms),
                failures: if keeps { record.failures } else { 0 },
                begun: false,
                ..record.clone()
            };
        }
    }

    /// Ends leases whose deadline has passed.
    pub fn sweep(&mut self) {
        let (now_ms, bug) = (self.now_ms, self.bug);
        let early_ms = if bug == Some(Bug::ExpiresEarly) { 60 } else { 0 };
        let all = self.queues.values_mut().flat_map(BTreeMap::values_mut);
        for record in
            all.filter(|r| matches!(r.at, At::Leased { deadline_ms, .. } if deadline_ms <= now_ms + early_ms))
        {
            match bug {
                Some(Bug::ExpiryIsForgotten) => record.at = At::Acked,
                Some(Bug::ExpiryIsNotCounted) => record.at = At::Free(now_ms),
                _ => drop(fail(record, now_ms, bug, None, Some("lease expired".into()))),
            }
        }
    }

    pub fn is_left(&self) -> bool {
        self.queues
            .values()
            .flat_map(BTreeMap::values)
            .any(|record| matches!(record.at, At::Free(_) | At::Leased { .. }))
    }

    pub fn dead(&self, queue: &str) -> Vec<Dead> {
        let dead = |(place, record): (&Place, &Record)| match &record.at {
            At::Dead(reason) => {
                let (attempt, failures, reason) = (record.attempt, record.failures, reason.clone());
                Some(Dead { partition: place.0, offset: place.1, attempt, failures, reason })
            }
            _ => None,
        };
        let all = self.queues.get(queue).into_iter().flatten().filter_map(dead);
        all.skip(usize::from(self.has(Bug::DeadAreLost))).collect()
    }
}

fn fail(
    record: &mut Record,
    now_ms: i64,
    bug: Option<Bug>,
    delay_ms: Option<i64>,
    reason: Option<Box<str>>,
) -> Status {
    let limit = match bug {
        Some(Bug::DiesEarly) => MAX_FAILURES - 1,
        Some(Bug::DiesLate) => MAX_FAILURES + 1,
        _ => MAX_FAILURES,
    };
    record.failures += u32::from(bug != Some(Bug::NackIsNotCounted));
    if record.failures >= limit {
        record.at = At::Dead(reason);
        return Status::Dead;
    }
    let step = usize::try_from(record.failures.saturating_sub(1)).expect("small").min(1);
    let delay_ms = if bug == Some(Bug::DelayIsIgnored) { 0 } else { delay_ms.unwrap_or(BACKOFF_MS[step]) };
    record.at = At::Free(now_ms + delay_ms);
    Status::Released
}
