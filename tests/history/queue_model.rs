//! Clients of simple, correct queues: they lease, settle and redrive at random, and some calls get no answer.

use crate::model::Choices;
use crate::queue_state::{BACKOFF_MS, Bug, LEASE_MS, MAX_FAILURES, QUEUES, State};
use millpond_tests::history::{
    Call, Entry, HandOut, History, Intent, Lease, Log, Op, OpId, Outcome, Produce, QueueAnswer, QueueCall,
    ReadAnswer, RecordId, Rest, Seen, Sent, Settle, Spec, Target, Timing, Token, Which,
};
use std::collections::{BTreeMap, BTreeSet};

const CLIENTS: u32 = 5;
const PARTITIONS: i32 = 2;

#[derive(Default)]
pub struct QueueModel {
    now: u64,
    state: State,
    /// Answers to settlements that have a request id and so may be sent again.
    told: BTreeMap<String, QueueAnswer>,
    /// Receipts of each client, settled ones included.
    held: BTreeMap<u32, Vec<(&'static str, Token)>>,
    retry: BTreeMap<u32, QueueCall>,
    open: BTreeMap<u32, (usize, Option<Outcome>)>,
    late: Vec<usize>,
    ops: Vec<Op>,
}

impl QueueModel {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    fn begin(&mut self, client: u32, call: Call) -> usize {
        let invoked = self.tick();
        let number = u64::try_from(self.ops.len()).expect("few");
        self.ops.push(Op { id: OpId { client, number }, invoked, call, returned: None });
        self.ops.len() - 1
    }

    fn finish(&mut self, op: usize, outcome: Outcome) {
        let at = self.tick();
        self.ops[op].returned = Some((at, outcome));
    }

    fn call(&mut self, client: u32, choices: &mut Choices<'_>) -> Call {
        let queue = QUEUES[choices.index(2)];
        let held = self.held.get(&client).map_or(&[][..], |held| held.as_slice());
        match choices.below(8) {
            0 | 1 => {
                let partition = i32::try_from(choices.below(2)).expect("small");
                self.state.tokens += 1;
                let delay_ms = (choices.below(6) == 0).then_some(80);
                let id = RecordId { client, counter: self.state.tokens };
                let sent = Sent {
                    timing: Timing { delay_ms, ..Timing::default() },
                    ..Sent::new("t", Some(partition), id)
                };
                Call::Produce(Produce { records: vec![sent], key: None, expect: None })
            }
            2..=4 if held.is_empty() => {
                Call::Queue(QueueCall::Lease(Lease { queue: queue.to_owned(), request: None }))
            }
            2..=4 => {
                if let Some(call) = self.retry.remove(&client) {
                    return Call::Queue(call);
                }
                let (queue, _) = held[choices.index(held.len())];
                let mut tokens: BTreeSet<Token> = BTreeSet::new();
                for _ in 0..=choices.below(3) {
                    tokens.insert(held[held.len() - 1 - choices.index(held.len())].1);
                }
                let entries = tokens
                    .into_iter()
                    .map(|token| Entry { target: Target::Receipt(token), intent: intent(choices) })
                    .collect();
                let request = (choices.below(2) == 0).then(|| format!("{client}-{}", self.now));
                Call::Queue(QueueCall::Settle(Settle { queue: Some(queue.to_owned()), request, entries }))
            }
            5 if choices.below(3) == 0 => {
                Call::Queue(QueueCall::Redrive { queue: queue.to_owned(), which: Which::Any })
            }
            _ => Call::Queue(QueueCall::Lease(Lease { queue: queue.to_owned(), request: None })),
        }
    }

    /// Lets an operation take effect.
    fn apply(&mut self, op: usize, limit: usize) -> Outcome {
        match self.ops[op].call.clone() {
            Call::Produce(produce) => {
                let placed = self.state.produce(produce.records[0].clone());
                Outcome::Produced { placed: vec![placed], duplicate: false }
            }
            Call::Queue(QueueCall::Lease(lease)) => {
                let queue = QUEUES[usize::from(lease.queue == "keyed")];
                Outcome::Queue(QueueAnswer::Leased(self.state.grant(queue, limit)))
            }
            Call::Queue(QueueCall::Settle(settle)) => {
                if let Some(answer) = settle.request.as_ref().and_then(|request| self.told.get(request)) {
                    return Outcome::Queue(answer.clone());
                }
                let queue = settle.queue.as_deref().expect("it is named");
                let answer = QueueAnswer::Settled(
                    settle.entries.iter().map(|entry| self.state.settle(queue, entry)).collect(),
                );
                if let Some(request) = settle.request {
                    self.told.insert(request, answer.clone());
                }
                Outcome::Queue(answer)
            }
            Call::Queue(QueueCall::Redrive { queue, .. }) => {
                self.state.redrive(&queue);
                Outcome::Queue(QueueAnswer::Done)
            }
            call => panic!("not of this model: {call:?}"),
        }
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.below(8) {
            0 => self.state.now_ms += i64::from(choices.below(120)),
            1 => self.state.sweep(),
            _ => {}
        }
        if !self.late.is_empty() && choices.below(6) == 0 {
            let op = self.late.swap_remove(choices.index(self.late.len()));
            self.apply(op, 3);
        }
        let client = choices.below(CLIENTS);
        match self.open.remove(&client) {
            None => {
                let call = self.call(client, choices);
                let op = self.begin(client, call);
                self.open.insert(client, (op, None));
            }
            Some((op, None)) => match choices.below(8) {
                0 => self.finish(op, Outcome::Fail { current: None }),
                1 => {
                    self.late.push(op);
                    self.finish_unknown(op, client);
                }
                _ => {
                    let outcome = self.apply(op, 1 + choices.index(4));
                    self.open.insert(client, (op, Some(outcome)));
                }
            },
            Some((op, Some(_))) if choices.below(6) == 0 => self.finish_unknown(op, client),
            Some((op, Some(outcome))) => {
                if let (Call::Queue(QueueCall::Lease(lease)), Outcome::Queue(QueueAnswer::Leased(leased))) =
                    (&self.ops[op].call, &outcome)
                {
                    let queue = QUEUES[usize::from(lease.queue == "keyed")];
                    self.held
                        .entry(client)
                        .or_default()
                        .extend(leased.records.iter().map(|record| (queue, record.receipt)));
                }
                self.finish(op, outcome);
            }
        }
    }

    fn finish_unknown(&mut self, op: usize, client: u32) {
        if let Call::Queue(call @ QueueCall::Settle(Settle { request: Some(_), .. })) = &self.ops[op].call {
            self.retry.insert(client, call.clone());
        }
        self.finish(op, Outcome::Info);
    }

    pub fn history(choices: &[u32], bug: Option<Bug>) -> History {
        let mut model = Self::default();
        (model.state.now_ms, model.state.bug) = (1_000, bug);
        for queue in QUEUES {
            let (backoff_ms, keyed) = (BACKOFF_MS.to_vec(), queue == "keyed");
            let (queue, topic) = (queue.to_owned(), "t".to_owned());
            let op = model.begin(
                99,
                Call::Queue(QueueCall::Make(Spec {
                    queue,
                    topic,
                    keyed,
                    max_failures: MAX_FAILURES,
                    backoff_ms,
                    latest: false,
                })),
            );
            model.finish(op, Outcome::Queue(QueueAnswer::Done));
        }
        let mut choices = Choices::new(choices);
        while !choices.is_empty() {
            model.step(&mut choices);
        }
        model.drain();
        History { ops: model.ops }
    }

    /// Leases and settles until nothing is left, then records the final state.
    fn drain(&mut self) {
        for _ in 0..50 {
            if !self.state.is_left() {
                break;
            }
            self.state.now_ms += LEASE_MS;
            self.state.sweep();
            for queue in QUEUES {
                let op = self.begin(
                    98,
                    Call::Queue(QueueCall::Lease(Lease { queue: queue.to_owned(), request: None })),
                );
                let outcome = self.apply(op, usize::MAX);
                let Outcome::Queue(QueueAnswer::Leased(leased)) = &outcome else { panic!("a lease") };
                let ack =
                    |record: &HandOut| Entry { target: Target::Receipt(record.receipt), intent: Intent::Ack };
                let entries = leased.records.iter().map(ack).collect();
                self.finish(op, outcome);
                let op = self.begin(
                    98,
                    Call::Queue(QueueCall::Settle(Settle {
                        queue: Some(queue.to_owned()),
                        request: None,
                        entries,
                    })),
                );
                let outcome = self.apply(op, 0);
                self.finish(op, outcome);
            }
        }
        for partition in 0..PARTITIONS {
            let op = self.begin(99, Call::Final(Log::new("t", partition)));
            let log = self.state.logs.get(&partition).map_or(&[][..], |log| log.as_slice());
            let records = (0..).zip(log).map(|(offset, sent)| (offset, Seen::Record(sent.id))).collect();
            let answer =
                ReadAnswer { log_start: Some(0), high_watermark: i64::try_from(log.len()).ok(), records };
            self.finish(op, Outcome::Records(answer));
        }
        for queue in QUEUES {
            let op = self.begin(99, Call::Queue(QueueCall::Rest { queue: queue.to_owned() }));
            let dead_listed = self.state.dead(queue);
            let rest =
                Rest { dead: i64::try_from(dead_listed.len()).expect("few"), dead_listed, ..Rest::default() };
            self.finish(op, Outcome::Queue(QueueAnswer::Rest(rest)));
        }
    }
}

fn intent(choices: &mut Choices<'_>) -> Intent {
    match choices.below(8) {
        0 => Intent::Nack { counts: true, delay_ms: None, reason: Some("n".into()) },
        1 => Intent::Nack { counts: true, delay_ms: Some(30), reason: None },
        2 => Intent::Nack { counts: false, delay_ms: None, reason: None },
        3 => Intent::Reject { reason: Some("r".into()) },
        4 => Intent::Renew { lease_ms: i64::from(choices.below(400)) },
        _ => Intent::Ack,
    }
}
