//! `application/octet-stream` bodies: the value of one record, whose key and headers are HTTP headers.

use super::json::check_header;
use crate::error::{Code, Problem};
use bytes::Bytes;
use http::HeaderMap;
use millpond_core::limits;
use millpond_engine::hash;
use millpond_engine::produce::RecordSource;
use millpond_engine::produce::append::AppendBuilder;
use millpond_format::record::NewRecord;
use uuid::Uuid;

/// The record of such a request.
pub struct OctetRecord {
    value: Bytes,
    key: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
    partition: Option<i32>,
    traceparent: Option<String>,
    /// All `Millpond-` headers, part of the hash that recognizes a retry with other content: they hold the
    /// key and headers of the record.
    described_by: Vec<u8>,
}

impl OctetRecord {
    pub fn new(
        value: Bytes,
        headers: &HeaderMap,
        partition: Option<i32>,
        traceparent: Option<String>,
    ) -> Result<Self, Problem> {
        let key = headers.get("millpond-key").map(|v| v.as_bytes().to_vec());
        let mut own: Vec<(String, Vec<u8>)> = Vec::new();
        let mut described_by = Vec::new();
        for (name, value) in headers {
            let name = name.as_str();
            if let Some(name) = name.strip_prefix("millpond-header-") {
                check_header(name)?;
                own.push((name.to_owned(), value.as_bytes().to_vec()));
            }
            if name.starts_with("millpond-") {
                described_by.extend_from_slice(name.as_bytes());
                described_by.push(b':');
                described_by.extend_from_slice(value.as_bytes());
                described_by.push(b'\n');
            }
        }
        let size: usize = own.iter().map(|(name, value)| name.len() + value.len()).sum();
        if size > limits::HEADERS_MAX_BYTES || own.len() > limits::RECORD_MAX_HEADERS {
            return Err(Problem::new(Code::HeadersTooLarge, "a record has too many or too large headers"));
        }
        Ok(Self { value, key, headers: own, partition, traceparent, described_by })
    }
}

impl RecordSource for OctetRecord {
    type Refusal = Problem;

    fn read(&self, into: &mut AppendBuilder) -> Result<(), Problem> {
        let headers: Vec<(&str, &[u8])> =
            self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        let record = NewRecord {
            key: self.key.as_deref(),
            value: Some(&self.value),
            headers: &headers,
            traceparent: self.traceparent.as_deref(),
            ..NewRecord::default()
        };
        Ok(into.push(0, self.partition, &record)?)
    }

    fn input_bytes(&self) -> usize {
        self.value.len()
    }

    fn content_hash(&self, shape: &[u8]) -> Uuid {
        hash::of(&[shape, &[&self.described_by[..], &self.value].concat()])
    }
}
