//! Segments as produce requests write them: record batches grouped by partition, then a footer that describes
//! them, then a trailer.
//!
//! From the footers alone, the records can be recovered from the bucket, but not the order in which they were
//! committed.

use super::Corrupt;
use super::batch::{BatchEncoder, Encoded};
use super::record::RecordSet;
use bytes::Bytes;
use lz4_flex::frame::{FrameDecoder, FrameEncoder};
use millpond_core::control_plane::TopicLabel;
use millpond_core::saturated;
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};

/// Last bytes of a segment.
pub const MAGIC: [u8; 4] = *b"MPSG";
/// Version of the segment format.
pub const VERSION: u16 = 1;
/// Length of the trailer: footer length (u32), CRC-32C of the footer (u32), version (u16), magic (4 bytes);
/// all little endian.
pub const TRAILER_BYTES: usize = 14;
/// Maximum length of a footer after decompression.
const FOOTER_MAX_BYTES: u64 = 64 << 20;

/// Description of the batches of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footer {
    pub cluster: String,
    pub epoch: i64,
    pub agent: String,
    pub topics: Vec<FooterTopic>,
    pub batches: Vec<FooterBatch>,
}

/// A topic that has batches in the segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FooterTopic {
    pub tenant: String,
    pub topic: String,
    pub topic_id: i64,
}

/// Place and content of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FooterBatch {
    /// Index into `topics`.
    pub topic: usize,
    pub partition: i32,
    pub records: i32,
    pub byte_offset: usize,
    pub byte_length: usize,
    /// CRC-32C of the byte range.
    pub crc: u32,
    pub min_timestamp: i64,
    pub max_timestamp: i64,
}

/// Writes the batches of a segment and collects its footer.
#[derive(Debug)]
pub struct SegmentWriter {
    out: Vec<u8>,
    encoder: BatchEncoder,
    footer: Footer,
}

impl SegmentWriter {
    #[must_use]
    pub fn new(cluster: &str, epoch: i64, agent: &str, capacity: usize) -> Self {
        let footer = Footer {
            cluster: cluster.to_owned(),
            epoch,
            agent: agent.to_owned(),
            topics: Vec::new(),
            batches: Vec::new(),
        };
        Self { out: Vec::with_capacity(capacity), encoder: BatchEncoder::default(), footer }
    }

    /// See [`BatchEncoder::push_from`].
    pub fn push_from(&mut self, set: &RecordSet, position: usize, max_bytes: usize) -> usize {
        self.encoder.push_from(set, position, max_bytes)
    }

    pub fn push(&mut self, timestamp: i64, tail: &[u8]) {
        self.encoder.push(timestamp, tail);
    }

    /// Length of the current batch before compression.
    #[must_use]
    pub fn batch_bytes(&self) -> usize {
        self.encoder.raw_bytes()
    }

    /// Ends the current batch, which belongs to `home`. Returns its byte offset in the segment.
    pub fn finish_batch(&mut self, home: &TopicLabel) -> (usize, Encoded) {
        let byte_offset = self.out.len();
        let encoded = self.encoder.finish(&mut self.out);
        let topics = &mut self.footer.topics;
        if topics.last().is_none_or(|t| t.topic_id != home.topic_id.0) {
            topics.push(FooterTopic {
                tenant: home.tenant.to_string(),
                topic: home.topic.to_string(),
                topic_id: home.topic_id.0,
            });
        }
        self.footer.batches.push(FooterBatch {
            topic: topics.len() - 1,
            partition: home.partition,
            records: encoded.records,
            byte_offset,
            byte_length: encoded.byte_length,
            crc: encoded.crc,
            min_timestamp: encoded.min_timestamp,
            max_timestamp: encoded.max_timestamp,
        });
        (byte_offset, encoded)
    }

    /// Returns the batches without footer and trailer, as an inline payload.
    #[must_use]
    pub fn into_payload(mut self) -> Bytes {
        self.out.shrink_to_fit();
        self.out.into()
    }

    /// Returns the whole segment.
    #[must_use]
    pub fn into_segment(mut self) -> Bytes {
        let start = self.out.len();
        let mut encoder = FrameEncoder::new(&mut self.out);
        let text = serde_json::to_vec(&self.footer).unwrap_or_default();
        let written = encoder.write_all(&text).is_ok() && encoder.finish().is_ok();
        debug_assert!(written, "writing to memory does not fail");
        let footer = &self.out[start..];
        let length = saturated::<u32, _>(footer.len());
        let crc = crc32c::crc32c(footer);
        self.out.extend_from_slice(&length.to_le_bytes());
        self.out.extend_from_slice(&crc.to_le_bytes());
        self.out.extend_from_slice(&VERSION.to_le_bytes());
        self.out.extend_from_slice(&MAGIC);
        self.out.shrink_to_fit();
        self.out.into()
    }
}

/// Reads the footer of a segment. `segment` is the whole object.
pub fn read_footer(segment: &[u8]) -> Result<Footer, Corrupt> {
    let (rest, trailer) = segment
        .split_last_chunk::<TRAILER_BYTES>()
        .ok_or(Corrupt("a segment is shorter than its trailer"))?;
    if trailer[10..14] != MAGIC {
        return Err(Corrupt("not a segment"));
    }
    if u16::from_le_bytes([trailer[8], trailer[9]]) != VERSION {
        return Err(Corrupt("unknown segment version"));
    }
    let length = u32::from_le_bytes([trailer[0], trailer[1], trailer[2], trailer[3]]);
    let crc = u32::from_le_bytes([trailer[4], trailer[5], trailer[6], trailer[7]]);
    let start = usize::try_from(length)
        .ok()
        .and_then(|l| rest.len().checked_sub(l))
        .ok_or(Corrupt("a footer is cut short"))?;
    if crc32c::crc32c(&rest[start..]) != crc {
        return Err(Corrupt("footer checksum mismatch"));
    }
    let mut text = Vec::new();
    FrameDecoder::new(&rest[start..])
        .take(FOOTER_MAX_BYTES)
        .read_to_end(&mut text)
        .map_err(|_| Corrupt("a footer does not decompress"))?;
    serde_json::from_slice(&text).map_err(|_| Corrupt("a footer is not valid JSON of the expected form"))
}

#[cfg(test)]
mod tests {
    use super::super::batch::DecodedBatch;
    use super::super::record::NewRecord;
    use super::*;
    use millpond_core::{Name, TopicId};

    #[test]
    fn a_segment_describes_itself() {
        let mut writer = SegmentWriter::new("c1", 3, "a1", 0);
        for partition in 0..5 {
            let mut set = RecordSet::default();
            for n in 0..=partition {
                let value = format!("value {n} of {partition}");
                set.push(
                    &NewRecord {
                        value: Some(value.as_bytes()),
                        timestamp: Some(i64::from(n)),
                        ..NewRecord::default()
                    },
                    0,
                );
            }
            writer.push_from(&set, 0, 1 << 20);
            let tenant = Name::default_tenant();
            let topic = Name::new(if partition < 3 { "a" } else { "b" }).expect("valid");
            writer.finish_batch(&TopicLabel {
                tenant,
                topic,
                topic_id: TopicId(if partition < 3 { 1 } else { 2 }),
                partition,
            });
        }
        let segment = writer.into_segment();
        let footer = read_footer(&segment).expect("a footer");
        assert_eq!((footer.topics.len(), footer.batches.len(), footer.epoch), (2, 5, 3));
        for batch in &footer.batches {
            let bytes = segment.slice(batch.byte_offset..batch.byte_offset + batch.byte_length);
            assert_eq!(crc32c::crc32c(&bytes), batch.crc);
            let raw = bytes.len() - super::super::batch::HEADER_BYTES;
            let decoded =
                DecodedBatch::decode(&bytes, batch.crc, raw).expect("small batches are not compressed");
            assert_eq!(decoded.records().count(), usize::try_from(batch.records).expect("small"));
        }
        assert_eq!(read_footer(&segment[..segment.len() - 1]), Err(Corrupt("not a segment")));
    }
}
