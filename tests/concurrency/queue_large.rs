//! Queues with more waiting or dead records than one statement may touch. The rows are made by SQL.

use crate::interleave::{end, stage};
use millpond_core::Offset;
use millpond_core::queue::change::{DeadStep, SeekTo};
use millpond_core::queue::{DeadFilter, Estimated, Listing, Queue, QueueCounts};
use millpond_tests::postgres::Database;
use millpond_tests::queues::{NONE, offsets, seek};
use millpond_tests::stage::{Stage, name};

const AHEAD_MINUTES: i64 = 60;

/// Makes `records` of the partition wait, one row each: every second one is due, the others within the next
/// hour. Of either half, every second one was never given out.
async fn wait(database: &Database, queue: &Queue, records: i64) {
    let (queue, partition) = (queue.id, queue.partitions[0]);
    for statement in [
        format!(
            "update topic_partition set high_watermark = greatest(high_watermark, {records} + 5)
            where partition_id = {partition}"
        ),
        format!(
            "update queue_cursor set next_offset = {records} where queue_id = {queue} and partition_id = {partition}"
        ),
        format!(
            "insert into waiting (queue_id, partition_id, lo, hi, due_at, attempt, failures, alone)
            select {queue}, {partition}, n, n + 1,
                clock_timestamp() + case when n % 2 = 0 then -1 else 1 end
                    * (1 + n % 997) * interval '{AHEAD_MINUTES} minutes' / 998,
                n / 2 % 2, 0, n % 3 = 0
            from generate_series(0, {records} - 1) n"
        ),
        format!(
            "insert into queue_agent (queue_id, agent_id, waiting, rated_at)
            values ({queue}, gen_random_uuid(), {records}, clock_timestamp())"
        ),
    ] {
        database.run(&statement).await;
    }
}

async fn counted(s: &Stage, database: &Database, name: &str, records: i64) -> QueueCounts {
    let (q, _) = s.queue_of(name, 1, 0).await;
    wait(database, &q, records).await;
    s.counts(&q).await
}

#[tokio::test]
async fn up_to_ten_thousand_waiting_records_are_counted_and_more_are_estimated() {
    let (s, database) = stage().await;
    let exact = counted(&s, &database, "few", 10_000).await;
    let split = (exact.ready, exact.delayed, exact.retrying, exact.in_flight);
    assert_eq!((split, exact.estimated), ((5_005, 2_500, 2_500, 0), vec![]));
    let about = counted(&s, &database, "many", 40_000).await;
    assert_eq!(about.ready + about.delayed + about.retrying, 40_005);
    for (count, truth) in [(about.ready, 20_005), (about.delayed, 10_000), (about.retrying, 10_000)] {
        assert!((count - truth).abs() < truth / 5, "{about:?}");
    }
    assert_eq!(
        about.estimated,
        [Estimated::Ready, Estimated::Delayed, Estimated::Retrying, Estimated::Oldest]
    );
    // Once all are due, what is read shows that nothing else waits.
    database.run("update waiting set due_at = clock_timestamp() - interval '1 minute'").await;
    let q = s.plane.queue(&s.scope, &name("many")).await.expect("a queue");
    let due = s.counts(&q).await;
    assert_eq!((due.ready, due.delayed, due.retrying), (40_005, 0, 0));
    assert_eq!(due.estimated, [Estimated::Oldest]);
    end(s).await;
}

/// Makes records dead, from offset `from` on.
async fn bury(database: &Database, queue: &Queue, from: i64, records: i64) {
    let (queue, partition, to) = (queue.id, queue.partitions[0], from + records);
    for statement in [
        format!(
            "insert into dead (queue_id, partition_id, record_offset, died_at, attempt, failures, reason)
            select {queue}, {partition}, n, clock_timestamp(), 2, 2, case when n % 2 = 0 then 'even' end
            from generate_series({from}, {to} - 1) n"
        ),
        format!("update topic_partition set high_watermark = {to} where partition_id = {partition}"),
        format!(
            "update queue_cursor set next_offset = {to} where queue_id = {queue} and partition_id = {partition}"
        ),
        format!(
            "insert into queue_agent (queue_id, agent_id, dead, rated_at)
            values ({queue}, gen_random_uuid(), {records}, clock_timestamp())"
        ),
    ] {
        database.run(&statement).await;
    }
}

async fn holds(s: &Stage, queue: &Queue) {
    let ledger = s.ledger(queue).await;
    assert!(ledger.holds(), "{ledger:?}");
}

#[tokio::test]
async fn many_dead_records_are_redriven_and_purged_in_steps() {
    let (s, database) = stage().await;
    let (q, _) = s.queue_of("q", 1, 0).await;
    bury(&database, &q, 0, 12_000).await;
    let even = DeadFilter::Reason("even".to_owned());
    let first = s.plane.redrive(&s.scope, q.id, &even, None, &DeadStep::first(5_000)).await.expect("a step");
    let next = first.next.expect("more");
    assert_eq!((first.records, next.after), (2_500, Some((q.partitions[0], Offset(4_999)))));
    holds(&s, &q).await;
    // The caller is gone. Another does the rest.
    let mut records = Vec::new();
    let mut step = Some(DeadStep::first(5_000));
    while let Some(one) = step {
        let done = s.plane.redrive(&s.scope, q.id, &even, None, &one).await.expect("a step");
        records.push(done.records);
        step = done.next;
    }
    // Of the first 5,000 that are left, half as many are from where the first step ended.
    assert_eq!((records.len(), records.iter().sum::<i64>()), (2, 3_500));
    assert_eq!(s.ledger(&q).await.dead, 6_000);
    holds(&s, &q).await;
    let purged = s.plane.purge_dead(&s.scope, q.id, &DeadFilter::All, &DeadStep::first(5_000)).await;
    let purged = purged.expect("a step");
    assert_eq!((purged.records, purged.next.is_some()), (5_000, true));
    let rest = s.plane.purge_dead(&s.scope, q.id, &DeadFilter::All, &purged.next.expect("more")).await;
    let rest = rest.expect("a step");
    assert_eq!((rest.records, rest.next), (1_000, None));
    assert_eq!((s.ledger(&q).await.dead, s.counts(&q).await.ready), (0, 6_000));
    holds(&s, &q).await;
    end(s).await;
}

#[tokio::test]
async fn a_seek_over_many_records_is_gone_on_with_by_lease_calls() {
    let (s, database) = stage().await;
    let (q, _) = s.queue_of("q", 1, 0).await;
    let other = s.put_queue("other", &millpond_tests::queues::plain(&s.topic("q", 1).await)).await;
    wait(&database, &q, 150_000).await;
    wait(&database, &other, 1_000).await;
    let to = SeekTo::Offsets(vec![(q.partitions[0], Offset(149_990))]);
    s.plane.begin_seek(&s.scope, q.id, &to).await.expect("begun");
    holds(&s, &q).await;
    // The caller is gone.
    let granted = s.grants(&q, &[5]).await;
    assert!(granted.contended && granted.parts.is_empty(), "{granted:?}");
    holds(&s, &q).await;
    let mut calls = 1;
    let parts = loop {
        calls += 1;
        let granted = s.grants(&q, &[5]).await;
        if !granted.contended {
            break granted.parts;
        }
    };
    assert!(calls > 2, "{calls}");
    assert_eq!(offsets(&parts), (149_990..149_995).collect::<Vec<_>>());
    assert_eq!(s.listed(&q, Listing::Waiting).await, NONE);
    let step = s.plane.step_seek(&s.scope, q.id).await.expect("a step");
    assert_eq!((step.done, step.skipped), (true, 149_990));
    holds(&s, &q).await;
    // A purge takes what is leased as well, and nothing of the other queue.
    assert_eq!(seek(&*s.plane, &s.scope, q.id, &SeekTo::Latest).await.expect("purged").1, 15);
    assert_eq!(s.ledger(&other).await.waiting_rows, 1_000);
    holds(&s, &q).await;
    end(s).await;
}
