//! Batches in memory, verified and uncompressed: whoever takes single records out of a batch does so many
//! times.
//!
//! Bounded by uncompressed bytes. Named by part and place in it, never by offset.

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

/// What a batch takes besides its bytes.
const OVERHEAD_BYTES: usize = 256;
/// Larger ones would push out all others.
const SHARE_MAX: u64 = 8;

pub struct DecodedCache {
    batches: Cache<(PartId, i32), Arc<DecodedBatch>>,
    largest: u64,
}

impl DecodedCache {
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let weigh = |_: &(PartId, i32), batch: &Arc<DecodedBatch>| {
            saturated::<u32, _>(batch.raw_bytes() + OVERHEAD_BYTES)
        };
        Self {
            batches: Cache::builder().max_capacity(bytes).weigher(weigh).build(),
            largest: bytes / SHARE_MAX,
        }
    }

    pub async fn kept(&self, batches: impl Iterator<Item = &Batch>) -> DecodedBatches {
        let mut kept = DecodedBatches::new();
        for batch in batches {
            let key = (batch.part, batch.byte_offset);
            if let Some(decoded) = self.batches.get(&key).await {
                kept.insert(key, decoded);
            }
        }
        kept
    }

    pub async fn keep(&self, batches: impl Iterator<Item = &FetchedBatch>) {
        for fetched in batches {
            let key = (fetched.batch.part, fetched.batch.byte_offset);
            let decoded = fetched.decoded();
            if saturated::<u64, _>(decoded.raw_bytes()) <= self.largest && !self.batches.contains_key(&key) {
                self.batches.insert(key, Arc::new(DecodedBatch::clone(decoded).detached())).await;
            }
        }
    }
}
