//! Executes reads: gets the read plan from the control plane, loads the bytes, verifies and decodes them.
//!
//! Invariants: no bytes are returned without verification; a referenced part that is missing or corrupt is an
//! error, never a skipped offset.

use super::cache::BlockCache;
use super::decoded::{DecodedBatches, DecodedCache};
use super::fetched::{FetchError, Fetched, FetchedBatch};
use super::planner::{self, blocks_of, payload_ranges};
use super::wanted::Wanted;
use crate::metrics;
use crate::store::StoreError;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt, TryStreamExt};
use millpond_core::control_plane::{Batch, FindRequest, Found, PayloadRange};
use millpond_core::saturated;
use millpond_core::{ControlPlane, Offset, PartId, limits};
use millpond_format::Corrupt;
use millpond_format::batch::DecodedBatch;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Blocks that one read loads at the same time.
const READ_MAX_PARALLEL_BLOCKS: usize = 4;
/// Attempts of a read, each with a new plan, before a part is reported as missing or corrupt.
const READ_ATTEMPTS_MAX: u32 = 4;
/// The pause after the nth failed attempt is this times n − 1.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Reads of more uncompressed bytes are decoded on a blocking thread instead of an async one.
const DECODE_IN_PLACE_MAX_BYTES: i32 = 256 << 10;

/// Executes reads within a memory budget.
pub struct Reader {
    plane: Arc<dyn ControlPlane>,
    cache: Arc<BlockCache>,
    /// Batches from which single records are read.
    pub(super) decoded: DecodedCache,
    /// Budget for reads in flight: one permit is one KiB of uncompressed batches.
    memory: Arc<Semaphore>,
    memory_kib: u32,
}

impl Reader {
    #[must_use]
    pub fn new(
        plane: Arc<dyn ControlPlane>,
        cache: Arc<BlockCache>,
        memory_bytes: usize,
        decoded_bytes: u64,
    ) -> Self {
        let memory_kib =
            saturated::<u32, _>((memory_bytes / limits::KIB).max(2 * limits::READ_MAX_BYTES / limits::KIB));
        let permits = saturated::<usize, _>(memory_kib);
        let decoded = DecodedCache::new(decoded_bytes);
        Self { plane, cache, decoded, memory: Arc::new(Semaphore::new(permits)), memory_kib }
    }

    /// Reads partitions: one result per request, `None` for a partition that was deleted.
    pub async fn fetch(&self, requests: &[FindRequest]) -> Result<Vec<Option<Fetched>>, FetchError> {
        self.fetch_wanted(requests, None).await
    }

    /// As [`Self::fetch`]. With `wanted`, reads only the batches that hold wanted records, and caches them
    /// decoded. The number limits the uncompressed bytes to load: no further batch is read once it is
    /// reached.
    pub(super) async fn fetch_wanted(
        &self,
        requests: &[FindRequest],
        wanted: Option<(&Wanted, i64)>,
    ) -> Result<Vec<Option<Fetched>>, FetchError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.attempt(requests, wanted).await {
                // The part may have been replaced and deleted between plan and read: the next plan does not
                // refer to it. And bytes that were damaged on the way from the store may be right the next
                // time.
                Err(FetchError::Corrupt { part, .. }) if attempt < READ_ATTEMPTS_MAX => {
                    tracing::warn!(%part, attempt, "a part is missing or corrupt");
                    tokio::time::sleep(RETRY_PAUSE * (attempt - 1)).await;
                }
                Err(error @ FetchError::Corrupt { .. }) => {
                    metrics::corrupt();
                    tracing::error!(error = %crate::error_chain(&error), "stored records cannot be read");
                    return Err(error);
                }
                outcome => return outcome,
            }
        }
    }

    /// One attempt of a read, with a plan of its own.
    async fn attempt(
        &self,
        requests: &[FindRequest],
        wanted: Option<(&Wanted, i64)>,
    ) -> Result<Vec<Option<Fetched>>, FetchError> {
        let start = Instant::now();
        let mut found = self.plane.find(requests).await.map_err(FetchError::ControlPlane)?;
        let planned = start.elapsed();
        let ends: Vec<Option<Offset>> =
            found.iter().map(|f| f.as_ref()?.batches.last().map(Batch::end)).collect();
        let mut cached = DecodedBatches::default();
        let mut unread = vec![None; found.len()];
        if let Some((wanted, mut left)) = wanted {
            for ((request, found), unread) in requests.iter().zip(&mut found).zip(&mut unread) {
                let Some(found) = found else { continue };
                found.batches.retain(|b| wanted.overlaps(request.partition, b.base, b.end()));
                let decoded = self.decoded.get_all(found.batches.iter()).await;
                // Batches in the cache of decoded batches do not count.
                let fits = |b: &&Batch| {
                    let is_decoded = decoded.contains_key(&(b.part, b.byte_offset));
                    let fits = left > 0 || is_decoded;
                    left -= if is_decoded { 0 } else { i64::from(b.raw_bytes) };
                    fits
                };
                let fitting = found.batches.iter().take_while(fits).count();
                *unread = found.batches.get(fitting).map(|b| b.base);
                found.batches.truncate(fitting);
                cached.extend(decoded);
            }
        }
        let to_load = |b: &&Batch| !cached.contains_key(&(b.part, b.byte_offset));
        let raw: i64 = found
            .iter()
            .flatten()
            .flat_map(|f| &f.batches)
            .filter(to_load)
            .map(|b| i64::from(b.raw_bytes))
            .sum();
        let memory = if raw > 0 {
            let kib = saturated::<u32, _>(raw / 1_024 + 1).min(self.memory_kib);
            Arc::clone(&self.memory).acquire_many_owned(kib).await.ok()
        } else {
            None
        };
        let bytes = self.load(found.iter().flatten().flat_map(|f| &f.batches).filter(to_load)).await?;
        let decode = move || -> Result<Vec<Option<Fetched>>, FetchError> {
            let mut memory = memory;
            found
                .into_iter()
                .map(|f| f.map(|f| decode_partition(f, &bytes, &cached, memory.take())).transpose())
                .collect()
        };
        let mut fetched = if raw <= i64::from(DECODE_IN_PLACE_MAX_BYTES) {
            decode()
        } else {
            crate::blocking::run(decode).await
        };
        if let Err(FetchError::Corrupt { part, .. }) = &fetched {
            self.cache.forget_part(*part).await;
        }
        for ((one, end), unread) in fetched.iter_mut().flatten().zip(ends).zip(unread) {
            if let Some(one) = one {
                one.planned_to = end.unwrap_or(Offset::ZERO);
                one.unread_from = unread;
            }
        }
        let batches = || fetched.iter().flatten().flatten().flat_map(|f| &f.batches);
        if wanted.is_some() {
            self.decoded.insert_all(batches()).await;
        }
        let records = batches().map(|b| saturated::<usize, _>(b.batch.records)).sum();
        metrics::fetched(planned, start.elapsed(), records, saturated::<usize, _>(raw));
        fetched
    }

    /// Loads the stored bytes of batches, from the cache, the control plane (inline payloads) or the object
    /// store.
    async fn load<'b>(
        &self,
        batches: impl Iterator<Item = &'b Batch> + Clone,
    ) -> Result<LoadedBytes, FetchError> {
        let batches = || batches.clone();
        let newest = batches().map(|b| b.committed_at_ms).max().unwrap_or(0);
        let plan = planner::plan(batches(), newest);
        let mut loaded = LoadedBytes::default();
        let mut missing: Vec<PartId> = Vec::new();
        for part in plan.payloads {
            match self.cache.get(part, 0).await {
                Some(bytes) => {
                    loaded.blocks.insert((part, 0), bytes);
                }
                None => missing.push(part),
            }
        }
        if !missing.is_empty() {
            let ranges =
                payload_ranges(batches().filter(|b| b.inline && missing.binary_search(&b.part).is_ok()));
            let read = self.plane.payloads(&ranges).await.map_err(FetchError::ControlPlane)?;
            for (range, bytes) in ranges.into_iter().zip(read) {
                let bytes = bytes.ok_or(FetchError::Corrupt { part: range.part, source: None })?;
                loaded.ranges.entry(range.part).or_default().push((range, bytes));
            }
        }
        let load = |((part, number), cold)| async move {
            match self.cache.block(part, number, cold).await {
                Ok(bytes) => Ok(((part, number), bytes)),
                Err(error) if matches!(*error, StoreError::NotFound) => {
                    Err(FetchError::Corrupt { part, source: None })
                }
                Err(error) => Err(FetchError::ObjectStore(error)),
            }
        };
        let blocks: Vec<_> = stream::iter(plan.blocks)
            .map(load)
            .buffer_unordered(READ_MAX_PARALLEL_BLOCKS)
            .try_collect()
            .await?;
        loaded.blocks.extend(blocks);
        Ok(loaded)
    }
}

/// The loaded bytes of a read.
#[derive(Default)]
struct LoadedBytes {
    /// By part and block number; inline payloads from the cache are block 0.
    blocks: HashMap<(PartId, u64), Bytes>,
    /// Byte ranges of inline payloads that were read from the control plane.
    ranges: HashMap<PartId, Vec<(PayloadRange, Bytes)>>,
}

impl LoadedBytes {
    /// The bytes of a batch; `None` if they are incomplete.
    fn bytes_of(&self, batch: &Batch) -> Option<Bytes> {
        let start = usize::try_from(batch.byte_offset).ok()?;
        let length = usize::try_from(batch.byte_length).ok()?;
        if let Some(ranges) = self.ranges.get(&batch.part) {
            let holds = |r: &PayloadRange| {
                r.byte_offset <= batch.byte_offset
                    && batch.byte_offset + batch.byte_length <= r.byte_offset + r.byte_length
            };
            let (range, bytes) = ranges.iter().find(|(r, _)| holds(r))?;
            let from = start - usize::try_from(range.byte_offset).ok()?;
            return (from + length <= bytes.len()).then(|| bytes.slice(from..from + length));
        }
        let size = usize::try_from(limits::CACHE_BLOCK_BYTES).ok()?;
        let mut joined = BytesMut::new();
        for number in blocks_of(batch) {
            let block = self.blocks.get(&(batch.part, number))?;
            let base = usize::try_from(number).ok()? * size;
            let from = start.max(base) - base;
            let to = (start + length).min(base + size) - base;
            if to > block.len() {
                return None;
            }
            if to - from == length {
                return Some(block.slice(from..to));
            }
            joined.extend_from_slice(&block[from..to]);
        }
        Some(joined.freeze())
    }
}

/// Verifies and decodes the batches of one partition, apart from those in `cached`.
fn decode_partition(
    found: Found,
    loaded: &LoadedBytes,
    cached: &DecodedBatches,
    memory: Option<tokio::sync::OwnedSemaphorePermit>,
) -> Result<Fetched, FetchError> {
    let decode = |batch: Batch| {
        if let Some(decoded) = cached.get(&(batch.part, batch.byte_offset)) {
            return Ok(FetchedBatch { batch, decoded: Arc::clone(decoded) });
        }
        let part = batch.part;
        let corrupt = |source| FetchError::Corrupt { part, source };
        let bytes = loaded
            .bytes_of(&batch)
            .ok_or_else(|| corrupt(Some(Corrupt("an object is shorter than its batches"))))?;
        let raw = saturated::<usize, _>(batch.raw_bytes);
        let decoded =
            DecodedBatch::decode(&bytes, batch.crc.cast_unsigned(), raw).map_err(|e| corrupt(Some(e)))?;
        Ok(FetchedBatch { batch, decoded: Arc::new(decoded) })
    };
    let batches = found.batches.into_iter().map(decode).collect::<Result<_, _>>()?;
    let (log_start_offset, high_watermark) = (found.log_start_offset, found.high_watermark);
    Ok(Fetched {
        log_start_offset,
        high_watermark,
        batches,
        planned_to: Offset::ZERO,
        unread_from: None,
        memory_permit: memory,
    })
}
