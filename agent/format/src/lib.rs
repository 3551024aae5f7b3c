//! The storage format: records, record batches, segments with their footers, and object keys.
//! `docs/format.md` is the published description.
//!
//! Must not: do I/O or depend on an async runtime.

pub mod batch;
pub mod ingest;
pub mod key;
pub mod record;

/// Stored bytes that violate the format.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("corrupt bytes: {0}")]
pub struct Corrupt(pub &'static str);
