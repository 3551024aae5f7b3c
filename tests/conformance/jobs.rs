//! Heartbeats, and the assignment of background jobs to agents.

use millpond_core::control_plane::{Beat, Job};
use millpond_core::{AgentId, limits};
use millpond_tests::stage::{Draft, MINUTE, PartKind, SECOND, Stage, home};
use millpond_tests::world::PostgresWorld;
use std::sync::Arc;
use uuid::Uuid;

suite!(measures_undrained_payload, answers_a_ping);

const A: AgentId = AgentId(Uuid::from_u128(1));
const B: AgentId = AgentId(Uuid::from_u128(2));

async fn beat(s: &Stage, agent: AgentId) -> Beat {
    s.plane.beat(agent, &[]).await.expect("an answer")
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
    assert_eq!((first.has("drain"), first.has("sweep"), first.has("retain")), (false, false, true));
    let second = beat(&s, A).await;
    assert!(!second.has("retain"), "retention is not due again");
    s.append(PartKind::Inline, p, &[1]).await;
    s.prepare(PartKind::Segment, &[Draft::new().to(p, &[2])]).await;
    s.advance(61 * MINUTE).await;

    let (a, b) = tokio::join!(beat(&s, A), beat(&s, B));
    for job in ["drain", "sweep", "retain"] {
        assert!(a.has(job) != b.has(job), "{job}");
    }
    let (holder, other) = if a.has("drain") { (A, B) } else { (B, A) };
    if a.has("drain") == a.has("sweep") {
        let (again, idle) = (beat(&s, holder).await, beat(&s, other).await);
        assert!(again.has("drain") && again.has("sweep") && !idle.has("drain") && !idle.has("sweep"));
    }
    s.advance(31 * SECOND).await;
    let taken_over = beat(&s, other).await;
    assert!(taken_over.has("drain") && taken_over.has("sweep") && !taken_over.has("retain"));
    s.drain(i64::MAX).await;
    let done = beat(&s, other).await;
    assert!(!done.has("drain") && done.has("sweep"));
    s.close().await;
}

/// A job that runs for longer than an assignment lasts is renewed by heartbeats that name it.
#[tokio::test]
async fn leaves_a_busy_job_to_its_agent() {
    let s = Stage::on(Box::new(PostgresWorld::new().await));
    s.topic("t", 1).await;
    assert!(beat(&s, A).await.has("retain"));
    for _ in 0..5 {
        s.advance(20 * SECOND).await;
        let renewed = s.plane.beat(A, &[Job::Retain]).await.expect("an answer");
        assert!(renewed.jobs.contains(&Job::Retain));
        assert!(!beat(&s, B).await.has("retain"));
    }
    s.advance(31 * SECOND).await;
    assert!(beat(&s, B).await.has("retain"));
    let lost = s.plane.beat(A, &[Job::Retain]).await.expect("an answer");
    assert!(!lost.has("retain"));
    s.close().await;
}

/// Agents divide the slices of the drain among themselves.
#[tokio::test]
async fn shares_the_drain() {
    let world = PostgresWorld::new().await;
    let database = Arc::clone(&world.database);
    let s = Stage::on(Box::new(world));
    let p = home(&s.topic("t", 1).await, 0);
    for n in 0..4 {
        s.append(PartKind::Inline, p, &[n]).await;
        s.advance(limits::DRAIN_SLICE_MS).await;
    }
    s.advance(2 * limits::DRAIN_SLICE_MS).await;
    // The first agent is alone; from then on there are two.
    beat(&s, A).await;
    beat(&s, B).await;
    database.run("update job set until = '-infinity'").await;
    let slices = |beat: &Beat| beat.jobs.iter().filter(|job| job.kind() == "drain").count();
    let (a, b) = (beat(&s, A).await, beat(&s, B).await);
    assert_eq!((slices(&a), slices(&b)), (2, 2));
    let mut moved = 0;
    for slice in 0..4 {
        let plan = s.plane.drain_plan(Some(slice), i64::MAX).await.expect("a plan");
        assert_eq!(plan.len(), 1, "slice {slice}");
        let swap = s.rewrite(&plan).await;
        assert_eq!(s.swap(&swap).await, Ok(()));
        moved += plan.len();
    }
    assert_eq!((moved, s.tags(p).await), (4, vec![0, 1, 2, 3]));
    s.close().await;
}

/// How late the work is that is due, whoever has the job.
#[tokio::test]
async fn says_how_late_jobs_are() {
    let s = Stage::on(Box::new(PostgresWorld::new().await));
    s.prepare(PartKind::Segment, &[]).await;
    s.advance(2 * 60 * MINUTE).await;
    let late = beat(&s, A).await.late;
    let sweep = late.iter().find(|(job, _)| *job == Job::Sweep).expect("a late sweep").1;
    assert!((60 * MINUTE..61 * MINUTE).contains(&sweep), "{sweep}");
    assert!(late.iter().all(|(job, _)| *job != Job::Expire));
    s.close().await;
}
