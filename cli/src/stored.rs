//! What a streamed produce stored, as the server tells it.

use serde::Deserialize;

/// What a streamed produce stored.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Committed {
    pub count: u64,
    #[serde(default)]
    pub partitions: Vec<PartitionRange>,
    /// The server had stored all of it before, under the same idempotency key.
    #[serde(default)]
    pub duplicate: bool,
}

/// Offsets in one partition, both ends included; others' records may lie between them.
#[derive(Debug, Clone, Deserialize)]
pub struct PartitionRange {
    pub partition: u32,
    pub first_offset: u64,
    pub last_offset: u64,
    #[serde(default)]
    pub count: u64,
}
