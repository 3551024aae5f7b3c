//! The JSON body of `/v1/batches`: records of several topics, acks of queue records, and group offsets.
//!
//! The body is parsed twice: first everything but the records ([`read_batch_shape`]), which names the topics
//! to look up; then the records, straight into an [`AppendBuilder`].

use super::json::{RecordDefaults, Records, problem_of, read};
use crate::error::{Code, Problem};
use crate::group::offsets::BatchOffsets;
use bytes::Bytes;
use millpond_core::limits;
use millpond_engine::group::offsets::GroupOffsets;
use millpond_engine::hash;
use millpond_engine::produce::RecordSource;
use millpond_engine::produce::append::AppendBuilder;
use millpond_engine::queue::receipt::Receipt;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::fmt;
use uuid::Uuid;

/// The content of a batch without its records.
pub struct BatchShape {
    /// Names of the topics, without repetition, in the order of the body.
    pub topics: Vec<String>,
    /// Receipts, without repetition.
    pub acks: Vec<Receipt>,
    pub offsets: Option<GroupOffsets>,
}

/// Parses and checks everything in the body but the records.
pub fn read_batch_shape(body: &[u8]) -> Result<BatchShape, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Shape {
        #[serde(default)]
        topics: TopicNames,
        #[serde(default)]
        acks: Option<Vec<String>>,
        #[serde(default)]
        offsets: Option<BatchOffsets>,
    }
    #[derive(Default)]
    struct TopicNames(Vec<String>);
    impl<'de> Deserialize<'de> for TopicNames {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct V;
            impl<'de> Visitor<'de> for V {
                type Value = TopicNames;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an object of topics and their records")
                }
                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TopicNames, A::Error> {
                    let mut names = Vec::new();
                    while let Some((name, _)) = map.next_entry::<String, IgnoredAny>()? {
                        names.push(name);
                    }
                    Ok(TopicNames(names))
                }
            }
            deserializer.deserialize_map(V)
        }
    }
    let shape: Shape = serde_json::from_slice(body).map_err(|e| Problem::bad_request(e.to_string()))?;
    let acks = receipts(&shape.acks.unwrap_or_default())?;
    let offsets = shape.offsets.map(BatchOffsets::commit).transpose()?;
    let mut sorted = shape.topics.0.clone();
    sorted.sort_unstable();
    if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Problem::bad_request("a topic is given twice"));
    }
    if sorted.len() > limits::TOPICS_PER_BATCH {
        return Err(Problem::bad_request(format!("a batch has at most {} topics", limits::TOPICS_PER_BATCH)));
    }
    Ok(BatchShape { topics: shape.topics.0, acks, offsets })
}

fn receipts(texts: &[String]) -> Result<Vec<Receipt>, Problem> {
    if texts.len() > limits::SETTLE_MAX_ENTRIES {
        return Err(Problem::bad_request(format!("a batch has at most {} acks", limits::SETTLE_MAX_ENTRIES)));
    }
    let (mut receipts, mut wrong) = (Vec::with_capacity(texts.len()), Vec::new());
    for text in texts {
        match Receipt::parse(text) {
            Some(receipt) => receipts.push(receipt),
            None => wrong.push(text.as_str()),
        }
    }
    if !wrong.is_empty() {
        return Err(Problem::new(Code::LeaseLost, "some acks are not receipts").with("receipts", wrong));
    }
    let mut sorted = receipts.clone();
    sorted.sort_unstable();
    if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Problem::bad_request("a receipt is given twice"));
    }
    Ok(receipts)
}

/// The body of `/v1/batches`.
pub struct JsonBatch {
    pub body: Bytes,
    pub defaults: RecordDefaults,
}

impl RecordSource for JsonBatch {
    type Refusal = Problem;

    fn read(&self, into: &mut AppendBuilder) -> Result<(), Problem> {
        read_batch(&self.body, into, &self.defaults)
    }

    fn input_bytes(&self) -> usize {
        self.body.len()
    }

    fn content_hash(&self, shape: &[u8]) -> Uuid {
        hash::of(&[shape, &self.body])
    }
}

/// Parses the records of `/v1/batches` into the topics of a builder, which are in the order of the body.
fn read_batch(body: &[u8], builder: &mut AppendBuilder, defaults: &RecordDefaults) -> Result<(), Problem> {
    struct Batch<'b>(&'b mut AppendBuilder, &'b RecordDefaults, &'b mut Option<Problem>);
    struct Topics<'b>(&'b mut AppendBuilder, &'b RecordDefaults, &'b mut Option<Problem>);
    impl<'de> Visitor<'de> for Batch<'_> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("{\"topics\":{…}}")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                if name == "topics" {
                    map.next_value_seed(Topics(&mut *self.0, self.1, &mut *self.2))?;
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(())
        }
    }
    impl<'de> DeserializeSeed<'de> for Topics<'_> {
        type Value = ();
        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
            deserializer.deserialize_map(self)
        }
    }
    impl<'de> Visitor<'de> for Topics<'_> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of topics and their records")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            let mut topic = 0;
            while map.next_key::<Cow<'de, str>>()?.is_some() {
                map.next_value_seed(Records {
                    builder: &mut *self.0,
                    topic,
                    defaults: self.1,
                    problem: &mut *self.2,
                })?;
                topic += 1;
            }
            Ok(())
        }
    }
    let mut problem = None;
    let outcome = read(body, Batch(builder, defaults, &mut problem));
    outcome.map_err(|error| problem.unwrap_or_else(|| problem_of(&error)))
}
