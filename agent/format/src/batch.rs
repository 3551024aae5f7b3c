//! Record batches in Kafka's RecordBatch format, magic 2: encoded from [`RecordSet`]s, decoded to
//! [`RecordView`]s.
//!
//! The base offset inside a batch is 0: a commit assigns the offsets, and the index of the log holds them.
//! The index also holds a CRC-32C of the whole batch, which is checked before anything else is read.

use super::Corrupt;
use super::record::{RecordSet, RecordView, put_varint, take_varint, varint_len};
use bytes::Bytes;
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use millpond_core::saturated;
use std::io::{Read, Write};
use std::sync::OnceLock;

/// Length of the header of a record batch.
pub const HEADER_BYTES: usize = 61;
const MAGIC: u8 = 2;
/// Value of the compression bits in the attributes of a batch that stands for LZ4.
const COMPRESSION_LZ4: u16 = 3;
/// Minimum size of records to be compressed. Below it, compression costs more than it saves.
const COMPRESS_MIN_BYTES: usize = 512;

/// Encodes record batches, one after the other. Its buffers are reused.
#[derive(Debug, Default)]
pub struct BatchEncoder {
    records: Vec<u8>,
    count: i32,
    base_timestamp: i64,
    min_timestamp: i64,
    max_timestamp: i64,
}

/// Properties of an encoded batch, as the index of the log holds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoded {
    pub records: i32,
    pub byte_length: usize,
    /// Length of the records before compression.
    pub raw_bytes: usize,
    /// CRC-32C of the encoded batch.
    pub crc: u32,
    pub min_timestamp: i64,
    pub max_timestamp: i64,
}

impl BatchEncoder {
    /// Appends records of a set, from `position` on, while the records of the batch stay within `max_bytes`;
    /// an empty batch takes at least one. Returns how many were appended.
    pub fn push_from(&mut self, set: &RecordSet, position: usize, max_bytes: usize) -> usize {
        let mut taken = 0;
        for (timestamp, tail) in set.tails_from(position) {
            if self.count > 0 && self.records.len() + tail.len() > max_bytes {
                break;
            }
            self.push(timestamp, tail);
            taken += 1;
        }
        taken
    }

    /// Appends one record. `tail` is its key, value and headers as encoded in a [`RecordSet`].
    pub fn push(&mut self, timestamp: i64, tail: &[u8]) {
        if self.count == 0 {
            self.base_timestamp = timestamp;
            self.min_timestamp = timestamp;
            self.max_timestamp = timestamp;
        }
        self.min_timestamp = self.min_timestamp.min(timestamp);
        self.max_timestamp = self.max_timestamp.max(timestamp);
        let delta = timestamp - self.base_timestamp;
        let position = i64::from(self.count);
        let length = 1 + varint_len(delta) + varint_len(position) + tail.len();
        put_varint(&mut self.records, saturated::<i64, _>(length));
        self.records.push(0);
        put_varint(&mut self.records, delta);
        put_varint(&mut self.records, position);
        self.records.extend_from_slice(tail);
        self.count += 1;
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    #[must_use]
    pub fn raw_bytes(&self) -> usize {
        self.records.len()
    }

    /// Appends the batch to `out` and begins a new one.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Encoded {
        let start = out.len();
        out.resize(start + HEADER_BYTES, 0);
        let mut attributes = 0;
        if self.records.len() >= COMPRESS_MIN_BYTES && compress(&self.records, out) {
            attributes = COMPRESSION_LZ4;
        } else {
            out.truncate(start + HEADER_BYTES);
            out.extend_from_slice(&self.records);
        }
        let length = saturated::<i32, _>(out.len() - start - 12);
        let header = &mut out[start..start + HEADER_BYTES];
        header[8..12].copy_from_slice(&length.to_be_bytes());
        header[12..16].copy_from_slice(&(-1_i32).to_be_bytes());
        header[16] = MAGIC;
        header[21..23].copy_from_slice(&attributes.to_be_bytes());
        header[23..27].copy_from_slice(&(self.count - 1).to_be_bytes());
        header[27..35].copy_from_slice(&self.base_timestamp.to_be_bytes());
        header[35..43].copy_from_slice(&self.max_timestamp.to_be_bytes());
        header[43..51].copy_from_slice(&(-1_i64).to_be_bytes());
        header[51..53].copy_from_slice(&(-1_i16).to_be_bytes());
        header[53..57].copy_from_slice(&(-1_i32).to_be_bytes());
        header[57..61].copy_from_slice(&self.count.to_be_bytes());
        let inner = crc32c::crc32c(&out[start + 21..]);
        out[start + 17..start + 21].copy_from_slice(&inner.to_be_bytes());
        let encoded = Encoded {
            records: self.count,
            byte_length: out.len() - start,
            raw_bytes: self.records.len(),
            crc: crc32c::crc32c(&out[start..]),
            min_timestamp: self.min_timestamp,
            max_timestamp: self.max_timestamp,
        };
        self.records.clear();
        self.count = 0;
        encoded
    }
}

/// Appends `raw` compressed. Returns false if that failed or saves nothing; `out` then has to be cut back.
fn compress(raw: &[u8], out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let info = FrameInfo::new().block_mode(BlockMode::Independent).block_size(BlockSize::Max64KB);
    let mut encoder = FrameEncoder::with_frame_info(info, &mut *out);
    let done = encoder.write_all(raw).is_ok() && encoder.finish().is_ok();
    done && out.len() - start < raw.len()
}

/// A decoded batch: its checksum was verified and its records are uncompressed.
#[derive(Debug, Clone)]
pub struct DecodedBatch {
    records: Bytes,
    base_timestamp: i64,
    count: i32,
    /// Start of each record; computed when a record is first read by its position.
    starts: OnceLock<Vec<u32>>,
}

impl DecodedBatch {
    /// Verifies and decompresses a batch. `crc` is the CRC-32C of all `bytes` from the index of the log;
    /// `raw_bytes` is the length of the records before compression and bounds the decompression.
    pub fn decode(bytes: &Bytes, crc: u32, raw_bytes: usize) -> Result<Self, Corrupt> {
        if crc32c::crc32c(bytes) != crc {
            return Err(Corrupt("checksum mismatch"));
        }
        if bytes.len() < HEADER_BYTES || bytes[16] != MAGIC {
            return Err(Corrupt("not a record batch of magic 2"));
        }
        let field = |at: usize| -> [u8; 8] { std::array::from_fn(|n| bytes[at + n]) };
        let base_timestamp = i64::from_be_bytes(field(27));
        let count = i32::from_be_bytes([bytes[57], bytes[58], bytes[59], bytes[60]]);
        let body = bytes.slice(HEADER_BYTES..);
        let records = match u16::from_be_bytes([bytes[21], bytes[22]]) & 7 {
            0 => body,
            COMPRESSION_LZ4 => {
                let mut raw = Vec::with_capacity(raw_bytes);
                let limit = saturated::<u64, _>(raw_bytes).saturating_add(1);
                FrameDecoder::new(&body[..])
                    .take(limit)
                    .read_to_end(&mut raw)
                    .map_err(|_| Corrupt("the lz4 frame does not decompress"))?;
                Bytes::from(raw)
            }
            _ => return Err(Corrupt("unknown compression")),
        };
        if records.len() != raw_bytes {
            return Err(Corrupt("the uncompressed length is not what was written"));
        }
        Ok(Self { records, base_timestamp, count, starts: OnceLock::new() })
    }

    /// The records in order. Ends after the first corrupt one.
    pub fn records(&self) -> impl Iterator<Item = Result<RecordView<'_>, Corrupt>> {
        let mut rest = &self.records[..];
        let mut left = self.count;
        std::iter::from_fn(move || {
            if left <= 0 {
                return None;
            }
            left -= 1;
            let record = RecordView::take(&mut rest, self.base_timestamp);
            if record.is_err() {
                left = 0;
            }
            Some(record)
        })
    }

    /// Copies the records, so that the buffer from which the batch was decoded can be freed.
    #[must_use]
    pub fn detached(mut self) -> Self {
        self.records = Bytes::copy_from_slice(&self.records);
        self
    }

    /// The record at a position; `None` beyond the end.
    #[must_use]
    pub fn record(&self, position: usize) -> Option<Result<RecordView<'_>, Corrupt>> {
        let start = *self.starts.get_or_init(|| self.record_starts()).get(position)?;
        let mut rest = self.records.get(usize::try_from(start).ok()?..)?;
        Some(RecordView::take(&mut rest, self.base_timestamp))
    }

    /// Finds where each record starts. Ends at the first record that is cut short.
    fn record_starts(&self) -> Vec<u32> {
        // A header can claim any count, but a record has at least one byte.
        let mut starts = Vec::with_capacity(saturated::<usize, _>(self.count).min(self.records.len()));
        let mut rest = &self.records[..];
        for _ in 0..self.count {
            starts.push(saturated::<u32, _>(self.records.len() - rest.len()));
            let Some(length) = take_varint(&mut rest)
                .ok()
                .and_then(|l| usize::try_from(l).ok())
                .filter(|l| *l <= rest.len())
            else {
                break;
            };
            rest = &rest[length..];
        }
        starts
    }

    #[must_use]
    pub fn raw_bytes(&self) -> usize {
        self.records.len()
    }
}

#[cfg(test)]
mod tests;
