//! Encoding of records in Kafka's RecordBatch v2 (<https://kafka.apache.org/documentation/#record>).
//!
//! A [`RecordSet`] holds the part of each record that does not depend on its position in a batch. Records of
//! several requests are thus combined into one batch with a single copy and without an object per record.
//! Header names may repeat, which codecs that keep headers in a map cannot express, so this one is our own.

use super::Corrupt;
use millpond_core::control_plane::BatchFlags;
use millpond_core::saturated;

/// Prefix of header names that is reserved for Millpond.
pub const RESERVED: &str = "millpond.";
/// Header that holds the dedup id of a record.
pub const HEADER_DEDUP: &str = "millpond.dedup_id";
/// Header that holds the instant before which queues do not give the record out, in milliseconds since the
/// epoch.
pub const HEADER_DELIVER_AT: &str = "millpond.deliver_at_ms";
/// Header that holds the instant at which the record expires, in milliseconds since the epoch.
pub const HEADER_EXPIRES_AT: &str = "millpond.expires_at_ms";
/// Header that holds the W3C trace context (`traceparent`) of the record.
pub const HEADER_TRACEPARENT: &str = "millpond.traceparent";

/// Appends a zigzag varint, as in Protocol Buffers.
pub fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    loop {
        let low = saturated::<u8, _>(rest & 0x7f);
        rest >>= 7;
        if rest == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Encoded length of a zigzag varint, in bytes.
#[must_use]
pub fn varint_len(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)).cast_unsigned();
    let bits = 64 - (zigzag | 1).leading_zeros();
    usize::try_from(bits.div_ceil(7)).unwrap_or(10)
}

/// Reads a zigzag varint and advances `bytes` past it.
pub fn take_varint(bytes: &mut &[u8]) -> Result<i64, Corrupt> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or(Corrupt("a varint is cut short"))?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    Err(Corrupt("a varint is too long"))
}

fn length(n: usize) -> i64 {
    saturated::<i64, _>(n)
}

/// Records of one partition, in the order in which they are to be stored.
#[derive(Debug, Default, Clone)]
pub struct RecordSet {
    /// Key, value and headers of each record, encoded, one after the other.
    tails: Vec<u8>,
    index: Vec<Entry>,
    pub flags: BatchFlags,
    /// Latest expiry of the records with a time to live; meaningful only if all have one.
    latest_expiry: i64,
    /// Whether some record has no time to live.
    unexpiring: bool,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// End of the record in `tails`.
    end: u32,
    timestamp: i64,
}

/// A record to be stored, as a request states it.
#[derive(Debug, Clone, Copy, Default)]
pub struct NewRecord<'a> {
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: &'a [(&'a str, &'a [u8])],
    /// Milliseconds since the epoch; `None`: the timestamp of the request.
    pub timestamp: Option<i64>,
    /// Whether the value is JSON text without raw line breaks.
    pub json: bool,
    pub deliver_at_ms: Option<i64>,
    pub expires_at_ms: Option<i64>,
    pub dedup_id: Option<&'a str>,
    pub traceparent: Option<&'a str>,
}

impl RecordSet {
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { tails: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// Appends a record. `timestamp` is used if the record has none.
    pub fn push(&mut self, record: &NewRecord<'_>, timestamp: i64) {
        if self.index.is_empty() {
            self.flags = BatchFlags::JSON;
        }
        let out = &mut self.tails;
        put_bytes(out, record.key);
        put_bytes(out, record.value);
        let instants =
            [record.deliver_at_ms.map(|at| at.to_string()), record.expires_at_ms.map(|at| at.to_string())];
        let own = [
            (HEADER_DELIVER_AT, instants[0].as_deref()),
            (HEADER_EXPIRES_AT, instants[1].as_deref()),
            (HEADER_DEDUP, record.dedup_id),
            (HEADER_TRACEPARENT, record.traceparent),
        ];
        let own = || own.iter().filter_map(|(name, value)| value.map(|v| (*name, v.as_bytes())));
        put_varint(out, length(record.headers.len() + own().count()));
        for (name, value) in record.headers.iter().copied().chain(own()) {
            put_bytes(out, Some(name.as_bytes()));
            put_bytes(out, Some(value));
        }
        if !record.json {
            self.flags = BatchFlags(self.flags.0 & !BatchFlags::JSON.0);
        }
        if record.deliver_at_ms.is_some() {
            self.flags = self.flags.with(BatchFlags::DELAY);
        }
        match record.expires_at_ms {
            Some(at) => {
                self.flags = self.flags.with(BatchFlags::TTL);
                self.latest_expiry = self.latest_expiry.max(at);
            }
            None => self.unexpiring = true,
        }
        let end = saturated::<u32, _>(self.tails.len());
        self.index.push(Entry { end, timestamp: record.timestamp.unwrap_or(timestamp) });
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Approximate size of the records in a segment before compression.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.tails.len() + 8 * self.index.len()
    }

    /// Time at which the last record expires; `None` if a record has no time to live.
    #[must_use]
    pub fn expires_at_ms(&self) -> Option<i64> {
        (!self.unexpiring && !self.is_empty()).then_some(self.latest_expiry)
    }

    /// Timestamp of the record at a position.
    #[must_use]
    pub fn timestamp(&self, position: usize) -> Option<i64> {
        self.index.get(position).map(|e| e.timestamp)
    }

    /// Timestamp and encoded key, value and headers of each record, from `position` on.
    pub fn tails_from(&self, position: usize) -> impl Iterator<Item = (i64, &[u8])> {
        let start = position.checked_sub(1).and_then(|p| self.index.get(p)).map_or(0, |e| e.end);
        let rest = self.index.get(position..).unwrap_or_default();
        rest.iter().scan(start, |start, entry| {
            let from = saturated::<usize, _>(std::mem::replace(start, entry.end));
            let to = saturated::<usize, _>(entry.end);
            Some((entry.timestamp, &self.tails[from..to]))
        })
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            put_varint(out, length(bytes.len()));
            out.extend_from_slice(bytes);
        }
        None => put_varint(out, -1),
    }
}

fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Corrupt> {
    let length = take_varint(bytes)?;
    if length < 0 {
        return Ok(None);
    }
    let length = usize::try_from(length).map_err(|_| Corrupt("a length is too large"))?;
    let (head, rest) = bytes.split_at_checked(length).ok_or(Corrupt("a field is cut short"))?;
    *bytes = rest;
    Ok(Some(head))
}

fn take_header<'a>(bytes: &mut &'a [u8]) -> Result<(&'a str, &'a [u8]), Corrupt> {
    let name = take_bytes(bytes)?.ok_or(Corrupt("a header has no name"))?;
    let name = std::str::from_utf8(name).map_err(|_| Corrupt("a header name is not UTF-8"))?;
    Ok((name, take_bytes(bytes)?.unwrap_or_default()))
}

/// A stored record that borrows from its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Position among the encoded records of the batch.
    pub position: i32,
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    headers: &'a [u8],
    header_count: usize,
    /// Key, value and headers, encoded.
    pub tail: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Reads the next record from the uncompressed records of a batch and advances `bytes` past it.
    pub fn take(bytes: &mut &'a [u8], base_timestamp: i64) -> Result<Self, Corrupt> {
        let length =
            usize::try_from(take_varint(bytes)?).map_err(|_| Corrupt("a record has a negative length"))?;
        let (mut record, rest) = bytes.split_at_checked(length).ok_or(Corrupt("a record is cut short"))?;
        *bytes = rest;
        let (_, after) = record.split_first().ok_or(Corrupt("a record is empty"))?;
        record = after;
        let timestamp = base_timestamp
            .checked_add(take_varint(&mut record)?)
            .ok_or(Corrupt("a timestamp is out of range"))?;
        let position =
            i32::try_from(take_varint(&mut record)?).map_err(|_| Corrupt("a position is out of range"))?;
        let tail = record;
        let key = take_bytes(&mut record)?;
        let value = take_bytes(&mut record)?;
        let header_count =
            usize::try_from(take_varint(&mut record)?).map_err(|_| Corrupt("a header count is negative"))?;
        Ok(Self { position, timestamp, key, value, headers: record, header_count, tail })
    }

    /// The value of a header of Millpond's own that holds an instant, in milliseconds since the epoch.
    #[must_use]
    pub fn instant(&self, header: &str) -> Option<i64> {
        let (_, value) = self.headers().filter_map(Result::ok).find(|(name, _)| *name == header)?;
        std::str::from_utf8(value).ok()?.parse().ok()
    }

    /// All headers in order, including those of Millpond. Ends after the first corrupt one.
    pub fn headers(&self) -> impl Iterator<Item = Result<(&'a str, &'a [u8]), Corrupt>> {
        let mut rest = self.headers;
        let mut left = self.header_count;
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let header = take_header(&mut rest);
            if header.is_err() {
                left = 0;
            }
            Some(header)
        })
    }

    #[must_use]
    pub fn has_headers(&self) -> bool {
        self.header_count > 0
    }
}
