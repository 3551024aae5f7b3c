//! Storage for the events of clients: memory, or an append-only file for each client, with one JSON event a
//! line.

use super::op::{Call, Event, History, OpId, Outcome, What};
use parking_lot::Mutex;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the recorders of one history store their events.
#[derive(Clone, Debug)]
pub enum Shelf {
    Memory(Arc<Mutex<Vec<Event>>>),
    /// A folder with one file for each client.
    Folder(PathBuf),
}

impl Shelf {
    #[must_use]
    pub fn memory() -> Self {
        Self::Memory(Arc::default())
    }

    pub fn folder(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self::Folder(folder.to_owned()))
    }

    /// Creates the recorder of a client; each client has one.
    pub fn client(&self, client: u32) -> io::Result<Recorder> {
        let sink = match self {
            Self::Memory(events) => Sink::Memory(Arc::clone(events)),
            Self::Folder(folder) => Sink::File(File::create_new(folder.join(format!("{client}.ndjson")))?),
        };
        Ok(Recorder { client, inner: Mutex::new(Inner { next: 0, sink }) })
    }

    /// All events so far as a history. An incomplete last line, left by a client that was killed, is skipped.
    pub fn history(&self) -> io::Result<History> {
        let folder = match self {
            Self::Memory(events) => return Ok(History::of(events.lock().iter().cloned())),
            Self::Folder(folder) => folder,
        };
        let mut events = Vec::new();
        for entry in fs::read_dir(folder)? {
            let mut lines = BufReader::new(File::open(entry?.path())?);
            let mut line = String::new();
            while lines.read_line(&mut line)? > 0 && line.ends_with('\n') {
                events.push(serde_json::from_str(&line)?);
                line.clear();
            }
        }
        Ok(History::of(events))
    }
}

/// Recorder of one client. Several of its operations may be open at a time, in several tasks.
#[derive(Debug)]
pub struct Recorder {
    pub client: u32,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    next: u64,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    Memory(Arc<Mutex<Vec<Event>>>),
    File(File),
}

impl Recorder {
    /// Records an operation; must be called before anything is sent.
    pub fn invoke(&self, at: u64, call: Call) -> OpId {
        let mut inner = self.inner.lock();
        let op = OpId { client: self.client, number: inner.next };
        inner.next += 1;
        inner.sink.write(Event { at, op, what: What::Invoke(call) });
        op
    }

    /// Records the outcome; must be called after the whole answer was read.
    pub fn returned(&self, at: u64, op: OpId, outcome: Outcome) {
        self.inner.lock().sink.write(Event { at, op, what: What::Return(outcome) });
    }
}

impl Sink {
    fn write(&mut self, event: Event) {
        match self {
            Self::Memory(events) => events.lock().push(event),
            Self::File(file) => {
                let mut line = serde_json::to_vec(&event).expect("an event is JSON");
                line.push(b'\n');
                file.write_all(&line).expect("a line of the record");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{
        Entry, From, HandOut, Intent, Lease, Leased, Log, Placed, Produce, QueueAnswer, QueueCall, Read,
        ReadAnswer, RecordId, Seen, Sent, Settle, Target, Token,
    };

    #[test]
    fn files_and_memory_hold_the_same_and_a_broken_line_is_left_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let shelves = [Shelf::memory(), Shelf::folder(folder.path()).expect("a folder")];
        let histories = shelves.map(|shelf| {
            let (one, two) = (shelf.client(1).expect("new"), shelf.client(2).expect("new"));
            let id = RecordId { client: 1, counter: 0 };
            let sent = Sent::new("t", Some(0), id);
            let produce = one.invoke(
                1,
                Call::Produce(Produce { records: vec![sent], key: Some("k".to_owned()), expect: None }),
            );
            let read =
                two.invoke(2, Call::Read(Read { log: Log::new("t", 0), from: From::Earliest, session: 0 }));
            one.returned(
                3,
                produce,
                Outcome::Produced { placed: vec![Placed { partition: 0, offset: 0 }], duplicate: false },
            );
            let answer = ReadAnswer {
                log_start: Some(0),
                high_watermark: Some(1),
                records: vec![(0, Seen::Record(id))],
            };
            two.returned(4, read, Outcome::Records(answer));
            one.invoke(5, Call::End(Log::new("t", 0)));
            let lease =
                two.invoke(6, Call::Queue(QueueCall::Lease(Lease { queue: "q".to_owned(), request: None })));
            let (receipt, key) = (Token::of("r"), Some("k".into()));
            let record = HandOut {
                partition: 0,
                offset: 0,
                seen: Seen::Record(id),
                key,
                attempt: 1,
                failures: 0,
                receipt,
            };
            let leased = Leased { lease: Token::of("l"), now_ms: 5, deadline_ms: 6, records: vec![record] };
            two.returned(7, lease, Outcome::Queue(QueueAnswer::Leased(leased)));
            let intent = Intent::Nack { counts: true, delay_ms: None, reason: Some("r".into()) };
            let entries = vec![Entry { target: Target::Receipt(receipt), intent }];
            two.invoke(8, Call::Queue(QueueCall::Settle(Settle { queue: None, request: None, entries })));
            if let Shelf::Folder(folder) = &shelf {
                let mut file = File::options().append(true).open(folder.join("2.ndjson")).expect("a file");
                file.write_all(b"{\"at\":9,\"op\":{\"cli").expect("a piece of a line");
            }
            shelf.history().expect("a history")
        });
        assert_eq!(histories[0], histories[1]);
        assert_eq!(histories[0].ops.len(), 5);
        assert_eq!(histories[0].ops[2].outcome(), &Outcome::Info);
    }
}
