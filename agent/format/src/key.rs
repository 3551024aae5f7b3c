//! Object keys. No other code builds them.

use millpond_core::PartId;
use object_store::path::Path;

/// Key of a segment: `v1/{cluster}/ingest/{2 hex digits of a hash}/{uuid}.seg`. The hash spreads the load
/// over the prefixes of S3. The UUIDv7 alone would not, since UUIDs of the same time begin alike.
#[must_use]
pub fn ingest(cluster: &str, part: PartId) -> Path {
    let spread = crc32c::crc32c(part.0.as_bytes()) & 0xff;
    Path::from(format!("v1/{cluster}/ingest/{spread:02x}/{}.seg", part.0))
}

/// Key of the marker by which a bucket and a database are known to be a pair: `v1/{cluster}/marker`. The only
/// object that is ever replaced.
#[must_use]
pub fn marker(cluster: &str) -> Path {
    Path::from(format!("v1/{cluster}/marker"))
}
