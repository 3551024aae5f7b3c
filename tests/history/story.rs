//! Handwritten histories of logs: operations follow each other unless a test begins and ends them separately.

use millpond_tests::history::{
    Call, Event, From, History, Kind, Log, OpId, Options, Outcome, Placed, Produce, Read, ReadAnswer,
    RecordId, Seen, Sent, What, check,
};
use std::collections::{BTreeSet, HashMap};

/// Identity of a record: client and counter.
pub type Who = (u32, u64);

#[derive(Default)]
pub struct Story {
    now: u64,
    next: HashMap<u32, u64>,
    calls: HashMap<OpId, Call>,
    pub events: Vec<Event>,
    pub options: Options,
}

/// Parses a log's name: `a0` is partition 0 of topic a; `a?` a partition that the server chooses.
pub fn log(name: &str) -> Log {
    let (topic, partition) = name.split_at(1);
    Log::new(topic, partition.parse().expect("a partition"))
}

pub fn seen(who: Who) -> Seen {
    Seen::Record(RecordId { client: who.0, counter: who.1 })
}

fn sent((log, who): &(&str, Who)) -> Sent {
    let (topic, partition) = log.split_at(1);
    Sent::new(topic, partition.parse().ok(), RecordId { client: who.0, counter: who.1 })
}

impl Story {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn begin(&mut self, client: u32, call: Call) -> OpId {
        let number = self.next.entry(client).or_default();
        let op = OpId { client, number: *number };
        *number += 1;
        self.now += 1;
        self.calls.insert(op, call.clone());
        self.events.push(Event { at: self.now, op, what: What::Invoke(call) });
        op
    }

    pub fn end(&mut self, op: OpId, outcome: Outcome) {
        self.now += 1;
        self.events.push(Event { at: self.now, op, what: What::Return(outcome) });
    }

    pub fn produce(
        &mut self,
        client: u32,
        records: &[(&str, Who)],
        key: Option<&str>,
        expect: Option<i64>,
    ) -> OpId {
        let records = records.iter().map(sent).collect();
        self.begin(client, Call::Produce(Produce { records, key: key.map(str::to_owned), expect }))
    }

    /// Answers a produce with an offset for each record, in the requested partitions or else in partition 0.
    pub fn placed(&mut self, op: OpId, offsets: &[i64]) {
        let Call::Produce(produce) = &self.calls[&op] else { panic!("not a produce") };
        let place = |(sent, offset): (&Sent, &i64)| Placed {
            partition: sent.partition.unwrap_or(0),
            offset: *offset,
        };
        let placed = produce.records.iter().zip(offsets).map(place).collect();
        self.end(op, Outcome::Produced { placed, duplicate: false });
    }

    pub fn failed(&mut self, op: OpId) {
        self.end(op, Outcome::Fail { current: None });
    }

    pub fn info(&mut self, op: OpId) {
        self.end(op, Outcome::Info);
    }

    /// Produces one record and acknowledges it at this offset.
    pub fn put(&mut self, log: &str, who: Who, offset: i64) {
        self.put_all(&[(log, who)], &[offset]);
    }

    pub fn put_all(&mut self, records: &[(&str, Who)], offsets: &[i64]) {
        let op = self.produce(records[0].1.0, records, None, None);
        self.placed(op, offsets);
    }

    pub fn begin_read(&mut self, client: u32, name: &str, from: From) -> OpId {
        self.begin(client, Call::Read(Read { log: log(name), from, session: 0 }))
    }

    pub fn records(&mut self, op: OpId, high_watermark: Option<i64>, records: &[(i64, Who)]) {
        let records = records.iter().map(|(offset, who)| (*offset, seen(*who))).collect();
        self.end(op, Outcome::Records(ReadAnswer { log_start: None, high_watermark, records }));
    }

    pub fn read(&mut self, client: u32, log: &str, from: From, high_watermark: i64, records: &[(i64, Who)]) {
        let op = self.begin_read(client, log, from);
        self.records(op, Some(high_watermark), records);
    }

    pub fn high_watermark(&mut self, client: u32, name: &str, end: i64) {
        let op = self.begin(client, Call::End(log(name)));
        self.end(op, Outcome::End { high_watermark: end });
    }

    /// The final complete read: these records, from offset 0.
    pub fn finally(&mut self, name: &str, records: &[Who]) {
        let records: Vec<(i64, Who)> = (0..).zip(records.iter().copied()).collect();
        self.finally_at(name, 0, i64::try_from(records.len()).expect("few"), &records);
    }

    pub fn finally_at(&mut self, name: &str, log_start: i64, high_watermark: i64, records: &[(i64, Who)]) {
        let op = self.begin(99, Call::Final(log(name)));
        let records = records.iter().map(|(offset, who)| (*offset, seen(*who))).collect();
        let answer = ReadAnswer { log_start: Some(log_start), high_watermark: Some(high_watermark), records };
        self.end(op, Outcome::Records(answer));
    }

    pub fn found(&self) -> BTreeSet<Kind> {
        let violations = check(&History::of(self.events.iter().cloned()), self.options);
        for violation in &violations {
            println!("{violation}");
            assert!(!violation.ops.is_empty(), "a violation without evidence");
        }
        violations.iter().map(|v| v.kind).collect()
    }

    /// Checks that the history has violations of this kind and of no other.
    #[track_caller]
    pub fn is(&self, kind: Kind) {
        assert_eq!(self.found(), BTreeSet::from([kind]));
    }

    #[track_caller]
    pub fn is_good(&self) {
        assert_eq!(self.found(), BTreeSet::new());
    }
}
