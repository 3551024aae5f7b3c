//! Handwritten histories of queues, on top of handwritten histories of the log ([`Story`]): two clocks,
//! workers, and receipts derived from the hand-out.

use crate::story::Story;
use millpond_tests::history::{
    Call, Dead, Entry, Event, HandOut, History, Intent, Kind, Lease, Leased, OpId, Outcome, QueueAnswer,
    QueueCall, QueueOptions, RecordId, Rest, Seen, Settle, Spec, Status, Target, Token, Verdict, What,
    check_queues,
};
use std::collections::{BTreeSet, HashMap};

pub const LEASE_MS: i64 = 1_000;

/// Offset, attempt and failures of a handed-out record.
pub type Given = (i64, u32, u32);

/// One topic `a` of one partition; its queue `q`, and other queues as a test needs them.
pub struct Shop {
    pub story: Story,
    pub ms: i64,
    pub options: QueueOptions,
}

pub fn spec(queue: &str) -> Spec {
    Spec {
        queue: queue.to_owned(),
        topic: "a".to_owned(),
        keyed: false,
        max_failures: 3,
        backoff_ms: Vec::new(),
        latest: false,
    }
}

pub fn ack() -> Intent {
    Intent::Ack
}

pub fn nack() -> Intent {
    Intent::Nack { counts: true, delay_ms: None, reason: None }
}

pub fn delayed(delay_ms: i64) -> Intent {
    Intent::Nack { counts: true, delay_ms: Some(delay_ms), reason: None }
}

pub fn put_back() -> Intent {
    Intent::Nack { counts: false, delay_ms: None, reason: None }
}

pub fn reject(reason: &str) -> Intent {
    Intent::Reject { reason: Some(reason.into()) }
}

pub fn renew(lease_ms: i64) -> Intent {
    Intent::Renew { lease_ms }
}

pub fn receipt(queue: &str, offset: i64, attempt: u32) -> Target {
    Target::Receipt(Token::of(&format!("{queue}-{offset}-{attempt}")))
}

pub fn died(offset: i64, attempt: u32, failures: u32, reason: Option<&str>) -> Dead {
    Dead { partition: 0, offset, attempt, failures, reason: reason.map(Into::into) }
}

impl Shop {
    /// A queue `q` over a log with this number of records.
    pub fn new(records: i64) -> Self {
        Self::with(spec("q"), records)
    }

    pub fn keyed(records: i64) -> Self {
        Self::with(Spec { keyed: true, ..spec("q") }, records)
    }

    pub fn with(spec: Spec, records: i64) -> Self {
        let mut shop = Self {
            story: Story::new(),
            ms: 50_000,
            options: QueueOptions { require_rest: false, slack_ms: 0 },
        };
        shop.make(spec);
        for offset in 0..records {
            shop.put(offset);
        }
        shop
    }

    pub fn make(&mut self, spec: Spec) {
        self.call(0, QueueCall::Make(spec), QueueAnswer::Done);
    }

    pub fn put(&mut self, offset: i64) {
        self.story.put("a0", (1, u64::try_from(offset).expect("an offset")), offset);
    }

    /// Advances the server's clock.
    pub fn wait(&mut self, ms: i64) {
        self.ms += ms;
    }

    pub fn begin(&mut self, client: u32, call: QueueCall) -> OpId {
        self.story.begin(client, Call::Queue(call))
    }

    pub fn end(&mut self, op: OpId, answer: QueueAnswer) {
        self.story.end(op, Outcome::Queue(answer));
    }

    pub fn call(&mut self, client: u32, call: QueueCall, answer: QueueAnswer) -> OpId {
        let op = self.begin(client, call);
        self.end(op, answer);
        op
    }

    pub fn ask(&mut self, client: u32, queue: &str, request: Option<&str>) -> OpId {
        self.begin(
            client,
            QueueCall::Lease(Lease { queue: queue.to_owned(), request: request.map(str::to_owned) }),
        )
    }

    /// A lease that ends in a second. A record's key is the parity of its offset.
    pub fn leased(&self, queue: &str, given: &[Given]) -> Leased {
        let record = |(offset, attempt, failures): &Given| HandOut {
            partition: 0,
            offset: *offset,
            seen: Seen::Record(RecordId { client: 1, counter: u64::try_from(*offset).expect("an offset") }),
            key: Some(if offset % 2 == 0 { "even".into() } else { "odd".into() }),
            attempt: *attempt,
            failures: *failures,
            receipt: Token::of(&format!("{queue}-{offset}-{attempt}")),
        };
        let lease = Token::of(&format!("{queue}-{given:?}"));
        Leased {
            lease,
            now_ms: self.ms,
            deadline_ms: self.ms + LEASE_MS,
            records: given.iter().map(record).collect(),
        }
    }

    pub fn lease(&mut self, client: u32, given: &[Given]) -> OpId {
        self.lease_of(client, "q", given)
    }

    pub fn lease_of(&mut self, client: u32, queue: &str, given: &[Given]) -> OpId {
        let op = self.ask(client, queue, None);
        let leased = self.leased(queue, given);
        self.end(op, QueueAnswer::Leased(leased));
        op
    }

    /// A lease call without an answer.
    pub fn lease_in_vain(&mut self, client: u32) {
        let op = self.ask(client, "q", None);
        self.story.info(op);
    }

    pub fn say(&mut self, client: u32, offset: i64, attempt: u32, intent: Intent) -> OpId {
        self.say_to(client, "q", receipt("q", offset, attempt), intent, None)
    }

    pub fn say_to(
        &mut self,
        client: u32,
        queue: &str,
        target: Target,
        intent: Intent,
        request: Option<&str>,
    ) -> OpId {
        let entries = vec![Entry { target, intent }];
        self.begin(
            client,
            QueueCall::Settle(Settle {
                queue: Some(queue.to_owned()),
                request: request.map(str::to_owned),
                entries,
            }),
        )
    }

    pub fn told(&mut self, op: OpId, status: Status) {
        let deadline_ms = (status == Status::Renewed).then_some(self.ms + LEASE_MS);
        self.end(op, QueueAnswer::Settled(vec![Verdict { deadline_ms, ..Verdict::new(status) }]));
    }

    pub fn settle(&mut self, offset: i64, attempt: u32, intent: Intent, status: Status) {
        let op = self.say(9, offset, attempt, intent);
        self.told(op, status);
    }

    pub fn settle_in_vain(&mut self, offset: i64, attempt: u32, intent: Intent) {
        let op = self.say(9, offset, attempt, intent);
        self.story.info(op);
    }

    /// The lease that a call received.
    pub fn lease_of_op(&self, op: OpId) -> Token {
        let lease = |event: &Event| match &event.what {
            What::Return(Outcome::Queue(QueueAnswer::Leased(leased))) if event.op == op => Some(leased.lease),
            _ => None,
        };
        self.story.events.iter().find_map(lease).expect("a lease")
    }

    pub fn told_of_lease(&mut self, op: OpId, status: Status, records: u64) {
        self.end(op, QueueAnswer::Settled(vec![Verdict { records: Some(records), ..Verdict::new(status) }]));
    }

    pub fn rest_as(&mut self, rest: Rest) {
        let op = self.begin(0, QueueCall::Rest { queue: "q".to_owned() });
        self.end(op, QueueAnswer::Rest(rest));
    }

    /// The final state of a drained queue with these dead records.
    pub fn rest(&mut self, dead: &[Dead]) {
        self.rest_as(Rest {
            dead: i64::try_from(dead.len()).expect("few"),
            dead_listed: dead.to_vec(),
            ..Rest::default()
        });
    }

    /// Gives a distinct receipt to each repeated hand-out of the same place and attempt, and to the
    /// settlements that follow it.
    pub fn part_receipts(&mut self) {
        let mut times: HashMap<Token, u64> = HashMap::new();
        for event in &mut self.story.events {
            match &mut event.what {
                What::Return(Outcome::Queue(QueueAnswer::Leased(leased))) => {
                    for record in &mut leased.records {
                        let time = times.entry(record.receipt).and_modify(|n| *n += 1).or_default();
                        record.receipt = Token(record.receipt.0 ^ *time);
                    }
                }
                What::Invoke(Call::Queue(QueueCall::Settle(settle))) => {
                    for entry in &mut settle.entries {
                        if let Target::Receipt(token) = &mut entry.target {
                            *token = Token(token.0 ^ times.get(token).copied().unwrap_or(0));
                        }
                    }
                }
                _ => {}
            }
        }
    }

    pub fn kinds(&self) -> BTreeSet<Kind> {
        let violations = check_queues(&History::of(self.story.events.iter().cloned()), self.options);
        for violation in &violations {
            println!("{violation}");
            assert!(!violation.ops.is_empty(), "a violation without evidence");
        }
        violations.iter().map(|v| v.kind).collect()
    }

    #[track_caller]
    pub fn is(&self, kind: Kind) {
        assert_eq!(self.kinds(), BTreeSet::from([kind]));
    }

    #[track_caller]
    pub fn is_good(&self) {
        assert_eq!(self.kinds(), BTreeSet::new());
    }
}
