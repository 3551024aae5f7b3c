//! Writes the answer to an atomic produce request: one result per record.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use millpond_core::Name;
use millpond_engine::produce::atomic::{Stored, StoredRecord};
use std::io::Write;

/// `{"results":[…]}`.
pub fn of_topic(stored: &Stored) -> Response {
    answer(stored, |out| list(out, stored, 0))
}

/// `{"results":{"topic":[…]}}`.
pub fn by_topic(stored: &Stored, topics: &[Name]) -> Response {
    answer(stored, |out| {
        out.push(b'{');
        for (number, name) in topics.iter().enumerate() {
            if number > 0 {
                out.push(b',');
            }
            write!(out, "\"{name}\":").unwrap_or_default();
            list(out, stored, number);
        }
        out.push(b'}');
    })
}

fn answer(stored: &Stored, results: impl FnOnce(&mut Vec<u8>)) -> Response {
    let mut out = Vec::with_capacity(32 + stored.records.len() * 80);
    out.extend_from_slice(b"{\"results\":");
    results(&mut out);
    if stored.duplicate {
        out.extend_from_slice(b",\"duplicate\":true");
    }
    out.push(b'}');
    let mut response = out.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn list(out: &mut Vec<u8>, stored: &Stored, topic: usize) {
    out.push(b'[');
    for (n, record) in stored.records.iter().filter(|r| r.topic == topic).enumerate() {
        if n > 0 {
            out.push(b',');
        }
        let StoredRecord { partition, timestamp, duplicate, .. } = record;
        write!(out, "{{\"partition\":{partition},\"offset\":").unwrap_or_default();
        match record.offset {
            Some(offset) => write!(out, "{offset}").unwrap_or_default(),
            None => out.extend_from_slice(b"null"),
        }
        write!(out, ",\"timestamp\":{timestamp},\"duplicate\":{duplicate}}}").unwrap_or_default();
    }
    out.push(b']');
}
