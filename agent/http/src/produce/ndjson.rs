//! NDJSON bodies: each line is the value of a record or, with `records=true`, a whole record.

use super::json::{JsonRecord, Pointer, RecordDefaults, is_one_line, problem_of};
use crate::error::{Code, Problem};
use bytes::{Bytes, BytesMut};
use memchr::memchr_iter;
use millpond_core::limits;
use millpond_engine::hash;
use millpond_engine::produce::RecordSource;
use millpond_engine::produce::append::AppendBuilder;
use millpond_engine::produce::stream::Chunker;
use millpond_format::record::NewRecord;
use serde::de::IgnoredAny;
use std::sync::Arc;
use uuid::Uuid;

/// Buffers a body and cuts it into chunks of whole lines.
pub struct Lines {
    format: Arc<LineFormat>,
    /// Bytes of the body that are not in a chunk yet.
    buffer: BytesMut,
    /// Bytes of the buffer that were searched for line ends.
    searched: usize,
    /// End of the last complete line in the buffer.
    whole: usize,
    /// Records up to `whole`: complete lines that are not blank.
    records: usize,
    /// Complete lines up to `whole`.
    lines: u64,
    /// Number of the first line in the buffer; lines of a body count from 1.
    next_line: u64,
}

/// The rules by which a line is parsed into a record.
struct LineFormat {
    /// Where the key is found in a value.
    pointer: Option<Pointer>,
    whole_records: bool,
    defaults: RecordDefaults,
}

/// Lines that are parsed and stored together.
pub struct LineChunk {
    format: Arc<LineFormat>,
    text: Bytes,
    /// Number of the first line within the body.
    first_line: u64,
}

impl Lines {
    #[must_use]
    pub fn new(pointer: Option<Pointer>, whole_records: bool, defaults: RecordDefaults) -> Self {
        let format = Arc::new(LineFormat { pointer, whole_records, defaults });
        Self { format, buffer: BytesMut::new(), searched: 0, whole: 0, records: 0, lines: 0, next_line: 1 }
    }

    /// Cuts a chunk off the buffer.
    fn take(&mut self, bytes: usize) -> LineChunk {
        let chunk = LineChunk {
            format: Arc::clone(&self.format),
            text: self.buffer.split_to(bytes).freeze(),
            first_line: self.next_line,
        };
        self.next_line += self.lines;
        self.searched -= bytes;
        (self.whole, self.records, self.lines) = (0, 0, 0);
        chunk
    }
}

fn is_blank(line: &[u8]) -> bool {
    line.iter().all(|b| matches!(b, b' ' | b'\t' | b'\r'))
}

impl Chunker for Lines {
    type Chunk = LineChunk;

    fn add(&mut self, data: Bytes) -> Result<(), Problem> {
        self.buffer.extend_from_slice(&data);
        Ok(())
    }

    /// A chunk ends after the line that brings it to 8 MiB or to 65,536 records. This depends on the body
    /// alone, not on its frames, so a retry is cut into the same chunks.
    fn cut(&mut self, max_record_bytes: usize, end: bool) -> Result<Option<LineChunk>, Problem> {
        let from = self.searched;
        for found in memchr_iter(b'\n', &self.buffer[from..]) {
            let line_end = from + found + 1;
            self.lines += 1;
            self.records += usize::from(!is_blank(&self.buffer[self.whole..line_end - 1]));
            self.whole = line_end;
            if line_end >= limits::REQUEST_MAX_BYTES || self.records == limits::CHUNK_MAX_RECORDS {
                self.searched = line_end;
                return Ok(Some(self.take(line_end)));
            }
        }
        self.searched = self.buffer.len();
        // The text of a record may be larger than the stored record: base64, escapes, field names.
        if self.buffer.len() - self.whole > 2 * max_record_bytes + limits::HEADERS_MAX_BYTES {
            let problem =
                Problem::new(Code::RecordTooLarge, format!("a record has at most {max_record_bytes} bytes"));
            return Err(problem.with("line", self.next_line + self.lines));
        }
        if !end || self.buffer.is_empty() {
            return Ok(None);
        }
        let left = self.buffer.len();
        Ok(Some(self.take(left)))
    }

    fn buffered_bytes(&self) -> usize {
        self.buffer.len()
    }
}

impl RecordSource for LineChunk {
    type Refusal = Problem;

    fn input_bytes(&self) -> usize {
        self.text.len()
    }

    fn content_hash(&self, shape: &[u8]) -> Uuid {
        hash::of(&[shape, &self.text])
    }

    fn read(&self, builder: &mut AppendBuilder) -> Result<(), Problem> {
        builder.expect_bytes(self.text.len());
        let mut start = 0;
        let ends = memchr_iter(b'\n', &self.text).chain(std::iter::once(self.text.len()));
        for (number, end) in (self.first_line..).zip(ends) {
            let line = &self.text[start..end];
            start = end + 1;
            if is_blank(line) {
                continue;
            }
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            self.format.read_line(line, builder).map_err(|problem| problem.with("line", number))?;
        }
        Ok(())
    }
}

impl LineFormat {
    fn read_line(&self, line: &[u8], builder: &mut AppendBuilder) -> Result<(), Problem> {
        let text = std::str::from_utf8(line).map_err(|_| Problem::bad_request("the line is not UTF-8"))?;
        if self.whole_records {
            let record: JsonRecord<'_> = serde_json::from_str(text).map_err(|e| problem_of(&e))?;
            return record.push(builder, 0, &self.defaults);
        }
        let bad = |e: serde_json::Error| Problem::bad_request(format!("the line is not JSON: {e}"));
        let key = match &self.pointer {
            Some(pointer) => pointer.find(text).map_err(bad)?,
            None => {
                serde_json::from_str::<IgnoredAny>(text).map_err(bad)?;
                None
            }
        };
        let record = NewRecord {
            key: key.as_deref().map(str::as_bytes),
            value: Some(line),
            traceparent: self.defaults.traceparent.as_deref(),
            json: is_one_line(line),
            ..NewRecord::default()
        };
        Ok(builder.push(0, None, &record)?)
    }
}
