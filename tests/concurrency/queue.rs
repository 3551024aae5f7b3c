//! Interleavings of grants, settlements, the sweep and seeks; see `interleave`.

use crate::interleave::{Holder, end, ended, stage, waiting};
use millpond_core::queue::change::SeekTo;
use millpond_core::queue::{
    Action, Entry, Grant, Granted, LimitedBy, Listing, Outcome, Queue, Settle, Settled,
};
use millpond_core::{AgentId, Offset};
use millpond_tests::postgres::Database;
use millpond_tests::queues::{self, NONE, all, nack, offsets, run, told};
use millpond_tests::stage::{AGENT, Home, MINUTE, Stage};
use std::sync::Arc;
use tokio::task::JoinHandle;
use uuid::Uuid;

pub const OTHER: AgentId = AgentId(Uuid::from_u128(0x07e4));
const NOBODY: AgentId = AgentId(Uuid::nil());

pub fn grant(stage: &Arc<Stage>, grant: &Grant) -> JoinHandle<Granted> {
    let (stage, grant) = (Arc::clone(stage), grant.clone());
    tokio::spawn(async move { stage.plane.grant(&grant).await.expect("an answer") })
}

pub fn settle(stage: &Arc<Stage>, settle: &Settle) -> JoinHandle<Settled> {
    let (stage, settle) = (Arc::clone(stage), settle.clone());
    tokio::spawn(async move { stage.plane.settle(&settle).await.expect("an answer") })
}

fn seek(stage: &Arc<Stage>, queue: &Queue, to: Vec<(Home, i64)>) -> JoinHandle<i64> {
    let (stage, queue) = (Arc::clone(stage), queue.id);
    let to = SeekTo::Offsets(to.into_iter().map(|(home, offset)| (home.id, Offset(offset))).collect());
    tokio::spawn(async move {
        let sought = queues::seek(&*stage.plane, &stage.scope, queue, &to).await;
        sought.expect("an answer").1
    })
}

fn expire(stage: &Arc<Stage>) -> JoinHandle<i64> {
    let stage = Arc::clone(stage);
    tokio::spawn(async move { stage.plane.expire(100, 0.0).await.expect("an answer") })
}

/// Stops an operation that counts under this agent's name, once it has done everything else.
pub async fn stop(database: &Database, queue: &Queue, agent: AgentId) -> Holder {
    let row = format!("{}, '{agent}', clock_timestamp()", queue.id);
    let insert = "insert into queue_agent as a (queue_id, agent_id, rated_at) values";
    Holder::begin(
        database,
        &format!("{insert} ({row}) on conflict (queue_id, agent_id) do update set acked = a.acked"),
    )
    .await
}

pub fn settling(stage: &Stage, queue: &Queue, agent: AgentId, entries: &[Entry]) -> Settle {
    Settle { agent, ..stage.settling(queue, entries) }
}

async fn holds(stage: &Stage, queue: &Queue) {
    let ledger = stage.ledger(queue).await;
    assert!(ledger.holds(), "{ledger:?}");
}

#[tokio::test]
async fn a_grant_that_waits_for_a_pause_gives_nothing() {
    let (s, database) = stage().await;
    let (q, _) = s.queue_of("q", 1, 5).await;
    let holder = Holder::begin(&database, "update queue_flow set paused = true, turn = turn + 1").await;
    let task = grant(&s, &s.asking(&q, &[3]));
    waiting(&database, 1).await;
    holder.end("commit").await;
    let granted = ended(task).await;
    assert_eq!((granted.parts, granted.limited_by), (Vec::new(), Some(LimitedBy::Paused)));
    end(s).await;
}

#[tokio::test]
async fn a_grant_gives_nothing_during_a_seek_and_begins_where_that_ended() {
    let (s, database) = stage().await;
    let (q, homes) = s.queue_of("q", 1, 9).await;
    s.lease(&q, 9).await;
    let holder = Holder::begin(&database, "select from lease for update").await;
    let seeking = seek(&s, &q, vec![(homes[0], 2)]);
    waiting(&database, 1).await;
    let granted = s.grants(&q, &[3]).await;
    assert!(granted.parts.is_empty() && granted.contended, "{granted:?}");
    holder.end("rollback").await;
    assert_eq!(ended(seeking).await, 2);
    assert_eq!(offsets(&s.lease(&q, 3).await), [2, 3, 4]);
    holds(&s, &q).await;
    end(s).await;
}

#[tokio::test]
async fn a_settlement_that_waits_behind_the_sweep_is_lost() {
    let (s, database) = stage().await;
    let (q, _) = s.queue_of("q", 1, 4).await;
    let parts = s.lease(&q, 4).await;
    s.advance(20 * MINUTE).await;
    let holder = stop(&database, &q, NOBODY).await;
    let sweep = expire(&s);
    waiting(&database, 1).await;
    let late = settle(&s, &s.settling(&q, &all(&parts, &Action::Ack)));
    waiting(&database, 2).await;
    holder.end("commit").await;
    assert_eq!((ended(sweep).await, ended(late).await.verdicts), (1, Vec::new()));
    assert_eq!(s.listed(&q, Listing::Waiting).await, [0, 1, 2, 3]);
    holds(&s, &q).await;
    end(s).await;
}

#[tokio::test]
async fn the_sweep_passes_over_what_is_being_settled() {
    let (s, database) = stage().await;
    let (q, _) = s.queue_of("q", 1, 4).await;
    let parts = s.lease(&q, 4).await;
    s.advance(20 * MINUTE).await;
    let holder = stop(&database, &q, AGENT).await;
    let late = settle(&s, &s.settling(&q, &all(&parts, &Action::Ack)));
    waiting(&database, 1).await;
    assert_eq!(ended(expire(&s)).await, 0);
    holder.end("commit").await;
    assert_eq!(told(&ended(late).await.verdicts), [(0, 0..4, Outcome::Acked)]);
    holds(&s, &q).await;
    end(s).await;
}

/// The settlements also put records into new parts.
#[tokio::test]
async fn a_seek_waits_for_settlements_and_leaves_nothing_of_theirs() {
    for (case, action) in [nack(Some(0)), Action::Renew { lease_ms: 60_000 }, Action::Reject { reason: None }]
        .into_iter()
        .enumerate()
    {
        let (s, database) = stage().await;
        let (q, homes) = s.queue_of("q", 1, 9).await;
        let parts = s.lease(&q, 6).await;
        let holder = stop(&database, &q, AGENT).await;
        let settling = settle(&s, &s.settling(&q, &[run(&parts[0], 2..4, action)]));
        waiting(&database, 1).await;
        let seeking = seek(&s, &q, vec![(homes[0], 1)]);
        waiting(&database, 2).await;
        holder.end("commit").await;
        assert_eq!(ended(settling).await.verdicts.len(), 1, "{case}");
        assert_eq!(ended(seeking).await, 1);
        for listing in [Listing::Waiting, Listing::InFlight, Listing::Dead] {
            assert_eq!(s.listed(&q, listing).await, NONE, "{case}");
        }
        holds(&s, &q).await;
        assert_eq!(offsets(&s.lease(&q, 9).await), (1..9).collect::<Vec<_>>());
        end(s).await;
    }
}

#[tokio::test]
async fn grants_of_one_partition_wait_for_each_other() {
    let (s, database) = stage().await;
    let (q, _) = s.queue_of("q", 1, 9).await;
    let holder = Holder::begin(&database, "select from queue_cursor for update").await;
    let one = grant(&s, &s.asking(&q, &[4]));
    waiting(&database, 1).await;
    let two = grant(&s, &Grant { agent: OTHER, ..s.asking(&q, &[4]) });
    waiting(&database, 2).await;
    holder.end("rollback").await;
    let (one, two) = (ended(one).await.parts, ended(two).await.parts);
    let mut given: Vec<i64> = offsets(&one).into_iter().chain(offsets(&two)).collect();
    given.sort_unstable();
    assert_eq!((given, offsets(&one).len()), ((0..8).collect(), 4));
    holds(&s, &q).await;
    end(s).await;
}

#[tokio::test]
async fn a_grant_says_that_others_held_what_it_wanted() {
    let (s, database) = stage().await;
    let (q, homes) = s.queue_of("q", 2, 5).await;
    let holder = Holder::begin(
        &database,
        &format!("select from queue_cursor where partition_id = {} for update", homes[0].id),
    )
    .await;
    let granted = s.grants(&q, &[9]).await;
    assert_eq!((offsets(&granted.parts), granted.contended), (vec![0, 1, 2, 3, 4], true));
    holder.end("rollback").await;
    let granted = s.grants(&q, &[9]).await;
    assert_eq!((offsets(&granted.parts).len(), granted.contended), (5, false));
    end(s).await;
}

#[tokio::test]
async fn a_grant_sent_twice_at_once_gives_once() {
    let (s, database) = stage().await;
    let (q, _) = s.queue_of("q", 1, 9).await;
    let asking = s.asking(&q, &[4]);
    let holder = Holder::begin(&database, "select from queue_cursor for update").await;
    let one = grant(&s, &asking);
    waiting(&database, 1).await;
    let two = grant(&s, &asking);
    waiting(&database, 2).await;
    holder.end("rollback").await;
    let (one, two) = (ended(one).await.parts, ended(two).await.parts);
    assert_eq!(offsets(&one), [0, 1, 2, 3]);
    assert_eq!(offsets(&two), [0, 1, 2, 3]);
    assert_eq!(s.listed(&q, Listing::InFlight).await, [0, 1, 2, 3]);
    end(s).await;
}

#[tokio::test]
async fn grants_of_a_limited_queue_pass_the_limit_neither_together() {
    let (s, database) = stage().await;
    let (q, _) = s.queue_with("q", 2, 9, |c| c.max_in_flight = Some(5)).await;
    let holder = Holder::begin(&database, "select from queue_flow for update").await;
    let tasks: Vec<_> = [AGENT, OTHER, NOBODY]
        .into_iter()
        .map(|agent| grant(&s, &Grant { agent, ..s.asking(&q, &[4]) }))
        .collect();
    waiting(&database, 3).await;
    holder.end("rollback").await;
    let mut given = 0;
    for task in tasks {
        given += offsets(&ended(task).await.parts).len();
    }
    assert_eq!(given, 5);
    end(s).await;
}

#[tokio::test]
async fn a_settlement_that_waits_for_a_renewal_finds_its_new_part() {
    let (s, database) = stage().await;
    let (q, _) = s.queue_of("q", 1, 4).await;
    let parts = s.lease(&q, 4).await;
    let holder = stop(&database, &q, OTHER).await;
    let renew = run(&parts[0], 0..2, Action::Renew { lease_ms: 60_000 });
    let renewing = settle(&s, &settling(&s, &q, OTHER, &[renew]));
    waiting(&database, 1).await;
    let acking = settle(&s, &s.settling(&q, &[run(&parts[0], 0..2, Action::Ack)]));
    waiting(&database, 2).await;
    holder.end("commit").await;
    assert_eq!(told(&ended(renewing).await.verdicts), [(0, 0..2, Outcome::Renewed)]);
    assert_eq!(told(&ended(acking).await.verdicts), [(0, 0..2, Outcome::Acked)]);
    assert_eq!(s.listed(&q, Listing::InFlight).await, [2, 3]);
    holds(&s, &q).await;
    end(s).await;
}

#[tokio::test]
async fn renewals_that_make_new_parts_at_once_both_succeed() {
    let (s, database) = stage().await;
    let (q, _) = s.queue_of("q", 1, 9).await;
    let parts = s.lease(&q, 9).await;
    let holder = stop(&database, &q, OTHER).await;
    let renew = |range| run(&parts[0], range, Action::Renew { lease_ms: 60_000 });
    let one = settle(&s, &settling(&s, &q, OTHER, &[renew(0..2)]));
    waiting(&database, 1).await;
    let two = settle(&s, &s.settling(&q, &[renew(4..6)]));
    waiting(&database, 2).await;
    holder.end("commit").await;
    assert_eq!(told(&ended(one).await.verdicts), [(0, 0..2, Outcome::Renewed)]);
    assert_eq!(told(&ended(two).await.verdicts), [(0, 4..6, Outcome::Renewed)]);
    assert_eq!(s.listed(&q, Listing::InFlight).await.len(), 9);
    holds(&s, &q).await;
    end(s).await;
}

/// With either kind of identity, and with acks alone.
#[tokio::test]
async fn a_settlement_sent_twice_at_once_is_carried_out_once() {
    let (s, database) = stage().await;
    let (q, _) = s.queue_of("q", 1, 12).await;
    for (keep, second) in [(false, nack(Some(60_000))), (true, nack(Some(60_000))), (false, Action::Ack)] {
        let parts = s.lease(&q, 4).await;
        let lo = parts[0].ranges[0].start;
        let outcome = if second == Action::Ack { Outcome::Acked } else { Outcome::Released };
        let entries = [run(&parts[0], lo..lo + 1, Action::Ack), run(&parts[0], lo + 2..lo + 4, second)];
        let sending = Settle { keep, ..s.settling(&q, &entries) };
        let holder = stop(&database, &q, AGENT).await;
        let one = settle(&s, &sending);
        waiting(&database, 1).await;
        let two = settle(&s, &sending);
        waiting(&database, 2).await;
        holder.end("commit").await;
        let (one, two) = (ended(one).await, ended(two).await);
        assert_eq!(told(&one.verdicts), [(0, lo..lo + 1, Outcome::Acked), (1, lo + 2..lo + 4, outcome)]);
        assert_eq!(one, two);
        holds(&s, &q).await;
    }
    end(s).await;
}
