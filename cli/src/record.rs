//! Records in the server's NDJSON: splits a stream into lines, parses them, and renders records in the format
//! that the user asked for.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::choices::OutputFormat;
use super::error::CliError;
use super::humane;

#[cfg(test)]
mod tests;

/// Width of the key's column in a table, in characters.
const KEY_WIDTH: usize = 20;
/// Characters of a value in a table.
const VALUE_MAX_WIDTH: usize = 80;

/// The members of a record that are always needed. A null value has none of `value`, `text` and `base64`; the
/// JSON text `null` is a `value`.
#[derive(Deserialize)]
pub struct Record<'a> {
    pub offset: u64,
    #[serde(borrow, default, deserialize_with = "some_raw")]
    value: Option<&'a RawValue>,
    text: Option<String>,
    base64: Option<String>,
}

/// The other members of a record that a table shows.
#[derive(Deserialize)]
struct Cells {
    partition: u32,
    timestamp: i64,
    key: Option<String>,
    key_base64: Option<String>,
}

/// Deserializes a member that is present, so that `null` is `Some`.
fn some_raw<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl<'a> Record<'a> {
    pub fn parse(line: &'a [u8]) -> Result<Self, CliError> {
        serde_json::from_slice(line).map_err(not_understood)
    }

    /// Appends this record, which was parsed from `line`, to `out`, with a line end.
    pub fn render(&self, line: &[u8], format: OutputFormat, out: &mut Vec<u8>) -> Result<(), CliError> {
        match format {
            OutputFormat::Ndjson => self.push_value(line, out)?,
            OutputFormat::Json => out.extend_from_slice(line.trim_ascii_end()),
            OutputFormat::Table => self.push_row(line, out)?,
        }
        out.push(b'\n');
        Ok(())
    }

    /// Appends the bytes of the value as they were produced; nothing for a null value.
    pub fn push_value(&self, line: &[u8], out: &mut Vec<u8>) -> Result<(), CliError> {
        if let Some(value) = self.value {
            out.extend_from_slice(with_white_space(line, value));
        } else if let Some(text) = &self.text {
            out.extend_from_slice(text.as_bytes());
        } else if let Some(base64) = &self.base64 {
            STANDARD
                .decode_vec(base64, out)
                .map_err(|_| CliError::Answer { what: "a value's base64", source: None })?;
        }
        Ok(())
    }

    /// The value for a table: on one line, and cut off if it is long.
    pub fn value_cell(&self) -> String {
        match (self.value, &self.text, &self.base64) {
            (Some(value), _, _) => humane::one_line(value.get(), VALUE_MAX_WIDTH),
            (None, Some(text), _) => humane::one_line(text, VALUE_MAX_WIDTH),
            (None, None, Some(base64)) => humane::one_line(&format!("base64:{base64}"), VALUE_MAX_WIDTH),
            (None, None, None) => "-".to_owned(),
        }
    }

    fn push_row(&self, line: &[u8], out: &mut Vec<u8>) -> Result<(), CliError> {
        let cells: Cells = serde_json::from_slice(line).map_err(not_understood)?;
        let key = match (&cells.key, &cells.key_base64) {
            (Some(key), _) => humane::one_line(key, KEY_WIDTH),
            (None, Some(base64)) => humane::one_line(&format!("base64:{base64}"), KEY_WIDTH),
            (None, None) => "-".to_owned(),
        };
        let timestamp = humane::instant_ms(cells.timestamp);
        let row =
            row(&cells.partition.to_string(), &self.offset.to_string(), &timestamp, &key, &self.value_cell());
        out.extend_from_slice(row.as_bytes());
        Ok(())
    }
}

/// The first line of a table, with its line end.
pub fn heading() -> String {
    row("PARTITION", "OFFSET", "TIMESTAMP", "KEY", "VALUE") + "\n"
}

fn row(partition: &str, offset: &str, timestamp: &str, key: &str, value: &str) -> String {
    format!("{partition:>9}  {offset:>12}  {timestamp:<24}  {key:<KEY_WIDTH$}  {value}")
}

fn not_understood(error: serde_json::Error) -> CliError {
    CliError::Answer { what: "a record", source: Some(error) }
}

/// The value together with the white space around it. The server writes lines without white space and copies
/// the stored text as it is, so white space next to the value belongs to the value.
fn with_white_space<'a>(line: &'a [u8], value: &RawValue) -> &'a [u8] {
    let text = value.get().as_bytes();
    let start = text.as_ptr().addr().saturating_sub(line.as_ptr().addr());
    let Some((before, from)) = line.split_at_checked(start) else {
        return &[];
    };
    let is_json_space = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
    let leading = before.iter().rev().take_while(is_json_space).count();
    let trailing = from.iter().skip(text.len()).take_while(is_json_space).count();
    line.get(start - leading..start + text.len() + trailing).unwrap_or_default()
}

/// Splits a stream of chunks into lines.
#[derive(Default)]
pub struct Lines {
    /// The beginning of a line that is not complete yet.
    begun: Vec<u8>,
}

impl Lines {
    /// Calls `each` with every line that ends in `chunk`, without its LF, and keeps the rest of the chunk.
    pub fn push<E>(&mut self, chunk: &[u8], mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut pieces = chunk.split(|byte| *byte == b'\n');
        let last = pieces.next_back().unwrap_or_default();
        for piece in pieces {
            if self.begun.is_empty() {
                each(piece)?;
            } else {
                self.begun.extend_from_slice(piece);
                let result = each(&self.begun);
                self.begun.clear();
                result?;
            }
        }
        self.begun.extend_from_slice(last);
        Ok(())
    }

    /// The bytes after the last LF.
    pub fn rest(&self) -> &[u8] {
        &self.begun
    }
}
