//! Direct access to Postgres: plain inserts to compare Millpond with, and statistics of the queues' tables.

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
