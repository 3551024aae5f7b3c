//! Keyed queues: records of one key are handed out strictly one after the other.

use millpond_core::queue::{
    Action, Admit, Admitted, DeadFilter, Grant, Ledger, Listed, Listing, Mode, Outcome, Queue, QueueCounts,
};
use millpond_core::{AgentId, Offset, limits};
use millpond_tests::queues::{BASE_MS, Given, NONE, all, given, nack, offsets, places, reject, run};
use millpond_tests::stage::{AGENT, HOUR, Home, MINUTE, Stage};
use std::collections::BTreeMap;
use uuid::Uuid;

suite!(
    gives_a_key_one_record_at_a_time,
    keeps_the_order_of_a_key_across_retries,
    blocks_only_the_key,
    keeps_a_key_whose_lease_expired,
    asks_for_what_is_not_admitted,
    begins_with_a_key_and_goes_around,
    waits_for_the_first_of_a_key,
    knows_when_the_next_of_a_key_is_due,
    goes_on_when_a_record_dies,
    gives_a_redriven_record_its_turn,
    never_doubles_a_key,
    knows_a_key_of_each_partition,
    lists_and_counts_what_is_admitted,
    ends_its_keys_with_a_seek,
    takes_a_window_of_records,
);

async fn keyed(s: &Stage, partitions: i32, keys: &[i64]) -> (Queue, Vec<Home>) {
    let (q, homes) = s
        .queue_with("q", partitions, u64::try_from(keys.len()).expect("few"), |c| c.mode = Some(Mode::Keyed))
        .await;
    for home in &homes {
        s.admit_keys(&q, *home, 0, keys).await;
    }
    (q, homes)
}

async fn gives_a_key_one_record_at_a_time(s: &Stage) {
    let (q, _) = keyed(s, 1, &[5, 5, 7, 5, 7]).await;
    let parts = s.lease(&q, 9).await;
    assert_eq!(offsets(&parts), [0, 2]);
    assert_eq!(offsets(&s.lease(&q, 9).await), NONE);
    s.settles(&q, &[run(&parts[0], 0..1, Action::Ack)]).await;
    let second = s.lease(&q, 9).await;
    assert_eq!(offsets(&second), [1]);
    assert_eq!(offsets(&s.lease(&q, 9).await), NONE);
    s.settles(&q, &[run(&parts[0], 2..3, Action::Expire)]).await;
    assert_eq!(offsets(&s.lease(&q, 9).await), [4]);
    s.ack(&q, &second).await;
    assert_eq!(given(&s.lease(&q, 9).await), [Given::first(3)]);
}

async fn keeps_the_order_of_a_key_across_retries(s: &Stage) {
    let (q, _) = keyed(s, 1, &[1, 1, 1]).await;
    let parts = s.lease(&q, 9).await;
    s.settles(&q, &all(&parts, &nack(Some(10 * MINUTE)))).await;
    assert_eq!(offsets(&s.lease(&q, 9).await), NONE);
    s.advance(11 * MINUTE).await;
    let parts = s.lease(&q, 9).await;
    assert_eq!(given(&parts), [Given { offset: 0, attempt: 2, failures: 1 }]);
    s.settles(&q, &all(&parts, &Action::Release)).await;
    let parts = s.lease(&q, 9).await;
    assert_eq!(given(&parts), [Given { offset: 0, attempt: 2, failures: 1 }]);
    s.ack(&q, &parts).await;
    assert_eq!(given(&s.lease(&q, 9).await), [Given::first(1)]);
}

async fn blocks_only_the_key(s: &Stage) {
    let (q, _) = keyed(s, 1, &[1, 2, 1, 2, 1, 3]).await;
    let parts = s.lease(&q, 1).await;
    s.settles(&q, &all(&parts, &nack(Some(HOUR)))).await;
    let parts = s.lease(&q, 9).await;
    assert_eq!(offsets(&parts), [1, 5]);
    s.ack(&q, &parts).await;
    assert_eq!(offsets(&s.lease(&q, 9).await), [3]);
    let granted = s.grants(&q, &[9]).await;
    assert_eq!((granted.parts.len(), granted.limited_by), (0, None));
    assert!(granted.next_due_ms.is_some());
}

async fn keeps_a_key_whose_lease_expired(s: &Stage) {
    let (q, _) = keyed(s, 1, &[1, 1, 2, 2]).await;
    s.lease(&q, 9).await;
    s.outlive().await;
    assert_eq!(offsets(&s.lease(&q, 9).await), NONE);
    s.advance(BASE_MS).await;
    let grant = s.asking(&q, &[9, 9, 9]);
    let parts = s.grant(&grant).await.parts;
    assert_eq!(
        given(&parts),
        [Given { offset: 0, attempt: 2, failures: 1 }, Given { offset: 2, attempt: 2, failures: 1 }]
    );
    s.ack(&q, &parts).await;
    assert_eq!(offsets(&s.lease(&q, 9).await), [1, 3]);
}

async fn asks_for_what_is_not_admitted(s: &Stage) {
    let (q, homes) = s.queue_with("q", 2, 3, |c| c.mode = Some(Mode::Keyed)).await;
    s.fill(homes[0], 2).await;
    let told = async || {
        s.grants(&q, &[9])
            .await
            .unadmitted
            .iter()
            .map(|u| (u.partition, u.from.0, u.end.0))
            .collect::<Vec<_>>()
    };
    assert_eq!(told().await, [(homes[0].id, 0, 3), (homes[1].id, 0, 3)]);
    s.admit_keys(&q, homes[0], 0, &[1, 2]).await;
    assert_eq!(told().await, [(homes[0].id, 2, 3), (homes[1].id, 0, 3)]);
    s.admit_keys(&q, homes[0], 2, &[3]).await;
    s.admit_keys(&q, homes[1], 0, &[1, 2, 3]).await;
    assert_eq!(told().await, [(homes[0].id, 3, 5)]);
}

async fn begins_with_a_key_and_goes_around(s: &Stage) {
    let (q, homes) = keyed(s, 2, &[4, 2, 9, -3]).await;
    let grant = Grant { from: homes[0].id, from_key: 3, ..s.asking(&q, &[1, 1, 1, 1, 1, 1, 1, 1]) };
    let parts = s.grant(&grant).await.parts;
    let places: Vec<_> = parts.iter().map(|p| (p.partition, p.ranges[0].start)).collect();
    let (a, b) = (homes[0].id, homes[1].id);
    assert_eq!(places, [(a, 0), (a, 2), (b, 3), (b, 1), (b, 0), (b, 2), (a, 3), (a, 1)]);
}

async fn waits_for_the_first_of_a_key(s: &Stage) {
    let (q, homes) = s.queue_with("q", 1, 4, |c| c.mode = Some(Mode::Keyed)).await;
    let now = s.grants(&q, &[]).await.at_ms;
    let due = [Some(now + 20 * MINUTE), None, None, Some(now + 10 * MINUTE)];
    let records = (0..)
        .zip([1, 1, 2, 2])
        .zip(due)
        .map(|((o, key_hash), due_ms)| Admitted { offset: Offset(o), key_hash, due_ms })
        .collect();
    let admit = Admit {
        scope: s.scope.clone(),
        queue: q.id,
        agent: AGENT,
        partition: homes[0].id,
        from: Offset(0),
        to: Offset(4),
        runs: Vec::new(),
        records,
    };
    assert!(s.admit(&admit).await || s.resends());
    let counts = s.counts(&q).await;
    assert_eq!(counts, QueueCounts { ready: 2, delayed: 2, ..counts.clone() });
    let granted = s.grants(&q, &[9]).await;
    assert_eq!((offsets(&granted.parts), granted.next_due_ms), (vec![2], due[3]));
    s.ack(&q, &granted.parts).await;
    s.advance(11 * MINUTE).await;
    assert_eq!(offsets(&s.lease(&q, 9).await), [3]);
    s.advance(10 * MINUTE).await;
    let parts = s.lease(&q, 9).await;
    assert_eq!(offsets(&parts), [0]);
    s.ack(&q, &parts).await;
    assert_eq!(offsets(&s.lease(&q, 9).await), [1]);
}

async fn knows_when_the_next_of_a_key_is_due(s: &Stage) {
    let (q, homes) = s.queue_with("q", 1, 7, |c| c.mode = Some(Mode::Keyed)).await;
    let now = s.grants(&q, &[]).await.at_ms;
    let (soon, late) = (Some(now + 10 * MINUTE), Some(now + 20 * MINUTE));
    let records = (0..)
        .zip([(1, None), (1, late), (1, None), (2, None), (2, soon), (3, soon), (3, None)])
        .map(|(o, (key_hash, due_ms))| Admitted { offset: Offset(o), key_hash, due_ms })
        .collect();
    let admit = Admit {
        scope: s.scope.clone(),
        queue: q.id,
        agent: AGENT,
        partition: homes[0].id,
        from: Offset(0),
        to: Offset(7),
        runs: Vec::new(),
        records,
    };
    assert!(s.admit(&admit).await || s.resends());
    let parts = s.lease(&q, 9).await;
    assert_eq!(offsets(&parts), [0, 3]);
    s.settles(&q, &all(&parts, &reject("no"))).await;
    for _ in 0..3 {
        assert_eq!(s.grants(&q, &[9]).await.next_due_ms, soon);
    }
    // A redriven record is the lowest of its key, which need not wait for the other.
    assert!(s.redrive(&q, &DeadFilter::Offsets(vec![(homes[0].id, Offset(0))]), None).await.is_ok());
    let parts = s.lease(&q, 9).await;
    assert_eq!(offsets(&parts), [0]);
    s.ack(&q, &parts).await;
    assert_eq!(offsets(&s.lease(&q, 9).await), NONE);
    s.advance(11 * MINUTE).await;
    let parts = s.lease(&q, 1).await;
    assert_eq!(offsets(&parts), [4]);
    s.ack(&q, &parts).await;
    let parts = s.lease(&q, 9).await;
    assert_eq!(offsets(&parts), [5]);
    s.ack(&q, &parts).await;
    assert_eq!(offsets(&s.lease(&q, 9).await), [6]);
    s.advance(10 * MINUTE).await;
    let parts = s.lease(&q, 9).await;
    assert_eq!(offsets(&parts), [1]);
    s.ack(&q, &parts).await;
    assert_eq!(offsets(&s.lease(&q, 9).await), [2]);
    assert!(s.ledger(&q).await.holds());
}

async fn goes_on_when_a_record_dies(s: &Stage) {
    let (q, _) = keyed(s, 1, &[1, 1, 1]).await;
    for failures in 0..4 {
        let parts = s.lease(&q, 9).await;
        assert_eq!(given(&parts), [Given { offset: 0, attempt: failures + 1, failures }]);
        s.settles(&q, &all(&parts, &nack(Some(0)))).await;
    }
    let parts = s.lease(&q, 9).await;
    assert_eq!(given(&parts), [Given::first(1)]);
    assert_eq!(s.settles(&q, &all(&parts, &reject("no"))).await, [(0, 1..2, Outcome::Dead)]);
    assert_eq!(offsets(&s.lease(&q, 9).await), [2]);
    assert_eq!(s.listed(&q, Listing::Dead).await, [0, 1]);
}

async fn gives_a_redriven_record_its_turn(s: &Stage) {
    let (q, homes) = keyed(s, 1, &[1, 1, 1, 2]).await;
    let parts = s.lease(&q, 1).await;
    s.settles(&q, &all(&parts, &reject("no"))).await;
    let parts = s.lease(&q, 1).await;
    assert_eq!(offsets(&parts), [1]);
    let redriven = s.redrive(&q, &DeadFilter::Offsets(vec![(homes[0].id, Offset(0))]), None).await;
    assert!(redriven == Ok(1) || s.resends());
    assert_eq!(offsets(&s.lease(&q, 9).await), [3], "its key is taken");
    s.settles(&q, &all(&parts, &nack(Some(0)))).await;
    let parts = s.lease(&q, 9).await;
    assert_eq!(given(&parts), [Given { offset: 1, attempt: 2, failures: 1 }], "whoever was out goes first");
    s.ack(&q, &parts).await;
    let parts = s.lease(&q, 9).await;
    assert_eq!(given(&parts), [Given { offset: 0, attempt: 2, failures: 0 }]);
    s.ack(&q, &parts).await;
    assert_eq!(offsets(&s.lease(&q, 9).await), [2]);
}

async fn never_doubles_a_key(s: &Stage) {
    let keys: Vec<i64> = (0..60).map(|n| n % 7).collect();
    let (q, _) = keyed(s, 1, &keys).await;
    let mut last: BTreeMap<i64, i64> = BTreeMap::new();
    let mut done = 0;
    while done < keys.len() {
        let grants: [Grant; 4] = std::array::from_fn(|n| {
            let agent = AgentId(Uuid::from_u128(u128::try_from(n).expect("small")));
            Grant { agent, from_key: i64::try_from(n).expect("small"), ..s.asking(&q, &[2, 1]) }
        });
        let (a, b, c, d) = tokio::join!(
            s.plane.grant(&grants[0]),
            s.plane.grant(&grants[1]),
            s.plane.grant(&grants[2]),
            s.plane.grant(&grants[3])
        );
        let parts: Vec<_> = [a, b, c, d].into_iter().flat_map(|g| g.expect("an answer").parts).collect();
        let mut busy = Vec::new();
        for offset in offsets(&parts) {
            let key = offset % 7;
            assert!(!busy.contains(&key), "key {key} is in flight twice");
            assert!(
                last.insert(key, offset).is_none_or(|before| before + 7 == offset),
                "key {key} is out of order"
            );
            busy.push(key);
        }
        s.ack(&q, &parts).await;
        done += busy.len();
    }
    assert_eq!(s.ledger(&q).await.acked, 60);
}

async fn knows_a_key_of_each_partition(s: &Stage) {
    let (q, homes) = keyed(s, 2, &[1, 1]).await;
    let parts = s.lease(&q, 9).await;
    let places = places(&parts);
    assert_eq!(places, [(homes[0].id, vec![0]), (homes[1].id, vec![0])]);
    s.ack(&q, &parts[..1]).await;
    let next = s.lease(&q, 9).await;
    assert_eq!((offsets(&next), next[0].partition), (vec![1], homes[0].id));
}

async fn lists_and_counts_what_is_admitted(s: &Stage) {
    let (q, homes) = keyed(s, 1, &[1, 1, 2, 3]).await;
    s.fill(homes[0], 2).await;
    let parts = s.lease(&q, 9).await;
    assert_eq!(offsets(&parts), [0, 2, 3]);
    s.settles(&q, &[run(&parts[0], 2..3, nack(None)), run(&parts[0], 3..4, reject("no"))]).await;
    let waiting = s.list(&q, Listing::Waiting).await;
    assert_eq!(waiting.len(), 2);
    assert_eq!(waiting[0], Listed { offset: Offset(1), attempt: 0, at_ms: None, ..waiting[0].clone() });
    assert_eq!(waiting[1], Listed { offset: Offset(2), attempt: 1, ..waiting[1].clone() });
    assert!(waiting[1].at_ms.is_some());
    assert_eq!(s.listed(&q, Listing::InFlight).await, [0]);
    let counts = s.counts(&q).await;
    assert_eq!(
        counts,
        QueueCounts { ready: 3, delayed: 0, retrying: 1, in_flight: 1, dead: 1, ..counts.clone() }
    );
    let ledger = s.ledger(&q).await;
    assert_eq!(ledger, Ledger { passed: 4, waiting_rows: 2, leased_rows: 1, dead_rows: 1, ..ledger });
}

async fn ends_its_keys_with_a_seek(s: &Stage) {
    let (q, homes) = keyed(s, 1, &[1, 1, 2, 2]).await;
    let parts = s.lease(&q, 9).await;
    let (cursors, skipped) = s.seek(&q, &[(homes[0], 1)]).await;
    assert!(cursors == [1] && (skipped == 1 || s.resends()));
    assert_eq!(s.settles(&q, &all(&parts, &Action::Ack)).await, []);
    assert_eq!(s.listed(&q, Listing::Waiting).await, NONE);
    s.admit_keys(&q, homes[0], 1, &[1, 2, 2]).await;
    assert_eq!(offsets(&s.lease(&q, 9).await), [1, 2]);
}

async fn takes_a_window_of_records(s: &Stage) {
    let (q, homes) = s.queue_with("q", 1, 0, |c| c.mode = Some(Mode::Keyed)).await;
    let window = u64::try_from(limits::KEYED_WINDOW).expect("positive");
    s.fill(homes[0], window).await;
    s.fill(homes[0], 1).await;
    let keys: Vec<i64> = vec![1; usize::try_from(window).expect("small")];
    s.admit_keys(&q, homes[0], 0, &keys).await;
    let granted = s.grants(&q, &[2]).await;
    assert_eq!(offsets(&granted.parts), [0]);
    assert_eq!(granted.unadmitted.len(), 0);
    let full = s.grants(&q, &[2]).await;
    assert_eq!((full.parts.len(), full.limited_by), (0, Some(millpond_core::queue::LimitedBy::Keys)));
    s.ack(&q, &granted.parts).await;
    assert_eq!(s.grants(&q, &[2]).await.unadmitted.len(), 1);
}
