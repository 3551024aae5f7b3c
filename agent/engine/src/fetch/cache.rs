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

/// GETs of recent data in flight, each of a block.
const HOT_GETS_MAX: usize = 16;
/// GETs of old data in flight. They have a limit of their own, so that a consumer that reads old data does
/// not delay those at the end of the log.
const COLD_GETS_MAX: usize = 4;
/// Part (1/n) of the cache that is for old data.
const COLD_SHARE: u64 = 4;
/// Estimated memory of an entry besides its bytes.
const ENTRY_OVERHEAD_BYTES: usize = 128;

/// Caches blocks of [`limits::CACHE_BLOCK_BYTES`], up to a number of bytes.
pub struct BlockCache {
    /// Recent data, by part and block number.
    blocks: Cache<(PartId, u64), Bytes>,
    /// Old data. It has a cache of its own, so that a consumer that reads the log from its beginning does not
    /// evict what those at the end of the log need.
    cold_blocks: Cache<(PartId, u64), Bytes>,
    /// Blocks that are being read, for those who want them meanwhile. It keeps none.
    in_flight: Cache<(PartId, u64), Bytes>,
    store: Store,
    cluster: String,
    hot: Semaphore,
    cold: Semaphore,
}

impl BlockCache {
    #[must_use]
    pub fn new(capacity_bytes: u64, store: Store, cluster: String) -> Arc<Self> {
        let cache = |bytes: u64| {
            Cache::builder()
                .max_capacity(bytes)
                .weigher(|_, block: &Bytes| saturated::<u32, _>(block.len() + ENTRY_OVERHEAD_BYTES))
                .eviction_policy(EvictionPolicy::lru())
                .build()
        };
        let cold_bytes = capacity_bytes / COLD_SHARE;
        Arc::new(Self {
            blocks: cache(capacity_bytes - cold_bytes),
            cold_blocks: cache(cold_bytes),
            in_flight: Cache::builder().max_capacity(0).build(),
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
        let block = self.cached((part, number)).await;
        metrics::cache(block.is_some());
        block
    }

    async fn cached(&self, key: (PartId, u64)) -> Option<Bytes> {
        match self.blocks.get(&key).await {
            None => self.cold_blocks.get(&key).await,
            recent => recent,
        }
    }

    /// A block of a segment, read from the object store if it is not cached. `cold` selects the limit of
    /// GETs, and the cache that the block goes to.
    pub async fn block(&self, part: PartId, number: u64, cold: bool) -> Result<Bytes, Arc<StoreError>> {
        if let Some(block) = self.get(part, number).await {
            return Ok(block);
        }
        let load = async {
            // Perhaps it was read since.
            if let Some(block) = self.cached((part, number)).await {
                return Ok(block);
            }
            let (slots, cache) =
                if cold { (&self.cold, &self.cold_blocks) } else { (&self.hot, &self.blocks) };
            let _slot = slots.acquire().await.map_err(|_| StoreError::Timeout)?;
            let start = number * limits::CACHE_BLOCK_BYTES;
            let block = self
                .store
                .get_range(&key::ingest(&self.cluster, part), start..start + limits::CACHE_BLOCK_BYTES)
                .await?;
            cache.insert((part, number), block.clone()).await;
            Ok(block)
        };
        self.in_flight.try_get_with((part, number), load).await
    }

    /// Removes a part whose bytes turned out to be corrupt.
    pub async fn forget_part(&self, part: PartId) {
        for cache in [&self.blocks, &self.cold_blocks] {
            let held: Vec<(PartId, u64)> =
                cache.iter().map(|(key, _)| *key).filter(|key| key.0 == part).collect();
            for key in held {
                cache.invalidate(&key).await;
            }
        }
    }

    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.blocks.weighted_size() + self.cold_blocks.weighted_size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use uuid::Uuid;

    #[tokio::test]
    async fn old_data_evicts_no_recent_data() {
        let store = Store::open("memory:").expect("a store");
        let cache = BlockCache::new(4 << 20, store.clone(), "c".to_owned());
        let part = |n: u128| PartId(Uuid::from_u128(n));
        let recent = Bytes::from(vec![1; 2 << 20]);
        cache.insert_part(part(1), &recent).await;
        for n in 2..10 {
            let old = BytesMut::zeroed(900 << 10).freeze();
            store.put(&key::ingest("c", part(n)), &old).await.expect("it is stored");
            cache.block(part(n), 0, true).await.expect("it is read");
        }
        cache.blocks.run_pending_tasks().await;
        cache.cold_blocks.run_pending_tasks().await;
        assert_eq!((cache.blocks.entry_count(), cache.cold_blocks.entry_count()), (1, 1));
        assert!(cache.get(part(1), 0).await.is_some(), "recent data is still there");
    }
}
