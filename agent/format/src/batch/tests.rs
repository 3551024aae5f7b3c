use super::super::record::NewRecord;
use super::*;
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, Record, RecordBatchDecoder,
    RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use proptest::prelude::*;

#[derive(Debug, Clone)]
struct Plain {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
    timestamp: i64,
}

fn plain() -> impl Strategy<Value = Plain> {
    let bytes = || prop::option::of(prop::collection::vec(any::<u8>(), 0..300));
    let headers = prop::collection::vec(("[a-z]{0,8}", prop::collection::vec(any::<u8>(), 0..20)), 0..4);
    (bytes(), bytes(), headers, 0_i64..253_402_300_799_999)
        .prop_map(|(key, value, headers, timestamp)| Plain { key, value, headers, timestamp })
}

fn encode(records: &[Plain]) -> (Bytes, Encoded) {
    let mut set = RecordSet::default();
    for r in records {
        let headers: Vec<(&str, &[u8])> = r.headers.iter().map(|(n, v)| (n.as_str(), v.as_slice())).collect();
        let record = NewRecord {
            key: r.key.as_deref(),
            value: r.value.as_deref(),
            headers: &headers,
            timestamp: Some(r.timestamp),
            ..NewRecord::default()
        };
        set.push(&record, 0);
    }
    let mut encoder = BatchEncoder::default();
    assert_eq!(encoder.push_from(&set, 0, usize::MAX), records.len());
    let mut out = Vec::new();
    let encoded = encoder.finish(&mut out);
    (out.into(), encoded)
}

fn same(views: &DecodedBatch, records: &[Plain]) {
    let views: Vec<RecordView<'_>> = views.records().collect::<Result<_, _>>().expect("decodes");
    assert_eq!(views.len(), records.len());
    for (n, (view, r)) in views.iter().zip(records).enumerate() {
        assert_eq!(usize::try_from(view.position), Ok(n));
        assert_eq!(view.timestamp, r.timestamp);
        assert_eq!(view.key, r.key.as_deref());
        assert_eq!(view.value, r.value.as_deref());
        let headers: Vec<(&str, &[u8])> = view.headers().collect::<Result<_, _>>().expect("decodes");
        assert_eq!(headers, r.headers.iter().map(|(n, v)| (n.as_str(), v.as_slice())).collect::<Vec<_>>());
    }
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_again(records in prop::collection::vec(plain(), 1..20)) {
        let (bytes, encoded) = encode(&records);
        prop_assert_eq!(bytes.len(), encoded.byte_length);
        same(&DecodedBatch::decode(&bytes, encoded.crc, encoded.raw_bytes).expect("decodes"), &records);
    }

    /// The crate `kafka-protocol` reads our batches, except for repeated header names, which its map cannot
    /// hold.
    #[test]
    fn kafka_protocol_reads_our_batches(records in prop::collection::vec(plain(), 1..20)) {
        let (bytes, _) = encode(&records);
        let theirs = RecordBatchDecoder::decode(&mut bytes.clone()).expect("a valid batch").records;
        prop_assert_eq!(theirs.len(), records.len());
        for (theirs, ours) in theirs.iter().zip(&records) {
            prop_assert_eq!(theirs.timestamp, ours.timestamp);
            prop_assert_eq!(theirs.key.as_deref(), ours.key.as_deref());
            prop_assert_eq!(theirs.value.as_deref(), ours.value.as_deref());
        }
    }

    #[test]
    fn we_read_kafka_protocols_batches(records in prop::collection::vec(plain(), 1..20)) {
        let theirs: Vec<Record> = records.iter().enumerate().map(|(n, r)| Record {
            transactional: false,
            control: false,
            partition_leader_epoch: -1,
            producer_id: NO_PRODUCER_ID,
            producer_epoch: NO_PRODUCER_EPOCH,
            timestamp_type: TimestampType::Creation,
            offset: i64::try_from(n).expect("small"),
            sequence: NO_SEQUENCE,
            delete_horizon: false,
            timestamp: r.timestamp,
            key: r.key.clone().map(Bytes::from),
            value: r.value.clone().map(Bytes::from),
            headers: r
                .headers
                .iter()
                .map(|(n, v)| (StrBytes::from_string(n.clone()), Some(Bytes::from(v.clone()))))
                .collect::<IndexMap<_, _>>(),
        }).collect();
        let mut out = bytes::BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        RecordBatchEncoder::encode(&mut out, &theirs, &options).expect("encodes");
        let bytes = out.freeze();
        let decoded = DecodedBatch::decode(&bytes, crc32c::crc32c(&bytes), bytes.len() - HEADER_BYTES)
            .expect("decodes");
        for (view, r) in decoded.records().zip(&records) {
            let view = view.expect("decodes");
            let expected = (r.timestamp, r.key.as_deref(), r.value.as_deref());
            prop_assert_eq!((view.timestamp, view.key, view.value), expected);
        }
    }

    #[test]
    fn a_flipped_bit_never_decodes(
        records in prop::collection::vec(plain(), 1..5),
        at in any::<prop::sample::Index>(),
        bit in 0_u32..8,
    ) {
        let (bytes, encoded) = encode(&records);
        let mut broken = bytes.to_vec();
        broken[at.index(bytes.len())] ^= 1_u8 << bit;
        prop_assert!(DecodedBatch::decode(&broken.into(), encoded.crc, encoded.raw_bytes).is_err());
    }

    #[test]
    fn hostile_bytes_end_in_an_error_not_a_panic(
        body in prop::collection::vec(any::<u8>(), 0..200),
        count in any::<i32>(),
    ) {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[16] = MAGIC;
        bytes[57..61].copy_from_slice(&count.to_be_bytes());
        bytes.extend(&body);
        let bytes = Bytes::from(bytes);
        if let Ok(batch) = DecodedBatch::decode(&bytes, crc32c::crc32c(&bytes), body.len()) {
            for record in batch.records().flatten() {
                record.headers().for_each(drop);
            }
        }
    }
}
