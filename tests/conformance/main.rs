//! The conformance suite of the control plane: what a caller may rely on, whatever the implementation.

use millpond_core::control_plane::Verdict;
use millpond_tests::stage::{PartKind, Stage};
use millpond_tests::world::{FaultyWorld, MemoryWorld, PostgresWorld, World};

/// Runs cases (`async fn(&Stage)`) in every world.
macro_rules! suite {
    (@on $world:ident, $($case:ident),+) => {
        mod $world {
            $(
                #[tokio::test]
                async fn $case() {
                    let stage = millpond_tests::stage::Stage::on(crate::$world(stringify!($case)).await);
                    super::$case(&stage).await;
                    stage.close().await;
                }
            )+
        }
    };
    ($($case:ident),+ $(,)?) => {
        suite!(@on memory, $($case),+);
        suite!(@on faulty_memory, $($case),+);
        suite!(@on postgres, $($case),+);
        suite!(@on faulty_postgres, $($case),+);
    };
}

mod cluster;
mod commit;
mod dedup;
mod drain;
mod find;
mod group;
mod jobs;
mod key;
mod offsets;
mod queue_admin;
mod queue_commit;
mod queue_dead;
mod queue_delay;
mod queue_expire;
mod queue_grant;
mod queue_keyed;
mod queue_limit;
mod queue_nack;
mod queue_outlook;
mod queue_retention;
mod queue_seek;
mod queue_settle;
mod repeat;
mod retention;
mod tenants;
mod topic;
mod upgrade;

async fn memory(_: &str) -> Box<dyn World> {
    Box::new(MemoryWorld::new())
}

async fn postgres(_: &str) -> Box<dyn World> {
    Box::new(PostgresWorld::new().await)
}

async fn faulty_memory(case: &str) -> Box<dyn World> {
    Box::new(FaultyWorld::new(memory(case).await, seed(case)))
}

async fn faulty_postgres(case: &str) -> Box<dyn World> {
    Box::new(FaultyWorld::new(postgres(case).await, seed(case)))
}

/// Seed of a case: derived from its name, so that every run is the same, unless `MILLPOND_TEST_SEED` is set.
fn seed(case: &str) -> u64 {
    let given = std::env::var("MILLPOND_TEST_SEED").ok().and_then(|s| s.parse().ok());
    given.unwrap_or_else(|| {
        case.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)))
    })
}

/// Checks a refusal. Where calls are resent, the reason may have been lost with the first answer.
fn assert_refused(stage: &Stage, verdict: &Verdict, reason: &Verdict) {
    let lost = stage.resends() && *verdict == Verdict::Unknown;
    assert!(lost || verdict == reason, "{verdict:?} instead of {reason:?}");
}

/// The other kind of part.
fn other(place: PartKind) -> PartKind {
    match place {
        PartKind::Inline => PartKind::Segment,
        PartKind::Segment => PartKind::Inline,
    }
}
