//! 128 bits of SHA-256 over length-prefixed fields: identity of keys, bodies and dedup ids.

use millpond_core::saturated;
use sha2::{Digest, Sha256};
use uuid::Uuid;

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
