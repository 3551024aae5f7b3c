//! The server's answer to a streamed produce request.

use serde::Deserialize;

/// The records that a streamed produce request has stored, by partition.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Committed {
    pub count: u64,
    #[serde(default)]
    pub partitions: Vec<PartitionRange>,
    /// All of it had been stored before under the same idempotency key.
    #[serde(default)]
    pub duplicate: bool,
}

/// A range of offsets in one partition, both ends included. Records of other producers may lie in between.
#[derive(Debug, Clone, Deserialize)]
pub struct PartitionRange {
    pub partition: u32,
    pub first_offset: u64,
    pub last_offset: u64,
    #[serde(default)]
    pub count: u64,
}
