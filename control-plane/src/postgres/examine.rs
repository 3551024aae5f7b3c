//! What a database is like, for `millpond doctor`. Judges nothing, changes nothing.

use super::{CONNECTIONS, ConnectError, MIGRATIONS};
use millpond_core::Clock;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, FromRow};

/// How many connections an agent may have open.
pub const AGENT_CONNECTIONS: u32 = CONNECTIONS;

#[derive(Debug, Clone, FromRow)]
pub struct Database {
    /// As 150008.
    pub version: i32,
    pub version_text: String,
    pub fsync: String,
    pub full_page_writes: String,
    /// What sessions that say nothing have.
    pub synchronous_commit: String,
    pub synchronous_standby_names: String,
    /// For users that are no superusers.
    pub connections: i32,
    pub connections_used: i32,
    pub standby: bool,
    /// False if something between us and the database dropped the settings that a session begins with.
    pub session_settings: bool,
    pub backend: i32,
    /// By the server's clock.
    pub now_ms: i64,
}

#[derive(Debug)]
pub struct Examined {
    pub database: Database,
    /// How far the server's clock is ahead of ours, and how much of that the way there may be.
    pub clock_ahead_ms: i64,
    pub round_trip_ms: i64,
    /// Statements of one session met several backends: a pooler that hands out connections by transaction.
    pub pooled: bool,
    /// The newest migration applied, none in a database that has never seen one.
    pub schema: Option<i64>,
    /// What this version needs.
    pub wanted: i64,
    /// Migrations that began and failed.
    pub broken: bool,
}

/// # Errors
/// The database cannot be reached or does not answer a statement.
pub async fn examine(options: PgConnectOptions, clock: &dyn Clock) -> Result<Examined, ConnectError> {
    // One setting of an agent's session shows whether such settings arrive; with all of them, the server's
    // own would not be seen.
    let options =
        options.application_name("millpond doctor").options([("plan_cache_mode", "force_generic_plan")]);
    let mut connection = PgConnection::connect_with(&options).await.map_err(ConnectError::Unreachable)?;
    let mut looks = Vec::new();
    for _ in 0..3 {
        let before_ms = clock.now_ms();
        let statement = include_str!("../../queries/database/examine.sql");
        let look: Database =
            sqlx::query_as(statement).fetch_one(&mut connection).await.map_err(ConnectError::Unreachable)?;
        looks.push((look, before_ms, clock.now_ms()));
    }
    let pooled = looks.iter().any(|(look, ..)| look.backend != looks[0].0.backend);
    let exists = sqlx::query_scalar::<_, bool>("select to_regclass('_sqlx_migrations') is not null");
    let (schema, broken) = if exists.fetch_one(&mut connection).await.map_err(ConnectError::Unreachable)? {
        sqlx::query_as(
            "select max(version) filter (where success), bool_or(not success) is true from _sqlx_migrations",
        )
        .fetch_one(&mut connection)
        .await
        .map_err(ConnectError::Unreachable)?
    } else {
        (None, false)
    };
    connection.close().await.ok();
    // The quickest look knows the time best.
    let (database, before_ms, after_ms) =
        looks.into_iter().min_by_key(|(_, before_ms, after_ms)| after_ms - before_ms).expect("several looks");
    let wanted = MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0);
    let clock_ahead_ms = database.now_ms - i64::midpoint(before_ms, after_ms);
    Ok(Examined {
        database,
        clock_ahead_ms,
        round_trip_ms: after_ms - before_ms,
        pooled,
        schema,
        wanted,
        broken,
    })
}
