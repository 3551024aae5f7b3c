//! Records of several partitions in one answer, within its limits, in whatever form was asked for.

use super::arrow::ArrowWriter;
use super::error::{Code, Problem};
use super::fetch::Form;
use super::render::{self, Encoding, Prefix};
use bytes::Bytes;
use millpond_core::Offset;
use millpond_core::control_plane::BatchFlags;
use millpond_engine::fetch::reader::Fetched;
use millpond_format::Corrupt;
use millpond_format::record::RecordView;
use std::time::Duration;

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_records: usize,
    pub max_bytes: usize,
    pub wait: Duration,
    pub follow: bool,
}

/// An answer, or one of many, being written.
pub struct Chunk {
    form: Form,
    encoding: Encoding,
    limits: Limits,
    out: Vec<u8>,
    arrow: ArrowWriter,
    pub records: usize,
    bytes: usize,
    /// A record was left behind for the limits.
    pub full: bool,
    /// SSE: where the last event begins, to put the position before it.
    last_event: usize,
}

impl Chunk {
    pub fn new(form: Form, encoding: Encoding, limits: Limits) -> Self {
        let out = if form == Form::Json { b"{\"records\":[".to_vec() } else { Vec::new() };
        Self {
            form,
            encoding,
            limits,
            out,
            arrow: ArrowWriter::default(),
            records: 0,
            bytes: 0,
            full: false,
            last_event: 0,
        }
    }

    /// Takes what fits of a partition's records from `next` on, which it moves.
    pub fn take(
        &mut self,
        topic: &str,
        partition: i32,
        fetched: &Fetched,
        next: &mut Offset,
    ) -> Result<(), Problem> {
        let corrupt = |e: Corrupt| Problem::new(Code::Corrupt, e.to_string());
        let prefix = Prefix::new(topic, partition);
        for batch in &fetched.batches {
            let json = batch.batch.flags.has(BatchFlags::JSON);
            for record in batch.records() {
                let (offset, record) = record.map_err(corrupt)?;
                if offset < *next {
                    continue;
                }
                let size = record.tail.len();
                if self.records == self.limits.max_records
                    || (self.records > 0 && self.bytes + size > self.limits.max_bytes)
                {
                    self.full = true;
                    return Ok(());
                }
                self.push(&prefix, partition, offset, &record, json).map_err(corrupt)?;
                self.records += 1;
                self.bytes += size;
                *next = offset.plus(1);
            }
        }
        Ok(())
    }

    fn push(
        &mut self,
        prefix: &Prefix,
        partition: i32,
        offset: Offset,
        record: &RecordView<'_>,
        json: bool,
    ) -> Result<(), Corrupt> {
        let out = &mut self.out;
        match self.form {
            Form::Arrow => self.arrow.push(partition, offset.0, record)?,
            Form::Json => {
                if self.records > 0 {
                    out.push(b',');
                }
                render::record(out, prefix, offset.0, record, json, self.encoding)?;
            }
            Form::NdJson => {
                render::record(out, prefix, offset.0, record, json, self.encoding)?;
                out.push(b'\n');
            }
            Form::Events => {
                self.last_event = out.len();
                out.extend_from_slice(b"data: ");
                render::record(out, prefix, offset.0, record, json, self.encoding)?;
                out.extend_from_slice(b"\n\n");
            }
        }
        Ok(())
    }

    /// Ends with the position, and with more JSON members beside it, each with a comma before it.
    pub fn finish(mut self, token: &str, more: &str) -> Result<Bytes, Problem> {
        match self.form {
            Form::Arrow => return self.arrow.finish().map(Bytes::from),
            Form::Json => self.out.extend_from_slice(format!("],\"next\":\"{token}\"{more}}}").as_bytes()),
            Form::NdJson => {
                self.out.extend_from_slice(format!("{{\"next\":\"{token}\"{more}}}\n").as_bytes())
            }
            Form::Events => {
                let last = self.out.split_off(self.last_event);
                self.out.extend_from_slice(format!("id: {token}\n").as_bytes());
                self.out.extend_from_slice(&last);
            }
        }
        Ok(self.out.into())
    }
}
