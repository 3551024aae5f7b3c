//! Pools of connections, one per class of statements, so that no class waits for the connections of another;
//! and the settings of every session.

use super::error::{ConnectError, Refused};
use parking_lot::Mutex;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Maximum number of connections of each pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    pub commit: u32,
    pub serve: u32,
    pub admin: u32,
    pub jobs: u32,
}

impl Connections {
    /// Maximum number of connections of an agent.
    #[must_use]
    pub const fn sum(&self) -> u32 {
        self.commit + self.serve + self.admin + self.jobs
    }

    pub const DEFAULT: Self = Self { commit: 4, serve: 6, admin: 2, jobs: 2 };
}

impl Default for Connections {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Whose connections a statement uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PoolName {
    /// Commits, and the registration of the parts that they name.
    Commit,
    /// Reads, leases, settlements, consumer groups, heartbeats.
    Serve,
    /// Changes of topics and queues, which may touch many rows.
    Admin,
    /// Background jobs.
    Jobs,
}

/// Prepared statements that a connection keeps; more than there are.
const STATEMENT_CACHE: usize = 256;
/// How long a connection is kept that nobody uses.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait for connections in use when the pools are closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the server looks whether the client of a running statement is still there. Servers on systems
/// where that cannot be seen refuse the setting; `statement_timeout` ends the statement there.
const CONNECTION_CHECK: &str = "2s";

/// Settings that reach the server when a session begins. They keep plans independent of the moment at which
/// ANALYZE saw tables that are mostly empty, and they make commits durable before they are answered.
const SETTINGS: [(&str, &str); 8] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("jit", "off"),
    ("enable_seqscan", "off"),
    ("enable_mergejoin", "off"),
    ("synchronous_commit", "on"),
    ("default_transaction_isolation", "read committed"),
    ("idle_in_transaction_session_timeout", "10s"),
    ("TimeZone", "UTC"),
];

/// The pools of an agent.
pub(super) struct Pools {
    commit: PgPool,
    serve: PgPool,
    admin: PgPool,
    jobs: PgPool,
    state: Arc<State>,
}

/// What the pools know of the server.
#[derive(Default)]
struct State {
    /// Connections that were opened before this instant are closed instead of used: the server has restarted
    /// or is no longer the primary.
    stale_before: Mutex<Option<Instant>>,
    /// Why the last new connection was refused.
    refused: Mutex<Option<Refused>>,
}

impl PoolName {
    /// The server ends a statement after this time.
    const fn statement_timeout(self) -> &'static str {
        match self {
            Self::Commit | Self::Serve => "10s",
            Self::Admin | Self::Jobs => "30s",
        }
    }

    /// Longest wait for a connection.
    const fn acquire_timeout(self) -> Duration {
        match self {
            Self::Commit | Self::Serve => Duration::from_secs(2),
            Self::Admin => Duration::from_secs(5),
            Self::Jobs => Duration::from_secs(30),
        }
    }
}

impl Pools {
    /// Connects once, to see that the database is fit; the pools open connections when they need them.
    pub async fn connect(options: PgConnectOptions, sizes: Connections) -> Result<Self, ConnectError> {
        let state = Arc::<State>::default();
        let pool = |name: PoolName, size: u32| {
            let (fresh, used) = (Arc::clone(&state), Arc::clone(&state));
            PgPoolOptions::new()
                .max_connections(size)
                .acquire_timeout(name.acquire_timeout())
                .idle_timeout(IDLE_TIMEOUT)
                .test_before_acquire(false)
                .after_connect(move |connection, _| {
                    let state = Arc::clone(&fresh);
                    Box::pin(async move { state.check(connection, name).await })
                })
                .before_acquire(move |_, meta| {
                    let usable = used.is_usable(meta.age);
                    Box::pin(async move { Ok(usable) })
                })
                .connect_lazy_with(session(options.clone(), name))
        };
        let pools = Self {
            commit: pool(PoolName::Commit, sizes.commit),
            serve: pool(PoolName::Serve, sizes.serve),
            admin: pool(PoolName::Admin, sizes.admin),
            jobs: pool(PoolName::Jobs, sizes.jobs),
            state,
        };
        let first = pools.serve.acquire().await;
        match first {
            Ok(_) => Ok(pools),
            Err(error) => Err(match pools.state.refused.lock().clone() {
                Some(refused) => ConnectError::Refused(refused),
                None => ConnectError::Unreachable(error),
            }),
        }
    }

    pub const fn of(&self, name: PoolName) -> &PgPool {
        match name {
            PoolName::Commit => &self.commit,
            PoolName::Serve => &self.serve,
            PoolName::Admin => &self.admin,
            PoolName::Jobs => &self.jobs,
        }
    }

    /// Why there is no connection, as far as it is known: what was wrong with the last one that was opened.
    pub fn explained(&self, error: sqlx::Error) -> millpond_core::Source {
        match self.state.refused.lock().clone() {
            Some(refused) if matches!(error, sqlx::Error::PoolTimedOut) => refused.into(),
            _ => error.into(),
        }
    }

    /// Makes the pools open new connections in place of all that are open now.
    pub fn renew(&self) {
        *self.state.stale_before.lock() = Some(Instant::now());
    }

    /// Closes all connections. Those that do not answer are dropped without a farewell.
    pub async fn close(&self) {
        let pools = [&self.commit, &self.serve, &self.admin, &self.jobs];
        let closing =
            async { tokio::join!(pools[0].close(), pools[1].close(), pools[2].close(), pools[3].close()) };
        tokio::time::timeout(CLOSE_TIMEOUT, closing).await.ok();
    }
}

impl State {
    fn is_usable(&self, age: Duration) -> bool {
        self.stale_before.lock().is_none_or(|before| before.elapsed() > age)
    }

    /// Checks a new connection, and makes the server watch it.
    async fn check(&self, connection: &mut PgConnection, name: PoolName) -> Result<(), sqlx::Error> {
        let refused = verify(connection, name).await?;
        self.refused.lock().clone_from(&refused);
        if let Some(refused) = refused {
            return Err(sqlx::Error::Configuration(refused.into()));
        }
        let watch = sqlx::query("select set_config('client_connection_check_interval', $1, false)");
        if let Err(error) = watch.bind(CONNECTION_CHECK).execute(connection).await {
            tracing::debug!(%error, "the server cannot see whether a client has gone");
        }
        Ok(())
    }
}

/// The options of a session of this pool.
fn session(options: PgConnectOptions, name: PoolName) -> PgConnectOptions {
    options
        .application_name("millpond")
        .statement_cache_capacity(STATEMENT_CACHE)
        .options(SETTINGS)
        .options([("statement_timeout", name.statement_timeout())])
}

/// Whether a new connection is one that can be used: with the settings that were sent, to a primary that
/// keeps what it commits. `None`: it is.
async fn verify(connection: &mut PgConnection, name: PoolName) -> Result<Option<Refused>, sqlx::Error> {
    let wanted: Vec<(&str, &str)> =
        SETTINGS.into_iter().chain([("statement_timeout", name.statement_timeout())]).collect();
    let names: Vec<&str> = wanted.iter().map(|(name, _)| *name).collect();
    let (standby, unsafe_setting, found): (bool, Option<String>, Vec<String>) = sqlx::query_as(
        "select pg_is_in_recovery(),
            case when current_setting('fsync') = 'off' then 'fsync'
                when current_setting('full_page_writes') = 'off' then 'full_page_writes' end,
            array(select current_setting(n) from unnest($1::text[]) with ordinality u(n, i) order by i)",
    )
    .bind(&names)
    .fetch_one(connection)
    .await?;
    if standby {
        return Ok(Some(Refused::Standby));
    }
    if let Some(setting) = unsafe_setting {
        return Ok(Some(Refused::Unsafe { setting }));
    }
    let lost = wanted.iter().zip(&found).find(|((_, wanted), found)| wanted != found);
    Ok(lost.map(|((name, wanted), found)| Refused::Pooler {
        setting: (*name).to_owned(),
        wanted: (*wanted).to_owned(),
        found: found.clone(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn statements(folder: &Path) -> usize {
        let entries =
            std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
        entries.map(|path| if path.is_dir() { statements(&path) } else { 1 }).sum()
    }

    /// A connection whose cache is too small prepares statements again and again. The rest of the cache is
    /// for the statements of this file and of its neighbours, which are not in files of their own.
    #[test]
    fn a_connection_keeps_all_statements() {
        let count = statements(&Path::new(env!("CARGO_MANIFEST_DIR")).join("queries"));
        assert!(count + 30 <= STATEMENT_CACHE, "{count} statements");
    }
}
