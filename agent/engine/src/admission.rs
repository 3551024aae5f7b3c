//! Memory for records that are on their way in. Requests are refused before it runs out; streams are read
//! slower.

use crate::metrics;
use millpond_core::limits;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Part of the budget that streamed bodies share, in chunks.
const CHUNK_COST_BYTES: usize = 3 * limits::REQUEST_MAX_BYTES;
/// What parsing and encoding hold per byte of a request body, at worst.
const COST_PER_BYTE: usize = 3;

pub struct Admission {
    /// In KiB.
    requests: Arc<Semaphore>,
    chunks: Arc<Semaphore>,
    request_kib: usize,
}

impl Admission {
    /// Half of the budget is for requests, half for chunks of streams (two chunks at least).
    #[must_use]
    pub fn new(budget_bytes: usize) -> Self {
        let request_kib = (budget_bytes / 2).max(CHUNK_COST_BYTES) / limits::KIB;
        let chunks = (budget_bytes / 2 / CHUNK_COST_BYTES).max(2);
        Self {
            requests: Arc::new(Semaphore::new(request_kib)),
            chunks: Arc::new(Semaphore::new(chunks)),
            request_kib,
        }
    }

    /// Room for a body of so many bytes, or `None` at once: the client is to come again.
    #[must_use]
    pub fn request(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from((bytes * COST_PER_BYTE).div_ceil(limits::KIB).max(1)).ok()?;
        let permit = Arc::clone(&self.requests).try_acquire_many_owned(kib).ok();
        if permit.is_none() {
            metrics::throttled();
        }
        permit
    }

    /// Room for a chunk of a stream, when there is some.
    pub async fn chunk(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.chunks).acquire_owned().await.ok()
    }

    /// Room for another chunk of a stream that holds one already: it must not wait for it while it holds the
    /// first.
    #[must_use]
    pub fn another_chunk(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.chunks).try_acquire_owned().ok()
    }

    #[must_use]
    pub fn chunks_are_taken(&self) -> bool {
        self.chunks.available_permits() == 0
    }

    #[must_use]
    pub fn used_bytes(&self) -> usize {
        (self.request_kib - self.requests.available_permits()) * limits::KIB
    }
}
