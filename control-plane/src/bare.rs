//! What Postgres itself takes for a row: the yardstick of `millpond bench`.

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

/// Single-row inserts, each a commit, into a table that goes with the database.
#[derive(Clone, Debug)]
pub struct BareInserts {
    pool: PgPool,
}

impl BareInserts {
    /// Through as many connections as the control plane has.
    pub async fn connect(options: PgConnectOptions) -> Result<Self, sqlx::Error> {
        let options = options.options([("synchronous_commit", "on")]);
        let pool = PgPoolOptions::new().max_connections(16).test_before_acquire(false).connect_with(options).await?;
        let table = "create table if not exists bench_bare (id int8 generated always as identity primary key, payload bytea not null)";
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
