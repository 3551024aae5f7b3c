//! Blocks of parts in memory: what the writer just committed, and what was read. A block is fetched once
//! however many want it.
//!
//! Keyed by part, never by offset, since a part's bytes never change.

use crate::metrics;
use crate::store::{Store, StoreError};
use bytes::Bytes;
use millpond_core::saturated;
use millpond_core::{PartId, limits};
use millpond_format::key;
use moka::future::Cache;
use moka::policy::EvictionPolicy;
use std::sync::Arc;
use tokio::sync::Semaphore;

const HOT_READS: usize = 32;
/// Reads of old data have slots of their own, so that a backfill never keeps the tail waiting.
const COLD_READS: usize = 4;

pub struct BlockCache {
    blocks: Cache<(PartId, u64), Bytes>,
    store: Store,
    cluster: String,
    hot: Semaphore,
    cold: Semaphore,
}

impl BlockCache {
    #[must_use]
    pub fn new(capacity_bytes: u64, store: Store, cluster: String) -> Arc<Self> {
        let blocks = Cache::builder()
            .max_capacity(capacity_bytes)
            .weigher(|_, block: &Bytes| saturated::<u32, _>(block.len() + 128))
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Arc::new(Self {
            blocks,
            store,
            cluster,
            hot: Semaphore::new(HOT_READS),
            cold: Semaphore::new(COLD_READS),
        })
    }

    /// Keeps a part that was just committed, so that tail reads need no GET.
    pub async fn insert_part(&self, part: PartId, bytes: &Bytes) {
        let size = saturated::<usize, _>(limits::CACHE_BLOCK_BYTES);
        for (number, start) in (0_u64..).zip((0..bytes.len()).step_by(size)) {
            let end = (start + size).min(bytes.len());
            self.blocks.insert((part, number), bytes.slice(start..end)).await;
        }
    }

    /// A block that is in memory: of inline payloads, which have only block 0, or of segments.
    pub async fn get(&self, part: PartId, number: u64) -> Option<Bytes> {
        let block = self.blocks.get(&(part, number)).await;
        metrics::cache(block.is_some());
        block
    }

    /// A block of a segment, from memory or the store.
    pub async fn block(&self, part: PartId, number: u64, cold: bool) -> Result<Bytes, Arc<StoreError>> {
        if let Some(block) = self.get(part, number).await {
            return Ok(block);
        }
        let load = async {
            let slots = if cold { &self.cold } else { &self.hot };
            let _slot = slots.acquire().await.map_err(|_| StoreError::Timeout)?;
            let start = number * limits::CACHE_BLOCK_BYTES;
            self.store
                .get_range(&key::ingest(&self.cluster, part), start..start + limits::CACHE_BLOCK_BYTES)
                .await
        };
        self.blocks.try_get_with((part, number), load).await
    }

    /// Forgets a part whose bytes turned out to be corrupt.
    pub async fn forget_part(&self, part: PartId) {
        let held: Vec<(PartId, u64)> =
            self.blocks.iter().map(|(key, _)| *key).filter(|key| key.0 == part).collect();
        for key in held {
            self.blocks.invalidate(&key).await;
        }
    }

    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.blocks.weighted_size()
    }
}
