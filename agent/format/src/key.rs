//! The one place that spells object keys.

use millpond_core::PartId;
use object_store::path::Path;

/// `v1/{cluster}/ingest/{2 hex of hash}/{uuid}.seg`: the hash spreads load over S3's prefixes; a uuidv7 alone
/// would not.
#[must_use]
pub fn ingest(cluster: &str, part: PartId) -> Path {
    let spread = crc32c::crc32c(part.0.as_bytes()) & 0xff;
    Path::from(format!("v1/{cluster}/ingest/{spread:02x}/{}.seg", part.0))
}
