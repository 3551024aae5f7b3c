//! What lies in a segment: records, record batches, footer, object keys. `docs/format.md` is the published
//! description.

pub mod batch;
pub mod ingest;
pub mod key;
pub mod record;

/// Stored bytes that are not what they should be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("corrupt bytes: {0}")]
pub struct Corrupt(pub &'static str);
