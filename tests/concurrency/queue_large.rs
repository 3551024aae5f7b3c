//! Queues with more waiting or dead records than one statement may touch. The rows are made by SQL.

use crate::interleave::{end, stage};
use millpond_core::queue::{Estimated, Queue, QueueCounts};
use millpond_tests::postgres::Database;
use millpond_tests::stage::{Stage, name};

const AHEAD_MINUTES: i64 = 60;

/// Makes `records` of the partition wait, one row each: every second one is due, the others within the next
/// hour. Of either half, every second one was never given out.
async fn wait(database: &Database, queue: &Queue, records: i64) {
    let (queue, partition) = (queue.id, queue.partitions[0]);
    for statement in [
        format!("update topic_partition set high_watermark = {records} + 5 where partition_id = {partition}"),
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
