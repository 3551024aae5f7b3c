//! A worker of a queue: leases records, settles them, and leases again.

use super::load::Acked;
use super::{AnswerFormat, QueueArgs, Settle};
use crate::Outcome;
use crate::http::{Client, whole};
use crate::report::Latencies;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_ipc::reader::StreamReader;
use http::{Method, header};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::time::Instant;

/// Progress of all workers: how many records were leased and acked, and how many are expected to be.
pub struct Done {
    acked: AtomicUsize,
    leased: AtomicUsize,
    expected: AtomicUsize,
}

impl Done {
    pub fn new(expected: Option<usize>) -> Self {
        Self {
            acked: AtomicUsize::new(0),
            leased: AtomicUsize::new(0),
            expected: AtomicUsize::new(expected.unwrap_or(usize::MAX)),
        }
    }

    pub fn expect(&self, records: usize) {
        self.expected.store(records, Ordering::Relaxed);
    }

    pub fn acked(&self) -> usize {
        self.acked.load(Ordering::Relaxed)
    }

    pub fn leased(&self) -> usize {
        self.leased.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.acked() >= self.expected.load(Ordering::Relaxed)
    }
}

pub struct Worker {
    client: Arc<Client>,
    leases: String,
    settlements: String,
    body: String,
    accept: &'static str,
    form: AnswerFormat,
    settle: Settle,
    failures: f64,
    rng: SmallRng,
    done: Arc<Done>,
    acked: Option<Arc<Acked>>,
}

/// The measurements of one worker.
pub struct Seen {
    pub leases: Latencies,
    pub settles: Latencies,
    pub last: Instant,
}

/// The parts of a lease call's answer that a worker needs.
struct Lease {
    id: String,
    /// Empty if the whole lease is settled and no record is nacked.
    receipts: Vec<String>,
    records: usize,
    /// Partition and offset of the first record.
    first: (i32, i64),
}

impl Worker {
    pub fn new(
        client: Arc<Client>,
        queue: &str,
        args: &QueueArgs,
        number: u32,
        done: Arc<Done>,
        acked: Option<Arc<Acked>>,
    ) -> Self {
        // Long enough to wait for records, but short enough to notice soon that all are done.
        let wait_ms = if args.rate.is_some() { 500 } else { 50 };
        let body = format!(r#"{{"max_records":{},"max_bytes":16777216,"wait_ms":{wait_ms}}}"#, args.batch);
        let accept = match args.format {
            AnswerFormat::Json => "application/json",
            AnswerFormat::Arrow => "application/vnd.apache.arrow.stream",
        };
        Self {
            client,
            leases: format!("{queue}/leases"),
            settlements: format!("{queue}/settlements"),
            body,
            accept,
            form: args.format,
            settle: args.settle,
            failures: args.failures,
            rng: SmallRng::seed_from_u64(number.into()),
            done,
            acked,
        }
    }

    pub async fn run(mut self) -> Outcome<Seen> {
        let mut seen = Seen { leases: Latencies::new()?, settles: Latencies::new()?, last: Instant::now() };
        while !self.done.is_over() {
            let called = Instant::now();
            let headers = [(header::CONTENT_TYPE, "application/json"), (header::ACCEPT, self.accept)];
            let answer = self
                .client
                .call(Method::POST, &self.leases, &headers, whole(self.body.clone()))
                .await?
                .ok()?;
            let answered = Instant::now();
            let lease = match self.form {
                AnswerFormat::Json => {
                    json(&answer.bytes, self.settle == Settle::Receipts || self.failures > 0.0)?
                }
                AnswerFormat::Arrow => {
                    arrow(&answer.bytes, self.settle == Settle::Receipts || self.failures > 0.0)?
                }
            };
            let Some(lease) = lease else { continue };
            self.done.leased.fetch_add(lease.records, Ordering::Relaxed);
            // If the call waited for its records, its time counts from when the first of them was
            // acknowledged to its producer.
            match &self.acked {
                None => seen.leases.record(answered - called),
                Some(acked) => {
                    let there = acked.at(lease.first).map_or(called, |at| at.max(called));
                    let took = answered.saturating_duration_since(there);
                    if acked.counts(answered) {
                        seen.leases.record(took);
                        acked.leased(answered, took);
                    }
                }
            }
            let (body, kept) = self.settlement(&lease);
            let sent = Instant::now();
            let headers = [(header::CONTENT_TYPE, "application/json")];
            let told =
                self.client.call(Method::POST, &self.settlements, &headers, whole(body)).await?.ok()?;
            seen.settles.record(sent.elapsed());
            if memchr::memmem::find(&told.bytes, b"\"lost\"").is_some() {
                return Err("a settlement was lost".into());
            }
            self.done.acked.fetch_add(kept, Ordering::Relaxed);
            seen.last = Instant::now();
        }
        Ok(seen)
    }

    /// The body of the settlement, and the number of records that it acks.
    fn settlement(&mut self, lease: &Lease) -> (String, usize) {
        let (rng, failures) = (&mut self.rng, self.failures);
        let (mut acks, mut nacks) = (Vec::new(), Vec::new());
        for receipt in &lease.receipts {
            if failures > 0.0 && rng.random_bool(failures) { nacks.push(receipt) } else { acks.push(receipt) }
        }
        let nacked: Vec<String> = nacks.iter().map(|r| format!(r#"{{"receipt":"{r}"}}"#)).collect();
        let nacked = nacked.join(",");
        if self.settle == Settle::Lease {
            return (
                format!(r#"{{"nack":[{nacked}],"ack_leases":["{}"]}}"#, lease.id),
                lease.records - nacks.len(),
            );
        }
        let mut body = String::with_capacity(lease.records * 64 + 64);
        body.push_str(r#"{"ack":["#);
        for (n, receipt) in acks.iter().enumerate() {
            body.push_str(if n > 0 { ",\"" } else { "\"" });
            body.push_str(receipt);
            body.push('"');
        }
        body.push_str(&format!(r#"],"nack":[{nacked}]}}"#));
        (body, acks.len())
    }
}

/// The text after a mark, up to the next quote, comma or brace. Faster than parsing the whole answer.
fn after<'a>(body: &'a [u8], mark: &[u8]) -> Option<&'a str> {
    let start = memchr::memmem::find(body, mark)? + mark.len();
    let end = body[start..].iter().position(|b| matches!(b, b'"' | b',' | b'}'))?;
    std::str::from_utf8(&body[start..start + end]).ok()
}

fn json(body: &[u8], receipts: bool) -> Outcome<Option<Lease>> {
    const RECEIPT: &[u8] = b"\"receipt\":\"";
    let Some(id) = after(body, b"\"lease_id\":\"") else { return Ok(None) };
    let number = |mark: &[u8]| after(body, mark).and_then(|n| n.parse::<i64>().ok());
    let first = (i32::try_from(number(b"\"partition\":").unwrap_or(0))?, number(b"\"offset\":").unwrap_or(0));
    let mut lease = Lease { id: id.to_owned(), receipts: Vec::new(), records: 0, first };
    for at in memchr::memmem::find_iter(body, RECEIPT) {
        lease.records += 1;
        if receipts {
            let rest = &body[at + RECEIPT.len()..];
            let end = memchr::memchr(b'"', rest).unwrap_or(0);
            lease.receipts.push(std::str::from_utf8(&rest[..end])?.to_owned());
        }
    }
    Ok((lease.records > 0).then_some(lease))
}

fn arrow(body: &[u8], receipts: bool) -> Outcome<Option<Lease>> {
    let reader = StreamReader::try_new(body, None)?;
    let Some(id) = reader.schema().metadata().get("lease_id").cloned() else { return Ok(None) };
    let mut lease = Lease { id, receipts: Vec::new(), records: 0, first: (0, 0) };
    for batch in reader {
        let batch = batch?;
        if lease.records == 0 && batch.num_rows() > 0 {
            let partition = batch
                .column_by_name("partition")
                .ok_or("no partitions")?
                .as_primitive::<Int32Type>()
                .value(0);
            let offset =
                batch.column_by_name("offset").ok_or("no offsets")?.as_primitive::<Int64Type>().value(0);
            lease.first = (partition, offset);
        }
        lease.records += batch.num_rows();
        if receipts {
            let column = batch.column_by_name("receipt").ok_or("no receipts")?.as_string::<i32>();
            lease.receipts.extend(column.iter().flatten().map(str::to_owned));
        }
    }
    Ok((lease.records > 0).then_some(lease))
}
