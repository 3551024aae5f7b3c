//! Random histories of a correct log, with open and failed requests: the checker must accept them. The same
//! with one corruption: the checker must refuse them.

use millpond_tests::history::{
    Call, From, History, Log, Op, OpId, Options, Outcome, Placed, Produce, Read, ReadAnswer, RecordId, Seen,
    Sent, check,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

const CLIENTS: u32 = 4;
const LOGS: [(&str, i32); 3] = [("a", 0), ("a", 1), ("b", 0)];

/// A finite sequence of choices. Once it is used up every choice is 0, so that shorter sequences end without
/// further actions.
pub struct Choices<'a>(std::slice::Iter<'a, u32>);

impl<'a> Choices<'a> {
    pub fn new(choices: &'a [u32]) -> Self {
        Self(choices.iter())
    }

    pub fn is_empty(&self) -> bool {
        self.0.len() == 0
    }

    pub fn below(&mut self, most: u32) -> u32 {
        self.0.next().map_or(0, |n| n % most)
    }

    pub fn index(&mut self, most: usize) -> usize {
        usize::try_from(self.below(u32::try_from(most).expect("few"))).expect("small")
    }
}

/// A log that is simple enough to be correct: a list of records for each partition. Each operation takes
/// effect in a single step.
#[derive(Default)]
struct Model {
    now: u64,
    counter: u64,
    logs: BTreeMap<Log, Vec<RecordId>>,
    answers: BTreeMap<String, Vec<Placed>>,
    ops: Vec<Op>,
    /// Open operation of each client, and its outcome once it has been decided.
    open: BTreeMap<u32, (usize, Option<Outcome>)>,
    /// Requests whose clients got no answer and that may still take effect.
    late: Vec<usize>,
    keyed: BTreeMap<u32, Produce>,
    sessions: BTreeMap<(u32, Log), i64>,
}

fn length(records: &[RecordId]) -> i64 {
    i64::try_from(records.len()).expect("few")
}

impl Model {
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

    fn draft(&mut self, client: u32, choices: &mut Choices<'_>) -> Produce {
        let records = (0..=choices.below(3)).map(|_| {
            let (topic, partition) = LOGS[choices.index(LOGS.len())];
            self.counter += 1;
            Sent::new(topic, Some(partition), RecordId { client, counter: self.counter })
        });
        Produce { records: records.collect(), key: None, expect: None }
    }

    fn call(&mut self, client: u32, choices: &mut Choices<'_>) -> Call {
        let (topic, partition) = LOGS[choices.index(LOGS.len())];
        let log = Log::new(topic, partition);
        let end = self.logs.get(&log).map_or(0, |l| length(l));
        match choices.below(10) {
            0..3 => Call::Produce(self.draft(client, choices)),
            3..5 => {
                if let Some(produce) = self.keyed.get(&client) {
                    return Call::Produce(produce.clone());
                }
                let mut produce = self.draft(client, choices);
                produce.key = Some(format!("{client}-{}", self.counter));
                self.keyed.insert(client, produce.clone());
                Call::Produce(produce)
            }
            5 => {
                self.counter += 1;
                let id = RecordId { client, counter: self.counter };
                let sent = Sent::new(topic, Some(partition), id);
                let expect = Some(end - i64::from(choices.below(2)).min(end));
                Call::Produce(Produce { records: vec![sent], key: None, expect })
            }
            6 => Call::End(log),
            7 => Call::Read(Read {
                log,
                from: From::Offset(end - i64::from(choices.below(3)).min(end)),
                session: 1,
            }),
            8 => Call::Read(Read { log, from: From::Earliest, session: 1 }),
            _ => {
                let known = self.sessions.contains_key(&(client, log.clone()));
                Call::Read(Read { log, from: if known { From::Next } else { From::Earliest }, session: 0 })
            }
        }
    }

    /// Lets an operation take effect.
    fn apply(&mut self, op: usize, choices: &mut Choices<'_>) -> Outcome {
        let client = self.ops[op].id.client;
        match self.ops[op].call.clone() {
            Call::Produce(produce) => self.store(&produce),
            Call::End(log) => Outcome::End { high_watermark: self.logs.get(&log).map_or(0, |l| length(l)) },
            Call::Read(read) => {
                let start = match read.from {
                    From::Offset(offset) => offset,
                    From::Next => self.sessions[&(client, read.log.clone())],
                    _ => 0,
                };
                let answer = self.look(&read.log, start, choices.index(6));
                if read.session == 0 {
                    self.sessions
                        .insert((client, read.log), answer.records.last().map_or(start, |r| r.0 + 1));
                }
                Outcome::Records(answer)
            }
            Call::Final(log) => Outcome::Records(self.look(&log, 0, usize::MAX)),
            Call::Queue(call) => panic!("this is a log: {call:?}"),
        }
    }

    fn look(&self, log: &Log, start: i64, limit: usize) -> ReadAnswer {
        let all = self.logs.get(log).map_or(&[][..], |l| l.as_slice());
        let records = (0..)
            .zip(all)
            .filter(|(offset, _)| *offset >= start)
            .map(|(offset, id)| (offset, Seen::Record(*id)));
        ReadAnswer {
            log_start: Some(0),
            high_watermark: Some(length(all)),
            records: records.take(limit.max(1)).collect(),
        }
    }

    fn store(&mut self, produce: &Produce) -> Outcome {
        if let Some(placed) = produce.key.as_ref().and_then(|key| self.answers.get(key)) {
            return Outcome::Produced { placed: placed.clone(), duplicate: true };
        }
        let home = |sent: &Sent| Log::new(&sent.topic, sent.partition.expect("it is named"));
        if let Some(expect) = produce.expect {
            let end = self.logs.get(&home(&produce.records[0])).map_or(0, |l| length(l));
            if end != expect {
                return Outcome::Fail { current: Some(end) };
            }
        }
        let mut placed = Vec::new();
        for sent in &produce.records {
            let log = self.logs.entry(home(sent)).or_default();
            placed.push(Placed { partition: sent.partition.expect("it is named"), offset: length(log) });
            log.push(sent.id);
        }
        if let Some(key) = &produce.key {
            self.answers.insert(key.clone(), placed.clone());
        }
        Outcome::Produced { placed, duplicate: false }
    }

    /// Performs one step of one client: begin an operation, let it take effect, fail it, answer it, or lose
    /// its answer.
    fn step(&mut self, choices: &mut Choices<'_>) {
        if !self.late.is_empty() && choices.below(6) == 0 {
            let op = self.late.swap_remove(choices.index(self.late.len()));
            self.apply(op, choices);
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
                    // A read without an answer does not move its session.
                    if matches!(self.ops[op].call, Call::Produce(_)) {
                        self.late.push(op);
                    }
                    self.finish(op, Outcome::Info);
                }
                _ => {
                    let outcome = self.apply(op, choices);
                    self.open.insert(client, (op, Some(outcome)));
                }
            },
            Some((op, Some(outcome))) => {
                let told = !matches!(outcome, Outcome::Produced { .. }) || choices.below(5) > 0;
                if told && matches!(outcome, Outcome::Produced { .. }) && choices.below(2) == 0 {
                    self.keyed.remove(&client);
                }
                self.finish(op, if told { outcome } else { Outcome::Info });
            }
        }
    }

    fn history(choices: &[u32]) -> History {
        let mut model = Self::default();
        let mut choices = Choices::new(choices);
        while !choices.is_empty() {
            model.step(&mut choices);
        }
        for (topic, partition) in LOGS {
            let op = model.begin(99, Call::Final(Log::new(topic, partition)));
            let outcome = model.apply(op, &mut choices);
            model.finish(op, outcome);
        }
        History { ops: model.ops }
    }
}

/// Corrupts a history in one place so that no correct log can have produced it; false if there is nothing to
/// corrupt in this way.
fn spoil(history: &mut History, how: u32, which: usize) -> bool {
    let finals: Vec<usize> =
        (0..history.ops.len()).filter(|op| matches!(history.ops[*op].call, Call::Final(_))).collect();
    let produced = |op: &Op| matches!(op.outcome(), Outcome::Produced { .. });
    let acknowledged: Vec<usize> = (0..history.ops.len()).filter(|op| produced(&history.ops[*op])).collect();
    if how < 5 {
        let held =
            |op: &usize| matches!(history.ops[*op].outcome(), Outcome::Records(a) if a.records.len() > 1);
        let filled: Vec<usize> = finals.into_iter().filter(held).collect();
        let Some(op) = filled.get(which % filled.len().max(1)).copied() else { return false };
        let known: Vec<RecordId> = acknowledged.iter().flat_map(|op| sent(&history.ops[*op])).collect();
        let Some((_, Outcome::Records(answer))) = &mut history.ops[op].returned else { return false };
        let place = which % (answer.records.len() - 1);
        match how {
            0 => drop(answer.records.remove(place)),
            1 => {
                let end = answer.high_watermark.expect("it is named");
                answer.records.push((end, answer.records[place].1));
                answer.high_watermark = Some(end + 1);
            }
            2 => {
                let pair = [answer.records[place].1, answer.records[place + 1].1];
                if !pair.iter().any(|seen| matches!(seen, Seen::Record(id) if known.contains(id))) {
                    return false;
                }
                (answer.records[place].1, answer.records[place + 1].1) = (pair[1], pair[0]);
            }
            3 => answer.records[place].1 = Seen::Record(RecordId { client: 77, counter: 7 }),
            _ => {
                let last = answer.records.pop().expect("two at least");
                answer.high_watermark = Some(last.0);
                return matches!(last.1, Seen::Record(id) if known.contains(&id));
            }
        }
        return true;
    }
    let Some(op) = acknowledged.get(which % acknowledged.len().max(1)).copied() else { return false };
    let mine = sent(&history.ops[op]);
    let once = history.ops.iter().filter(|o| sent(o) == mine).count() == 1;
    let Some((_, outcome)) = &mut history.ops[op].returned else { return false };
    match (how, &mut *outcome) {
        (5, Outcome::Produced { placed, .. }) => placed[0].offset += 1,
        (_, Outcome::Produced { .. }) if once => *outcome = Outcome::Fail { current: None },
        _ => return false,
    }
    true
}

fn sent(op: &Op) -> Vec<RecordId> {
    match &op.call {
        Call::Produce(produce) => produce.records.iter().map(|r| r.id).collect(),
        _ => Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, max_global_rejects: u32::MAX, ..ProptestConfig::default() })]

    #[test]
    fn what_a_correct_log_made_is_not_refused(choices in prop::collection::vec(any::<u32>(), 0..900)) {
        let violations = check(&Model::history(&choices), Options::default());
        prop_assert!(violations.is_empty(), "{violations:?}");
    }

    #[test]
    fn what_was_spoilt_in_one_place_is_refused(
        choices in prop::collection::vec(any::<u32>(), 200..900),
        how in 0_u32..7,
        which in any::<usize>(),
    ) {
        let mut history = Model::history(&choices);
        prop_assume!(spoil(&mut history, how, which));
        prop_assert!(!check(&history, Options::default()).is_empty(), "spoilt by {how}");
    }
}
