//! Writes records into one answer, in the content type that the client accepts.

use super::arrow::ArrowWriter;
use super::pieces::{AnswerBody, Pieces};
use super::render::{self, Encoding, Prefix};
use crate::error::Problem;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use millpond_core::{Name, Offset};
use millpond_engine::fetch::RecordSink;
use millpond_engine::memory::Memory;
use millpond_format::Corrupt;
use millpond_format::record::RecordView;

/// Worst-case memory per byte of records in the Arrow form: in builders that double their capacity, in the
/// message, and in the answer.
const ARROW_COST_PER_BYTE: usize = 4;
/// The memory of an answer that turns out larger than expected grows in steps of this size.
const GROWTH_BYTES: usize = 256 << 10;

/// Content type of an answer that holds records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerForm {
    Json,
    NdJson,
    Arrow,
    Events,
}

impl AnswerForm {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::NdJson => "application/x-ndjson",
            Self::Arrow => "application/vnd.apache.arrow.stream",
            Self::Events => "text/event-stream",
        }
    }

    /// An answer of this content type. `no-store`, since the same request is answered differently later.
    pub fn response(self, body: impl Into<Body>) -> Response {
        let mut response = body.into().into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type()));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// An answer, or one chunk of a tail, while it is written.
pub struct RecordsAnswer {
    form: AnswerForm,
    encoding: Encoding,
    pieces: Pieces,
    arrow: ArrowWriter,
    /// For the encoded records; without it, the answer is not accounted for.
    memory: Option<Memory>,
    prefix: Prefix,
    partition: i32,
    pub records: usize,
    /// SSE: where the last event begins in the last piece; its `id:` line is inserted there.
    last_event: usize,
}

impl RecordsAnswer {
    pub fn new(form: AnswerForm, encoding: Encoding) -> Self {
        Self::with_capacity(form, encoding, 0)
    }

    /// `bytes`: the expected size of the answer.
    pub fn with_capacity(form: AnswerForm, encoding: Encoding, bytes: usize) -> Self {
        let mut pieces = Pieces::with_capacity(if form == AnswerForm::Arrow { 0 } else { bytes });
        if form == AnswerForm::Json {
            pieces.out.extend_from_slice(b"{\"records\":[");
        }
        Self {
            form,
            encoding,
            pieces,
            arrow: ArrowWriter::default(),
            memory: None,
            prefix: Prefix::default(),
            partition: 0,
            records: 0,
            last_event: 0,
        }
    }

    /// Ends the answer with the reader's position. `more`: further JSON members, each with a leading comma.
    pub fn finish(mut self, token: &str, more: &str) -> Result<AnswerBody, Problem> {
        match self.form {
            AnswerForm::Arrow => return self.arrow.finish()?.finish(self.memory),
            AnswerForm::Json => self.end_json(&format!("\"next\":\"{token}\"{more}")),
            AnswerForm::NdJson => {
                self.pieces.out.extend_from_slice(format!("{{\"next\":\"{token}\"{more}}}\n").as_bytes());
            }
            AnswerForm::Events => {
                let out = &mut self.pieces.out;
                let last = out.split_off(self.last_event);
                out.extend_from_slice(format!("id: {token}\n").as_bytes());
                out.extend_from_slice(&last);
            }
        }
        self.pieces.finish(self.memory)
    }

    /// Ends the answer with JSON members beside `records`; only JSON answers have them.
    pub fn finish_with(mut self, members: &str) -> Result<AnswerBody, Problem> {
        match self.form {
            AnswerForm::Arrow => return self.arrow.finish()?.finish(self.memory),
            AnswerForm::Json => self.end_json(members),
            AnswerForm::NdJson | AnswerForm::Events => {}
        }
        self.pieces.finish(self.memory)
    }

    fn end_json(&mut self, members: &str) {
        self.pieces.out.extend_from_slice(format!("],{members}}}").as_bytes());
    }
}

impl RecordSink for RecordsAnswer {
    fn begin_partition(&mut self, topic: &Name, partition: i32) {
        self.prefix = Prefix::new(topic.as_str(), partition);
        self.partition = partition;
    }

    fn push(&mut self, offset: Offset, record: &RecordView<'_>, is_json: bool) -> Result<(), Corrupt> {
        self.pieces.cut();
        let out = &mut self.pieces.out;
        let render =
            |out: &mut Vec<u8>| render::record(out, &self.prefix, offset.0, record, is_json, self.encoding);
        match self.form {
            AnswerForm::Arrow => self.arrow.push(self.partition, offset.0, record)?,
            AnswerForm::Json => {
                if self.records > 0 {
                    out.push(b',');
                }
                render(out)?;
            }
            AnswerForm::NdJson => {
                render(out)?;
                out.push(b'\n');
            }
            AnswerForm::Events => {
                self.last_event = out.len();
                out.extend_from_slice(b"data: ");
                render(out)?;
                out.extend_from_slice(b"\n\n");
            }
        }
        self.records += 1;
        Ok(())
    }

    fn hold(&mut self, memory: Memory) {
        if memory.bytes() > 0 {
            self.memory.get_or_insert_default().merge(memory);
        }
    }

    fn is_full(&mut self) -> bool {
        let needed = match self.form {
            AnswerForm::Arrow => self.arrow.bytes() * ARROW_COST_PER_BYTE,
            _ => self.pieces.allocated_bytes(),
        };
        self.memory
            .as_mut()
            .is_some_and(|memory| needed > memory.bytes() && !memory.fit(needed + GROWTH_BYTES))
    }
}
