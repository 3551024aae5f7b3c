//! Reads of the batch index and of inline payloads.

use millpond_core::Offset;
use millpond_core::control_plane::PayloadRange;
use millpond_core::{PartId, PartitionId, TopicChange, limits};
use millpond_tests::stage::{BOTH, DAY, Draft, HOUR, PartKind, Stage, home, int};

suite!(
    begins_with_the_batch_that_holds_the_offset,
    outside_the_log_is_empty,
    below_the_log_start_is_empty,
    keeps_to_its_budget,
    plans_a_bounded_number_of_batches,
    answers_several_partitions_in_order,
    describes_a_batch_as_it_was_committed,
    reads_ranges_of_payloads,
    tells_high_watermarks,
    tells_offsets_at_a_time,
);

async fn bases(s: &Stage, partition: PartitionId, offset: i64, max_bytes: i64) -> Vec<i64> {
    s.find(partition, offset, max_bytes)
        .await
        .expect("a partition")
        .batches
        .iter()
        .map(|b| b.base.0)
        .collect()
}

async fn begins_with_the_batch_that_holds_the_offset(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    for place in [PartKind::Inline, PartKind::Segment, PartKind::Inline] {
        s.append(place, p, &[1, 2, 3, 4]).await;
    }
    for (offset, expected) in
        [(0, vec![0, 4, 8]), (3, vec![0, 4, 8]), (4, vec![4, 8]), (6, vec![4, 8]), (11, vec![8])]
    {
        assert_eq!(bases(s, p.id, offset, i64::MAX).await, expected, "from {offset}");
    }
}

async fn outside_the_log_is_empty(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    assert_eq!(s.find(p.id, 0, 1).await.expect("a partition").batches, []);
    s.append(PartKind::Inline, p, &[1, 2]).await;
    for offset in [2, 3, i64::MAX] {
        let found = s.find(p.id, offset, i64::MAX).await.expect("a partition");
        assert_eq!(
            (found.batches.len(), found.log_start_offset, found.high_watermark),
            (0, Offset(0), Offset(2))
        );
    }
    assert_eq!(s.find(PartitionId(i64::MAX), 0, 1).await, None);
}

async fn below_the_log_start_is_empty(s: &Stage) {
    let p = home(
        &s.topic_with("t", TopicChange { retention_ms: Some(Some(HOUR)), ..TopicChange::default() }).await,
        0,
    );
    s.append(PartKind::Inline, p, &[1, 2]).await;
    s.append(PartKind::Segment, p, &[3]).await;
    s.advance(DAY).await;
    s.append(PartKind::Inline, p, &[4]).await;
    s.retain().await;
    for (offset, batches) in [(0, 0), (2, 0), (3, 1), (4, 0)] {
        let found = s.find(p.id, offset, i64::MAX).await.expect("a partition");
        assert_eq!(
            (found.log_start_offset, found.high_watermark, found.batches.len()),
            (Offset(3), Offset(4), batches)
        );
    }
}

async fn keeps_to_its_budget(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    for _ in 0..4 {
        s.append(PartKind::Inline, p, &[1, 2]).await;
    }
    let raw = i64::from(s.find(p.id, 0, 1).await.expect("a partition").batches[0].raw_bytes);
    for (max_bytes, expected) in
        [(-1, 1), (0, 1), (1, 1), (raw, 1), (raw + 1, 2), (2 * raw, 2), (3 * raw + 1, 4), (i64::MAX, 4)]
    {
        assert_eq!(bases(s, p.id, 1, max_bytes).await.len(), expected, "{max_bytes}");
    }
}

async fn plans_a_bounded_number_of_batches(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    let most = usize::try_from(limits::PLAN_MAX_BATCHES).expect("small");
    // A run takes three pieces, so this makes more batches than a plan may hold.
    let drafts = vec![Draft::new().to(p, &[1]); 3 * most + 6];
    s.send(PartKind::Segment, &drafts).await;
    assert_eq!(bases(s, p.id, 0, i64::MAX).await.len(), most);
    assert_eq!(bases(s, p.id, 3 * limits::PLAN_MAX_BATCHES, i64::MAX).await.len(), 2);
    assert_eq!(s.tags(p).await.len(), drafts.len());
}

async fn answers_several_partitions_in_order(s: &Stage) {
    let (t, gone) = (s.topic("t", 2).await, s.topic("gone", 1).await);
    s.append(PartKind::Inline, home(&t, 0), &[1]).await;
    s.append(PartKind::Inline, home(&t, 1), &[1, 2]).await;
    s.delete_topic("gone").await;
    let ask = |partition, offset| s.finding(partition, offset, 1);
    let (p, q, g) = (t.partitions[0], t.partitions[1], gone.partitions[0]);
    let found = s.plane.find(&[ask(q, 0), ask(g, 0), ask(p, 0), ask(q, 2), ask(q, 1)]).await.expect("found");
    let seen: Vec<Option<(i64, usize)>> =
        found.iter().map(|f| f.as_ref().map(|f| (f.high_watermark.0, f.batches.len()))).collect();
    assert_eq!(seen, [Some((2, 1)), None, Some((1, 1)), Some((2, 0)), Some((2, 1))]);
    assert_eq!(s.plane.find(&[]).await.expect("found"), []);
}

async fn describes_a_batch_as_it_was_committed(s: &Stage) {
    let topic = s.topic("t", 2).await;
    let p = home(&topic, 1);
    for place in BOTH {
        let before = s.log(p).await.expect("a partition").end;
        let sent = s.send(place, &[Draft::new().to(home(&topic, 0), &[9]).to(p, &[1, 2]).at(p, 77)]).await;
        let found = s.find(p.id, before, 1).await.expect("a partition");
        let (batch, run) = (&found.batches[0], &sent.commit.runs[1]);
        assert_eq!((batch.part, batch.inline), (sent.commit.parts[0].id, place == PartKind::Inline));
        assert_eq!(
            (batch.byte_offset, batch.byte_length, batch.raw_bytes),
            (run.byte_offset, run.byte_length, run.raw_bytes)
        );
        assert_eq!((batch.crc, batch.flags, batch.max_timestamp), (run.crc, run.flags, 77));
        assert_eq!((batch.base, batch.records, batch.skip.len()), (Offset(before), 2, 0));
        if !s.resends() {
            assert_eq!(batch.committed_at_ms, sent.committed.at_ms);
        }
    }
}

async fn reads_ranges_of_payloads(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    let sent = s.send(PartKind::Inline, &[Draft::new().to(p, &[1, 2, 3])]).await;
    let part = sent.commit.parts[0].id;
    let range = |part, byte_offset, byte_length| PayloadRange { part, byte_offset, byte_length };
    let asked = [range(part, 8, 8), range(PartId(s.uuid()), 0, 8), range(part, 0, 24), range(part, 20, 4)];
    let read = s.plane.payloads(&asked).await.expect("an answer");
    let whole: Vec<u8> = [1_u64, 2, 3].iter().flat_map(|tag| tag.to_be_bytes()).collect();
    let expected = [Some(&whole[8..16]), None, Some(&whole[..]), Some(&whole[20..])];
    assert_eq!(read.iter().map(Option::as_deref).collect::<Vec<_>>(), expected);
}

async fn tells_high_watermarks(s: &Stage) {
    let (t, gone) = (s.topic("t", 3).await, s.topic("gone", 1).await);
    s.append(PartKind::Inline, home(&t, 0), &[1, 2]).await;
    s.append(PartKind::Segment, home(&t, 2), &[1]).await;
    s.delete_topic("gone").await;
    let asked = [t.partitions[2], gone.partitions[0], t.partitions[0], t.partitions[1]]
        .map(|partition| (s.scope.clone(), partition));
    let mut told = s.plane.high_watermarks(&asked).await.expect("an answer");
    told.sort_unstable();
    let expected: Vec<(PartitionId, Offset)> =
        t.partitions.iter().copied().zip([2, 0, 1].map(Offset)).collect();
    assert_eq!(told, expected);
}

async fn tells_offsets_at_a_time(s: &Stage) {
    let change =
        TopicChange { partitions: Some(3), retention_ms: Some(Some(HOUR)), ..TopicChange::default() };
    let t = s.topic_with("t", change).await;
    let (p, q) = (home(&t, 0), home(&t, 2));
    for (n, timestamp) in (0..).zip([100, 300, 200, 400]) {
        s.send(PartKind::Inline, &[Draft::new().to(p, &[n, n]).at(p, timestamp)]).await;
    }
    s.send(PartKind::Segment, &[Draft::new().to(q, &[1]).at(q, 250)]).await;
    for (timestamp, in_p, in_q) in
        [(0, 0, 0), (100, 0, 0), (101, 2, 0), (250, 2, 0), (251, 2, 1), (301, 6, 1), (400, 6, 1), (401, 8, 1)]
    {
        let told = s.plane.offsets_at(&s.scope, t.id, timestamp).await.expect("an answer");
        let expected: Vec<_> =
            [in_p, 0, in_q].iter().enumerate().map(|(n, o)| (int(n), t.partitions[n], Offset(*o))).collect();
        assert_eq!(told, expected, "at {timestamp}");
    }
    s.advance(DAY).await;
    s.retain().await;
    assert_eq!(s.plane.offsets_at(&s.scope, t.id, 0).await.expect("an answer")[0].2, Offset(8));
}
