//! Bodies of produce requests. A body is generated once and sent many times.

use super::http::{RequestBody, whole};
use super::{Format, LoadArgs};
use crate::Outcome;
use arrow_array::builder::BinaryBuilder;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use millpond_core::RandomSource;
use millpond_core::saturated;
use std::sync::Arc;
use tokio::time::Instant;

/// Precedes, in the value of a record, the time at which the record was due, in microseconds.
pub const DUE_MARK: &[u8] = b"\"due_us\":\"";
/// Number of digits of a due time, with leading zeros.
pub const DUE_DIGITS: usize = 16;
/// Size of the records that are generated; larger requests repeat them.
const BLOCK_MAX_BYTES: u32 = 4 << 20;
/// Size of the frames of a streamed body.
const FRAME_BYTES: usize = 256 << 10;

/// The body of a request: `head`, then `block` repeated `times` times, then `tail`.
pub struct Template {
    head: Bytes,
    block: Bytes,
    tail: Bytes,
    times: usize,
    /// Records of a request: the number asked for, rounded up to whole blocks.
    pub records: usize,
    /// Positions of the due times' digits in the body; empty if it is streamed or is Arrow.
    due_at: Vec<usize>,
    /// Query string of the request, with its `?`.
    pub query: &'static str,
    pub content_type: &'static str,
}

impl Template {
    pub fn new(load: &LoadArgs, random: &RandomSource) -> Outcome<Self> {
        let most = (BLOCK_MAX_BYTES / load.record_bytes).max(1);
        let per_block = load.batch.min(most);
        let times = usize::try_from(load.batch.div_ceil(per_block))?;
        let values: Vec<String> = (0..per_block).map(|n| value(n, load.record_bytes, random)).collect();
        let content_type = load.format.content_type();
        let query = if load.format == Format::Ndjson && load.keyed { "?key=/key" } else { "" };
        let (head, block, tail) = match load.format {
            Format::Json => json(&values, load.keyed),
            Format::Ndjson => {
                (Vec::new(), values.iter().flat_map(|v| [v.as_bytes(), b"\n"].concat()).collect(), Vec::new())
            }
            Format::Arrow => arrow(&values, load.keyed)?,
        };
        let records = values.len() * times;
        let mut template = Self {
            head: head.into(),
            block: block.into(),
            tail: tail.into(),
            times,
            records,
            due_at: Vec::new(),
            query,
            content_type,
        };
        if times == 1 && load.format != Format::Arrow {
            let body = template.joined();
            template.due_at =
                memchr::memmem::find_iter(&body, DUE_MARK).map(|at| at + DUE_MARK.len()).collect();
        }
        Ok(template)
    }

    /// Whether each request can have its due time in the body.
    pub fn takes_due(&self) -> bool {
        !self.due_at.is_empty()
    }

    fn joined(&self) -> Vec<u8> {
        [&self.head[..], &self.block, &self.tail].concat()
    }

    /// The body without due times. Large bodies are streamed.
    pub fn body(&self) -> RequestBody {
        if self.times == 1 && self.head.is_empty() && self.tail.is_empty() {
            return whole(self.block.clone());
        }
        if self.times == 1 && self.block.len() <= FRAME_BYTES {
            return whole(self.joined());
        }
        let (block, times) = (self.block.clone(), self.times);
        // In JSON the blocks are separated by commas.
        let comma = (self.content_type == Format::Json.content_type()).then(|| Bytes::from_static(b","));
        let blocks =
            (0..times).flat_map(move |n| comma.clone().filter(|_| n > 0).into_iter().chain([block.clone()]));
        let all = [self.head.clone()].into_iter().chain(blocks).chain([self.tail.clone()]).flat_map(pieces);
        StreamBody::new(stream::iter(all.map(|piece| Ok(Frame::data(piece))))).boxed_unsync()
    }

    /// The body with the time at which its records were due, in microseconds since `epoch`.
    pub fn body_due(&self, due: Instant, epoch: Instant) -> RequestBody {
        let mut body = self.joined();
        let digits = format!("{:0DUE_DIGITS$}", due.saturating_duration_since(epoch).as_micros());
        for at in &self.due_at {
            body[*at..*at + DUE_DIGITS].copy_from_slice(digits.as_bytes());
        }
        whole(body)
    }
}

fn pieces(bytes: Bytes) -> impl Iterator<Item = Bytes> {
    (0..bytes.len()).step_by(FRAME_BYTES).map(move |at| bytes.slice(at..(at + FRAME_BYTES).min(bytes.len())))
}

/// A JSON value of `bytes` bytes, about half of which cannot be compressed.
fn value(number: u32, bytes: u32, random: &RandomSource) -> String {
    let bytes = saturated::<usize, _>(bytes);
    let start = format!(
        "{{\"due_us\":\"{:0DUE_DIGITS$}\",\"key\":\"k{:08x}\",\"number\":{number},\"noise\":\"",
        0,
        random.random_u32()
    );
    let middle = "\",\"padding\":\"";
    let room = bytes.saturating_sub(start.len() + middle.len() + 2);
    let mut noise = String::with_capacity(room);
    while noise.len() < room / 2 {
        noise.push_str(&format!("{:08x}", random.random_u32()));
    }
    noise.truncate(room / 2);
    let padding: String = "abcdefgh ".chars().cycle().take(room - noise.len()).collect();
    format!("{start}{noise}{middle}{padding}\"}}")
}

/// The key in a value.
fn key(value: &str) -> &str {
    value.split("\"key\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("")
}

fn json(values: &[String], keyed: bool) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let record = |v: &String| {
        if keyed { format!("{{\"key\":\"{}\",\"value\":{v}}}", key(v)) } else { format!("{{\"value\":{v}}}") }
    };
    let records: Vec<String> = values.iter().map(record).collect();
    (b"{\"records\":[".to_vec(), records.join(",").into_bytes(), b"]}".to_vec())
}

/// Schema, one record batch and end of stream. Each is a whole message, so that the record batch can be
/// repeated.
fn arrow(values: &[String], keyed: bool) -> Outcome<(Vec<u8>, Vec<u8>, Vec<u8>)> {
    let column = |bytes: &dyn Fn(&String) -> Vec<u8>| -> ArrayRef {
        let mut builder = BinaryBuilder::new();
        for value in values {
            builder.append_value(bytes(value));
        }
        Arc::new(builder.finish())
    };
    let names = if keyed { vec!["value", "key"] } else { vec!["value"] };
    let fields: Vec<Field> = names.iter().map(|name| Field::new(*name, DataType::Binary, true)).collect();
    let mut columns = vec![column(&|v| v.clone().into_bytes())];
    if keyed {
        columns.push(column(&|v| key(v).as_bytes().to_vec()));
    }
    let schema = Arc::new(Schema::new(fields));
    let mut writer = StreamWriter::try_new(Vec::new(), &schema)?;
    let head = writer.get_ref().len();
    writer.write(&RecordBatch::try_new(schema, columns)?)?;
    let block = writer.get_ref().len();
    let mut all = writer.into_inner()?;
    let tail = all.split_off(block);
    let block = all.split_off(head);
    Ok((all, block, tail))
}
