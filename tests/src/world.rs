//! Environments in which a test case runs: a control plane and its time.

use crate::faulty::{Faulty, Resending};
use crate::postgres::Database;
use async_trait::async_trait;
use millpond_control_plane::PostgresControlPlane;
use millpond_core::control_plane::around::Wrapped;
use millpond_core::{Clock, ControlPlane, MemoryControlPlane, SystemClock};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

#[async_trait]
pub trait World: Send + Sync {
    fn plane(&self) -> Arc<dyn ControlPlane>;

    /// Lets this many milliseconds pass for the control plane.
    async fn advance(&self, ms: i64);

    /// Whether a call may be applied more than once before its caller has the answer. If so, answers that
    /// describe the first application only (created, deleted, counts, reason of a refusal) may be missing.
    fn resends(&self) -> bool {
        false
    }

    /// Removes what the world has created.
    async fn close(self: Box<Self>) {}
}

/// A clock that advances by a millisecond at every reading, so that no two timestamps are equal, and by
/// [`Moved::advance`].
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicI64::new(1_700_000_000_000))
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// The system's clock, as in Postgres, plus a shift set by [`Moved::advance`].
#[derive(Debug, Default)]
pub struct ShiftedClock(AtomicI64);

impl ShiftedClock {
    #[must_use]
    pub fn shift_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Clock for ShiftedClock {
    fn now_ms(&self) -> i64 {
        SystemClock.now_ms() + self.shift_ms()
    }
}

/// A clock that a test can advance.
pub trait Moved: Clock {
    fn advance(&self, ms: i64);
}

impl Moved for ManualClock {
    fn advance(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Moved for ShiftedClock {
    fn advance(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

pub struct MemoryWorld {
    clock: Arc<dyn Moved>,
    plane: Arc<MemoryControlPlane>,
}

impl MemoryWorld {
    #[must_use]
    pub fn new() -> Self {
        Self::at(Arc::new(ManualClock::new()))
    }

    #[must_use]
    pub fn at<C: Moved>(clock: Arc<C>) -> Self {
        let plane = Arc::new(MemoryControlPlane::new(clock.clone()));
        Self { clock, plane }
    }
}

impl Default for MemoryWorld {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl World for MemoryWorld {
    fn plane(&self) -> Arc<dyn ControlPlane> {
        self.plane.clone()
    }

    async fn advance(&self, ms: i64) {
        self.clock.advance(ms);
    }
}

pub struct PostgresWorld {
    pub database: Arc<Database>,
    plane: PostgresControlPlane,
}

impl PostgresWorld {
    pub async fn new() -> Self {
        Self::on(Database::new().await).await
    }

    pub async fn on(database: Database) -> Self {
        let database = Arc::new(database);
        let plane = PostgresControlPlane::connect(database.options()).await.expect("a control plane");
        Self { database, plane }
    }
}

#[async_trait]
impl World for PostgresWorld {
    fn plane(&self) -> Arc<dyn ControlPlane> {
        Arc::new(self.plane.clone())
    }

    async fn advance(&self, ms: i64) {
        self.database.advance(ms).await;
    }

    async fn close(self: Box<Self>) {
        self.plane.close().await;
        self.database.close().await;
    }
}

/// Another world behind an unreliable network, with a caller that resends.
pub struct FaultyWorld {
    inner: Box<dyn World>,
    faulty: Arc<Faulty>,
}

impl FaultyWorld {
    #[must_use]
    pub fn new(inner: Box<dyn World>, seed: u64) -> Self {
        println!("faults of seed {seed}");
        Self { inner, faulty: Arc::new(Faulty::new(seed)) }
    }
}

#[async_trait]
impl World for FaultyWorld {
    fn plane(&self) -> Arc<dyn ControlPlane> {
        let faulty = Wrapped::new(self.inner.plane(), Arc::clone(&self.faulty));
        Arc::new(Wrapped::new(Arc::new(faulty), Arc::new(Resending)))
    }

    /// Delivers late calls first: no call outlives the time-outs of a connection.
    async fn advance(&self, ms: i64) {
        self.faulty.settle().await;
        self.inner.advance(ms).await;
    }

    fn resends(&self) -> bool {
        true
    }

    async fn close(self: Box<Self>) {
        self.faulty.settle().await;
        println!("injected: {:?}", self.faulty.injected());
        self.inner.close().await;
    }
}
