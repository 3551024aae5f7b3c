//! A door for a toy line protocol, as the smallest example of a door. It parses a line into the input of an
//! engine verb, and writes the verb's output as lines; the engine does everything else.
//!
//! `PUT topic value` · `GET topic partition offset` · `TAIL topic` · `LEASE queue` · `ACK receipt` (in the
//! queue that this connection leased from last). Answers begin with `OK`, `RECORD`, `NONE` or `ERROR`.

use bytes::Bytes;
use millpond_core::{Name, Offset, Scope};
use millpond_engine::fetch::partition::PartitionRead;
use millpond_engine::fetch::tail::TopicStart;
use millpond_engine::fetch::{ReadLimits, RecordSink, Selection, Start};
use millpond_engine::produce::append::{AppendBuilder, RecordError};
use millpond_engine::produce::atomic::AtomicRequest;
use millpond_engine::produce::{Identity, KeySpace, RecordSource};
use millpond_engine::queue::LeaseRequest;
use millpond_engine::queue::plan::{SettleAction, SettleItem, SettleStatus, Target};
use millpond_engine::queue::receipt::Receipt;
use millpond_engine::{Engine, hash};
use millpond_format::Corrupt;
use millpond_format::record::{NewRecord, RecordView};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use uuid::Uuid;

const MAX_BYTES: usize = 1 << 20;
const TAIL_LIMITS: ReadLimits = ReadLimits { max_records: 100, max_bytes: MAX_BYTES };
const GET_LIMITS: ReadLimits = ReadLimits { max_records: 1, max_bytes: MAX_BYTES };
/// Longest wait for a record.
const WAIT_MAX: Duration = Duration::from_secs(5);

type Failure = Box<dyn Error + Send + Sync>;

/// The single record of a `PUT`.
struct Value(Bytes);

impl RecordSource for Value {
    type Refusal = RecordError;

    fn read(&self, into: &mut AppendBuilder) -> Result<(), RecordError> {
        into.push(0, None, &NewRecord { value: Some(&self.0), ..NewRecord::default() })
    }

    fn input_bytes(&self) -> usize {
        self.0.len()
    }

    fn content_hash(&self, shape: &[u8]) -> Uuid {
        hash::of(&[shape, &self.0])
    }
}

/// Collects records as lines of text.
#[derive(Default)]
struct Lines {
    partition: i32,
    text: String,
}

impl RecordSink for Lines {
    fn begin_partition(&mut self, _topic: &Name, partition: i32) {
        self.partition = partition;
    }

    fn push(&mut self, offset: Offset, record: &RecordView<'_>, _is_json: bool) -> Result<(), Corrupt> {
        let value = String::from_utf8_lossy(record.value.unwrap_or_default());
        self.text.push_str(&format!("RECORD {} {offset} {value}\n", self.partition));
        Ok(())
    }
}

/// Serves connections until the listener's task is aborted.
pub async fn serve(engine: Arc<Engine>, listener: TcpListener) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let (engine, scope) = (Arc::clone(&engine), Scope::unauthenticated());
        tokio::spawn(Connection { engine, scope, queue: None }.run(stream));
    }
}

struct Connection {
    engine: Arc<Engine>,
    scope: Scope,
    /// Queue of the last `LEASE`, in which `ACK` settles.
    queue: Option<Name>,
}

impl Connection {
    async fn run(mut self, stream: TcpStream) -> Result<(), Failure> {
        let (reader, mut writer) = stream.into_split();
        let mut lines = BufReader::new(reader).lines();
        while let Some(line) = lines.next_line().await? {
            let answer = match line.split_once(' ').unwrap_or((&line, "")) {
                ("PUT", rest) => self.put(rest).await,
                ("GET", rest) => self.get(rest).await,
                ("TAIL", topic) => return self.tail(topic, writer).await,
                ("LEASE", queue) => self.lease(queue).await,
                ("ACK", receipt) => self.ack(receipt).await,
                (verb, _) => Err(format!("there is no verb {verb}").into()),
            };
            let text = answer.unwrap_or_else(|error| format!("ERROR {error}\n"));
            writer.write_all(text.as_bytes()).await?;
        }
        Ok(())
    }

    async fn put(&self, rest: &str) -> Result<String, Failure> {
        let (topic, value) = rest.split_once(' ').ok_or("PUT topic value")?;
        let request = AtomicRequest {
            topics: vec![Name::new(topic)?],
            records: Arc::new(Value(Bytes::copy_from_slice(value.as_bytes()))),
            identity: Identity::default(),
            key_space: KeySpace::Topic,
            expect: None,
            offsets: None,
            acks: Vec::new(),
            timestamp: self.engine.clock.now_ms(),
            permit: None,
        };
        let stored = self.engine.produce.atomic(&self.scope, request).await?;
        let record = stored.records.first().ok_or("nothing was stored")?;
        Ok(format!("OK {} {}\n", record.partition, record.offset.unwrap_or_default()))
    }

    async fn get(&self, rest: &str) -> Result<String, Failure> {
        let [topic, partition, offset] = rest.split(' ').collect::<Vec<_>>()[..] else {
            return Err("GET topic partition offset".into());
        };
        let (topic, partition, offset) = (Name::new(topic)?, partition.parse()?, Offset(offset.parse()?));
        let (start, wait) = (Start::Offset(offset), Duration::ZERO);
        let read = PartitionRead { topic, partition, start, max_bytes: MAX_BYTES, wait };
        let records = self.engine.fetch.partition(&self.scope, &read).await?;
        let (mut lines, mut next) = (Lines { partition, ..Lines::default() }, records.start);
        Selection::new(GET_LIMITS).take(&records.fetched, &mut next, &mut lines)?;
        Ok(if lines.text.is_empty() { "NONE\n".to_owned() } else { lines.text })
    }

    async fn tail(&self, topic: &str, mut writer: impl AsyncWriteExt + Unpin) -> Result<(), Failure> {
        let (topic, start) = (Name::new(topic)?, TopicStart::At(Start::Earliest));
        let mut tail = self.engine.fetch.tail(&self.scope, &topic, start).await?;
        while !tail.is_stopping() {
            let mut lines = Lines::default();
            tail.follow(TAIL_LIMITS, Instant::now() + WAIT_MAX, &mut lines).await?;
            writer.write_all(lines.text.as_bytes()).await?;
        }
        Ok(())
    }

    async fn lease(&mut self, queue: &str) -> Result<String, Failure> {
        let queue = Name::new(queue)?;
        let (max_bytes, wait) = (MAX_BYTES, WAIT_MAX);
        let request = LeaseRequest { max_records: 1, max_bytes, lease_ms: None, wait, request_id: None };
        let (_, mut leased) = self.engine.queues.lease(&self.scope, &queue, &request).await?;
        self.queue = Some(queue);
        let (Some(record), Some(lease)) = (leased.records.first(), leased.lease) else {
            return Ok("NONE\n".to_owned());
        };
        let value = String::from_utf8_lossy(record.view()?.value.unwrap_or_default()).into_owned();
        let answer = format!("OK {} {value}\n", record.receipt(lease).text());
        leased.delivered();
        Ok(answer)
    }

    async fn ack(&self, receipt: &str) -> Result<String, Failure> {
        let queue = self.queue.as_ref().ok_or("LEASE comes first")?;
        let target = Receipt::parse(receipt).map_or(Target::Nothing, Target::Record);
        let items = [SettleItem { target, action: SettleAction::Ack }];
        let settled = self.engine.queues.settle(&self.scope, queue, &items, None).await?;
        let status = settled.first().map_or(SettleStatus::Lost, |s| s.status);
        Ok(format!("OK {}\n", status.as_str()))
    }
}
