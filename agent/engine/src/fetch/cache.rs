//! Cache of stored bytes: blocks of segments and inline payloads that were just committed or read.
//!
//! Concurrent readers of a block share one GET. Entries are keyed by part, never by offset, since the bytes
//! of a part never change.

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

/// GETs of recent data in flight.
const HOT_GETS_MAX: usize = 32;
/// GETs of old data in flight. They have a limit of their own, so that a consumer that reads old data does
/// not delay those at the end of the log.
const COLD_GETS_MAX: usize = 4;
/// Estimated memory of an entry besides its bytes.
const ENTRY_OVERHEAD_BYTES: usize = 128;

/// Caches blocks of [`limits::CACHE_BLOCK_BYTES`], up to a number of bytes.
pub struct BlockCache {
    /// By part and block number.
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
            .weigher(|_, block: &Bytes| saturated::<u32, _>(block.len() + ENTRY_OVERHEAD_BYTES))
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Arc::new(Self {
            blocks,
            store,
            cluster,
            hot: Semaphore::new(HOT_GETS_MAX),
            cold: Semaphore::new(COLD_GETS_MAX),
        })
    }

    /// Adds a part that was just committed, so that readers at the end of the log need no GET.
    pub async fn insert_part(&self, part: PartId, bytes: &Bytes) {
        let size = saturated::<usize, _>(limits::CACHE_BLOCK_BYTES);
        for (number, start) in (0_u64..).zip((0..bytes.len()).step_by(size)) {
            let end = (start + size).min(bytes.len());
            self.blocks.insert((part, number), bytes.slice(start..end)).await;
        }
    }

    /// A block, if it is cached. Inline payloads have only block 0.
    pub async fn get(&self, part: PartId, number: u64) -> Option<Bytes> {
        let block = self.blocks.get(&(part, number)).await;
        metrics::cache(block.is_some());
        block
    }

    /// A block of a segment, read from the object store if it is not cached. `cold` selects the limit of
    /// GETs.
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

    /// Removes a part whose bytes turned out to be corrupt.
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
