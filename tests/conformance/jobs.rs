//! Heartbeats, and the assignment of background jobs to agents.

use millpond_core::AgentId;
use millpond_core::control_plane::Beat;
use millpond_tests::stage::{Draft, MINUTE, PartKind, SECOND, Stage, home};
use millpond_tests::world::PostgresWorld;
use uuid::Uuid;

suite!(measures_undrained_payload, answers_a_ping);

const A: AgentId = AgentId(Uuid::from_u128(1));
const B: AgentId = AgentId(Uuid::from_u128(2));

async fn beat(s: &Stage, agent: AgentId) -> Beat {
    s.plane.beat(agent).await.expect("an answer")
}

async fn measures_undrained_payload(s: &Stage) {
    let p = home(&s.topic("t", 1).await, 0);
    assert_eq!(beat(s, A).await.inline_live_bytes, 0);
    s.append(PartKind::Inline, p, &[1, 2]).await;
    s.append(PartKind::Segment, p, &[3]).await;
    assert_eq!(beat(s, A).await.inline_live_bytes, 16);
    s.advance(MINUTE).await;
    s.append(PartKind::Inline, p, &[4]).await;
    s.drain(i64::MAX).await;
    assert_eq!(beat(s, B).await.inline_live_bytes, 8);
}

async fn answers_a_ping(s: &Stage) {
    s.plane.ping().await.expect("an answer");
}

/// The model gives every job to every agent; agents that share a Postgres take turns.
#[tokio::test]
async fn gives_a_job_to_one_agent() {
    let s = Stage::on(Box::new(PostgresWorld::new().await));
    let p = home(&s.topic("t", 1).await, 0);
    let first = beat(&s, A).await;
    assert_eq!((first.drain, first.sweep, first.retain), (false, false, true));
    let second = beat(&s, A).await;
    assert!(!second.retain, "retention is not due again");
    s.append(PartKind::Inline, p, &[1]).await;
    s.prepare(PartKind::Segment, &[Draft::new().to(p, &[2])]).await;
    s.advance(61 * MINUTE).await;

    let (a, b) = tokio::join!(beat(&s, A), beat(&s, B));
    let (holder, other) = if a.drain { (A, B) } else { (B, A) };
    assert!(a.drain != b.drain && a.sweep != b.sweep && a.retain != b.retain);
    if a.drain == a.sweep {
        let (again, idle) = (beat(&s, holder).await, beat(&s, other).await);
        assert_eq!((again.drain, again.sweep, idle.drain, idle.sweep), (true, true, false, false));
    }
    s.advance(31 * SECOND).await;
    let taken_over = beat(&s, other).await;
    assert!(taken_over.drain && taken_over.sweep && !taken_over.retain);
    s.drain(i64::MAX).await;
    let done = beat(&s, other).await;
    assert!(!done.drain && done.sweep);
    s.close().await;
}
