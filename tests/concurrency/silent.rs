//! A network that falls silent: statements and connections are given up, and no connection occupies its place
//! in the pool for ever.

use millpond_control_plane::PostgresControlPlane;
use millpond_core::control_plane::Log;
use millpond_core::{AgentId, Error, PartId};
use millpond_tests::postgres::Database;
use millpond_tests::proxy::{Protocol, Proxy, Silence, Weather};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

/// Number of concurrent calls, more than there are connections for them.
const CALLS: usize = 16;
/// Time after which a caller gives up, shorter than any time-out of the control plane itself.
const CALL_WAIT_MAX: Duration = Duration::from_millis(700);
const RECOVERY_WAIT_MAX: Duration = Duration::from_secs(20);

struct Silent {
    plane: PostgresControlPlane,
    proxy: Proxy,
    database: Database,
}

impl Silent {
    async fn start() -> Self {
        let database = Database::new().await;
        let proxy = Proxy::start(database.target(), Protocol::Bytes, 1).await;
        let plane = PostgresControlPlane::connect(database.options_at(proxy.address().port()))
            .await
            .expect("connected");
        Self { plane, proxy, database }
    }

    /// Starts more mutations than the pool has connections; returns how many are answered in time.
    async fn answered(&self, patience: Duration) -> usize {
        let plane = Arc::new(self.plane.clone());
        let mut calls = JoinSet::new();
        for n in 1..=CALLS {
            let plane = Arc::clone(&plane);
            let ids = [PartId(Uuid::from_u64_pair(0, u64::try_from(n).expect("few")))];
            calls.spawn(async move {
                timeout(patience, plane.register_parts(AgentId(Uuid::from_u128(9)), &ids)).await
            });
        }
        calls.join_all().await.into_iter().filter(|call| matches!(call, Ok(Ok(())))).count()
    }

    async fn recovers(&self) {
        let deadline = Instant::now() + RECOVERY_WAIT_MAX;
        while self.answered(Duration::from_secs(5)).await < CALLS {
            assert!(Instant::now() < deadline, "the pool does not recover from a silent network");
        }
    }
}

/// The callers have gone, and the last answers of the connections never arrive.
#[tokio::test]
async fn abandoned_mutations_leave_the_pool_as_large_as_it_was() {
    let silent = Silent::start().await;
    for _ in 0..2 {
        silent.recovers().await;
        silent.proxy.set(Weather { silence: Silence::Swallow, ..Weather::default() });
        assert_eq!(silent.answered(CALL_WAIT_MAX).await, 0, "a swallowed call was answered");
        silent.proxy.heal();
        silent.recovers().await;
    }
    silent.plane.close().await;
    silent.database.close().await;
}

/// The caller never gives up by itself.
#[tokio::test]
async fn a_mutation_without_an_answer_ends_by_itself() {
    let silent = Silent::start().await;
    silent.recovers().await;
    // Wait until the connections are back in the pool before the network falls silent.
    tokio::time::sleep(CALL_WAIT_MAX).await;
    silent.proxy.set(Weather { silence: Silence::Swallow, ..Weather::default() });
    let ids = [PartId(Uuid::from_u128(1))];
    let call = silent.plane.register_parts(AgentId(Uuid::from_u128(9)), &ids);
    let outcome = timeout(RECOVERY_WAIT_MAX, call).await.expect("the end of a call that nobody answers");
    assert!(matches!(outcome, Err(Error::MaybeApplied(_))), "{outcome:?}");
    timeout(RECOVERY_WAIT_MAX, silent.plane.close())
        .await
        .expect("the end of a pool with a silent connection");
    silent.proxy.heal();
    silent.database.close().await;
}
