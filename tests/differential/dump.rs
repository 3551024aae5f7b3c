//! Comparison of the complete visible state of two worlds.

use crate::generate::all_ids;
use crate::pair::{Pair, plain_found};
use millpond_core::control_plane::PayloadRange;
use millpond_core::topic::PartitionStatus;
use millpond_core::{AgentId, Topic};
use millpond_tests::stage::Stage;
use uuid::Uuid;

pub async fn compare(pair: &Pair) {
    let (memory, postgres) = (&pair.memory, &pair.postgres);
    let (left, right) = (topics(memory).await, topics(postgres).await);
    let plain = |topics: &[Topic]| -> Vec<_> {
        topics.iter().map(|t| (t.name.clone(), t.config.clone(), t.partition_count())).collect()
    };
    assert_eq!(plain(&left), plain(&right));
    for slot in &pair.slots {
        let (left, right) = (status(memory, &slot.memory).await, status(postgres, &slot.postgres).await);
        assert_eq!(left, right, "status of {}", slot.memory.name);
        let left =
            memory.plane.dedup_offsets(&memory.scope, slot.memory.id, &all_ids()).await.expect("an answer");
        assert_eq!(
            left,
            postgres
                .plane
                .dedup_offsets(&postgres.scope, slot.postgres.id, &all_ids())
                .await
                .expect("an answer")
        );
    }
    let mut ranges = Vec::new();
    for (m, p) in pair.all_homes() {
        assert_eq!(memory.log(m).await, postgres.log(p).await);
        let Some(start) = memory.find(m.id, 0, 1).await.map(|f| f.log_start_offset.0) else { continue };
        let found = plain_found(memory.find(m.id, start, i64::MAX).await);
        assert_eq!(found, plain_found(postgres.find(p.id, start, i64::MAX).await));
        let batches = found.into_iter().flat_map(|f| f.batches).filter(|b| b.inline);
        ranges.extend(batches.map(|b| PayloadRange {
            part: b.part,
            byte_offset: b.byte_offset,
            byte_length: b.byte_length,
        }));
    }
    let left = memory.plane.payloads(&ranges).await.expect("an answer");
    assert_eq!(left, postgres.plane.payloads(&ranges).await.expect("an answer"));
    crate::group::compare(pair).await;
    let agent = AgentId(Uuid::from_u128(1));
    let left = memory.plane.beat(agent, &[]).await.expect("an answer").inline_live_bytes;
    assert_eq!(left, postgres.plane.beat(agent, &[]).await.expect("an answer").inline_live_bytes);
}

async fn topics(stage: &Stage) -> Vec<Topic> {
    stage.topics(&stage.scope).await
}

async fn status(stage: &Stage, topic: &Topic) -> Vec<(i32, i64, i64, i64)> {
    let told: Vec<PartitionStatus> = stage.plane.partitions(&stage.scope, topic.id).await.expect("a list");
    told.iter().map(|p| (p.partition, p.log_start_offset.0, p.high_watermark.0, p.bytes)).collect()
}
