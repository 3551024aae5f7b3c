//! The 128-bit hash that identifies idempotency keys, request bodies, dedup ids and leases.

use millpond_core::saturated;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The first 128 bits of SHA-256 over the fields, each prefixed with its length.
#[must_use]
pub fn of(fields: &[&[u8]]) -> Uuid {
    let mut hash = Sha256::new();
    for field in fields {
        hash.update(saturated::<u64, _>(field.len()).to_le_bytes());
        hash.update(field);
    }
    let digest = hash.finalize();
    Uuid::from_bytes(std::array::from_fn(|n| digest[n]))
}
