//! Records as histories name them: by identity, or by hash.

use serde::{Deserialize, Serialize};

/// Identity of a record, which its payload carries. Only attempts to store the same record once may share it:
/// those of one idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RecordId {
    pub client: u32,
    pub counter: u64,
}

/// Content that a read returned at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seen {
    Record(RecordId),
    /// A value that is no test payload, by its hash.
    Foreign(u64),
}
