//! A door for a toy line protocol: the smallest example of one. It parses a line into a verb's input, and writes
//! the verb's output as lines; everything else is the engine's.
//!
//! `PUT topic value` · `GET topic partition offset` · `TAIL topic` · `LEASE queue` · `ACK receipt` (of the queue
//! that this connection leased from last). Answers begin with `OK`, `RECORD`, `NONE` or `ERROR`.

use bytes::Bytes;
use millpond_core::{Name, Offset, Scope};
use millpond_engine::fetch::partition::PartitionRead;
use millpond_engine::fetch::tail::TopicStart;
use millpond_engine::fetch::{ReadLimits, RecordSink, Selection, Start};
use millpond_engine::produce::append::{AppendBuilder, RecordError};
use millpond_engine::produce::atomic::AtomicRequest;
use millpond_engine::produce::{Identity, KeySpace, RecordSource};
use millpond_engine::queue::LeaseRequest;
use millpond_engine::queue::plan::{SettleItem, SettleStatus, Target, Wish};
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

const LIMITS: ReadLimits = ReadLimits { max_records: 100, max_bytes: 1 << 20 };
const WAIT: Duration = Duration::from_secs(5);

type Answer = Result<String, Box<dyn Error + Send + Sync>>;

/// The one record of a `PUT`.
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

/// Records as lines.
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
        let connection =
            Connection { engine: Arc::clone(&engine), scope: Scope::unauthenticated(), queue: None };
        tokio::spawn(connection.run(stream));
    }
}

struct Connection {
    engine: Arc<Engine>,
    scope: Scope,
    /// What `ACK` settles in.
    queue: Option<Name>,
}

impl Connection {
    async fn run(mut self, stream: TcpStream) -> std::io::Result<()> {
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

    async fn put(&self, rest: &str) -> Answer {
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

    async fn get(&self, rest: &str) -> Answer {
        let [topic, partition, offset] = rest.split(' ').collect::<Vec<_>>()[..] else {
            return Err("GET topic partition offset".into());
        };
        let read = PartitionRead {
            topic: Name::new(topic)?,
            partition: partition.parse()?,
            start: Start::Offset(Offset(offset.parse()?)),
            max_bytes: LIMITS.max_bytes,
            wait: Duration::ZERO,
        };
        let records = self.engine.fetch.partition(&self.scope, &read).await?;
        let (mut lines, mut next) =
            (Lines { partition: records.partition, ..Lines::default() }, records.start);
        let one = ReadLimits { max_records: 1, ..LIMITS };
        Selection::new(one).take(&records.fetched, &mut next, &mut lines)?;
        Ok(if lines.text.is_empty() { "NONE\n".to_owned() } else { lines.text })
    }

    async fn tail(&self, topic: &str, mut writer: impl AsyncWriteExt + Unpin) -> std::io::Result<()> {
        let topic = Name::new(topic).map_err(std::io::Error::other)?;
        let start = TopicStart::At(Start::Earliest);
        let tail = self.engine.fetch.tail(&self.scope, &topic, start).await;
        let mut tail = tail.map_err(std::io::Error::other)?;
        while !tail.is_stopping() {
            let mut lines = Lines::default();
            let read = tail.follow(LIMITS, Instant::now() + WAIT, &mut lines).await;
            read.map_err(std::io::Error::other)?;
            writer.write_all(lines.text.as_bytes()).await?;
        }
        Ok(())
    }

    async fn lease(&mut self, queue: &str) -> Answer {
        let queue = Name::new(queue)?;
        let request = LeaseRequest {
            max_records: 1,
            max_bytes: LIMITS.max_bytes,
            lease_ms: None,
            wait: WAIT,
            request_id: None,
        };
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

    async fn ack(&self, receipt: &str) -> Answer {
        let queue = self.queue.as_ref().ok_or("LEASE comes first")?;
        let target = Receipt::parse(receipt).map_or(Target::Nothing, Target::Record);
        let items = [SettleItem { target, wish: Wish::Ack }];
        let settled = self.engine.queues.settle(&self.scope, queue, &items, None).await?;
        let status = settled.first().map_or(SettleStatus::Lost, |s| s.status);
        Ok(format!("OK {}\n", status.as_str()))
    }
}
