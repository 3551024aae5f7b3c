//! Executes reads: gets the read plan from the control plane, loads the bytes, verifies and decodes them.
//!
//! Invariants: no bytes are returned without verification; a referenced part that is missing or corrupt is an
//! error, never a skipped offset.

use super::cache::BlockCache;
use super::decoded::{DecodedBatches, DecodedCache};
use super::fetched::{FetchError, Fetched, FetchedBatch};
use super::planner::{self, payload_ranges};
use super::wanted::Wanted;
use crate::memory::{Budget, Memory, Room};
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
use tokio::time::Instant;

/// Blocks that one read loads at the same time.
const READ_MAX_PARALLEL_BLOCKS: usize = 4;
/// Attempts of a read, each with a new plan, before a part is reported as missing or corrupt.
const READ_ATTEMPTS_MAX: u32 = 4;
/// The pause after the nth failed attempt is this times n − 1.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Reads of more uncompressed bytes are decoded on a blocking thread instead of an async one.
const DECODE_IN_PLACE_MAX_BYTES: i32 = 256 << 10;

/// Estimated bytes of an encoded record besides its key, value and headers.
const ANSWER_RECORD_BYTES: usize = 256;

/// Whether a client gets the records of a read. This decides how much memory the read takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Its records are encoded into an answer, for which it takes memory, too.
    Answer,
    /// This agent itself looks at its records.
    Inspection,
}

/// Executes reads within a memory budget.
pub struct Reader {
    plane: Arc<dyn ControlPlane>,
    cache: Arc<BlockCache>,
    /// Batches from which single records are read.
    pub(super) decoded: DecodedCache,
    /// Budget for reads in flight and for answers that clients have not taken yet.
    memory: Budget,
}

impl Reader {
    #[must_use]
    pub fn new(
        plane: Arc<dyn ControlPlane>,
        cache: Arc<BlockCache>,
        memory_bytes: usize,
        decoded_bytes: u64,
    ) -> Self {
        let memory = Budget::new(memory_bytes.max(4 * limits::READ_MAX_BYTES));
        Self { plane, cache, decoded: DecodedCache::new(decoded_bytes), memory }
    }

    /// Memory that reads and their answers hold at the moment.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        self.memory.used_bytes()
    }

    /// Reads partitions: one result per request, `None` for a partition that was deleted. Fails with
    /// [`FetchError::Throttled`] if there is no room in memory.
    pub async fn fetch(
        &self,
        requests: &[FindRequest],
        purpose: Purpose,
        room: Room,
    ) -> Result<Vec<Option<Fetched>>, FetchError> {
        self.fetch_wanted(requests, None, purpose, room).await
    }

    /// As [`Self::fetch`]. With `wanted`, reads only the batches that hold wanted records, and caches them
    /// decoded. The number limits the uncompressed bytes to load: no further batch is read once it is
    /// reached.
    pub(super) async fn fetch_wanted(
        &self,
        requests: &[FindRequest],
        wanted: Option<(&Wanted, i64)>,
        purpose: Purpose,
        room: Room,
    ) -> Result<Vec<Option<Fetched>>, FetchError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.attempt(requests, wanted, purpose, room).await {
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
        purpose: Purpose,
        room: Room,
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
        let memory = self.take_memory(requests, &found, &cached, wanted.map(|w| w.0), purpose, room).await?;
        let now_ms = found.iter().flatten().map(|f| f.now_ms).max().unwrap_or(0);
        let to_load = found.iter().flatten().flat_map(|f| &f.batches).filter(to_load);
        let bytes = self.load(to_load, now_ms).await?;
        let decode = move || -> Result<Vec<Option<Fetched>>, FetchError> {
            let mut memory = memory;
            found
                .into_iter()
                .map(|f| {
                    f.map(|f| decode_partition(f, &bytes, &cached, std::mem::take(&mut memory))).transpose()
                })
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

    /// Takes memory for the batches of a read that are not `cached`, as they are stored and uncompressed, and
    /// for its answer, if it has any records.
    async fn take_memory(
        &self,
        requests: &[FindRequest],
        found: &[Option<Found>],
        cached: &DecodedBatches,
        wanted: Option<&Wanted>,
        purpose: Purpose,
        room: Room,
    ) -> Result<(Memory, Memory), FetchError> {
        let (mut batches_bytes, mut answer_bytes) = (0_usize, 0_usize);
        for (request, found) in requests.iter().zip(found) {
            let (mut bytes, mut records) = (0_usize, 0_usize);
            for batch in found.iter().flat_map(|f| &f.batches) {
                let raw = saturated::<usize, _>(batch.raw_bytes);
                if !cached.contains_key(&(batch.part, batch.byte_offset)) {
                    batches_bytes += raw + saturated::<usize, _>(batch.byte_length);
                }
                let all = saturated::<usize, _>(batch.records).max(1);
                let some = wanted.map_or(all, |wanted| {
                    saturated::<usize, _>(wanted.records_in(request.partition, batch.base, batch.end()))
                });
                bytes += raw / all * some.min(all);
                records += some;
            }
            let bytes = bytes.min(saturated::<usize, _>(request.max_bytes));
            // An estimate. If the encoded records turn out to be larger, the answer takes more memory when it
            // is encoded, or ends early.
            answer_bytes += bytes * 5 / 4 + (records * ANSWER_RECORD_BYTES).min(bytes + ANSWER_RECORD_BYTES);
        }
        if batches_bytes + answer_bytes == 0 {
            return Ok((Memory::default(), Memory::default()));
        }
        let answer_bytes = if purpose == Purpose::Answer { answer_bytes } else { 0 };
        let all = self.memory.take(batches_bytes + answer_bytes, room).await;
        let mut memory = all.ok_or(FetchError::Throttled)?;
        let answer_memory = memory.split(answer_bytes);
        Ok((memory, answer_memory))
    }

    /// Loads the stored bytes of batches, from the cache, the control plane (inline payloads) or the object
    /// store.
    async fn load<'b>(
        &self,
        batches: impl Iterator<Item = &'b Batch> + Clone,
        now_ms: i64,
    ) -> Result<LoadedBytes, FetchError> {
        let batches = || batches.clone();
        let plan = planner::plan(batches(), now_ms);
        let mut loaded = LoadedBytes::default();
        let mut missing: Vec<PartId> = Vec::new();
        for part in plan.payloads {
            match self.cache.get(part, 0).await {
                Some(bytes) => {
                    loaded.payloads.insert(part, bytes);
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
        let wanted: Vec<_> = plan.blocks.iter().map(|(key, block)| (*key, block.cold)).collect();
        let mut blocks = stream::iter(wanted).map(load).buffer_unordered(READ_MAX_PARALLEL_BLOCKS);
        while let Some((key, bytes)) = blocks.try_next().await? {
            let batches = plan.blocks.get(&key).map_or(&[][..], |block| &block.batches);
            for (batch, fragment) in fragments(&bytes, key.1, batches) {
                loaded.fragments.entry(batch).or_default().push(fragment);
            }
        }
        Ok(loaded)
    }
}

/// A part of the stored bytes of a batch, with the number of the block that it lies in.
type Fragment = (u64, Bytes);

/// The bytes of each of `batches` that lie in a block. They are copied unless they are most of the block,
/// since otherwise a read would keep whole blocks in memory for a few bytes of each.
fn fragments(block: &Bytes, number: u64, batches: &[&Batch]) -> Vec<((PartId, i32), Fragment)> {
    let base = saturated::<i64, _>(number * limits::CACHE_BLOCK_BYTES);
    let within = |at: i64| saturated::<usize, _>((at - base).max(0)).min(block.len());
    let range = |batch: &Batch| {
        let start = i64::from(batch.byte_offset);
        within(start)..within(start + i64::from(batch.byte_length))
    };
    let wanted: usize = batches.iter().map(|b| range(b).len()).sum();
    let take = |batch: &&Batch| {
        let range = range(batch);
        let bytes = if wanted * 2 >= block.len() {
            block.slice(range)
        } else {
            Bytes::copy_from_slice(&block[range])
        };
        ((batch.part, batch.byte_offset), (number, bytes))
    };
    batches.iter().map(take).collect()
}

/// The loaded bytes of a read.
#[derive(Default)]
struct LoadedBytes {
    /// Inline payloads from the cache.
    payloads: HashMap<PartId, Bytes>,
    /// The fragments of batches in segments, by part and byte offset.
    fragments: HashMap<(PartId, i32), Vec<Fragment>>,
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
        if let Some(payload) = self.payloads.get(&batch.part) {
            return (start + length <= payload.len()).then(|| payload.slice(start..start + length));
        }
        let mut fragments: Vec<&Fragment> =
            self.fragments.get(&(batch.part, batch.byte_offset))?.iter().collect();
        fragments.sort_unstable_by_key(|(number, _)| *number);
        let bytes = match fragments[..] {
            [(_, whole)] => whole.clone(),
            _ => {
                let mut joined = BytesMut::with_capacity(length);
                fragments.iter().for_each(|(_, bytes)| joined.extend_from_slice(bytes));
                joined.freeze()
            }
        };
        (bytes.len() == length).then_some(bytes)
    }
}

/// Verifies and decodes the batches of one partition, apart from those in `cached`.
fn decode_partition(
    found: Found,
    loaded: &LoadedBytes,
    cached: &DecodedBatches,
    (memory, answer_memory): (Memory, Memory),
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
        memory,
        answer_memory,
    })
}
