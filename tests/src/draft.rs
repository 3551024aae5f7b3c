//! Draft of a produce request in a test, before it is laid out in a commit.

use millpond_core::{Name, Offset, PartitionId, Topic, TopicId};
use std::collections::BTreeMap;

/// A test record: eight bytes that tell it from all others.
pub type Tag = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Home {
    pub topic: TopicId,
    pub number: i32,
    pub id: PartitionId,
}

#[must_use]
pub fn home(topic: &Topic, number: i32) -> Home {
    Home { topic: topic.id, number, id: topic.partition_id(number).expect("a partition") }
}

#[must_use]
pub fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Append {
    pub(crate) records: Vec<Tag>,
    pub(crate) dedups: BTreeMap<i32, u128>,
    pub(crate) timestamp: Option<i64>,
    pub(crate) delayed: bool,
}

/// A produce request that has not been laid out in a commit. It has one piece per partition.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    pub(crate) key: Option<(u128, u128)>,
    pub(crate) expect: Option<Offset>,
    pub(crate) appends: BTreeMap<Home, Append>,
}

impl Draft {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn to(mut self, home: Home, records: &[Tag]) -> Self {
        self.appends.entry(home).or_default().records.extend(records);
        self
    }

    /// Adds a record that has a dedup id.
    #[must_use]
    pub fn once(mut self, home: Home, record: Tag, id: u128) -> Self {
        let append = self.appends.entry(home).or_default();
        append.dedups.insert(int(append.records.len()), id);
        append.records.push(record);
        self
    }

    #[must_use]
    pub fn at(mut self, home: Home, timestamp: i64) -> Self {
        self.appends.entry(home).or_default().timestamp = Some(timestamp);
        self
    }

    /// Marks the append to this partition as holding a delayed record.
    #[must_use]
    pub fn delayed(mut self, home: Home) -> Self {
        self.appends.entry(home).or_default().delayed = true;
        self
    }

    #[must_use]
    pub fn key(mut self, key: u128, body: u128) -> Self {
        self.key = Some((key, body));
        self
    }

    #[must_use]
    pub fn expect(mut self, high_watermark: i64) -> Self {
        self.expect = Some(Offset(high_watermark));
        self
    }
}

#[must_use]
pub fn int(n: usize) -> i32 {
    i32::try_from(n).expect("small")
}
