//! Writes records as an Arrow IPC stream with the columns of [`SCHEMA`].

use super::pieces::Pieces;
use crate::error::{Code, Problem};
use arrow_array::builder::{
    BinaryBuilder, Int32Builder, Int64Builder, ListBuilder, StringBuilder, StructBuilder,
    TimestampMillisecondBuilder,
};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use millpond_format::Corrupt;
use millpond_format::record::{RESERVED, RecordView};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

/// The Arrow schema of records, the same everywhere in Millpond.
pub static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("partition", DataType::Int32, false),
        Field::new("offset", DataType::Int64, false),
        Field::new("timestamp", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), false),
        Field::new("key", DataType::Binary, true),
        Field::new("value", DataType::Binary, true),
        Field::new("headers", DataType::List(Arc::new(header_item())), false),
    ]))
});

fn header_fields() -> Fields {
    vec![Field::new("name", DataType::Utf8, false), Field::new("value", DataType::Binary, false)].into()
}

fn header_item() -> Field {
    Field::new("item", DataType::Struct(header_fields()), false)
}

/// Bytes of a record in the columns besides its key, value and headers: numbers and offsets into columns.
const RECORD_COLUMNS_BYTES: usize = 40;

/// Collects records in column builders.
pub struct ArrowWriter {
    partition: Int32Builder,
    offset: Int64Builder,
    timestamp: TimestampMillisecondBuilder,
    key: BinaryBuilder,
    value: BinaryBuilder,
    headers: ListBuilder<StructBuilder>,
    bytes: usize,
}

impl Default for ArrowWriter {
    fn default() -> Self {
        let pairs = StructBuilder::new(
            header_fields(),
            vec![Box::new(StringBuilder::new()), Box::new(BinaryBuilder::new())],
        );
        Self {
            partition: Int32Builder::new(),
            offset: Int64Builder::new(),
            timestamp: TimestampMillisecondBuilder::new().with_timezone("UTC"),
            key: BinaryBuilder::new(),
            value: BinaryBuilder::new(),
            headers: ListBuilder::new(pairs).with_field(header_item()),
            bytes: 0,
        }
    }
}

impl ArrowWriter {
    /// Adds a record, without its reserved headers.
    pub fn push(&mut self, partition: i32, offset: i64, view: &RecordView<'_>) -> Result<(), Corrupt> {
        self.bytes += view.tail.len() + RECORD_COLUMNS_BYTES;
        self.partition.append_value(partition);
        self.offset.append_value(offset);
        self.timestamp.append_value(view.timestamp);
        self.key.append_option(view.key);
        self.value.append_option(view.value);
        if view.has_headers() {
            let pairs = self.headers.values();
            for header in view.headers() {
                let (name, value) = header?;
                if name.starts_with(RESERVED) {
                    continue;
                }
                if let Some(names) = pairs.field_builder::<StringBuilder>(0) {
                    names.append_value(name);
                }
                if let Some(values) = pairs.field_builder::<BinaryBuilder>(1) {
                    values.append_value(value);
                }
                pairs.append(true);
            }
        }
        self.headers.append(true);
        Ok(())
    }

    /// Bytes of the columns so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The whole stream: schema, one batch, end.
    pub fn finish(self) -> Result<Pieces, Problem> {
        self.finish_with(Vec::new(), HashMap::new())
    }

    /// As [`Self::finish`], with more columns after those of [`SCHEMA`], and with metadata in the schema.
    pub fn finish_with(
        mut self,
        more: Vec<(Field, ArrayRef)>,
        metadata: HashMap<String, String>,
    ) -> Result<Pieces, Problem> {
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(self.partition.finish()),
            Arc::new(self.offset.finish()),
            Arc::new(self.timestamp.finish()),
            Arc::new(self.key.finish()),
            Arc::new(self.value.finish()),
            Arc::new(self.headers.finish()),
        ];
        let mut fields: Vec<Arc<Field>> = SCHEMA.fields().iter().cloned().collect();
        for (field, column) in more {
            fields.push(Arc::new(field));
            columns.push(column);
        }
        let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
        let write = || -> Result<Pieces, ArrowError> {
            let batch = RecordBatch::try_new(Arc::clone(&schema), columns)?;
            let mut writer = StreamWriter::try_new(Pieces::default(), &schema)?;
            writer.write(&batch)?;
            writer.finish()?;
            writer.into_inner()
        };
        write().map_err(|e| Problem::new(Code::Internal, e.to_string()))
    }
}
