//! Versions of the schema: which ones a build works with, and migrations.
//!
//! A database has the schema of the newest migration that was applied. It also says which schema an agent
//! must know to use it (`cluster.oldest_agent`), so that agents of a release go on working when the
//! migrations of the next one are applied, unless one of those says otherwise.

use super::error::ConnectError;
use sqlx::migrate::{MigrateError, Migration, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection, Executor};
use std::collections::HashSet;
use std::time::Duration;

pub static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// Oldest schema that the statements of this build work on; `None`: the newest migration. Becomes the number
/// of the last migration of the release when the first one after a release is added, and rises whenever a
/// statement needs a later one.
const OLDEST_USABLE: Option<i64> = None;
/// Key of the advisory lock that one process holds while it migrates a database.
const MIGRATE_LOCK: i64 = 0x6d69_6c6c_706f_6e64;
/// Pause between two tries to get that lock. Nobody waits for it within a statement: such a statement has a
/// snapshot, which `create index concurrently` of the other process would wait for, and both would wait for
/// ever.
const TURN_PAUSE: Duration = Duration::from_millis(200);
/// How long a migration waits for a lock. Everybody else who wants the table waits behind it, so this is
/// short.
const LOCK_TIMEOUT: &str = "2s";
/// Tries of a migration that does not get its locks.
const LOCK_ATTEMPTS_MAX: u32 = 15;
/// Pause between two tries, in which those who waited behind the migration have their turn.
const LOCK_PAUSE: Duration = Duration::from_secs(1);
/// SQLSTATE of a statement that did not get a lock in time.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// The schemas that a build works with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchemaRange {
    /// Its statements work on this one and later ones.
    pub oldest_usable: i64,
    pub newest_known: i64,
}

impl SchemaRange {
    #[must_use]
    pub fn of_this_build() -> Self {
        let newest_known = newest(i64::MAX);
        Self { oldest_usable: OLDEST_USABLE.unwrap_or(newest_known), newest_known }
    }

    /// That of this build if it knew no migration after `version`; for tests of upgrades.
    #[must_use]
    pub fn known_to(version: i64) -> Self {
        let all = Self::of_this_build();
        let newest_known = newest(version);
        Self { oldest_usable: all.oldest_usable.min(newest_known), newest_known }
    }

    /// Whether agents of such a build can use a database.
    pub fn check(&self, schema: &Schema) -> Result<(), ConnectError> {
        let found = schema.version(self);
        if found < self.oldest_usable {
            return Err(ConnectError::SchemaTooOld { found, oldest: self.oldest_usable });
        }
        if schema.oldest_agent > self.newest_known {
            let (oldest_agent, newest) = (schema.oldest_agent, self.newest_known);
            return Err(ConnectError::SchemaTooNew { found, oldest_agent, newest });
        }
        Ok(())
    }

    fn migrations(&self) -> Vec<Migration> {
        MIGRATIONS.iter().filter(|m| m.version <= self.newest_known).cloned().collect()
    }
}

/// The newest migration up to that version.
fn newest(to: i64) -> i64 {
    MIGRATIONS.iter().map(|m| m.version).filter(|version| *version <= to).max().unwrap_or(0)
}

/// The schema of a database, as the database states it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schema {
    /// Migrations that were applied, ascending.
    pub applied: Vec<i64>,
    /// Whether a migration failed half-way.
    pub broken: bool,
    /// The schema that an agent must know; 0 if the database does not say.
    pub oldest_agent: i64,
}

impl Schema {
    /// Reads the state of the migrations.
    pub(super) async fn look(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let mut schema = Self::default();
        let exists = "select to_regclass('_sqlx_migrations') is not null";
        if !sqlx::query_scalar::<_, bool>(exists).fetch_one(&mut *connection).await? {
            return Ok(schema);
        }
        let rows: Vec<(i64, bool)> =
            sqlx::query_as("select version, success from _sqlx_migrations order by version")
                .fetch_all(&mut *connection)
                .await?;
        schema.broken = rows.iter().any(|(_, success)| !success);
        schema.applied =
            rows.into_iter().filter(|(_, success)| *success).map(|(version, _)| version).collect();
        // The column and the table are newer than the first schemas.
        let says = "select exists (select from pg_attribute
            where attrelid = to_regclass('cluster') and attname = 'oldest_agent' and not attisdropped)";
        if sqlx::query_scalar::<_, bool>(says).fetch_one(&mut *connection).await? {
            let oldest = sqlx::query_scalar::<_, i64>("select oldest_agent from cluster");
            schema.oldest_agent = oldest.fetch_optional(&mut *connection).await?.unwrap_or(0);
        }
        Ok(schema)
    }

    /// The version up to which every migration that the build knows is applied, and the newest one of all if
    /// none of them is missing.
    #[must_use]
    pub fn version(&self, range: &SchemaRange) -> i64 {
        let known = MIGRATIONS.iter().map(|m| m.version).filter(|version| *version <= range.newest_known);
        self.version_of(&known.collect::<Vec<i64>>())
    }

    fn version_of(&self, known: &[i64]) -> i64 {
        let missing = known.iter().copied().find(|version| !self.applied.contains(version));
        let missing = missing.unwrap_or(i64::MAX);
        self.applied.iter().copied().filter(|version| *version < missing).max().unwrap_or(0)
    }
}

/// What a run of migrations has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// Version of the schema before.
    pub from: i64,
    pub to: i64,
}

/// Applies the migrations up to the newest that is known in `range`.
pub async fn migrate(options: PgConnectOptions, range: SchemaRange) -> Result<Migrated, ConnectError> {
    apply(options, range.migrations()).await
}

/// Applies those of the migrations that the database lacks, in order. Waits while another process does so.
/// What a run that failed has left undone is done by the next one.
pub async fn apply(options: PgConnectOptions, migrations: Vec<Migration>) -> Result<Migrated, ConnectError> {
    let options = options
        .application_name("millpond migrate")
        .options([("client_min_messages", "warning"), ("statement_timeout", "0")]);
    let mut connection = PgConnection::connect_with(&options).await.map_err(ConnectError::Unreachable)?;
    let outcome = apply_on(&mut connection, migrations).await;
    // The end of the session releases the advisory lock.
    connection.close().await.ok();
    outcome
}

async fn apply_on(
    connection: &mut PgConnection,
    migrations: Vec<Migration>,
) -> Result<Migrated, ConnectError> {
    wait_for_turn(connection).await.map_err(ConnectError::Unreachable)?;
    let mut migrator = Migrator::with_migrations(migrations);
    // Waited for above. Versions that only a later build knows are its own affair.
    migrator.set_locking(false).set_ignore_missing(true);
    let versions: Vec<i64> = migrator.iter().map(|m| m.version).collect();
    let before = Schema::look(connection).await.map_err(ConnectError::Unreachable)?;
    for migration in migrator.iter() {
        if !before.applied.contains(&migration.version) {
            apply_one(connection, &migrator, migration).await?;
        }
    }
    // Nothing is left to apply. This compares the checksums of what was applied before.
    migrator.run_direct(None, &mut *connection, false).await.map_err(ConnectError::Migration)?;
    let after = Schema::look(connection).await.map_err(ConnectError::Unreachable)?;
    Ok(Migrated { from: before.version_of(&versions), to: after.version_of(&versions) })
}

async fn wait_for_turn(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let mut told = false;
    loop {
        let locked = sqlx::query_scalar::<_, bool>("select pg_try_advisory_lock($1)").bind(MIGRATE_LOCK);
        if locked.fetch_one(&mut *connection).await? {
            return Ok(());
        }
        if !std::mem::replace(&mut told, true) {
            tracing::info!("another process migrates this database; waiting until it has ended");
        }
        tokio::time::sleep(TURN_PAUSE).await;
    }
}

async fn apply_one(
    connection: &mut PgConnection,
    migrator: &Migrator,
    migration: &Migration,
) -> Result<(), ConnectError> {
    // A concurrent build blocks nobody while it waits for the transactions that began before it.
    let timeout = if migration.no_tx { "0" } else { LOCK_TIMEOUT };
    set_lock_timeout(connection, timeout).await.map_err(ConnectError::Unreachable)?;
    if migration.no_tx {
        drop_invalid_indexes(connection, migration.sql.as_str()).await.map_err(ConnectError::Unreachable)?;
    }
    for attempt in 1.. {
        match migrator.run_direct(Some(migration.version), &mut *connection, false).await {
            Ok(()) => break,
            Err(error) if !is_lock_timeout(&error) => return Err(ConnectError::Migration(error)),
            Err(_) if attempt == LOCK_ATTEMPTS_MAX => {
                return Err(ConnectError::MigrationLocked { version: migration.version, attempts: attempt });
            }
            Err(_) => {
                tracing::info!(
                    version = migration.version,
                    attempt,
                    "a migration did not get its locks; trying again"
                );
                tokio::time::sleep(LOCK_PAUSE).await;
            }
        }
    }
    Ok(())
}

async fn set_lock_timeout(connection: &mut PgConnection, timeout: &str) -> Result<(), sqlx::Error> {
    sqlx::query("select set_config('lock_timeout', $1, false)").bind(timeout).execute(connection).await?;
    Ok(())
}

/// Drops the indexes that a migration makes and that a failed concurrent build has left: such an index costs
/// every write, serves no read, and satisfies `if not exists`.
async fn drop_invalid_indexes(connection: &mut PgConnection, sql: &str) -> Result<(), sqlx::Error> {
    let names: Vec<String> = sqlx::query_scalar(
        "select c.relname::text
        from pg_index i
        join pg_class c on c.oid = i.indexrelid
        where not i.indisvalid and c.relnamespace = to_regnamespace(current_schema()::text)",
    )
    .fetch_all(&mut *connection)
    .await?;
    let words: HashSet<&str> = sql.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    for name in names.iter().filter(|name| words.contains(name.as_str())) {
        tracing::info!(index = name, "dropping an index whose build had failed");
        let name = name.replace('"', "\"\"");
        connection.execute(AssertSqlSafe(format!("drop index concurrently if exists \"{name}\""))).await?;
    }
    Ok(())
}

fn is_lock_timeout(error: &MigrateError) -> bool {
    let (MigrateError::ExecuteMigration(error, _) | MigrateError::Execute(error)) = error else {
        return false;
    };
    error.as_database_error().and_then(|db| db.code()).is_some_and(|code| code == LOCK_NOT_AVAILABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_schemas_is_accepted() {
        let range = SchemaRange { oldest_usable: 2, newest_known: 4 };
        let of =
            |last: i64, oldest_agent| Schema { applied: (1..=last).collect(), broken: false, oldest_agent };
        for (last, oldest_agent, good) in
            [(1, 0, false), (2, 0, true), (4, 3, true), (9, 4, true), (9, 5, false)]
        {
            assert_eq!(range.check(&of(last, oldest_agent)).is_ok(), good, "{last} {oldest_agent}");
        }
        let gap = Schema { applied: vec![1, 3, 4], ..Schema::default() };
        assert_eq!(gap.version(&range), 1);
    }
}
