//! Memory budget for incoming records. When it is used up, atomic requests are refused and streamed bodies
//! are read more slowly.

use crate::metrics;
use millpond_core::limits;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Memory that one chunk of a streamed body may take: the chunk, its parsed records and their encoding.
const CHUNK_COST_BYTES: usize = 3 * limits::REQUEST_MAX_BYTES;
/// Worst-case memory per byte of a request body: the body, its parsed records and their encoding.
const COST_PER_BYTE: usize = 3;

/// The memory of a small streamed body is enlarged in steps of this size.
const SMALL_BODY_STEP_BYTES: usize = 4 * limits::KIB;

/// Hands out memory for request bodies and for chunks of streams.
pub struct Admission {
    /// One permit is one KiB.
    requests: Arc<Semaphore>,
    /// One permit is one chunk.
    chunks: Arc<Semaphore>,
    /// Budget of requests.
    request_kib: usize,
}

impl Admission {
    /// Divides the budget in halves: one for requests, one for chunks of streams (at least two chunks).
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

    /// Acquires memory for a request body of `bytes`. `None` at once if there is none: the client should
    /// retry.
    #[must_use]
    pub fn request(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let permit = self.try_request(bytes);
        if permit.is_none() {
            metrics::throttled();
        }
        permit
    }

    fn try_request(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from((bytes * COST_PER_BYTE).div_ceil(limits::KIB).max(1)).ok()?;
        Arc::clone(&self.requests).try_acquire_many_owned(kib).ok()
    }

    /// Enlarges the memory of a small body to that of `bytes`, in steps; `permit` is for `held_bytes`.
    /// Returns false if there is none.
    #[must_use]
    pub fn small_body(
        &self,
        permit: &mut Option<OwnedSemaphorePermit>,
        held_bytes: &mut usize,
        bytes: usize,
    ) -> bool {
        if bytes <= *held_bytes {
            return true;
        }
        let bytes = bytes.next_multiple_of(SMALL_BODY_STEP_BYTES);
        let Some(more) = self.try_request(bytes - *held_bytes) else { return false };
        *held_bytes = bytes;
        match permit {
            Some(permit) => permit.merge(more),
            empty => *empty = Some(more),
        }
        true
    }

    /// Waits for the memory of one chunk of a stream.
    pub async fn chunk(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.chunks).acquire_owned().await.ok()
    }

    /// Acquires memory for a further chunk of a stream that already holds one; `None` at once if there is
    /// none. Waiting while holding the first chunk could deadlock streams with one another.
    #[must_use]
    pub fn another_chunk(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.chunks).try_acquire_owned().ok()
    }

    #[must_use]
    pub fn chunks_are_taken(&self) -> bool {
        self.chunks.available_permits() == 0
    }

    /// Memory that requests hold at the moment; chunks are not counted.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        (self.request_kib - self.requests.available_permits()) * limits::KIB
    }
}
