//! Outlooks: what a queue has to give, seen without locks, and snapshots.

use millpond_core::control_plane::Snapshot;
use millpond_core::queue::{Admitted, Mode, Outlook, OutlookRequest, Queue};
use millpond_core::{LeaseId, Offset};
use millpond_tests::queues::{all, nack, offsets};
use millpond_tests::stage::{MINUTE, PartKind, Stage};

suite!(
    is_ready_while_there_is_something_to_grant,
    names_the_next_due_time,
    is_not_ready_while_paused,
    is_ready_for_a_lease_that_is_alive,
    of_keyed_queues_is_ready_for_a_free_key,
    of_keyed_queues_waits_for_delayed_records,
    is_of_queues_that_exist_and_are_the_tenants_own,
    snapshot_differs_after_a_change,
);

async fn look(s: &Stage, queue: &Queue, leases: &[LeaseId]) -> Option<Outlook> {
    let request = OutlookRequest { scope: s.scope.clone(), queue: queue.id, leases: leases.to_vec() };
    let mut outlooks = s.plane.outlook(&[request]).await.expect("an answer");
    assert!(outlooks.len() < 2);
    outlooks.pop()
}

async fn ready(s: &Stage, queue: &Queue) -> bool {
    look(s, queue, &[]).await.expect("a queue").ready
}

async fn is_ready_while_there_is_something_to_grant(s: &Stage) {
    let (q, homes) = s.queue_of("q", 2, 0).await;
    assert!(!ready(s, &q).await);
    s.append(PartKind::Inline, homes[1], &[1, 2]).await;
    assert!(ready(s, &q).await);
    let parts = s.lease(&q, 9).await;
    assert!(!ready(s, &q).await);
    s.settles(&q, &all(&parts, &nack(Some(0)))).await;
    assert!(ready(s, &q).await);
    let parts = s.lease(&q, 9).await;
    s.ack(&q, &parts).await;
    assert!(!ready(s, &q).await);
    s.fill_delayed(homes[0], 3).await;
    assert!(ready(s, &q).await, "there are records to admit");
}

async fn names_the_next_due_time(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 3).await;
    let parts = s.lease(&q, 3).await;
    s.settles(&q, &all(&parts, &nack(Some(MINUTE)))).await;
    let seen = look(s, &q, &[]).await.expect("a queue");
    assert!(!seen.ready);
    let left = seen.next_due_ms.expect("a due time") - seen.at_ms;
    assert!((1..=MINUTE).contains(&left), "{left}");
    assert_eq!(s.grants(&q, &[9]).await.next_due_ms, seen.next_due_ms);
    s.advance(2 * MINUTE).await;
    let seen = look(s, &q, &[]).await.expect("a queue");
    assert_eq!((seen.ready, seen.next_due_ms), (true, None));
    assert_eq!(offsets(&s.lease(&q, 9).await), [0, 1, 2]);
}

async fn is_not_ready_while_paused(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 3).await;
    s.pause(&q, true).await;
    let seen = look(s, &q, &[]).await.expect("a queue");
    assert_eq!((seen.ready, seen.paused), (false, true));
    s.pause(&q, false).await;
    let seen = look(s, &q, &[]).await.expect("a queue");
    assert_eq!((seen.ready, seen.paused), (true, false));
}

async fn is_ready_for_a_lease_that_is_alive(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 3).await;
    let parts = s.lease(&q, 9).await;
    let other = LeaseId(s.uuid());
    assert!(!look(s, &q, &[other]).await.expect("a queue").ready);
    assert!(look(s, &q, &[other, parts[0].lease]).await.expect("a queue").ready);
    s.ack(&q, &parts).await;
    assert!(!look(s, &q, &[other, parts[0].lease]).await.expect("a queue").ready);
}

async fn of_keyed_queues_is_ready_for_a_free_key(s: &Stage) {
    let (q, homes) = s.queue_with("q", 1, 2, |c| c.mode = Some(Mode::Keyed)).await;
    assert!(ready(s, &q).await, "there are records to admit");
    s.admit_keys(&q, homes[0], 0, &[7, 7]).await;
    assert!(ready(s, &q).await);
    let parts = s.lease(&q, 9).await;
    assert_eq!(offsets(&parts), [0]);
    assert!(!ready(s, &q).await, "the other record waits for the first");
    s.ack(&q, &parts).await;
    assert!(ready(s, &q).await);
}

async fn of_keyed_queues_waits_for_delayed_records(s: &Stage) {
    let (q, homes) = s.queue_with("q", 1, 2, |c| c.mode = Some(Mode::Keyed)).await;
    let mut admit = s.admitting(&q, homes[0], &[(0..2, None)]).await;
    let due_ms = Some(s.grants(&q, &[]).await.at_ms + MINUTE);
    let delayed = |n| Admitted { offset: Offset(n), key_hash: n, due_ms };
    (admit.runs, admit.records) = (Vec::new(), (0..2).map(delayed).collect());
    assert!(s.admit(&admit).await || s.resends());
    let seen = look(s, &q, &[]).await.expect("a queue");
    assert_eq!((seen.ready, seen.next_due_ms), (false, due_ms));
    s.advance(2 * MINUTE).await;
    assert!(ready(s, &q).await);
    assert_eq!(offsets(&s.lease(&q, 9).await), [0, 1]);
}

async fn is_of_queues_that_exist_and_are_the_tenants_own(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 3).await;
    let scope = millpond_core::Scope::of_tenant(millpond_tests::stage::name("another"));
    let theirs = OutlookRequest { scope, queue: q.id, leases: Vec::new() };
    assert_eq!(s.plane.outlook(&[theirs]).await.expect("an answer"), []);
    assert!(ready(s, &q).await);
    s.plane.delete_queue(&s.scope, &q.name).await.expect("an answer");
    assert_eq!(look(s, &q, &[]).await, None);
}

async fn snapshot_differs_after_a_change(s: &Stage) {
    let snapshot = async || s.plane.snapshot().await.expect("an answer");
    let (q, homes) = s.queue_of("q", 1, 0).await;
    let mut before: Snapshot = snapshot().await;
    let mut differs = async |what: &str| {
        let now = snapshot().await;
        assert_ne!(std::mem::replace(&mut before, now.clone()), now, "{what}");
    };
    s.fill(homes[0], 1).await;
    differs("a commit").await;
    let parts = s.lease(&q, 1).await;
    differs("a grant").await;
    s.ack(&q, &parts).await;
    differs("a settlement").await;
    s.pause(&q, true).await;
    differs("a pause").await;
}
