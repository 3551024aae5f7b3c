//! Cache of verified and uncompressed batches, for queues, which read single records from the same batch many
//! times.
//!
//! Bounded by uncompressed bytes. Entries are keyed by part and byte offset, never by record offset.

use super::fetched::FetchedBatch;
use millpond_core::PartId;
use millpond_core::control_plane::Batch;
use millpond_core::saturated;
use millpond_format::batch::DecodedBatch;
use moka::future::Cache;
use std::collections::HashMap;
use std::sync::Arc;

/// Decoded batches by part and byte offset.
pub type DecodedBatches = HashMap<(PartId, i32), Arc<DecodedBatch>>;

/// Estimated memory of an entry besides its bytes.
const OVERHEAD_BYTES: usize = 256;
/// Batches larger than this fraction (1/n) of the cache are not cached: they would evict too many others.
const ENTRY_MAX_DIVISOR: u64 = 8;

/// Caches decoded batches.
pub struct DecodedCache {
    batches: Cache<(PartId, i32), Arc<DecodedBatch>>,
    /// Size of the largest batch that is cached.
    entry_max_bytes: u64,
}

impl DecodedCache {
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let weigh = |_: &(PartId, i32), batch: &Arc<DecodedBatch>| {
            saturated::<u32, _>(batch.raw_bytes() + OVERHEAD_BYTES)
        };
        Self {
            batches: Cache::builder().max_capacity(bytes).weigher(weigh).build(),
            entry_max_bytes: bytes / ENTRY_MAX_DIVISOR,
        }
    }

    /// Those of the batches that are cached.
    pub async fn get_all(&self, batches: impl Iterator<Item = &Batch>) -> DecodedBatches {
        let mut cached = DecodedBatches::new();
        for batch in batches {
            let key = (batch.part, batch.byte_offset);
            if let Some(decoded) = self.batches.get(&key).await {
                cached.insert(key, decoded);
            }
        }
        cached
    }

    /// Adds batches that were read.
    pub async fn insert_all(&self, batches: impl Iterator<Item = &FetchedBatch>) {
        for fetched in batches {
            let key = (fetched.batch.part, fetched.batch.byte_offset);
            let decoded = fetched.decoded();
            if saturated::<u64, _>(decoded.raw_bytes()) <= self.entry_max_bytes
                && !self.batches.contains_key(&key)
            {
                self.batches.insert(key, Arc::new(DecodedBatch::clone(decoded).detached())).await;
            }
        }
    }
}
