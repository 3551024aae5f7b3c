//! Arrow IPC streams: produced and read.

use super::api;
use arrow_array::builder::{
    BinaryBuilder, Int32Builder, Int64Builder, ListBuilder, StringBuilder, StructBuilder,
};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMillisecondType};
use arrow_array::{Array, ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow_ipc::{CompressionType, MetadataVersion};
use arrow_schema::{DataType, Field, Fields};
use millpond_tests::harness::client::{Answer, Api, send};
use millpond_tests::harness::unique;
use serde_json::{Value, json};
use std::sync::Arc;

const ARROW: &str = "application/vnd.apache.arrow.stream";

fn stream_with(batches: &[RecordBatch], options: IpcWriteOptions) -> Vec<u8> {
    let mut writer =
        StreamWriter::try_new_with_options(Vec::new(), &batches[0].schema(), options).expect("a stream");
    batches.iter().for_each(|batch| writer.write(batch).expect("a stream"));
    writer.finish().expect("a stream");
    writer.into_inner().expect("a stream")
}

fn stream(batches: &[RecordBatch]) -> Vec<u8> {
    stream_with(batches, IpcWriteOptions::default())
}

fn columns(columns: &[(&str, ArrayRef)]) -> RecordBatch {
    RecordBatch::try_from_iter(columns.iter().map(|(name, array)| (*name, Arc::clone(array))))
        .expect("columns of one length")
}

fn texts(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

async fn produce(api: &Api, topic: &str, body: Vec<u8>) -> Answer {
    send(api.post(topic, ARROW).body(body)).await
}

/// Headers as `list<struct<name, value>>`.
fn headers(rows: &[&[(&str, &[u8])]]) -> ArrayRef {
    let fields: Fields =
        vec![Field::new("name", DataType::Utf8, false), Field::new("value", DataType::Binary, false)].into();
    let mut builder = ListBuilder::new(StructBuilder::new(
        fields,
        vec![Box::new(StringBuilder::new()), Box::new(BinaryBuilder::new())],
    ));
    for row in rows {
        for (name, value) in *row {
            builder.values().field_builder::<StringBuilder>(0).expect("names").append_value(name);
            builder.values().field_builder::<BinaryBuilder>(1).expect("values").append_value(value);
            builder.values().append(true);
        }
        builder.append(true);
    }
    let list = builder.finish();
    let (field, offsets, values, nulls) = list.into_parts();
    Arc::new(arrow_array::ListArray::new(
        Arc::new(field.as_ref().clone().with_nullable(true)),
        offsets,
        values,
        nulls,
    ))
}

#[tokio::test]
async fn every_column_is_taken() {
    let (api, topic) = (api(), unique("arrow"));
    api.topic(&topic, 2).await;
    let mut partition = Int32Builder::new();
    let mut timestamp = Int64Builder::new();
    partition.extend([Some(1), Some(0), Some(1)]);
    timestamp.extend([Some(5), Some(6), None]);
    let batch = columns(&[
        ("value", texts(&[Some("{\"n\":1}"), Some("plain"), None])),
        ("key", texts(&[Some("a"), None, Some("")])),
        ("partition", Arc::new(partition.finish())),
        ("timestamp", Arc::new(timestamp.finish())),
        ("offset", Arc::new(Int64Array::from(vec![9, 9, 9]))),
        ("headers", headers(&[&[("h", b"1"), ("h", b"\xff")], &[], &[("g", b"")]])),
    ]);
    let answer = produce(&api, &topic, stream(&[batch])).await.ok();
    let ranges = json!([{"partition": 0, "first_offset": 0, "last_offset": 0, "count": 1}, {"partition": 1, "first_offset": 0, "last_offset": 1, "count": 2}]);
    assert_eq!(answer, json!({"count": 3, "partitions": ranges}));
    let log = api.log(&topic, 1).await;
    assert_eq!(
        (&log[0]["value"], &log[0]["key"], &log[0]["timestamp"]),
        (&json!({"n": 1}), &json!("a"), &json!(5))
    );
    assert_eq!(log[0]["headers"], json!({"h": ["1", {"base64": "/w=="}]}));
    assert!(log[1].get("value").is_none() && log[1].get("text").is_none());
    assert_eq!((&log[1]["key"], &log[1]["headers"]), (&json!(""), &json!({"g": ""})));
    assert!(log[1]["timestamp"].as_i64().unwrap() > 1_600_000_000_000);
    let other = api.log(&topic, 0).await;
    assert_eq!(other[0]["text"], json!("plain"));
    assert!(other[0].get("key").is_none());
}

#[tokio::test]
async fn value_alone_is_enough_and_compression_is_understood() {
    let (api, topic) = (api(), unique("arrow"));
    api.topic(&topic, 1).await;
    let batch = columns(&[("value", texts(&[Some("1"), Some("2")]))]);
    let none = IpcWriteOptions::default();
    let lz4 = IpcWriteOptions::try_new(64, false, MetadataVersion::V5)
        .unwrap()
        .try_with_compression(Some(CompressionType::LZ4_FRAME))
        .unwrap();
    let zstd = IpcWriteOptions::try_new(64, false, MetadataVersion::V5)
        .unwrap()
        .try_with_compression(Some(CompressionType::ZSTD))
        .unwrap();
    for options in [none, lz4, zstd] {
        let body = stream_with(&[batch.clone(), batch.clone()], options);
        assert_eq!(produce(&api, &topic, body).await.ok()["count"], json!(4));
    }
    assert_eq!(api.log(&topic, 0).await.len(), 12);
    let empty = columns(&[("value", texts(&[]))]);
    assert_eq!(produce(&api, &topic, stream(&[empty])).await.ok(), json!({"count": 0, "partitions": []}));
}

#[tokio::test]
async fn what_a_read_gave_can_be_produced_again() {
    let (api, from, to) = (api(), unique("arrow"), unique("arrow"));
    api.topic(&from, 1).await;
    api.topic(&to, 1).await;
    let records = json!([
        {"key": "a", "value": {"n": 1}, "timestamp": 1, "headers": {"h": ["1", {"base64": "/w=="}]}},
        {"key_base64": "/w==", "base64": "AP8=", "timestamp": 2, "headers": {"millpon": "x"}},
        {"timestamp": 3},
        {"text": "", "key": "", "timestamp": 253_402_300_799_999_i64, "delay_ms": 5}
    ]);
    api.produce(&from, records).await.ok();
    let answer = api.get_as(&format!("/v1/topics/{from}/partitions/0/records"), ARROW).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, ARROW));
    assert_eq!(answer.header("millpond-next-offset"), "4");
    assert_eq!(answer.header("millpond-high-watermark"), "4");
    assert_eq!(answer.header("millpond-log-start-offset"), "0");
    produce(&api, &to, answer.body.to_vec()).await.ok();
    let without_topic =
        |log: Vec<Value>| log.into_iter().map(|mut r| (r["topic"].take(), r).1).collect::<Vec<_>>();
    assert_eq!(without_topic(api.log(&to, 0).await), without_topic(api.log(&from, 0).await));
}

#[tokio::test]
async fn reads_have_the_documented_columns() {
    let (api, topic) = (api(), unique("arrow"));
    api.topic(&topic, 2).await;
    api.produce(
        &topic,
        json!([{"key": "k", "value": 1, "partition": 1, "timestamp": 7, "headers": {"h": "x"}}, {"partition": 1, "timestamp": 8}]),
    )
    .await
    .ok();
    for path in [format!("/v1/topics/{topic}/partitions/1/records"), format!("/v1/topics/{topic}/records")] {
        let answer = api.get_as(&path, ARROW).await;
        let mut reader = StreamReader::try_new(std::io::Cursor::new(answer.body), None).unwrap();
        let schema = reader.schema();
        let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        assert_eq!(names, ["partition", "offset", "timestamp", "key", "value", "headers"]);
        let batch = reader.next().unwrap().unwrap();
        assert_eq!(batch.column(0).as_primitive::<Int32Type>().values(), &[1, 1]);
        assert_eq!(batch.column(1).as_primitive::<Int64Type>().values(), &[0, 1]);
        assert_eq!(batch.column(2).as_primitive::<TimestampMillisecondType>().values(), &[7, 8]);
        assert_eq!(
            (batch.column(3).as_binary::<i32>().value(0), batch.column(3).is_null(1)),
            (&b"k"[..], true)
        );
        assert_eq!(
            (batch.column(4).as_binary::<i32>().value(0), batch.column(4).is_null(1)),
            (&b"1"[..], true)
        );
        let lists = batch.column(5).as_list::<i32>();
        assert_eq!(lists.value_length(0), 1);
        assert_eq!(lists.value_length(1), 0);
    }
    // An empty log is read as a stream that holds a schema and no rows.
    let answer = api.get_as(&format!("/v1/topics/{topic}/partitions/0/records"), ARROW).await;
    let rows: usize = StreamReader::try_new(std::io::Cursor::new(answer.body), None)
        .unwrap()
        .map(|b| b.unwrap().num_rows())
        .sum();
    assert_eq!(rows, 0);
}

#[tokio::test]
async fn wrong_columns_are_refused() {
    let (api, topic) = (api(), unique("arrow"));
    api.topic(&topic, 1).await;
    let value = texts(&[Some("1")]);
    let int = |n: i32| -> ArrayRef { Arc::new(Int32Array::from(vec![n])) };
    let long = |n: i64| -> ArrayRef { Arc::new(Int64Array::from(vec![n])) };
    let flag: ArrayRef = Arc::new(BooleanArray::from(vec![true]));
    let cases: Vec<(RecordBatch, u16, &str)> = vec![
        (columns(&[("key", value.clone())]), 422, "invalid_record"),
        (columns(&[("value", flag.clone())]), 422, "invalid_record"),
        (columns(&[("value", value.clone()), ("key", int(1))]), 422, "invalid_record"),
        (columns(&[("value", value.clone()), ("extra", int(1))]), 422, "invalid_record"),
        (columns(&[("value", value.clone()), ("partition", value.clone())]), 422, "invalid_record"),
        (columns(&[("value", value.clone()), ("partition", int(-1))]), 422, "invalid_record"),
        (columns(&[("value", value.clone()), ("partition", int(1))]), 404, "partition_not_found"),
        (columns(&[("value", value.clone()), ("partition", long(i64::MAX))]), 404, "partition_not_found"),
        (columns(&[("value", value.clone()), ("timestamp", long(-1))]), 422, "invalid_record"),
        (columns(&[("value", value.clone()), ("timestamp", long(i64::MIN))]), 422, "invalid_record"),
        (columns(&[("value", value.clone()), ("timestamp", flag)]), 422, "invalid_record"),
        (columns(&[("value", value.clone()), ("headers", value.clone())]), 422, "invalid_record"),
        (
            columns(&[("value", value.clone()), ("headers", headers(&[&[("millpond.x", b"1")]]))]),
            422,
            "invalid_record",
        ),
        (columns(&[("value", texts(&[Some(&"x".repeat(1_100_000))]))]), 413, "record_too_large"),
    ];
    for (batch, status, code) in cases {
        let schema = format!("{:?}", batch.schema());
        let problem = produce(&api, &topic, stream(&[batch])).await.problem(status, code);
        assert_eq!(problem["committed"]["count"], json!(0), "{schema}");
    }
    assert_eq!(api.log(&topic, 0).await.len(), 0);
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_refused_behind_its_whole_part() {
    let (api, topic) = (api(), unique("arrow"));
    api.topic(&topic, 1).await;
    let whole = stream(&[columns(&[("value", texts(&[Some("1"), Some("2")]))])]);
    for end in [1, 7, 8, 40, whole.len() / 2] {
        let problem = produce(&api, &topic, whole[..end].to_vec()).await.problem(400, "bad_request");
        assert_eq!(problem["committed"]["count"], json!(0), "{end} of {}", whole.len());
    }
    for garbage in [
        &b"not arrow at all, but long enough to be read as one"[..],
        b"\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x00\x00\x00\x80",
    ] {
        let answer = produce(&api, &topic, garbage.to_vec()).await;
        assert!(matches!(answer.status, 400 | 413), "{answer:?}");
    }
}

/// No input may cause a panic or end the agent.
#[tokio::test]
async fn mutilated_streams_are_answered() {
    let (api, topic) = (api(), unique("arrow"));
    api.topic(&topic, 1).await;
    let lz4 = IpcWriteOptions::try_new(64, false, MetadataVersion::V5)
        .unwrap()
        .try_with_compression(Some(CompressionType::LZ4_FRAME))
        .unwrap();
    let batch = columns(&[
        ("value", texts(&[Some("0123456789".repeat(40).as_str()), None, Some("x")])),
        ("key", texts(&[Some("k"), None, Some("")])),
        ("headers", headers(&[&[("h", b"1"), ("g", b"2")], &[], &[("g", b"")]])),
    ]);
    for good in [stream(std::slice::from_ref(&batch)), stream_with(std::slice::from_ref(&batch), lz4)] {
        let mut state = 1_u64;
        for _ in 0..300 {
            let mut bad = good.clone();
            for _ in 0..2 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = usize::try_from((state >> 33) % u64::try_from(bad.len()).unwrap()).unwrap();
                bad[at] = [0, 0xff, 0x7f, 0x80][usize::try_from((state >> 20) & 3).unwrap()];
            }
            let answer = produce(&api, &topic, bad).await;
            assert!(matches!(answer.status, 200 | 400 | 404 | 413 | 415 | 422 | 431), "{answer:?}");
        }
    }
    assert_eq!(api.get("/healthz").await.status, 200);
}

/// A compressed buffer states its own decompressed size, which must not be trusted.
#[tokio::test]
async fn a_compressed_buffer_of_absurd_size_is_refused() {
    let (api, topic) = (api(), unique("arrow"));
    let value = "0123456789".repeat(100);
    let batch = columns(&[("value", texts(&[Some(&value)]))]);
    for codec in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
        let options = IpcWriteOptions::try_new(64, false, MetadataVersion::V5)
            .unwrap()
            .try_with_compression(Some(codec))
            .unwrap();
        let good = stream_with(std::slice::from_ref(&batch), options);
        let size = 1_000_i64.to_le_bytes();
        let at = good.windows(8).rposition(|w| w == size).expect("the size before the compressed bytes");
        for absurd in [1_i64 << 46, i64::MAX, 1 << 36, -2] {
            let mut bad = good.clone();
            bad[at..at + 8].copy_from_slice(&absurd.to_le_bytes());
            let answer = produce(&api, &topic, bad).await;
            assert!(matches!(answer.status, 400 | 413 | 422), "{absurd}: {answer:?}");
        }
    }
    // A decompression bomb: a small body that unpacks to a large one.
    let zeros = "\0".repeat(900_000);
    let rows: Vec<Option<&str>> = vec![Some(&zeros); 120];
    let options = IpcWriteOptions::try_new(64, false, MetadataVersion::V5)
        .unwrap()
        .try_with_compression(Some(CompressionType::ZSTD))
        .unwrap();
    let answer = produce(&api, &topic, stream_with(&[columns(&[("value", texts(&rows))])], options)).await;
    answer.problem(413, "body_too_large");
    assert_eq!(api.get("/healthz").await.status, 200);
}
