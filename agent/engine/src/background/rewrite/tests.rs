use super::*;
use millpond_core::control_plane::TopicLabel;
use millpond_core::{Name, PartitionId, TopicId};
use millpond_format::record::{NewRecord, RecordSet};
use uuid::Uuid;

fn part(number: u128) -> PartId {
    PartId(Uuid::from_u128(number))
}

/// A batch with one record, alone in its payload.
fn drained(payload: u128, partition: i64, base: i64) -> DrainBatch {
    let topic = TopicLabel {
        tenant: Name::new("default").expect("a name"),
        topic: Name::new("t").expect("a name"),
        topic_id: TopicId(1),
        partition: i32::try_from(partition).expect("a small number"),
    };
    let mut set = RecordSet::default();
    set.push(&NewRecord { value: Some(b"v"), ..NewRecord::default() }, 5);
    let mut writer = SegmentWriter::new("c", 1, "a", 0);
    writer.push_from(&set, 0, usize::MAX);
    let (_, encoded) = writer.finish_batch(&topic);
    let batch = Batch {
        base: Offset(base),
        records: encoded.records,
        part: part(payload),
        inline: true,
        byte_offset: 0,
        byte_length: saturated::<i32, _>(encoded.byte_length),
        raw_bytes: saturated::<i32, _>(encoded.raw_bytes),
        crc: encoded.crc.cast_signed(),
        committed_at_ms: base,
        max_timestamp: encoded.max_timestamp,
        flags: BatchFlags(0),
        skip: Vec::new(),
    };
    let bytes = writer.into_payload();
    DrainBatch { topic, partition_id: PartitionId(partition), batch, expires_at_ms: None, bytes }
}

fn rewritten(plan: &[DrainBatch]) -> Rewritten {
    rewrite(plan, part(9_999_999), "c", 1, "a")
}

#[test]
fn a_payload_that_cannot_be_read_stays_and_its_neighbours_go() {
    let wrong: [fn(&mut DrainBatch); 3] =
        [|d| d.batch.crc ^= 1, |d| d.batch.records += 1, |d| d.bytes = d.bytes.slice(..d.bytes.len() - 1)];
    for spoil in wrong {
        let mut plan: Vec<DrainBatch> =
            (0..5).map(|n| drained(u128::try_from(n).unwrap_or(0), 1, n)).collect();
        spoil(&mut plan[2]);
        let Rewritten { swaps, unreadable, .. } = rewritten(&plan);
        assert_eq!(unreadable.keys().copied().collect::<Vec<_>>(), [part(2)]);
        let outputs: Vec<_> = swaps[0].outputs.iter().map(|o| (o.batch.base.0, o.batch.records)).collect();
        assert_eq!(outputs, [(0, 2), (3, 2)]);
        assert_eq!(swaps[0].drained, [part(0), part(1), part(3), part(4)]);
    }
}

#[test]
fn a_swap_is_of_few_partitions_and_batches() {
    let partitions = saturated::<i64, _>(limits::SWAP_MAX_PARTITIONS);
    let plan: Vec<DrainBatch> = (0..3 * partitions).map(|n| drained(1, n, 0)).collect();
    let Rewritten { swaps, .. } = rewritten(&plan);
    assert_eq!(swaps.iter().map(|s| s.inputs.len()).collect::<Vec<_>>(), [limits::SWAP_MAX_PARTITIONS; 3]);
    let drained_by: Vec<usize> = swaps.iter().map(|s| s.drained.len()).collect();
    assert_eq!(drained_by, [0, 0, 1], "a payload is drained when all its batches have gone");

    let plan: Vec<DrainBatch> = (0..2_500).map(|n| drained(1, 1, n)).collect();
    let Rewritten { swaps, segment, .. } = rewritten(&plan);
    assert_eq!(swaps.iter().map(|s| s.inputs.len()).collect::<Vec<_>>(), [1_000, 1_000, 500]);
    let many: Vec<DrainBatch> = (0..100).map(|n| drained(u128::try_from(n).unwrap_or(0), 1, n)).collect();
    let Rewritten { swaps: of_many, drained: marked_apart, .. } = rewritten(&many);
    assert!(marked_apart.len() == 100 && of_many[0].drained.is_empty());
    let crc = crc32c::crc32c(&segment).cast_signed();
    assert!(swaps.iter().all(|s| s.segment == part(9_999_999) && s.crc == crc && s.outputs.len() == 1));
}
