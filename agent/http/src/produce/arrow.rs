//! Produce from an Arrow IPC stream, whose columns are matched by name; only `value` is required.
//!
//! Input is not trusted. The Arrow decoder allocates whatever size a stream claims, so every message is
//! checked against [`MESSAGE_MAX_BYTES`], also after decompression, before the decoder sees it.

use super::json::{check_header, check_timestamp};
use crate::error::{Code, Problem};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BinaryViewArray, LargeBinaryArray, LargeStringArray, RecordBatch,
    StringArray, StringViewArray,
};
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::{CompressionType, MessageHeader, root_as_message};
use arrow_schema::{DataType, TimeUnit};
use bytes::{Bytes, BytesMut};
use millpond_core::limits;
use millpond_core::saturated;
use millpond_engine::produce::RecordSource;
use millpond_engine::produce::append::AppendBuilder;
use millpond_engine::produce::stream::Chunker;
use millpond_format::record::NewRecord;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::io::Read;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use uuid::Uuid;

/// Largest message of a stream, both as sent and decompressed.
const MESSAGE_MAX_BYTES: usize = 64 * limits::MIB;
/// Continuation marker before the length of a message, since version 0.15 of the Arrow IPC format.
const CONTINUATION: u32 = u32::MAX;

/// Decodes a stream and cuts it into chunks of rows.
#[derive(Default)]
pub struct Rows {
    decoder: StreamDecoder,
    /// Bytes of messages that are not complete yet.
    incoming: BytesMut,
    /// Length in bytes of the first message in `incoming`, 0 while it is not known.
    wanted: usize,
    /// Decoded record batches of which rows are left.
    whole: VecDeque<Columns>,
    /// First row of the first batch in `whole` that is not in a chunk yet.
    row: usize,
    /// Memory of the batches in `whole`, in bytes.
    buffered: usize,
}

/// A chunk: ranges of rows of one or more record batches.
pub struct RowChunk {
    rows: Vec<(Columns, Range<usize>)>,
    bytes: usize,
}

/// The columns of one record batch, by their meaning.
#[derive(Clone)]
struct Columns {
    rows: usize,
    /// Memory of the batch, in bytes.
    bytes: usize,
    value: BytesColumn,
    key: Option<BytesColumn>,
    /// Result of [`timestamps`].
    timestamp: Option<(ArrayRef, i64, i64)>,
    partition: Option<ArrayRef>,
    headers: Option<ArrayRef>,
}

/// A column of bytes or text, downcast once so that reading a row needs no dynamic dispatch.
#[derive(Clone)]
enum BytesColumn {
    Binary(BinaryArray),
    LargeBinary(LargeBinaryArray),
    BinaryView(BinaryViewArray),
    Utf8(StringArray),
    LargeUtf8(LargeStringArray),
    Utf8View(StringViewArray),
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(Code::InvalidRecord, detail)
}

impl BytesColumn {
    fn new(name: &str, array: &ArrayRef) -> Result<Self, Problem> {
        Ok(match array.data_type() {
            DataType::Binary => Self::Binary(array.as_binary().clone()),
            DataType::LargeBinary => Self::LargeBinary(array.as_binary().clone()),
            DataType::BinaryView => Self::BinaryView(array.as_binary_view().clone()),
            DataType::Utf8 => Self::Utf8(array.as_string().clone()),
            DataType::LargeUtf8 => Self::LargeUtf8(array.as_string().clone()),
            DataType::Utf8View => Self::Utf8View(array.as_string_view().clone()),
            other => return Err(invalid(format!("column {name} is {other}, not binary or utf8"))),
        })
    }

    fn get(&self, row: usize) -> Option<&[u8]> {
        match self {
            Self::Binary(array) => array.is_valid(row).then(|| array.value(row)),
            Self::LargeBinary(array) => array.is_valid(row).then(|| array.value(row)),
            Self::BinaryView(array) => array.is_valid(row).then(|| array.value(row)),
            Self::Utf8(array) => array.is_valid(row).then(|| array.value(row).as_bytes()),
            Self::LargeUtf8(array) => array.is_valid(row).then(|| array.value(row).as_bytes()),
            Self::Utf8View(array) => array.is_valid(row).then(|| array.value(row).as_bytes()),
        }
    }
}

impl Columns {
    fn new(batch: &RecordBatch) -> Result<Self, Problem> {
        let mut columns = Self {
            rows: batch.num_rows(),
            bytes: batch.get_array_memory_size(),
            value: BytesColumn::new(
                "value",
                batch.column_by_name("value").ok_or_else(|| invalid("the stream has no column value"))?,
            )?,
            key: None,
            timestamp: None,
            partition: None,
            headers: None,
        };
        for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            match field.name().as_str() {
                "key" => columns.key = Some(BytesColumn::new("key", array)?),
                "timestamp" => columns.timestamp = Some(timestamps(array)?),
                "partition" if matches!(array.data_type(), DataType::Int32 | DataType::Int64) => {
                    columns.partition = Some(array.clone())
                }
                "partition" => return Err(invalid("column partition is not int32 or int64")),
                "headers" => {
                    check_header_column(array)?;
                    columns.headers = Some(array.clone());
                }
                // The result of a read can be produced as it is; the records get new offsets.
                "value" | "offset" => {}
                other => return Err(invalid(format!("unknown column {other}"))),
            }
        }
        Ok(columns)
    }

    fn row_bytes(&self, row: usize) -> usize {
        self.value.get(row).map_or(0, <[u8]>::len)
            + self.key.as_ref().and_then(|k| k.get(row)).map_or(0, <[u8]>::len)
    }

    fn timestamp(&self, row: usize) -> Result<Option<i64>, Problem> {
        let Some((array, multiply, divide)) = &self.timestamp else { return Ok(None) };
        if array.is_null(row) {
            return Ok(None);
        }
        let ms = array
            .as_primitive::<Int64Type>()
            .value(row)
            .checked_mul(*multiply)
            .map(|v| v.div_euclid(*divide));
        let ms = ms.ok_or_else(|| invalid("a timestamp is out of range"))?;
        check_timestamp(ms).map(|()| Some(ms))
    }

    fn partition(&self, row: usize) -> Result<Option<i32>, Problem> {
        let Some(array) = self.partition.as_ref().filter(|a| a.is_valid(row)) else { return Ok(None) };
        match array.data_type() {
            DataType::Int32 => Ok(Some(array.as_primitive::<Int32Type>().value(row))),
            _ => {
                let wide = array.as_primitive::<Int64Type>().value(row);
                i32::try_from(wide).map(Some).map_err(|_| {
                    Problem::new(Code::PartitionNotFound, format!("there is no partition {wide}"))
                })
            }
        }
    }

    fn push(&self, row: usize, builder: &mut AppendBuilder) -> Result<(), Problem> {
        let names;
        let values;
        let mut headers: Vec<(&str, &[u8])> = Vec::new();
        if let Some(array) = self.headers.as_ref().filter(|a| a.is_valid(row)) {
            let list = array.as_list::<i32>().value(row);
            let pairs = list.as_struct();
            names = BytesColumn::new("headers", pairs.column(0))?;
            values = BytesColumn::new("headers", pairs.column(1))?;
            let mut size = 0;
            for n in 0..pairs.len() {
                let name = names
                    .get(n)
                    .and_then(|b| std::str::from_utf8(b).ok())
                    .ok_or_else(|| invalid("a header has no name"))?;
                check_header(name)?;
                let value = values.get(n).unwrap_or_default();
                size += name.len() + value.len();
                headers.push((name, value));
            }
            if size > limits::HEADERS_MAX_BYTES || headers.len() > limits::RECORD_MAX_HEADERS {
                return Err(Problem::new(
                    Code::HeadersTooLarge,
                    "a record has too many or too large headers",
                ));
            }
        }
        let record = NewRecord {
            key: self.key.as_ref().and_then(|k| k.get(row)),
            value: self.value.get(row),
            headers: &headers,
            timestamp: self.timestamp(row)?,
            ..NewRecord::default()
        };
        Ok(builder.push(0, self.partition(row)?, &record)?)
    }
}

/// The column as 64-bit integers, and the factor and divisor that turn them into milliseconds.
fn timestamps(array: &ArrayRef) -> Result<(ArrayRef, i64, i64), Problem> {
    let (multiply, divide) = match array.data_type() {
        DataType::Int64 => (1, 1),
        DataType::Timestamp(TimeUnit::Second, _) => (1_000, 1),
        DataType::Timestamp(TimeUnit::Millisecond, _) => (1, 1),
        DataType::Timestamp(TimeUnit::Microsecond, _) => (1, 1_000),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => (1, 1_000_000),
        other => {
            return Err(invalid(format!(
                "column timestamp is {other}, not a timestamp or int64 of milliseconds"
            )));
        }
    };
    let data = array.to_data().into_builder().data_type(DataType::Int64).build();
    let data = data.map_err(|e| invalid(format!("column timestamp: {e}")))?;
    Ok((arrow_array::make_array(data), multiply, divide))
}

fn check_header_column(array: &ArrayRef) -> Result<(), Problem> {
    let wrong = || invalid("column headers is not list<struct<name: utf8, value: binary>>");
    let DataType::List(item) = array.data_type() else { return Err(wrong()) };
    let DataType::Struct(fields) = item.data_type() else { return Err(wrong()) };
    let texts = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let bytes = |t: &DataType| {
        texts(t) || matches!(t, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
    };
    match &fields[..] {
        [name, value] if texts(name.data_type()) && bytes(value.data_type()) => Ok(()),
        _ => Err(wrong()),
    }
}

fn unreadable(why: impl std::fmt::Display) -> Problem {
    Problem::bad_request(format!("the Arrow stream cannot be read: {why}"))
}

fn too_large() -> Problem {
    Problem::new(
        Code::BodyTooLarge,
        format!("a message of an Arrow stream has at most {MESSAGE_MAX_BYTES} bytes, also decompressed"),
    )
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

/// Range of the metadata in the first message of `bytes`; `None` if its length has not arrived yet.
fn metadata_of(bytes: &[u8]) -> Option<Range<usize>> {
    let (start, size) = match word(bytes, 0)? {
        CONTINUATION => (8, word(bytes, 4)?),
        size => (4, size),
    };
    Some(start..start.saturating_add(saturated::<usize, _>(size)))
}

/// Refuses a message that claims to decompress, or does decompress, to more than [`MESSAGE_MAX_BYTES`].
fn check_unpacked(message: &[u8]) -> Result<(), Problem> {
    let Some(metadata) = metadata_of(message).filter(|m| !m.is_empty()) else { return Ok(()) };
    let body = message.get(metadata.end..).unwrap_or_default();
    let message = root_as_message(message.get(metadata).unwrap_or_default()).map_err(unreadable)?;
    if message.header_type() == MessageHeader::DictionaryBatch {
        return Err(invalid("columns are sent as they are, not as dictionaries"));
    }
    let Some(batch) = message.header_as_record_batch() else { return Ok(()) };
    let (Some(compression), Some(buffers)) = (batch.compression(), batch.buffers()) else { return Ok(()) };
    let mut total = 0_usize;
    for buffer in buffers {
        let start = usize::try_from(buffer.offset()).map_err(unreadable)?;
        let length = usize::try_from(buffer.length()).map_err(unreadable)?;
        let packed = start
            .checked_add(length)
            .and_then(|end| body.get(start..end))
            .ok_or_else(|| unreadable("a buffer lies outside of its message"))?;
        // The buffer starts with its decompressed size; -1 means that it is not compressed.
        let Some((size, packed)) = packed.split_first_chunk::<8>() else { continue };
        let size = saturated::<usize, _>(i64::from_le_bytes(*size));
        total = total.checked_add(size).filter(|total| *total <= MESSAGE_MAX_BYTES).ok_or_else(too_large)?;
        if size > 0 && compression.codec() == CompressionType::LZ4_FRAME {
            // The LZ4 decoder decompresses to the end of the frame, whatever size was claimed.
            let most = saturated::<u64, _>(size).saturating_add(1);
            let mut unpacked = lz4_flex::frame::FrameDecoder::new(packed).take(most);
            let found = std::io::copy(&mut unpacked, &mut std::io::sink()).map_err(unreadable)?;
            if found == most {
                return Err(unreadable("a buffer is larger than it says"));
            }
        }
    }
    Ok(())
}

impl Rows {
    /// Takes the first message out of `incoming`, if it is complete.
    fn next_message(&mut self) -> Result<Option<Bytes>, Problem> {
        if self.wanted == 0 {
            self.wanted = self.measure()?.unwrap_or(0);
        }
        if self.wanted == 0 || self.incoming.len() < self.wanted {
            return Ok(None);
        }
        Ok(Some(self.incoming.split_to(std::mem::take(&mut self.wanted)).freeze()))
    }

    /// Length of the first message in bytes, or `None` if its metadata has not arrived yet.
    fn measure(&self) -> Result<Option<usize>, Problem> {
        let Some(metadata) = metadata_of(&self.incoming) else { return Ok(None) };
        if metadata.is_empty() {
            return Ok(Some(metadata.end));
        }
        if metadata.end > MESSAGE_MAX_BYTES {
            return Err(too_large());
        }
        let end = metadata.end;
        let Some(metadata) = self.incoming.get(metadata) else { return Ok(None) };
        let body = usize::try_from(root_as_message(metadata).map_err(unreadable)?.bodyLength())
            .map_err(unreadable)?;
        end.checked_add(body).filter(|length| *length <= MESSAGE_MAX_BYTES).map(Some).ok_or_else(too_large)
    }

    /// Decodes one message. The decoder panics on some malformed streams, which is answered as an error.
    fn decode(&mut self, buffer: &mut Buffer) -> Result<Option<RecordBatch>, Problem> {
        let decoder = &mut self.decoder;
        let decoded = catch_unwind(AssertUnwindSafe(|| decoder.decode(buffer)));
        decoded.map_err(|_| unreadable("its messages contradict each other"))?.map_err(unreadable)
    }
}

impl Chunker for Rows {
    type Chunk = RowChunk;

    fn add(&mut self, data: Bytes) -> Result<(), Problem> {
        // Not more than has arrived: how long a message is says the client.
        self.incoming.extend_from_slice(&data);
        while let Some(message) = self.next_message()? {
            check_unpacked(&message)?;
            let mut buffer = Buffer::from(message);
            while !buffer.is_empty() {
                if let Some(batch) = self.decode(&mut buffer)? {
                    let columns = Columns::new(&batch)?;
                    self.buffered += columns.bytes;
                    self.whole.push_back(columns);
                }
            }
        }
        Ok(())
    }

    fn cut(&mut self, _max_record_bytes: usize, end: bool) -> Result<Option<RowChunk>, Problem> {
        let (mut rows, mut bytes, mut count, mut full) = (Vec::new(), 0, 0, false);
        for (number, columns) in self.whole.iter().enumerate() {
            let start = if number == 0 { self.row } else { 0 };
            let mut row = start;
            while row < columns.rows && !full {
                bytes += columns.row_bytes(row);
                count += 1;
                row += 1;
                full = bytes >= limits::REQUEST_MAX_BYTES || count == limits::CHUNK_MAX_RECORDS;
            }
            if row > start {
                rows.push((columns.clone(), start..row));
            }
            if full {
                break;
            }
        }
        if end && self.whole.is_empty() {
            if !self.incoming.is_empty() {
                return Err(unreadable("it ends within a message"));
            }
            self.decoder
                .finish()
                .map_err(|e| Problem::bad_request(format!("the Arrow stream is not complete: {e}")))?;
        }
        if rows.is_empty() || !(full || end) {
            return Ok(None);
        }
        for (columns, range) in &rows {
            if range.end == columns.rows {
                self.whole.pop_front();
                self.buffered -= columns.bytes;
                self.row = 0;
            } else {
                self.row = range.end;
            }
        }
        Ok(Some(RowChunk { rows, bytes }))
    }

    fn buffered_bytes(&self) -> usize {
        self.buffered + self.incoming.len()
    }
}

impl RecordSource for RowChunk {
    type Refusal = Problem;

    fn input_bytes(&self) -> usize {
        self.bytes
    }

    fn content_hash(&self, shape: &[u8]) -> Uuid {
        let mut hash = Sha256::new();
        let mut field = |bytes: Option<&[u8]>| {
            let length = bytes.map_or(u64::MAX, |b| saturated::<u64, _>(b.len()));
            hash.update(length.to_le_bytes());
            hash.update(bytes.unwrap_or_default());
        };
        field(Some(shape));
        for (columns, rows) in &self.rows {
            for row in rows.clone() {
                field(columns.value.get(row));
                field(columns.key.as_ref().and_then(|k| k.get(row)));
                field(columns.timestamp(row).ok().flatten().map(i64::to_le_bytes).as_ref().map(|b| &b[..]));
                field(columns.partition(row).ok().flatten().map(i32::to_le_bytes).as_ref().map(|b| &b[..]));
                if let Some(array) = columns.headers.as_ref().filter(|a| a.is_valid(row)) {
                    let list = array.as_list::<i32>().value(row);
                    let pairs = list.as_struct();
                    for column in pairs.columns().iter().filter_map(|c| BytesColumn::new("headers", c).ok()) {
                        (0..pairs.len()).for_each(|n| field(column.get(n)));
                    }
                }
            }
        }
        let digest = hash.finalize();
        Uuid::from_bytes(std::array::from_fn(|n| digest[n]))
    }

    fn read(&self, builder: &mut AppendBuilder) -> Result<(), Problem> {
        builder.expect_bytes(self.bytes);
        for (columns, rows) in &self.rows {
            for row in rows.clone() {
                let number = builder.records();
                columns.push(row, builder).map_err(|problem| problem.with("record", number))?;
            }
        }
        Ok(())
    }
}
