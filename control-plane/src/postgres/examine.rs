//! Facts about a database, for `millpond doctor`. This only reads; the doctor decides what they mean.

use super::error::ConnectError;
use super::pool::Connections;
use super::schema::Schema;
use millpond_core::Clock;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, FromRow};

/// Maximum number of connections of an agent whose pools have the usual sizes.
pub const AGENT_CONNECTIONS: u32 = Connections::DEFAULT.sum();

#[derive(Debug, Clone, FromRow)]
pub struct Database {
    /// `server_version_num` of Postgres: 150008 is 15.8.
    pub version: i32,
    pub version_text: String,
    pub fsync: String,
    pub full_page_writes: String,
    /// `synchronous_commit` of a session that does not set it.
    pub synchronous_commit: String,
    pub synchronous_standby_names: String,
    /// Connections that are open to users who are not superusers.
    pub connections: i32,
    pub connections_used: i32,
    pub standby: bool,
    /// False if the settings that the agent sends when it connects did not arrive, for example because a
    /// pooler drops them.
    pub session_settings: bool,
    pub backend: i32,
    /// Current time by the server's clock, in milliseconds since the epoch.
    pub now_ms: i64,
}

#[derive(Debug)]
pub struct Examined {
    pub database: Database,
    /// How far the server's clock is ahead of this machine's, and the error bound of that: half a round trip.
    pub clock_ahead_ms: i64,
    pub round_trip_ms: i64,
    /// True if statements of one session ran in several backends: there is a pooler that assigns connections
    /// per transaction.
    pub pooled: bool,
    pub schema: Schema,
}

/// # Errors
/// The database cannot be reached or does not answer a statement.
pub async fn examine(options: PgConnectOptions, clock: &dyn Clock) -> Result<Examined, ConnectError> {
    // Only one of the agent's session settings is sent, to see whether settings arrive. With all of them, the
    // server's own values could not be read.
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
    let schema = Schema::look(&mut connection).await.map_err(ConnectError::Unreachable)?;
    connection.close().await.ok();
    // The fastest round trip gives the best estimate of the clock's offset.
    let (database, before_ms, after_ms) =
        looks.into_iter().min_by_key(|(_, before_ms, after_ms)| after_ms - before_ms).expect("several looks");
    let clock_ahead_ms = database.now_ms - i64::midpoint(before_ms, after_ms);
    Ok(Examined { database, clock_ahead_ms, round_trip_ms: after_ms - before_ms, pooled, schema })
}
