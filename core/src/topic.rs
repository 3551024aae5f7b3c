//! Topics and their configuration.

use crate::id::{Offset, PartitionId, TopicId};
use crate::limits;
use crate::name::Name;
use crate::number::saturated;
use serde::{Deserialize, Serialize};

/// The first storage location of a topic's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// Small requests inline in Postgres, the others in segments.
    #[default]
    Auto,
    /// Inline in Postgres if possible: above the inline budget, records go to segments all the same.
    Inline,
    /// Only in the object store: records never enter Postgres, and are acknowledged after the upload.
    Object,
}

/// Settings of a topic. Times in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// Records older than this are deleted; `None`: records are kept forever.
    pub retention_ms: Option<i64>,
    /// Stored bytes over all partitions of the topic above which the oldest batches are deleted; `None`: no
    /// limit.
    pub retention_bytes: Option<i64>,
    /// How much longer than `retention_ms` records are kept that a queue has not settled; also the age up to
    /// which `retention_bytes` does not delete them.
    pub retention_hold_ms: i64,
    pub placement: Placement,
    /// How long a dedup id is remembered; 0 if records are not deduplicated.
    pub dedup_window_ms: i64,
    pub max_record_bytes: i32,
    pub archive: String,
    /// JSON text, returned unchanged.
    pub columns: Option<String>,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            retention_ms: Some(604_800_000),
            retention_bytes: None,
            retention_hold_ms: 1_209_600_000,
            placement: Placement::Auto,
            dedup_window_ms: 0,
            max_record_bytes: limits::RECORD_MAX_BYTES_DEFAULT,
            archive: "delete".to_owned(),
            columns: None,
        }
    }
}

/// Changes of a topic's settings; `None` keeps the value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicChange {
    pub partitions: Option<i32>,
    pub retention_ms: Option<Option<i64>>,
    pub retention_bytes: Option<Option<i64>>,
    pub retention_hold_ms: Option<i64>,
    pub placement: Option<Placement>,
    pub dedup_window_ms: Option<i64>,
    pub max_record_bytes: Option<i32>,
    pub archive: Option<String>,
    pub columns: Option<Option<String>>,
}

impl TopicChange {
    #[must_use]
    pub fn apply(&self, to: &TopicConfig) -> TopicConfig {
        TopicConfig {
            retention_ms: self.retention_ms.unwrap_or(to.retention_ms),
            retention_bytes: self.retention_bytes.unwrap_or(to.retention_bytes),
            retention_hold_ms: self.retention_hold_ms.unwrap_or(to.retention_hold_ms),
            placement: self.placement.unwrap_or(to.placement),
            dedup_window_ms: self.dedup_window_ms.unwrap_or(to.dedup_window_ms),
            max_record_bytes: self.max_record_bytes.unwrap_or(to.max_record_bytes),
            archive: self.archive.clone().unwrap_or_else(|| to.archive.clone()),
            columns: self.columns.clone().unwrap_or_else(|| to.columns.clone()),
        }
    }
}

/// A topic with its settings and partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub id: TopicId,
    pub tenant: Name,
    pub name: Name,
    pub config: TopicConfig,
    /// Id of each partition, indexed by partition number.
    pub partitions: Vec<PartitionId>,
}

impl Topic {
    #[must_use]
    pub fn partition_count(&self) -> i32 {
        saturated::<i32, _>(self.partitions.len())
    }

    #[must_use]
    pub fn partition_id(&self, partition: i32) -> Option<PartitionId> {
        usize::try_from(partition).ok().and_then(|p| self.partitions.get(p)).copied()
    }
}

/// The offsets and sizes of a partition at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    pub partition: i32,
    pub id: PartitionId,
    pub log_start_offset: Offset,
    /// The next offset to be assigned. All records below it can be read.
    pub high_watermark: Offset,
    /// Stored bytes of the batches that are not unlinked.
    pub bytes: i64,
}

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PutTopicRejected {
    #[error("a topic has 1 to {max} partitions", max = limits::PARTITIONS_MAX)]
    PartitionsOutOfRange,
    #[error("a topic's partitions only grow: it has {current}")]
    PartitionsShrink { current: i32 },
}

#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("there is no such topic")]
pub struct NoSuchTopic;
