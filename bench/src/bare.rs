//! Direct access to Postgres: plain inserts to compare Millpond with, statistics of the queues' tables, and
//! rows for background jobs to delete.

use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};

/// Single-row inserts, one commit each, into a table that is deleted with the database.
#[derive(Clone, Debug)]
pub struct BareInserts {
    pool: PgPool,
}

impl BareInserts {
    /// Opens as many connections as the control plane of an agent has.
    pub async fn connect(options: PgConnectOptions) -> Result<Self, sqlx::Error> {
        let options = options.options([("synchronous_commit", "on")]);
        let pool =
            PgPoolOptions::new().max_connections(16).test_before_acquire(false).connect_with(options).await?;
        let table = "create table if not exists bench_bare \
            (id int8 generated always as identity primary key, payload bytea not null)";
        sqlx::query(table).execute(&pool).await?;
        Ok(Self { pool })
    }

    pub async fn insert(&self, payload: &[u8]) -> Result<(), sqlx::Error> {
        sqlx::query("insert into bench_bare (payload) values ($1)").bind(payload).execute(&self.pool).await?;
        Ok(())
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Names of the tables in which queues keep their state, as a list in SQL.
const QUEUE_TABLES: &str = "('queue', 'queue_flow', 'queue_cursor', 'lease', 'waiting', 'dead', 'admitted', \
    'queue_key', 'queue_agent', 'queue_operation')";

/// Statistics of Postgres about the tables of queues.
#[derive(Clone, Copy, Debug)]
pub struct Statistics {
    /// Rows inserted, updated and deleted, as far as sessions have reported them.
    pub rows_written: i64,
    /// Size of tables and indexes.
    pub bytes: i64,
}

impl Statistics {
    pub async fn of(options: PgConnectOptions) -> Result<Self, sqlx::Error> {
        let mut connection = PgConnection::connect_with(&options).await?;
        let statement = format!(
            "select coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::int8,
                coalesce(sum(pg_total_relation_size(relid)), 0)::int8
             from pg_stat_user_tables where relname in {QUEUE_TABLES}"
        );
        let (rows_written, bytes) =
            sqlx::query_as(sqlx::AssertSqlSafe(statement.as_str())).fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok(Self { rows_written, bytes })
    }

    pub async fn vacuum(options: PgConnectOptions) -> Result<(), sqlx::Error> {
        let mut connection = PgConnection::connect_with(&options).await?;
        sqlx::query("vacuum analyze").execute(&mut connection).await?;
        connection.close().await
    }
}

/// An open transaction, which keeps its snapshot until this is dropped.
#[derive(Debug)]
pub struct Held {
    _connection: PgConnection,
}

impl Held {
    pub async fn open(options: PgConnectOptions) -> Result<Self, sqlx::Error> {
        let mut connection = PgConnection::connect_with(&options).await?;
        sqlx::query("begin isolation level repeatable read").execute(&mut connection).await?;
        sqlx::query("select count(*) from pg_class").execute(&mut connection).await?;
        Ok(Self { _connection: connection })
    }
}

/// Statements that fill the control plane with `$1` batch rows past their topic's retention, in 288
/// partitions of a topic that no request names.
const FILL_BATCHES: [&str; 4] = [
    "insert into topic (tenant_id, name, retention_ms, retention_hold_ms, placement, dedup_window_ms,
        max_record_bytes, archive)
     values ('default', 'aged', 3600000, 0, 'auto', 0, 1, 'delete')",
    "insert into topic_partition (topic_id, number, high_watermark, bytes)
     select topic_id, n, $1 / 288 + 1, 1000 * ($1 / 288 + 1) from topic, generate_series(0, 287) n
     where name = 'aged'",
    "insert into segment (segment_id, agent_id, state, committed_at, bytes, crc, live)
     select md5(n::text)::uuid, md5('')::uuid, 'c', now(), 288000, 0, 288
     from generate_series(0, $1 / 288) n",
    "insert into batch (partition_id, base_offset, records, part_id, inline, byte_offset, byte_length,
        raw_bytes, crc, flags, committed_at, max_timestamp)
     select p.partition_id, n, 1, md5(n::text)::uuid, false, 0, 1000, 1000, 0, 0,
        now() - interval '2 hours' + n * interval '1 ms', 0
     from generate_series(0, $1 / 288) n, topic_partition p
     join topic t on t.topic_id = p.topic_id and t.name = 'aged'",
];

/// Statements that add `$1` expired rows each.
const FILL_KEYS: [&str; 3] = [
    "insert into request_key (key_hash, body_hash, request_id, expires_at)
     select gen_random_uuid(), md5('')::uuid, gen_random_uuid(), now() - n * interval '1 ms'
     from generate_series(1, $1) n",
    "insert into answer (request_id, expires_at, context, bases, dropped)
     select gen_random_uuid(), now() - n * interval '1 ms', '', '{1}', '{}' from generate_series(1, $1) n",
    "insert into dedup (topic_id, id_hash, request_id, piece, position, partition, expires_at)
     select 0, gen_random_uuid(), gen_random_uuid(), 0, 0, 0, now() - n * interval '1 ms'
     from generate_series(1, $1) n",
];

/// What background jobs have to delete, and the size of the tables.
#[derive(Clone, Debug)]
pub struct Age {
    /// Rows that are due, by kind.
    pub due: Vec<(&'static str, i64)>,
    mib: i64,
    dead_rows: i64,
}

impl Age {
    /// Makes rows that are due.
    pub async fn fill(options: PgConnectOptions, batches: i64, keys: i64) -> Result<(), sqlx::Error> {
        let mut connection = PgConnection::connect_with(&options).await?;
        for (statements, rows) in [(&FILL_BATCHES[..], batches), (&FILL_KEYS[..], keys)] {
            for statement in statements {
                let query = sqlx::query(sqlx::AssertSqlSafe(*statement));
                let query = if statement.contains("$1") { query.bind(rows) } else { query };
                query.execute(&mut connection).await?;
            }
        }
        sqlx::query("analyze").execute(&mut connection).await?;
        connection.close().await
    }

    /// What is due now.
    pub async fn of(options: PgConnectOptions) -> Result<Self, sqlx::Error> {
        let mut connection = PgConnection::connect_with(&options).await?;
        let statement = "select
            (select count(*) from batch b join topic_partition p on p.partition_id = b.partition_id
                join topic t on t.topic_id = p.topic_id and t.name = 'aged'),
            (select count(*) from request_key where expires_at < now()),
            (select count(*) from answer where expires_at < now()),
            (select count(*) from dedup where expires_at < now()),
            (select sum(pg_total_relation_size(relid))::int8 / 1048576 from pg_stat_user_tables),
            (select sum(n_dead_tup)::int8 from pg_stat_user_tables)";
        let (batches, keys, answers, dedup, mib, dead_rows): (i64, i64, i64, i64, i64, i64) =
            sqlx::query_as(statement).fetch_one(&mut connection).await?;
        connection.close().await?;
        let due = vec![("batches", batches), ("keys", keys), ("answers", answers), ("dedup ids", dedup)];
        Ok(Self { due, mib, dead_rows })
    }
}

impl std::fmt::Display for Age {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (kind, rows) in &self.due {
            write!(f, "{kind} {rows}  ")?;
        }
        write!(f, "tables {} MiB, dead rows {}", self.mib, self.dead_rows)
    }
}
