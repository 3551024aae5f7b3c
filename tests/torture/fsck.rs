//! Final checks of Postgres and the store, without any agent: I4 and I13 as SQL.

use super::agent::BUCKET;
use super::client::work::QUEUES;
use super::rig::Rig;
use millpond_core::queue::Ledger;
use sqlx::{AssertSqlSafe, Connection, Executor, Row};
use std::collections::HashMap;

/// Contradictions, each with a query that counts offending rows.
const CONTRADICTIONS: [(&str, &str); 3] = [
    (
        "batches of a partition that do not join, or do not end at its high watermark",
        "select count(*) from (select partition_id, base_offset + records as ends, lead(base_offset) over (partition by partition_id order by base_offset) as next from batch) b
         join topic_partition p using (partition_id) where coalesce(b.next, p.high_watermark) <> b.ends",
    ),
    (
        "segments whose live count is not the number of their batches",
        "select count(*) from segment s where state = 'c' and live <> (select count(*) from batch where part_id = segment_id and not inline)",
    ),
    (
        "batches whose payload is gone",
        "select count(*) from batch where inline and not exists (select from inline_payload where payload_id = part_id)",
    ),
];

const REFERENCED: &str = "select part_id::text, s.state::text, s.bytes from (select distinct part_id from batch where not inline) b
    left join segment s on s.segment_id = b.part_id";

/// Tables that hold state only of records that are not settled for good.
const TRANSIENT: [&str; 4] = ["lease", "waiting", "admitted", "queue_key"];
const LEDGER: &str = include_str!("../../control-plane/queries/queue/ledger.sql");

pub async fn check(rig: &Rig) {
    let mut connection = rig.postgres.connect().await.expect("connected");
    let mut snapshot = connection.begin().await.expect("begun");
    snapshot.execute("set transaction isolation level repeatable read").await.expect("set");
    for (what, count) in CONTRADICTIONS {
        let found: i64 = sqlx::query_scalar(count).fetch_one(&mut *snapshot).await.expect(what);
        assert_eq!(found, 0, "{what}");
    }
    let referenced: Vec<(String, Option<String>, Option<i64>)> = sqlx::query_as(REFERENCED)
        .fetch_all(&mut *snapshot)
        .await
        .expect("the segments that are referred to");
    let keys = rig.s3.keys(BUCKET);
    let by_id: HashMap<&str, &String> =
        keys.iter().filter_map(|key| Some((key.rsplit('/').next()?.strip_suffix(".seg")?, key))).collect();
    for (id, state, bytes) in &referenced {
        assert_eq!(state.as_deref(), Some("c"), "segment {id} is referred to");
        let key =
            by_id.get(id.as_str()).unwrap_or_else(|| panic!("segment {id} is referred to and has no object"));
        let length = rig.s3.get(BUCKET, key).map(|bytes| i64::try_from(bytes.len()).expect("a length"));
        assert_eq!(length, *bytes, "length of segment {id}");
    }
    println!("{} segments are referred to, the bucket holds {} objects", referenced.len(), keys.len());
}

/// Checks the tables of queues after all queues were drained.
pub async fn check_queues(rig: &Rig) {
    let mut connection = rig.postgres.connect().await.expect("connected");
    for table in TRANSIENT {
        let left: i64 = sqlx::query_scalar(AssertSqlSafe(format!("select count(*) from {table}")))
            .fetch_one(&mut connection)
            .await
            .expect(table);
        assert_eq!(left, 0, "rows that are left in {table}");
    }
    let queues: Vec<(String, i64)> = sqlx::query_as("select name, queue_id from queue order by queue_id")
        .fetch_all(&mut connection)
        .await
        .expect("queues");
    assert_eq!(queues.len(), QUEUES.len());
    for (name, queue) in queues {
        let row = sqlx::query(LEDGER)
            .bind(queue)
            .bind("default")
            .fetch_one(&mut connection)
            .await
            .expect("a ledger");
        let figure = |column: &str| row.get::<i64, _>(format!("{column}!").as_str());
        let ledger = Ledger {
            passed: figure("passed"),
            acked: figure("acked"),
            expired: figure("expired"),
            purged: figure("purged"),
            dead: figure("dead"),
            waiting: figure("waiting"),
            dead_rows: figure("dead_rows"),
            waiting_rows: figure("waiting_rows"),
            leased_rows: figure("leased_rows"),
        };
        assert!(ledger.holds() && ledger.leased_rows == 0 && ledger.waiting == 0, "{name}: {ledger:?}");
        println!("{name}: {} records passed, {} acked, {} dead", ledger.passed, ledger.acked, ledger.dead);
    }
}
