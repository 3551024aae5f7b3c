//! Arrow IPC streams in: columns by name, any subset with `value`.

use super::json::{check_header, check_timestamp};
use super::stream::{Chunk, Chunker};
use crate::http::error::{Code, Problem};
use crate::produce::append::{AppendBuilder, Input};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use arrow_schema::{DataType, TimeUnit};
use bytes::Bytes;
use millpond_core::limits;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::ops::Range;
use uuid::Uuid;

/// What one message of the stream may hold.
const MESSAGE_MAX_BYTES: usize = 64 * limits::MIB;

#[derive(Default)]
pub struct Rows {
    decoder: StreamDecoder,
    whole: VecDeque<Columns>,
    /// First row of the first batch that was not cut off yet.
    row: usize,
    undecoded: usize,
    buffered: usize,
}

pub struct RowChunk {
    rows: Vec<(Columns, Range<usize>)>,
}

#[derive(Clone)]
struct Columns {
    rows: usize,
    bytes: usize,
    value: BytesColumn,
    key: Option<BytesColumn>,
    timestamp: Option<(ArrayRef, i64, i64)>,
    partition: Option<ArrayRef>,
    headers: Option<ArrayRef>,
}

#[derive(Clone)]
struct BytesColumn(ArrayRef);

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(Code::InvalidRecord, detail)
}

impl BytesColumn {
    fn new(name: &str, array: &ArrayRef) -> Result<Self, Problem> {
        match array.data_type() {
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                Ok(Self(array.clone()))
            }
            other => Err(invalid(format!("column {name} is {other}, not binary or utf8"))),
        }
    }

    fn get(&self, row: usize) -> Option<&[u8]> {
        if self.0.is_null(row) {
            return None;
        }
        match self.0.data_type() {
            DataType::Binary => Some(self.0.as_binary::<i32>().value(row)),
            DataType::LargeBinary => Some(self.0.as_binary::<i64>().value(row)),
            DataType::BinaryView => Some(self.0.as_binary_view().value(row)),
            DataType::Utf8 => Some(self.0.as_string::<i32>().value(row).as_bytes()),
            DataType::LargeUtf8 => Some(self.0.as_string::<i64>().value(row).as_bytes()),
            DataType::Utf8View => Some(self.0.as_string_view().value(row).as_bytes()),
            _ => None,
        }
    }
}

impl Columns {
    fn new(batch: &RecordBatch) -> Result<Self, Problem> {
        let mut columns = Self {
            rows: batch.num_rows(),
            bytes: batch.get_array_memory_size(),
            value: BytesColumn(batch.column_by_name("value").ok_or_else(|| invalid("the stream has no column value"))?.clone()),
            key: None,
            timestamp: None,
            partition: None,
            headers: None,
        };
        for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            match field.name().as_str() {
                "value" => columns.value = BytesColumn::new("value", array)?,
                "key" => columns.key = Some(BytesColumn::new("key", array)?),
                "timestamp" => columns.timestamp = Some(timestamps(array)?),
                "partition" if matches!(array.data_type(), DataType::Int32 | DataType::Int64) => columns.partition = Some(array.clone()),
                "partition" => return Err(invalid("column partition is not int32 or int64")),
                "headers" => {
                    check_header_column(array)?;
                    columns.headers = Some(array.clone());
                }
                // What a read gave: a new offset is given.
                "offset" => {}
                other => return Err(invalid(format!("unknown column {other}"))),
            }
        }
        Ok(columns)
    }

    fn row_bytes(&self, row: usize) -> usize {
        self.value.get(row).map_or(0, <[u8]>::len) + self.key.as_ref().and_then(|k| k.get(row)).map_or(0, <[u8]>::len)
    }

    fn timestamp(&self, row: usize) -> Result<Option<i64>, Problem> {
        let Some((array, multiply, divide)) = &self.timestamp else { return Ok(None) };
        if array.is_null(row) {
            return Ok(None);
        }
        let ms = array.as_primitive::<Int64Type>().value(row).checked_mul(*multiply).map(|v| v.div_euclid(*divide));
        let ms = ms.ok_or_else(|| invalid("a timestamp is out of range"))?;
        check_timestamp(ms).map(|()| Some(ms))
    }

    fn partition(&self, row: usize) -> Result<Option<i32>, Problem> {
        let Some(array) = self.partition.as_ref().filter(|a| a.is_valid(row)) else { return Ok(None) };
        match array.data_type() {
            DataType::Int32 => Ok(Some(array.as_primitive::<Int32Type>().value(row))),
            _ => {
                let wide = array.as_primitive::<Int64Type>().value(row);
                i32::try_from(wide).map(Some).map_err(|_| Problem::new(Code::PartitionNotFound, format!("there is no partition {wide}")))
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
            names = BytesColumn(pairs.column(0).clone());
            values = BytesColumn(pairs.column(1).clone());
            let mut size = 0;
            for n in 0..pairs.len() {
                let name = names.get(n).and_then(|b| std::str::from_utf8(b).ok()).ok_or_else(|| invalid("a header has no name"))?;
                check_header(name)?;
                let value = values.get(n).unwrap_or_default();
                size += name.len() + value.len();
                headers.push((name, value));
            }
            if size > limits::HEADERS_MAX_BYTES || headers.len() > limits::RECORD_MAX_HEADERS {
                return Err(Problem::new(Code::HeadersTooLarge, "a record has too many or too large headers"));
            }
        }
        let input = Input {
            key: self.key.as_ref().and_then(|k| k.get(row)),
            value: self.value.get(row),
            headers: &headers,
            partition: self.partition(row)?,
            timestamp: self.timestamp(row)?,
            ..Input::default()
        };
        Ok(builder.push(0, &input)?)
    }
}

/// The column as integers, and by what they are multiplied and divided to be milliseconds.
fn timestamps(array: &ArrayRef) -> Result<(ArrayRef, i64, i64), Problem> {
    let (multiply, divide) = match array.data_type() {
        DataType::Int64 => (1, 1),
        DataType::Timestamp(TimeUnit::Second, _) => (1_000, 1),
        DataType::Timestamp(TimeUnit::Millisecond, _) => (1, 1),
        DataType::Timestamp(TimeUnit::Microsecond, _) => (1, 1_000),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => (1, 1_000_000),
        other => return Err(invalid(format!("column timestamp is {other}, not a timestamp or int64 of milliseconds"))),
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
    let bytes = |t: &DataType| texts(t) || matches!(t, DataType::Binary | DataType::LargeBinary | DataType::BinaryView);
    match &fields[..] {
        [name, value] if texts(name.data_type()) && bytes(value.data_type()) => Ok(()),
        _ => Err(wrong()),
    }
}

impl Chunker for Rows {
    type Chunk = RowChunk;

    fn add(&mut self, data: Bytes) -> Result<(), Problem> {
        self.undecoded += data.len();
        let mut buffer = Buffer::from(data);
        while !buffer.is_empty() {
            match self.decoder.decode(&mut buffer) {
                Ok(Some(batch)) => {
                    self.undecoded = buffer.len();
                    let columns = Columns::new(&batch)?;
                    self.buffered += columns.bytes;
                    self.whole.push_back(columns);
                }
                Ok(None) => {}
                Err(error) => return Err(Problem::bad_request(format!("the Arrow stream cannot be read: {error}"))),
            }
        }
        if self.undecoded > MESSAGE_MAX_BYTES {
            return Err(Problem::new(
                Code::BodyTooLarge,
                format!("a record batch of an Arrow stream has at most {MESSAGE_MAX_BYTES} bytes"),
            ));
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
            self.decoder.finish().map_err(|e| Problem::bad_request(format!("the Arrow stream breaks off: {e}")))?;
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
        Ok(Some(RowChunk { rows }))
    }

    fn buffered_bytes(&self) -> usize {
        self.buffered + self.undecoded
    }
}

impl Chunk for RowChunk {
    fn body_hash(&self, shape: &[u8]) -> Uuid {
        let mut hash = Sha256::new();
        let mut field = |bytes: Option<&[u8]>| {
            let length = bytes.map_or(u64::MAX, |b| u64::try_from(b.len()).unwrap_or(u64::MAX));
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
                    for column in pairs.columns().iter().map(|c| BytesColumn(c.clone())) {
                        (0..pairs.len()).for_each(|n| field(column.get(n)));
                    }
                }
            }
        }
        let digest = hash.finalize();
        Uuid::from_bytes(std::array::from_fn(|n| digest[n]))
    }

    fn read(&self, builder: &mut AppendBuilder) -> Result<(), Problem> {
        for (columns, rows) in &self.rows {
            for row in rows.clone() {
                let number = builder.records();
                columns.push(row, builder).map_err(|problem| problem.with("record", number))?;
            }
        }
        Ok(())
    }
}
