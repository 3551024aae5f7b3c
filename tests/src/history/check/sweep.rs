//! Sweep over operations in time order: whatever was known before an operation began must still hold for it.

use super::{Checker, LogNumber, OpNumber};
use crate::history::op::{Call, From, Outcome};
use crate::history::violation::Kind;
use std::collections::HashMap;

/// Lower bound of a log's end, and the operation that established it.
#[derive(Clone, Copy, Default)]
struct Floor {
    end: i64,
    by: Option<OpNumber>,
}

impl Floor {
    fn raise(&mut self, end: i64, by: OpNumber) {
        if end > self.end {
            *self = Self { end, by: Some(by) };
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Floors {
    /// Lower bounds established by acknowledgements (`acknowledged`), by reads (`seen`), and because another
    /// part of a request was seen in another log (`whole`).
    acknowledged: Floor,
    seen: Floor,
    whole: Floor,
    log_start: Floor,
}

/// What an operation's answer says about a log.
struct Sight {
    log: LogNumber,
    /// End of the log; `None`: at least `least`, otherwise unknown.
    end: Option<i64>,
    least: i64,
    log_start: Option<i64>,
}

#[derive(Default)]
struct State {
    floors: Vec<Floors>,
    /// Ends of each client's acknowledged requests, by client and log.
    clients: HashMap<(u32, LogNumber), Floor>,
    /// Bounds at the beginning of each open operation that observes a log.
    open: HashMap<OpNumber, Floors>,
    /// For each log, the requests that span several logs, by their first offset in it, and the number of
    /// those that have been seen.
    spread: Vec<(Vec<(i64, usize)>, usize)>,
    /// For each request, its first and last offset in each of its logs.
    spans: Vec<Vec<(LogNumber, i64, i64)>>,
}

impl Checker<'_> {
    pub(super) fn sweep(&mut self) {
        let sights: HashMap<OpNumber, Sight> =
            (0..self.ops.len()).filter_map(|op| Some((op, self.sight(op)?))).collect();
        let mut state = State { floors: vec![Floors::default(); self.logs.len()], ..State::default() };
        self.spread(&mut state);
        let mut begins: HashMap<OpNumber, usize> = HashMap::new();
        for (number, request) in self.requests.iter().enumerate() {
            let first = request.attempts.iter().find(|op| self.ops[**op].invoked == request.invoked);
            begins.extend(first.map(|op| (*op, number)));
        }
        // Operations overlap if one begins at the same time at which the other ends: invocations sort first.
        let mut moments: Vec<(u64, bool, OpNumber)> = Vec::with_capacity(2 * self.ops.len());
        for (number, op) in self.ops.iter().enumerate() {
            moments.push((op.invoked, false, number));
            moments.extend(op.returned.as_ref().map(|(at, _)| (*at, true, number)));
        }
        moments.sort_unstable();
        for (_, returned, op) in moments {
            if !returned {
                if let Some(request) = begins.get(&op) {
                    self.append_begins(&state, *request, op);
                }
                if let Some(sight) = sights.get(&op) {
                    state.open.insert(op, state.floors[sight.log]);
                }
                continue;
            }
            if let Some(sight) = sights.get(&op) {
                let floors = state.open.remove(&op).unwrap_or_default();
                self.look(op, sight, &floors);
                state.floors[sight.log].seen.raise(sight.least, op);
                state.floors[sight.log].log_start.raise(sight.log_start.unwrap_or(0), op);
                self.see(&mut state, sight.log, sight.least, op);
            }
            if let (Call::Produce(produce), Outcome::Produced { .. }) =
                (&self.ops[op].call, self.ops[op].outcome())
            {
                let Some(first) = produce.records.first() else { continue };
                self.append_ends(&mut state, self.records[&first.id].request, op);
            }
        }
    }

    fn sight(&mut self, op: OpNumber) -> Option<Sight> {
        let (call, outcome) = (&self.ops[op].call, self.ops[op].outcome());
        match (call, outcome) {
            (Call::End(log), Outcome::End { high_watermark }) => Some(Sight {
                log: self.log_of(log),
                end: Some(*high_watermark),
                least: *high_watermark,
                log_start: None,
            }),
            (Call::Read(_) | Call::Final(_), Outcome::Records(answer)) => {
                let (log, from) = match call {
                    Call::Read(read) => (&read.log, Some(read.from)),
                    Call::Final(log) => (log, None),
                    _ => return None,
                };
                let records_end = answer.records.last().map_or(0, |r| r.0 + 1);
                let end = match (answer.high_watermark, from) {
                    (Some(end), _) => Some(end),
                    (None, Some(From::Offset(offset))) if answer.records.is_empty() => Some(offset),
                    (None, None) => Some(records_end),
                    _ => None,
                };
                let least = if answer.high_watermark.is_some() {
                    records_end.max(end.unwrap_or(0))
                } else {
                    records_end
                };
                Some(Sight { log: self.log_of(log), end, least, log_start: answer.log_start })
            }
            (Call::Produce(produce), Outcome::Fail { current: Some(current) }) => {
                let sent = produce.records.first()?;
                let log = self.log(&sent.topic, sent.partition?);
                Some(Sight { log, end: Some(*current), least: *current, log_start: None })
            }
            _ => None,
        }
    }

    /// Computes the offsets of requests, as far as they are known and not contradicted.
    fn spread(&self, state: &mut State) {
        state.spread = vec![(Vec::new(), 0); self.logs.len()];
        for (number, request) in self.requests.iter().enumerate() {
            let mut spans: Vec<(LogNumber, i64, i64)> = Vec::new();
            for record in request.records.iter().map(|id| &self.records[id]).filter(|r| !r.tainted) {
                let Some(place) = record.read.or(record.acknowledged) else { continue };
                match spans.iter_mut().find(|s| s.0 == place.log) {
                    Some(span) => (span.1, span.2) = (span.1.min(place.offset), span.2.max(place.offset)),
                    None => spans.push((place.log, place.offset, place.offset)),
                }
            }
            if spans.len() > 1 {
                for (log, first, _) in &spans {
                    state.spread[*log].0.push((*first, number));
                }
            }
            state.spans.push(spans);
        }
        for (requests, _) in &mut state.spread {
            requests.sort_unstable();
        }
    }

    fn append_begins(&mut self, state: &State, request: usize, op: OpNumber) {
        let client = self.ops[op].id.client;
        for (log, first, _) in &state.spans[request] {
            let own = state.clients.get(&(client, *log)).copied().unwrap_or_default();
            let floors = &state.floors[*log];
            let highest = [own, floors.acknowledged, floors.seen, floors.whole]
                .into_iter()
                .max_by_key(|f| f.end)
                .unwrap_or_default();
            let (kind, floor) =
                if own.end > *first { (Kind::ClientOrder, own) } else { (Kind::AppendOrder, highest) };
            if let Some(by) = floor.by.filter(|_| floor.end > *first) {
                let what = format!("it began when the log was known to reach {}", floor.end);
                self.say(kind, (*log, *first), &[by, op], what);
            }
        }
    }

    fn append_ends(&mut self, state: &mut State, request: usize, op: OpNumber) {
        let client = self.ops[op].id.client;
        for (log, _, last) in state.spans[request].clone() {
            state.floors[log].acknowledged.raise(last + 1, op);
            state.clients.entry((client, log)).or_default().raise(last + 1, op);
            self.see(state, log, last + 1, op);
        }
    }

    /// Once a part of a request was seen, every later operation must find the rest: raises the bounds.
    fn see(&self, state: &mut State, log: LogNumber, end: i64, by: OpNumber) {
        loop {
            let (requests, seen) = &mut state.spread[log];
            let Some((_, request)) = requests.get(*seen).filter(|(first, _)| *first < end) else { return };
            *seen += 1;
            for (log, _, last) in &state.spans[*request] {
                state.floors[*log].whole.raise(last + 1, by);
            }
        }
    }

    fn look(&mut self, op: OpNumber, sight: &Sight, floors: &Floors) {
        let log = sight.log;
        if let (Some(start), Some(by)) = (sight.log_start, floors.log_start.by)
            && start < floors.log_start.end
        {
            self.say(
                Kind::LogStart,
                (log, start),
                &[by, op],
                format!("the log began at {} before", floors.log_start.end),
            );
        }
        let Some(end) = sight.end else { return };
        let known = [
            (Kind::StaleRead, floors.acknowledged, "acknowledged"),
            (Kind::HighWatermarkBack, floors.seen, "seen"),
            (Kind::Torn, floors.whole, "visible with the rest of its request"),
        ];
        // An acknowledged record that a complete read lacks is reported as lost instead.
        let mut known = known
            .into_iter()
            .filter(|(kind, floor, _)| floor.end > end && !(*kind == Kind::StaleRead && self.is_final(op)));
        let lost = self.is_final(op) && self.acknowledged_at.contains_key(&(log, end));
        if let Some((kind, Floor { end: floor, by: Some(by) }, how)) = known.next() {
            if !lost {
                self.say(
                    kind,
                    (log, end),
                    &[by, op],
                    format!("the log ends here, though offset {} was {how} before", floor - 1),
                );
            }
            return;
        }
        let request_at = |offset: i64| {
            let at = (log, offset);
            let (id, _) = self.read_at.get(&at).or_else(|| self.acknowledged_at.get(&at))?;
            self.records.get(id).filter(|r| !r.tainted).map(|r| r.request)
        };
        if let (Some(before), Some(after)) = (request_at(end - 1), request_at(end))
            && before == after
        {
            let first = self.requests[before].attempts[0];
            self.say(Kind::Torn, (log, end), &[first, op], "the log ends within a request");
        }
    }
}
