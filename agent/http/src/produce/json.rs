//! Records as JSON, parsed straight into an [`AppendBuilder`] without an intermediate list.

use crate::error::{Code, Problem};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use memchr::memchr2;
use millpond_core::limits;
use millpond_engine::hash;
use millpond_engine::produce::RecordSource;
use millpond_engine::produce::append::AppendBuilder;
use millpond_format::record::NewRecord;
use millpond_format::record::RESERVED;
use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use uuid::Uuid;

/// One record in the JSON of a produce request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonRecord<'a> {
    key: Option<Cow<'a, str>>,
    key_base64: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "given")]
    value: Option<&'a RawValue>,
    text: Option<Cow<'a, str>>,
    base64: Option<Cow<'a, str>>,
    #[serde(default)]
    headers: Headers,
    partition: Option<i32>,
    timestamp: Option<i64>,
    dedup_id: Option<Cow<'a, str>>,
    delay_ms: Option<i64>,
    deliver_at_ms: Option<i64>,
    ttl_ms: Option<i64>,
}

/// Deserializes a field that is present: `"value":null` is the JSON text `null`, not an absent value.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Headers of a record in the order of the request; names may repeat.
#[derive(Debug, Default)]
struct Headers(Vec<(String, Vec<u8>)>);

#[derive(Deserialize)]
#[serde(untagged)]
enum HeaderIn {
    Text(String),
    Bytes { base64: String },
    Many(Vec<HeaderIn>),
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Headers;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of header names and values")
            }
            fn visit_unit<E>(self) -> Result<Headers, E> {
                Ok(Headers::default())
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
                let mut headers = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, HeaderIn>()? {
                    add_header(&mut headers, &name, value, true).map_err(de::Error::custom)?;
                }
                Ok(Headers(headers))
            }
        }
        deserializer.deserialize_any(V)
    }
}

fn add_header(
    headers: &mut Vec<(String, Vec<u8>)>,
    name: &str,
    value: HeaderIn,
    list: bool,
) -> Result<(), &'static str> {
    let bytes = match value {
        HeaderIn::Text(text) => text.into_bytes(),
        HeaderIn::Bytes { base64 } => BASE64.decode(base64).map_err(|_| "a header's base64 is not valid")?,
        HeaderIn::Many(values) if list => {
            return values.into_iter().try_for_each(|value| add_header(headers, name, value, false));
        }
        HeaderIn::Many(_) => return Err("a header's value is text, {\"base64\":…}, or a list of these"),
    };
    if headers.len() >= limits::RECORD_MAX_HEADERS {
        return Err("a record has at most 128 headers");
    }
    headers.push((name.to_owned(), bytes));
    Ok(())
}

/// Properties that apply to all records of a request.
#[derive(Debug, Clone, Default)]
pub struct RecordDefaults {
    /// When the request arrived; `delay_ms` and `ttl_ms` of records count from then.
    pub now_ms: i64,
    pub traceparent: Option<String>,
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(Code::InvalidRecord, detail)
}

/// Whether JSON text contains no line end, so that it can be copied into one line of NDJSON.
#[must_use]
pub fn is_one_line(text: &[u8]) -> bool {
    memchr2(b'\n', b'\r', text).is_none()
}

/// Refuses names of headers that Millpond uses itself.
pub fn check_header(name: &str) -> Result<(), Problem> {
    if name.starts_with(RESERVED) {
        Err(invalid(format!("header names that begin with {RESERVED} are reserved")))
    } else {
        Ok(())
    }
}

pub fn check_timestamp(timestamp: i64) -> Result<(), Problem> {
    if (0..=limits::TIMESTAMP_MAX_MS).contains(&timestamp) {
        Ok(())
    } else {
        Err(invalid(format!("a timestamp is between 0 and {} (milliseconds)", limits::TIMESTAMP_MAX_MS)))
    }
}

impl JsonRecord<'_> {
    pub fn push(
        &self,
        builder: &mut AppendBuilder,
        topic: usize,
        defaults: &RecordDefaults,
    ) -> Result<(), Problem> {
        let decoded = |text: &Option<Cow<'_, str>>, what| {
            text.as_deref()
                .map(|t| BASE64.decode(t))
                .transpose()
                .map_err(|_| invalid(format!("{what} is not valid base64")))
        };
        if self.key.is_some() && self.key_base64.is_some() {
            return Err(invalid("a record has one of key and key_base64"));
        }
        let key_bytes = decoded(&self.key_base64, "key_base64")?;
        let value_bytes = decoded(&self.base64, "base64")?;
        let values = [
            self.value.map(|v| v.get().as_bytes()),
            self.text.as_deref().map(str::as_bytes),
            value_bytes.as_deref(),
        ];
        if values.iter().flatten().count() > 1 {
            return Err(invalid("a record has one of value, text and base64"));
        }
        let value = values.into_iter().flatten().next();
        if let Some(timestamp) = self.timestamp {
            check_timestamp(timestamp)?;
        }
        let mut size = 0;
        for (name, value) in &self.headers.0 {
            check_header(name)?;
            size += name.len() + value.len();
        }
        if size > limits::HEADERS_MAX_BYTES {
            return Err(Problem::new(
                Code::HeadersTooLarge,
                format!("the headers of a record have at most {} bytes", limits::HEADERS_MAX_BYTES),
            ));
        }
        if self.dedup_id.as_deref().is_some_and(|id| id.is_empty() || id.len() > limits::DEDUP_ID_MAX_BYTES) {
            return Err(invalid(format!("a dedup_id has 1 to {} bytes", limits::DEDUP_ID_MAX_BYTES)));
        }
        let headers: Vec<(&str, &[u8])> =
            self.headers.0.iter().map(|(n, v)| (n.as_str(), v.as_slice())).collect();
        let record = NewRecord {
            key: self.key.as_deref().map(str::as_bytes).or(key_bytes.as_deref()),
            value,
            headers: &headers,
            timestamp: self.timestamp,
            dedup_id: self.dedup_id.as_deref(),
            deliver_at_ms: self.deliver_at_ms(defaults.now_ms)?,
            expires_at_ms: self.expires_at_ms(defaults.now_ms)?,
            traceparent: defaults.traceparent.as_deref(),
            json: self.value.is_some_and(|v| is_one_line(v.get().as_bytes())),
        };
        builder.push(topic, self.partition, &record)?;
        Ok(())
    }

    fn deliver_at_ms(&self, now_ms: i64) -> Result<Option<i64>, Problem> {
        match (self.delay_ms, self.deliver_at_ms) {
            (Some(_), Some(_)) => Err(invalid("a record has one of delay_ms and deliver_at_ms")),
            (Some(delay), None) => in_time(now_ms, delay, "delay_ms").map(|at| at.filter(|_| delay > 0)),
            (None, Some(at)) => check_timestamp(at).map(|()| Some(at)),
            (None, None) => Ok(None),
        }
    }

    fn expires_at_ms(&self, now_ms: i64) -> Result<Option<i64>, Problem> {
        match self.ttl_ms {
            Some(ttl) if ttl < 1 => Err(invalid("ttl_ms is at least 1")),
            Some(ttl) => in_time(now_ms, ttl, "ttl_ms"),
            None => Ok(None),
        }
    }
}

fn in_time(now_ms: i64, ms: i64, what: &str) -> Result<Option<i64>, Problem> {
    let at = now_ms.checked_add(ms).filter(|at| ms >= 0 && *at <= limits::TIMESTAMP_MAX_MS);
    at.map(Some).ok_or_else(|| invalid(format!("{what} is out of range")))
}

/// Parses a list of records into one topic of a builder. The problem of a record is stored in `problem`,
/// since an error of serde can only carry text.
pub(super) struct Records<'b> {
    pub(super) builder: &'b mut AppendBuilder,
    pub(super) topic: usize,
    pub(super) defaults: &'b RecordDefaults,
    pub(super) problem: &'b mut Option<Problem>,
}

impl<'de> DeserializeSeed<'de> for Records<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Records<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(record) = seq.next_element::<JsonRecord<'de>>()? {
            if self.builder.records() >= limits::CHUNK_MAX_RECORDS {
                let detail = format!(
                    "an atomic request has at most {} records: stream NDJSON or Arrow for more",
                    limits::CHUNK_MAX_RECORDS
                );
                *self.problem = Some(Problem::new(Code::BodyTooLarge, detail));
                return Err(de::Error::custom("too many records"));
            }
            let number = self.builder.records();
            if let Err(problem) = record.push(self.builder, self.topic, self.defaults) {
                *self.problem = Some(problem.with("record", number));
                return Err(de::Error::custom("a record is not valid"));
            }
        }
        Ok(())
    }
}

/// The problem for a JSON error: `bad_request` for wrong syntax, `invalid_record` for wrong content.
pub fn problem_of(error: &serde_json::Error) -> Problem {
    match error.classify() {
        serde_json::error::Category::Data => invalid(error.to_string()),
        _ => Problem::bad_request(error.to_string()),
    }
}

pub(super) fn read<'de, V: Visitor<'de, Value = ()>>(
    body: &'de [u8],
    visitor: V,
) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    deserializer.deserialize_map(visitor)?;
    deserializer.end()
}

/// The body `{"records":[…]}` of one topic.
pub struct JsonRecords {
    pub body: Bytes,
    pub defaults: RecordDefaults,
}

impl RecordSource for JsonRecords {
    type Refusal = Problem;

    fn read(&self, into: &mut AppendBuilder) -> Result<(), Problem> {
        read_records(&self.body, into, &self.defaults)
    }

    fn input_bytes(&self) -> usize {
        self.body.len()
    }

    fn content_hash(&self, shape: &[u8]) -> Uuid {
        hash::of(&[shape, &self.body])
    }
}

/// Parses `{"records":[…]}` into the one topic of a builder.
fn read_records(body: &[u8], builder: &mut AppendBuilder, defaults: &RecordDefaults) -> Result<(), Problem> {
    struct V<'b>(Records<'b>);
    impl<'de> Visitor<'de> for V<'_> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("{\"records\":[…]}")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            let mut records = Some(self.0);
            while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                match (&*name, records.take()) {
                    ("records", Some(records)) => map.next_value_seed(records)?,
                    ("records", None) => return Err(de::Error::custom("\"records\" is given twice")),
                    (other, _) => {
                        return Err(de::Error::custom(format!(
                            "unknown field {other:?}, expected \"records\""
                        )));
                    }
                }
            }
            match records {
                Some(_) => Err(de::Error::missing_field("records")),
                None => Ok(()),
            }
        }
    }
    let mut problem = None;
    let outcome = read(body, V(Records { builder, topic: 0, defaults, problem: &mut problem }));
    outcome.map_err(|error| problem.unwrap_or_else(|| problem_of(&error)))
}

/// A JSON pointer (RFC 6901), split and unescaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

impl Pointer {
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let rest = text
            .strip_prefix('/')
            .ok_or_else(|| Problem::bad_request("key is not a JSON pointer such as /tailnum"))?;
        let mut tokens = Vec::new();
        for token in rest.split('/') {
            let unescaped = token.replace("~1", "/").replace("~0", "~");
            if token.replace("~0", "").replace("~1", "").contains('~') {
                return Err(Problem::bad_request("in a JSON pointer ~ is followed by 0 or 1"));
            }
            tokens.push(unescaped);
        }
        Ok(Self(tokens))
    }

    /// What the pointer selects in a JSON text: the content of a string, or the JSON text of another value;
    /// `None` if there is nothing, or null. Fails if any part of the text is not JSON.
    pub fn find<'a>(&self, text: &'a str) -> Result<Option<Cow<'a, str>>, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let found = Step(&self.0).deserialize(&mut deserializer)?;
        deserializer.end()?;
        match found {
            Some(raw) if raw.get() == "null" => Ok(None),
            Some(raw) if raw.get().starts_with('"') => match serde_json::from_str::<&str>(raw.get()) {
                Ok(plain) => Ok(Some(Cow::Borrowed(plain))),
                Err(_) => serde_json::from_str::<String>(raw.get()).map(|s| Some(Cow::Owned(s))),
            },
            Some(raw) => Ok(Some(Cow::Borrowed(raw.get()))),
            None => Ok(None),
        }
    }
}

/// Visits the value that the remaining tokens of a pointer select.
struct Step<'p>(&'p [String]);

impl<'de> DeserializeSeed<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        if self.0.is_empty() {
            <&RawValue>::deserialize(deserializer).map(Some)
        } else {
            deserializer.deserialize_any(self)
        }
    }
}

impl<'de> Visitor<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            if *name == *self.0[0] {
                found = map.next_value_seed(Step(&self.0[1..]))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let wanted = self.0[0].parse::<usize>().ok().filter(|n| n.to_string() == self.0[0]);
        let mut found = None;
        let mut at = 0;
        loop {
            if Some(at) == wanted {
                match seq.next_element_seed(Step(&self.0[1..]))? {
                    Some(value) => found = value,
                    None => return Ok(found),
                }
            } else if seq.next_element::<IgnoredAny>()?.is_none() {
                return Ok(found);
            }
            at += 1;
        }
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
