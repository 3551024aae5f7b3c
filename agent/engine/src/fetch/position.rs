//! The position of a reader of a whole topic, as an opaque token that the client keeps.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use millpond_core::{Offset, Topic};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The next offset of every partition. The token contains the topic's id, so that it is refused for a later
/// topic of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPosition {
    topic: i64,
    pub(super) next: BTreeMap<i32, Offset>,
}

impl TopicPosition {
    #[must_use]
    pub fn new(topic: &Topic, next: impl Iterator<Item = (i32, Offset)>) -> Self {
        Self { topic: topic.id.0, next: next.collect() }
    }

    /// Parses a token; `None` if it is not a token of this topic. Partitions that it does not contain begin
    /// at 0.
    #[must_use]
    pub fn parse(token: &str, topic: &Topic) -> Option<Self> {
        let text = URL_SAFE_NO_PAD.decode(token).ok().and_then(|b| String::from_utf8(b).ok())?;
        let mut parts = text.split('.');
        let id: i64 = parts.next()?.parse().ok()?;
        if id != topic.id.0 {
            return None;
        }
        let mut next: BTreeMap<i32, Offset> =
            (0..topic.partition_count()).map(|p| (p, Offset::ZERO)).collect();
        for part in parts {
            let (partition, offset) = part.split_once('-')?;
            let (partition, offset) = (partition.parse().ok()?, offset.parse().ok()?);
            if topic.partition_id(partition).is_none() || offset < 0 {
                return None;
            }
            next.insert(partition, Offset(offset));
        }
        Some(Self { topic: id, next })
    }

    /// The token from which the client can continue.
    #[must_use]
    pub fn token(&self) -> String {
        let mut text = self.topic.to_string();
        // Partitions at offset 0 are left out.
        for (partition, offset) in self.next.iter().filter(|(_, offset)| **offset > Offset::ZERO) {
            write!(text, ".{partition}-{offset}").unwrap_or_default();
        }
        URL_SAFE_NO_PAD.encode(text)
    }
}
