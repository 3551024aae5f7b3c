//! A leased record in the form in which a command gets it: the value as bytes, everything else as environment
//! variables.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use serde::Deserialize;

use super::super::error::CliError;
use super::super::record::Record;

const KEY: &str = "MILLPOND_KEY";
const KEY_BASE64: &str = "MILLPOND_KEY_BASE64";
/// Prefix of the variables of headers.
const HEADER: &str = "MILLPOND_HEADER_";

#[derive(Debug, PartialEq, Eq)]
pub struct Leased {
    pub receipt: String,
    /// Name of the record in messages: `TOPIC PARTITION:OFFSET`.
    pub name: String,
    /// Empty for a null value.
    pub value: Vec<u8>,
    /// Environment variables for the command. Variables that are [`Leased::inherited`] and not among these
    /// must be removed from its environment.
    pub variables: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Fields {
    receipt: String,
    topic: String,
    partition: u32,
    offset: u64,
    timestamp: i64,
    attempt: u64,
    failures: u64,
    key: Option<String>,
    key_base64: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, Header>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Header {
    One(HeaderValue),
    Many(Vec<HeaderValue>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum HeaderValue {
    Text(String),
    Bytes { base64: String },
}

impl Leased {
    /// Parses a record in the answer to a lease call.
    pub fn parse(raw: &str, queue: &str) -> Result<Self, CliError> {
        let fields: Fields = serde_json::from_str(raw)
            .map_err(|error| CliError::Answer { what: "a leased record", source: Some(error) })?;
        let mut value = Vec::new();
        Record::parse(raw.as_bytes())?.push_value(raw.as_bytes(), &mut value)?;
        let name = format!("{} {}:{}", fields.topic, fields.partition, fields.offset);
        Ok(Self { receipt: fields.receipt.clone(), name, value, variables: fields.variables(queue)? })
    }

    /// Whether a variable in the worker's own environment describes a record. There are such variables if the
    /// worker was itself started by the command of another worker.
    pub fn inherited(variable: &OsStr) -> bool {
        let name = variable.as_encoded_bytes();
        name == KEY.as_bytes() || name == KEY_BASE64.as_bytes() || name.starts_with(HEADER.as_bytes())
    }
}

impl Fields {
    fn variables(self, queue: &str) -> Result<BTreeMap<String, String>, CliError> {
        let mut variables: BTreeMap<String, String> = [
            ("MILLPOND_QUEUE", queue.to_owned()),
            ("MILLPOND_TOPIC", self.topic),
            ("MILLPOND_PARTITION", self.partition.to_string()),
            ("MILLPOND_OFFSET", self.offset.to_string()),
            ("MILLPOND_TIMESTAMP", self.timestamp.to_string()),
            ("MILLPOND_ATTEMPT", self.attempt.to_string()),
            ("MILLPOND_FAILURES", self.failures.to_string()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        let key = match (self.key, self.key_base64) {
            (Some(text), _) => Some(PayloadForm::of_text(text)),
            (None, Some(base64)) => Some(PayloadForm::of_base64(base64)?),
            (None, None) => None,
        };
        match key {
            Some(PayloadForm::Text(text)) => variables.insert(KEY.to_owned(), text),
            Some(PayloadForm::Base64(base64)) => variables.insert(KEY_BASE64.to_owned(), base64),
            None => None,
        };
        for (name, header) in self.headers {
            // If a name occurs several times, the last value counts, as with `lastHeader` of Kafka's clients.
            let value = match header {
                Header::One(value) => Some(value),
                Header::Many(mut values) => values.pop(),
            };
            let (suffix, value) = match value.map(HeaderValue::form).transpose()? {
                Some(PayloadForm::Text(text)) => ("", text),
                Some(PayloadForm::Base64(base64)) => ("_BASE64", base64),
                None => continue,
            };
            variables.insert(format!("{HEADER}{}{suffix}", variable_name(&name)), value);
        }
        Ok(variables)
    }
}

/// Bytes in a form that an environment variable can hold: text without NUL as it is, all else as base64.
enum PayloadForm {
    Text(String),
    Base64(String),
}

impl PayloadForm {
    fn of_text(text: String) -> Self {
        if text.contains('\0') { Self::Base64(base64(text.as_bytes())) } else { Self::Text(text) }
    }

    /// The server may also encode text as base64; then it is decoded.
    fn of_base64(encoded: String) -> Result<Self, CliError> {
        let wrong = |_| CliError::Answer { what: "a record's base64", source: None };
        let bytes =
            base64::Engine::decode(&base64::engine::general_purpose::STANDARD, &encoded).map_err(wrong)?;
        Ok(match String::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => Self::Text(text),
            _ => Self::Base64(encoded),
        })
    }
}

impl HeaderValue {
    fn form(self) -> Result<PayloadForm, CliError> {
        match self {
            Self::Text(text) => Ok(PayloadForm::of_text(text)),
            Self::Bytes { base64 } => PayloadForm::of_base64(base64),
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes)
}

/// The name of a header as part of a variable's name: `trace-id` becomes `TRACE_ID`.
fn variable_name(header: &str) -> String {
    header.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leased(members: &str) -> Leased {
        let raw = format!(
            r#"{{"topic":"t","partition":3,"offset":812,"timestamp":1760000000000{members},"receipt":"mp1.x","attempt":2,"failures":1}}"#
        );
        Leased::parse(&raw, "q").expect("a record")
    }

    #[test]
    fn values_are_bytes_whatever_their_form() {
        assert_eq!(leased(r#","base64":"/wD+""#).value, b"\xff\x00\xfe");
        assert_eq!(leased(r#","text":"a\nb""#).value, b"a\nb");
        assert_eq!(leased(r#","value":{"n": 1}"#).value, br#"{"n": 1}"#);
        assert_eq!(leased("").value, b"");
    }

    #[test]
    fn what_is_known_of_a_record_is_in_variables() {
        let record =
            leased(r#","key":"c7","headers":{"trace-id":"a","many":["b","c"],"raw":{"base64":"/w=="}}"#);
        assert_eq!((record.receipt.as_str(), record.name.as_str()), ("mp1.x", "t 3:812"));
        let variables: Vec<String> =
            record.variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            variables,
            [
                "MILLPOND_ATTEMPT=2",
                "MILLPOND_FAILURES=1",
                "MILLPOND_HEADER_MANY=c",
                "MILLPOND_HEADER_RAW_BASE64=/w==",
                "MILLPOND_HEADER_TRACE_ID=a",
                "MILLPOND_KEY=c7",
                "MILLPOND_OFFSET=812",
                "MILLPOND_PARTITION=3",
                "MILLPOND_QUEUE=q",
                "MILLPOND_TIMESTAMP=1760000000000",
                "MILLPOND_TOPIC=t",
            ]
        );
    }

    #[test]
    fn keys_are_text_where_they_can_be() {
        let key = |members: &str| {
            let variables = leased(members).variables;
            (variables.get(KEY).cloned(), variables.get(KEY_BASE64).cloned())
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(key(r#","key_base64":"Yzc=""#), (text("c7"), None));
        assert_eq!(key(r#","key_base64":"/w==""#), (None, text("/w==")));
        assert_eq!(key(r#","key":"a\u0000""#), (None, text("YQA=")));
        assert_eq!(key(""), (None, None));
    }

    #[test]
    fn what_a_worker_inherited_of_another_record_is_known() {
        for name in ["MILLPOND_KEY", "MILLPOND_KEY_BASE64", "MILLPOND_HEADER_X"] {
            assert!(Leased::inherited(OsStr::new(name)), "{name}");
        }
        assert!(!Leased::inherited(OsStr::new("MILLPOND_URL")));
    }
}
