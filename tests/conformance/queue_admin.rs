//! Creating, changing, pausing, describing and deleting queues.

use millpond_core::group::Start;
use millpond_core::queue::change::SeekTo;
use millpond_core::queue::{
    Listing, Mode, NoSuchQueue, PutQueueRejected, Queue, QueueChange, QueueCounts, Rate,
};
use millpond_core::{Error, Offset, PageRequest, Scope};
use millpond_tests::queues::{BASE_MS, LEASE_MS, nack, offsets, plain, whole};
use millpond_tests::stage::{MINUTE, PartKind, Stage, home, name};

suite!(
    is_made_over_a_topic,
    is_listed_page_by_page,
    keeps_what_a_put_leaves_out,
    cannot_change_topic_mode_or_beginning,
    begins_where_it_is_told,
    does_not_know_of_others_on_its_topic,
    loses_its_leases_when_it_is_deleted,
    goes_with_its_topic,
    grows_with_its_topic,
    grants_nothing_while_it_is_paused,
    counts_its_records,
    lists_by_pages,
);

async fn put(s: &Stage, text: &str, change: &QueueChange) -> Result<(Queue, bool), PutQueueRejected> {
    match s.plane.put_queue(&s.scope, &name(text), change).await {
        Ok(put) => Ok(put),
        Err(Error::Rejected(rejected)) => Err(rejected),
        Err(error) => panic!("{error:?}"),
    }
}

async fn get(s: &Stage, text: &str) -> Option<Queue> {
    match s.plane.queue(&s.scope, &name(text)).await {
        Ok(queue) => Some(queue),
        Err(Error::Rejected(NoSuchQueue)) => None,
        Err(error) => panic!("{error:?}"),
    }
}

async fn is_made_over_a_topic(s: &Stage) {
    let t = s.topic("t", 3).await;
    assert_eq!(put(s, "q", &QueueChange::default()).await, Err(PutQueueRejected::NoSuchTopic));
    assert_eq!(
        put(s, "q", &QueueChange { topic: Some(name("u")), ..QueueChange::default() }).await,
        Err(PutQueueRejected::NoSuchTopic)
    );
    assert_eq!(get(s, "q").await, None);
    let change = QueueChange { topic: Some(name("t")), ..QueueChange::default() };
    let (made, new) = put(s, "q", &change).await.expect("made");
    assert!(new || s.resends());
    assert_eq!((made.topic.as_str(), made.topic_id, &made.partitions), ("t", t.id, &t.partitions));
    assert_eq!(
        (made.mode, made.from, made.config, made.paused),
        (Mode::Shared, Start::Earliest, Default::default(), false)
    );
    assert_eq!(get(s, "q").await, Some(made.clone()));
    assert_eq!(put(s, "q", &change).await, Ok((made.clone(), false)));
    let (own, _) = put(s, "t", &QueueChange::default()).await.expect("made");
    assert_eq!(own.topic.as_str(), "t");
    assert_ne!((own.id, own.secret), (made.id, made.secret));
    assert_eq!(s.queues(&s.scope).await, [made, own]);
    let other = Scope::anonymous(name("other"));
    assert_eq!(s.queues(&other).await, []);
    assert!(matches!(s.plane.queue(&other, &name("q")).await, Err(Error::Rejected(NoSuchQueue))));
}

async fn is_listed_page_by_page(s: &Stage) {
    s.topic("t", 2).await;
    let home = home(&s.topic("u", 3).await, 1);
    s.append(PartKind::Inline, home, &[1, 2, 3]).await;
    for (text, topic) in [("a", "t"), ("b", "t"), ("B", "t"), ("c", "u"), ("d", "t")] {
        let change = QueueChange { topic: Some(name(topic)), ..QueueChange::default() };
        put(s, text, &change).await.expect("made");
    }
    s.plane.delete_queue(&s.scope, &name("b")).await.expect("an answer");
    let page = async |after: Option<&str>, limit, max_partitions| {
        let request = PageRequest { after: after.map(name), limit, max_partitions };
        let page = s.plane.queues(&s.scope, &request).await.expect("a page");
        for (queue, counts) in &page.items {
            assert_eq!(get(s, queue.name.as_str()).await.as_ref(), Some(queue));
            assert_eq!(*counts, s.counts(queue).await);
            assert_eq!(counts.ready, if queue.name.as_str() == "c" { 3 } else { 0 });
        }
        let names: Vec<String> = page.items.iter().map(|(queue, _)| queue.name.to_string()).collect();
        (names.concat(), page.has_more)
    };
    assert_eq!(page(None, 9, 99).await, ("Bacd".to_owned(), false));
    assert_eq!(page(None, 3, 99).await, ("Bac".to_owned(), true));
    assert_eq!(page(Some("a"), 1, 99).await, ("c".to_owned(), true));
    assert_eq!(page(Some("d"), 1, 99).await, (String::new(), false));
    assert_eq!(page(None, 9, 6).await, ("Ba".to_owned(), true));
    assert_eq!(page(Some("a"), 9, 2).await, ("c".to_owned(), true), "never empty");
}

async fn keeps_what_a_put_leaves_out(s: &Stage) {
    let (made, _) = s.queue_of("q", 1, 0).await;
    let rate = Rate { limit: 5, per_ms: MINUTE };
    let change = QueueChange {
        lease_ms: Some(5_000),
        factor: Some(3.5),
        cap_ms: Some(90_000_000),
        rate: Some(Some(rate)),
        max_in_flight: Some(7),
        ..QueueChange::default()
    };
    let changed = put(s, "q", &change).await.expect("changed").0;
    assert_eq!(changed.config, change.apply(&made.config));
    assert_eq!((changed.config.retry.base_ms, changed.config.retry.max_failures), (BASE_MS, 4));
    assert_eq!((changed.id, changed.secret), (made.id, made.secret));
    let unlimited = QueueChange { rate: Some(None), ..QueueChange::default() };
    let expected = unlimited.apply(&changed.config);
    assert_eq!(put(s, "q", &unlimited).await.expect("changed").0.config, expected);
    assert_eq!(get(s, "q").await.expect("a queue").config, expected);
}

async fn cannot_change_topic_mode_or_beginning(s: &Stage) {
    s.topic("u", 1).await;
    let (made, _) = s.queue_of("q", 1, 0).await;
    let none = QueueChange::default();
    for (change, rejected) in [
        (QueueChange { topic: Some(name("u")), ..none.clone() }, PutQueueRejected::TopicFixed),
        (
            QueueChange { mode: Some(Mode::Keyed), lease_ms: Some(1), ..none.clone() },
            PutQueueRejected::ModeFixed,
        ),
        (QueueChange { from: Some(Start::Latest), ..none.clone() }, PutQueueRejected::FromFixed),
    ] {
        assert_eq!(put(s, "q", &change).await, Err(rejected));
    }
    assert_eq!(get(s, "q").await, Some(made));
    let same =
        QueueChange { topic: Some(name("q")), mode: Some(Mode::Shared), from: Some(Start::Earliest), ..none };
    assert!(put(s, "q", &same).await.is_ok());
}

async fn begins_where_it_is_told(s: &Stage) {
    let t = s.topic("t", 2).await;
    let (p, o) = (home(&t, 0), home(&t, 1));
    s.fill(p, 5).await;
    let latest = s.put_queue("latest", &QueueChange { from: Some(Start::Latest), ..plain(&t) }).await;
    let earliest = s.put_queue("earliest", &plain(&t)).await;
    assert_eq!(s.cursor(&latest, p).await, 5);
    assert_eq!(s.cursor(&latest, o).await, 0);
    assert_eq!(s.cursor(&earliest, p).await, 0);
    s.fill(p, 2).await;
    assert_eq!(offsets(&s.lease(&latest, 10).await), [5, 6]);
    assert_eq!(offsets(&s.lease(&earliest, 10).await), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(s.ledger(&latest).await.passed, 2);
}

async fn does_not_know_of_others_on_its_topic(s: &Stage) {
    let (q, homes) = s.queue_of("q", 1, 4).await;
    let other = s.put_queue("other", &QueueChange { topic: Some(name("q")), ..QueueChange::default() }).await;
    let (parts, others) = (s.lease(&q, 3).await, s.lease(&other, 2).await);
    assert_eq!(offsets(&parts), [0, 1, 2]);
    assert_eq!(offsets(&others), [0, 1]);
    s.ack(&q, &parts).await;
    assert_eq!(s.seek(&q, &[(homes[0], 0)]).await, (vec![0], 0));
    assert_eq!(s.cursor(&other, homes[0]).await, 2);
    assert_eq!(s.listed(&other, Listing::InFlight).await, [0, 1]);
    s.pause(&other, true).await;
    assert_eq!(offsets(&s.lease(&q, 2).await), [0, 1]);
}

async fn loses_its_leases_when_it_is_deleted(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 4).await;
    let parts = s.lease(&q, 2).await;
    let deleted = s.plane.delete_queue(&s.scope, &name("q")).await.expect("an answer");
    assert!(deleted || s.resends());
    assert!(!s.plane.delete_queue(&s.scope, &name("q")).await.expect("an answer"));
    assert_eq!((get(s, "q").await, s.queues(&s.scope).await.len()), (None, 0));
    let gone = |e: Error<NoSuchQueue>| matches!(e, Error::Rejected(NoSuchQueue));
    assert!(gone(s.plane.grant(&s.asking(&q, &[1])).await.expect_err("gone")));
    assert!(gone(s.plane.queue_counts(&s.scope, q.id).await.expect_err("gone")));
    assert!(gone(s.plane.pause_queue(&s.scope, q.id, true).await.expect_err("gone")));
    assert!(gone(s.plane.list_queue(&s.scope, q.id, Listing::InFlight, None, 9).await.expect_err("gone")));
    assert!(gone(s.plane.begin_seek(&s.scope, q.id, &SeekTo::Latest).await.expect_err("gone")));
    let acks = [whole(parts[0].lease, millpond_core::queue::Action::Ack)];
    assert_eq!(s.settles(&q, &acks).await, []);
    let again = s.put_queue("q", &QueueChange::default()).await;
    assert_ne!((again.id, again.secret), (q.id, q.secret));
    assert_eq!(s.settles(&again, &acks).await, []);
    s.outlive().await;
    assert_eq!(offsets(&s.lease(&again, 9).await), [0, 1, 2, 3]);
    s.plane.forget(1_000).await.expect("an answer");
    assert_eq!(s.listed(&again, Listing::InFlight).await, [0, 1, 2, 3]);
}

async fn goes_with_its_topic(s: &Stage) {
    let (q, _) = s.queue_of("q", 1, 4).await;
    let parts = s.lease(&q, 2).await;
    s.delete_topic("q").await;
    assert_eq!(get(s, "q").await, None);
    assert!(matches!(s.plane.grant(&s.asking(&q, &[1])).await, Err(Error::Rejected(NoSuchQueue))));
    assert_eq!(s.settles(&q, &[whole(parts[0].lease, nack(None))]).await, []);
    let (new, homes) = s.queue_of("q", 1, 0).await;
    assert_eq!(s.ledger(&new).await.passed, 0);
    assert_eq!(s.cursor(&new, homes[0]).await, 0);
}

async fn grows_with_its_topic(s: &Stage) {
    let t = s.topic("t", 1).await;
    s.fill(home(&t, 0), 2).await;
    let latest = s.put_queue("latest", &QueueChange { from: Some(Start::Latest), ..plain(&t) }).await;
    let grown = s.topic("t", 3).await;
    let q = get(s, "latest").await.expect("a queue");
    assert_eq!((latest.partitions.len(), &q.partitions), (1, &grown.partitions));
    s.fill(home(&grown, 2), 2).await;
    assert_eq!(s.cursor(&q, home(&grown, 2)).await, 0);
    let parts = s.lease(&q, 9).await;
    assert_eq!((offsets(&parts), parts[0].partition), (vec![0, 1], home(&grown, 2).id));
}

async fn grants_nothing_while_it_is_paused(s: &Stage) {
    let (q, homes) = s.queue_of("q", 1, 8).await;
    let (acked, expired) = (s.lease(&q, 2).await, s.lease(&q, 2).await);
    s.pause(&q, true).await;
    assert!(get(s, "q").await.expect("a queue").paused);
    let granted = s.grants(&q, &[3]).await;
    assert_eq!((granted.parts.len(), granted.limited_by), (0, Some(millpond_core::queue::LimitedBy::Paused)));
    s.ack(&q, &acked).await;
    s.fill(homes[0], 1).await;
    s.advance(LEASE_MS + MINUTE).await;
    assert!(s.expire().await == 1 || s.resends());
    assert_eq!(s.listed(&q, Listing::Waiting).await, offsets(&expired));
    s.pause(&q, false).await;
    assert_eq!(offsets(&s.lease(&q, 9).await), [4, 5, 6, 7, 8]);
}

async fn counts_its_records(s: &Stage) {
    let (q, homes) = s.queue_of("q", 2, 6).await;
    let parts = s.lease(&q, 5).await;
    let mut entries = vec![
        millpond_tests::queues::run(&parts[0], 0..1, millpond_core::queue::Action::Ack),
        millpond_tests::queues::run(&parts[0], 1..3, nack(Some(MINUTE))),
        millpond_tests::queues::run(&parts[0], 3..4, millpond_tests::queues::reject("no")),
    ];
    entries[1].lease = parts[0].lease;
    s.settles(&q, &entries).await;
    let counts = s.counts(&q).await;
    assert_eq!(
        counts,
        QueueCounts { ready: 7, delayed: 0, retrying: 2, in_flight: 1, dead: 1, ..counts.clone() }
    );
    assert!(counts.oldest_ms.is_some() && counts.settle_rate > 0.0);
    s.advance(2 * MINUTE).await;
    let counts = s.counts(&q).await;
    assert_eq!(counts, QueueCounts { ready: 9, retrying: 0, ..counts.clone() });
    for home in homes {
        let parts = s.lease(&q, 6).await;
        assert!(parts.iter().any(|p| p.partition == home.id));
    }
    let counts = s.counts(&q).await;
    assert_eq!(counts, QueueCounts { ready: 0, in_flight: 10, oldest_ms: None, ..counts.clone() });
}

async fn lists_by_pages(s: &Stage) {
    let (q, homes) = s.queue_of("q", 2, 3).await;
    s.lease(&q, 6).await;
    let page = async |after, limit| {
        let page = s.plane.list_queue(&s.scope, q.id, Listing::InFlight, after, limit).await.expect("a list");
        page.iter().map(|l| (l.partition, l.offset.0, l.attempt, l.failures)).collect::<Vec<_>>()
    };
    let (a, b) = (homes[0].id, homes[1].id);
    assert_eq!(page(None, 4).await, [(a, 0, 1, 0), (a, 1, 1, 0), (a, 2, 1, 0), (b, 0, 1, 0)]);
    assert_eq!(page(Some((a, Offset(1))), 2).await, [(a, 2, 1, 0), (b, 0, 1, 0)]);
    assert_eq!(page(Some((b, Offset(2))), 2).await, []);
    let list = s.list(&q, Listing::InFlight).await;
    assert!(list.iter().all(|l| l.at_ms.is_some() && l.reason.is_none() && !l.gone));
}
