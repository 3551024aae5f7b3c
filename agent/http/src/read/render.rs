//! Writes records as JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use millpond_format::Corrupt;
use millpond_format::record::{RESERVED, RecordView};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::io::Write;

/// Encoding of keys and values. `json`: values as JSON if they are, else as text, else as base64. `text`:
/// as text, else as base64. `base64`: always as base64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    #[default]
    Json,
    Text,
    Base64,
}

/// The beginning of a record's JSON, which is the same for all records of a partition.
#[derive(Debug, Clone, Default)]
pub struct Prefix(Vec<u8>);

impl Prefix {
    #[must_use]
    pub fn new(topic: &str, partition: i32) -> Self {
        Self(format!("{{\"topic\":\"{topic}\",\"partition\":{partition},\"offset\":").into_bytes())
    }
}

fn json_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).unwrap_or_default();
}

fn integer(out: &mut Vec<u8>, n: i64) {
    write!(out, "{n}").unwrap_or_default();
}

fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(BASE64.encode(bytes).as_bytes());
    out.push(b'"');
}

/// Writes one record. `known_json`: the batch is marked as having only JSON values without line ends, so the
/// value need not be parsed.
pub fn record(
    out: &mut Vec<u8>,
    prefix: &Prefix,
    offset: i64,
    view: &RecordView<'_>,
    known_json: bool,
    encoding: Encoding,
) -> Result<(), Corrupt> {
    out.extend_from_slice(&prefix.0);
    integer(out, offset);
    out.extend_from_slice(b",\"timestamp\":");
    integer(out, view.timestamp);
    if let Some(key) = view.key {
        match std::str::from_utf8(key).ok().filter(|_| encoding != Encoding::Base64) {
            Some(text) => {
                out.extend_from_slice(b",\"key\":");
                json_string(out, text);
            }
            None => {
                out.extend_from_slice(b",\"key_base64\":");
                base64(out, key);
            }
        }
    }
    if let Some(bytes) = view.value {
        value(out, bytes, known_json, encoding);
    }
    out.extend_from_slice(b",\"headers\":{");
    if view.has_headers() {
        headers(out, view)?;
    }
    out.extend_from_slice(b"}}");
    Ok(())
}

fn value(out: &mut Vec<u8>, bytes: &[u8], known_json: bool, encoding: Encoding) {
    if encoding == Encoding::Json && known_json {
        out.extend_from_slice(b",\"value\":");
        out.extend_from_slice(bytes);
        return;
    }
    let text = std::str::from_utf8(bytes).ok().filter(|_| encoding != Encoding::Base64);
    match text {
        Some(text) if encoding == Encoding::Json && serde_json::from_str::<&RawValue>(text).is_ok() => {
            out.extend_from_slice(b",\"value\":");
            // A record must stay on one line. JSON allows raw line ends only outside of strings, where they
            // are white space and can be replaced.
            out.extend(bytes.iter().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { *b }));
        }
        Some(text) => {
            out.extend_from_slice(b",\"text\":");
            json_string(out, text);
        }
        None => {
            out.extend_from_slice(b",\"base64\":");
            base64(out, bytes);
        }
    }
}

/// Writes the headers, but not reserved ones. A name that occurs several times gets a list of values.
fn headers(out: &mut Vec<u8>, view: &RecordView<'_>) -> Result<(), Corrupt> {
    let all: Vec<(&str, &[u8])> = view.headers().collect::<Result<_, _>>()?;
    let visible: Vec<(&str, &[u8])> =
        all.into_iter().filter(|(name, _)| !name.starts_with(RESERVED)).collect();
    for (at, (name, first)) in visible.iter().enumerate() {
        if visible[..at].iter().any(|(n, _)| n == name) {
            continue;
        }
        if at > 0 {
            out.push(b',');
        }
        json_string(out, name);
        out.push(b':');
        let others: Vec<&[u8]> =
            visible[at + 1..].iter().filter(|(n, _)| n == name).map(|(_, v)| *v).collect();
        if others.is_empty() {
            header_value(out, first);
            continue;
        }
        out.push(b'[');
        header_value(out, first);
        for other in others {
            out.push(b',');
            header_value(out, other);
        }
        out.push(b']');
    }
    Ok(())
}

fn header_value(out: &mut Vec<u8>, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => json_string(out, text),
        Err(_) => {
            out.extend_from_slice(b"{\"base64\":");
            base64(out, bytes);
            out.push(b'}');
        }
    }
}
