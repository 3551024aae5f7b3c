//! Interleavings that could put two records of a key in flight, or lose one; see `interleave`.

use crate::interleave::{Holder, end, ended, stage, waiting};
use crate::queue::{OTHER, grant, settle, stop};
use millpond_core::queue::{Action, Admit, Admitted, DeadFilter, Listing, Mode, Outcome, Queue};
use millpond_core::{AgentId, Offset};
use millpond_tests::queues::{self, NONE, all, offsets, reject, told};
use millpond_tests::stage::{AGENT, Home, Stage};
use std::sync::Arc;
use tokio::task::JoinHandle;
use uuid::Uuid;

async fn keyed(s: &Stage, records: u64, admitted: &[i64]) -> (Queue, Home) {
    let (q, homes) = s.queue_with("q", 1, records, |c| c.mode = Some(Mode::Keyed)).await;
    s.admit_keys(&q, homes[0], 0, admitted).await;
    (q, homes[0])
}

fn admit(s: &Arc<Stage>, q: &Queue, home: Home, from: i64, keys: &[i64]) -> JoinHandle<bool> {
    let records: Vec<Admitted> = (from..)
        .zip(keys)
        .map(|(offset, key)| Admitted { offset: Offset(offset), key_hash: *key, due_ms: None })
        .collect();
    let to = Offset(from + i64::try_from(keys.len()).expect("few"));
    let admit = Admit {
        scope: s.scope.clone(),
        queue: q.id,
        agent: OTHER,
        partition: home.id,
        from: Offset(from),
        to,
        runs: Vec::new(),
        records,
    };
    let s = Arc::clone(s);
    tokio::spawn(async move { s.plane.admit(&admit).await.expect("an answer") })
}

async fn holds(s: &Stage, q: &Queue) {
    let ledger = s.ledger(q).await;
    assert!(ledger.holds(), "{ledger:?}");
}

#[tokio::test]
async fn a_key_whose_last_record_is_being_settled_is_admitted_again() {
    let (s, database) = stage().await;
    let (q, home) = keyed(&s, 2, &[7]).await;
    let parts = s.lease(&q, 1).await;
    let holder = stop(&database, &q, AGENT).await;
    let settling = settle(&s, &s.settling(&q, &all(&parts, &Action::Ack)));
    waiting(&database, 1).await;
    let admitting = admit(&s, &q, home, 1, &[7]);
    waiting(&database, 2).await;
    holder.end("commit").await;
    assert_eq!(told(&ended(settling).await.verdicts), [(0, 0..1, Outcome::Acked)]);
    assert!(ended(admitting).await);
    assert_eq!(offsets(&s.lease(&q, 9).await), [1]);
    holds(&s, &q).await;
    end(s).await;
}

#[tokio::test]
async fn a_key_that_gets_a_record_while_its_last_is_settled_goes_on() {
    let (s, database) = stage().await;
    let (q, home) = keyed(&s, 2, &[7]).await;
    let parts = s.lease(&q, 1).await;
    let holder = stop(&database, &q, OTHER).await;
    let admitting = admit(&s, &q, home, 1, &[7]);
    waiting(&database, 1).await;
    let settling = settle(&s, &s.settling(&q, &all(&parts, &Action::Ack)));
    waiting(&database, 2).await;
    holder.end("commit").await;
    assert!(ended(admitting).await);
    assert_eq!(told(&ended(settling).await.verdicts), [(0, 0..1, Outcome::Acked)]);
    let parts = s.lease(&q, 9).await;
    assert_eq!(offsets(&parts), [1]);
    s.ack(&q, &parts).await;
    assert_eq!(
        sqlx::query_scalar::<_, i64>("select count(*) from queue_key")
            .fetch_one(&mut database.connect().await)
            .await
            .unwrap(),
        0
    );
    holds(&s, &q).await;
    end(s).await;
}

/// Between the snapshot of a grant and its lock on the key, other calls lease the record that it saw, settle
/// it, and release the key.
#[tokio::test]
async fn a_grant_that_saw_a_key_before_others_used_it_looks_again() {
    let (s, database) = stage().await;
    let (q, _) = keyed(&s, 2, &[7, 7]).await;
    let others = "delete from admitted where record_offset = 0; \
        update queue_key set records = records - 1, turn = turn + 2; update queue_agent set acked = acked + 1, waiting = waiting - 1";
    let holder = Holder::begin(&database, "select from queue_flow for update").await;
    let task = grant(&s, &s.asking(&q, &[5]));
    waiting(&database, 1).await;
    let holder = holder.then(others).await;
    holder.end("commit").await;
    assert_eq!(offsets(&ended(task).await.parts), [1]);
    holds(&s, &q).await;
    end(s).await;
}

fn redrive(s: &Arc<Stage>, q: &Queue) -> JoinHandle<i64> {
    let (s, q) = (Arc::clone(s), q.id);
    tokio::spawn(async move {
        queues::redrive(&*s.plane, &s.scope, q, &DeadFilter::All, None).await.expect("an answer")
    })
}

#[tokio::test]
async fn a_redriven_record_and_a_granted_one_of_its_key_are_not_in_flight_together() {
    let (s, database) = stage().await;
    let (q, _) = keyed(&s, 3, &[7, 7, 7]).await;
    let parts = s.lease(&q, 1).await;
    s.settles(&q, &all(&parts, &reject("no"))).await;
    let holder = stop(&database, &q, AgentId(Uuid::nil())).await;
    let redriving = redrive(&s, &q);
    waiting(&database, 1).await;
    assert_eq!(offsets(&s.plane.grant(&s.asking(&q, &[5])).await.expect("an answer").parts), NONE);
    holder.end("commit").await;
    assert_eq!(ended(redriving).await, 1);
    let first = s.lease(&q, 5).await;
    assert_eq!(offsets(&first), [0]);
    assert_eq!(offsets(&s.lease(&q, 5).await), NONE);
    s.ack(&q, &first).await;
    assert_eq!(offsets(&s.lease(&q, 5).await), [1]);
    holds(&s, &q).await;
    end(s).await;
}

#[tokio::test]
async fn a_record_granted_while_its_elder_is_redriven_keeps_the_key() {
    let (s, database) = stage().await;
    let (q, _) = keyed(&s, 2, &[7, 7]).await;
    let parts = s.lease(&q, 1).await;
    s.settles(&q, &all(&parts, &reject("no"))).await;
    let holder = stop(&database, &q, OTHER).await;
    let asking = millpond_core::queue::Grant { agent: OTHER, ..s.asking(&q, &[5]) };
    let granting = grant(&s, &asking);
    waiting(&database, 1).await;
    let redriving = redrive(&s, &q);
    waiting(&database, 2).await;
    holder.end("commit").await;
    let second = ended(granting).await.parts;
    assert_eq!(offsets(&second), [1]);
    assert_eq!(ended(redriving).await, 1);
    assert_eq!(offsets(&s.lease(&q, 5).await), NONE);
    s.ack(&q, &second).await;
    assert_eq!(offsets(&s.lease(&q, 5).await), [0]);
    assert_eq!(s.listed(&q, Listing::Dead).await, NONE);
    holds(&s, &q).await;
    end(s).await;
}
