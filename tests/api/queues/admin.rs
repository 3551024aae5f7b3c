//! Dead records, pause, limits, purge, seek, delays and times to live.

use crate::api;
use millpond_tests::harness::client::list;
use millpond_tests::harness::queue::{Counts, Queue, receipts, values};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// Fills a queue with n records, leases all and rejects them; the reason names the value.
async fn kill(queue: &Queue, n: i64) {
    queue.fill(n).await;
    let lease = queue.lease(json!({"max_records": n})).await;
    let reason = |v: &i64| if v % 2 == 0 { "smtp 451" } else { "schema" };
    let dead: Vec<Value> = receipts(&lease)
        .iter()
        .zip(values(&lease))
        .map(|(r, v)| json!({"receipt": r, "reason": reason(&v)}))
        .collect();
    assert_eq!(
        queue.statuses(json!({ "reject": dead })).await,
        vec!["dead"; usize::try_from(n).expect("a count")]
    );
}

#[tokio::test]
async fn dead_records_are_listed_page_by_page() {
    let queue = Queue::new(api(), json!({})).await;
    kill(&queue, 5).await;
    let (mut offsets, mut after) = (Vec::new(), String::new());
    loop {
        let page = queue.api.get(&format!("{}/dead?max_records=2{after}", queue.path())).await.ok();
        offsets.extend(list(&page, "records").iter().map(|r| r["offset"].as_i64().unwrap()));
        assert!(list(&page, "records").iter().all(|r| r.get("record").is_none() && r["died_at_ms"].is_i64()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(offsets, [0, 1, 2, 3, 4]);
    queue.api.get(&format!("{}/dead?after=nonsense", queue.path())).await.problem(400, "bad_request");
    queue.api.get(&format!("{}/dead?max_records=0", queue.path())).await.problem(400, "bad_request");
}

#[tokio::test]
async fn dead_records_are_redriven_by_offset_by_reason_and_all() {
    let queue = Queue::new(api(), json!({})).await;
    kill(&queue, 6).await;
    let place = |o: i64| json!({"partition": 0, "offset": o});
    queue
        .post("dead/redrive", json!({"offsets": [place(0), place(77)]}))
        .await
        .problem(404, "dead_not_found");
    assert_eq!(queue.counts().await.dead, 6, "nothing was done");
    assert_eq!(
        queue.post("dead/redrive", json!({"offsets": [place(3)]})).await.ok(),
        json!({"redriven": 1, "remaining": false})
    );
    let lease = queue.lease(json!({"max_records": 9, "wait_ms": 5_000})).await;
    assert_eq!(
        (&lease["records"][0]["value"], &lease["records"][0]["attempt"], &lease["records"][0]["failures"]),
        (&json!(3), &json!(2), &json!(0))
    );
    assert_eq!(
        queue.post("dead/redrive", json!({"filter": {"reason": "smtp*"}})).await.ok(),
        json!({"redriven": 3, "remaining": false})
    );
    assert_eq!(
        queue.post("dead/purge", json!({"filter": {"reason": "sch?ma"}})).await.ok(),
        json!({"purged": 2, "remaining": false})
    );
    assert_eq!(queue.post("dead/redrive", json!({})).await.ok(), json!({"redriven": 0, "remaining": false}));
    let mut redriven = values(&queue.lease(json!({"max_records": 9, "wait_ms": 5_000})).await);
    redriven.sort_unstable();
    assert_eq!(redriven, [0, 2, 4]);
    queue
        .post("dead/redrive", json!({"offsets": [place(1)], "filter": {"reason": "*"}}))
        .await
        .problem(400, "bad_request");
    queue.post("dead/redrive", json!({"max_rate": 0})).await.problem(400, "bad_request");
}

#[tokio::test]
async fn a_redrive_at_a_rate_makes_records_due_one_after_the_other() {
    let queue = Queue::new(api(), json!({})).await;
    kill(&queue, 5).await;
    assert_eq!(
        queue.post("dead/redrive", json!({"max_rate": 10})).await.ok(),
        json!({"redriven": 5, "remaining": false})
    );
    let start = Instant::now();
    let mut got = 0;
    while got < 5 {
        got += list(&queue.lease(json!({"max_records": 9, "wait_ms": 5_000})).await, "records").len();
    }
    assert!(
        start.elapsed() >= Duration::from_millis(300),
        "4 tenths of a second lie between the first and the last"
    );
}

#[tokio::test]
async fn a_paused_queue_gives_out_nothing_and_settles_all() {
    let queue = Queue::new(api(), json!({})).await;
    queue.fill(2).await;
    let lease = queue.lease(json!({})).await;
    assert_eq!(queue.post("pause", json!({})).await.ok(), json!({"paused": true}));
    assert_eq!(queue.describe().await["paused"], json!(true));
    let empty = queue.lease(json!({"wait_ms": 200})).await;
    assert_eq!((&empty["records"], &empty["limited_by"]), (&json!([]), &json!("paused")));
    assert_eq!(queue.statuses(json!({"ack": receipts(&lease)})).await, ["acked"]);
    let resume = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        queue.post("resume", json!({})).await.ok()
    };
    let (lease, resumed) = tokio::join!(queue.lease(json!({"wait_ms": 10_000})), resume);
    assert_eq!((values(&lease), resumed), (vec![1], json!({"paused": false})));
}

#[tokio::test]
async fn caps_and_rates_say_what_they_limit() {
    let capped = Queue::new(api(), json!({"max_in_flight": 3})).await;
    capped.fill(10).await;
    let lease = capped.lease(json!({"max_records": 10})).await;
    assert_eq!(values(&lease), [0, 1, 2]);
    assert_eq!(capped.lease(json!({})).await["limited_by"], json!("max_in_flight"));
    capped.settle(json!({"ack": [receipts(&lease)[0]]})).await;
    assert_eq!(values(&capped.lease(json!({"max_records": 10})).await), [3]);

    let slow = Queue::new(api(), json!({"rate": {"limit": 5, "per_ms": 2_000}})).await;
    slow.fill(10).await;
    let start = Instant::now();
    assert_eq!(values(&slow.lease(json!({"max_records": 10})).await), [0, 1, 2, 3, 4]);
    assert_eq!(slow.lease(json!({"max_records": 10})).await["limited_by"], json!("rate"));
    let mut got = 5;
    while got < 10 {
        got += list(&slow.lease(json!({"max_records": 10, "wait_ms": 5_000})).await, "records").len();
    }
    assert!(start.elapsed() >= Duration::from_millis(1_900), "five tokens come in two seconds");
    let empty = slow.lease(json!({})).await;
    assert_eq!((&empty["records"], &empty["limited_by"]), (&json!([]), &json!(null)), "nothing is there");
}

#[tokio::test]
async fn a_purge_passes_over_everything_and_receipts_are_lost() {
    let queue = Queue::over(api(), 2, json!({})).await;
    queue.fill(9).await;
    let lease = queue.lease(json!({"max_records": 3})).await;
    let r = receipts(&lease);
    queue.settle(json!({"nack": [{"receipt": r[0], "delay_ms": 60_000}], "ack": [r[1]]})).await;
    assert_eq!(queue.post("purge", json!({})).await.ok(), json!({"purged": 8, "remaining": false}));
    assert_eq!(queue.statuses(json!({"ack": [r[2]]})).await, ["lost"]);
    assert_eq!(values(&queue.lease(json!({"wait_ms": 200})).await), [0; 0]);
    assert_eq!(queue.counts().await, Counts::default());
}

#[tokio::test]
async fn a_seek_goes_back_and_forth() {
    let queue = Queue::new(api(), json!({})).await;
    queue.fill(6).await;
    let lease = queue.lease(json!({"max_records": 6})).await;
    queue.settle(json!({"ack": receipts(&lease)[..4]})).await;
    let at = |o: i64| json!({"offsets": [{"partition": 0, "offset": o}]});
    let sought = |o: i64| json!({"offsets": [{"partition": 0, "offset": o}], "remaining": false});
    assert_eq!(queue.post("seek", json!({"to": at(2)})).await.ok(), sought(2));
    assert_eq!(queue.statuses(json!({"ack": [receipts(&lease)[5]]})).await, ["lost"], "its leases ended");
    let again = queue.lease(json!({"max_records": 9})).await;
    assert_eq!(values(&again), [2, 3, 4, 5]);
    assert_eq!(again["records"][0]["attempt"], json!(1));
    for (to, offset) in [("earliest", 0), ("latest", 6)] {
        assert_eq!(queue.post("seek", json!({ "to": to })).await.ok(), sought(offset));
    }
    let stamp = lease["records"][0]["timestamp"].as_i64().unwrap();
    assert_eq!(queue.post("seek", json!({"to": {"timestamp": stamp}})).await.ok(), sought(0));
    queue.post("seek", json!({"to": at(7)})).await.problem(416, "offset_out_of_range");
    queue
        .post("seek", json!({"to": {"offsets": [{"partition": 5, "offset": 0}]}}))
        .await
        .problem(404, "partition_not_found");
    queue.post("seek", json!({"to": "nowhere"})).await.problem(400, "bad_request");
}

#[tokio::test]
async fn a_look_does_not_lease() {
    let queue = Queue::new(api(), json!({})).await;
    queue.fill(4).await;
    let lease = queue.lease(json!({"max_records": 2})).await;
    queue.settle(json!({"nack": [{"receipt": receipts(&lease)[0], "delay_ms": 0}]})).await;
    let peeked = queue.api.get(&format!("{}/peek", queue.path())).await.ok();
    assert_eq!(values(&peeked), [0, 2, 3]);
    assert_eq!(
        list(&queue.api.get(&format!("{}/peek?max_records=1", queue.path())).await.ok(), "records").len(),
        1
    );
    let in_flight = queue.list("in-flight").await;
    assert_eq!(in_flight.len(), 1);
    assert_eq!(in_flight[0]["offset"], json!(1));
    assert_eq!(in_flight[0]["deadline_ms"], lease["deadline_ms"]);
    assert_eq!(queue.counts().await, Counts { ready: 3, in_flight: 1, ..Counts::default() });
}

#[tokio::test]
async fn records_come_when_their_time_has_come_and_others_do_not_wait_for_them() {
    let queue = Queue::new(api(), json!({})).await;
    let records = json!([{"value": 0, "delay_ms": 900}, {"value": 1}, {"value": 2, "delay_ms": 3_600_000}]);
    queue.api.produce(&queue.topic, records).await.ok();
    queue.fill(0).await;
    queue.api.produce(&queue.topic, json!([{"value": 3}])).await.ok();
    let mut now = Vec::new();
    while now.len() < 2 {
        now.extend(values(&queue.lease(json!({"max_records": 9, "wait_ms": 5_000})).await));
    }
    now.sort_unstable();
    assert_eq!(now, [1, 3]);
    assert_eq!(queue.counts().await, Counts { delayed: 2, in_flight: 2, ..Counts::default() });
    assert_eq!(values(&queue.lease(json!({"max_records": 9, "wait_ms": 10_000})).await), [0]);
    assert_eq!(queue.list("waiting").await[0]["state"], json!("delayed"));
}

#[tokio::test]
async fn records_past_their_life_are_not_given_out() {
    let queue = Queue::new(api(), json!({})).await;
    queue
        .api
        .produce(
            &queue.topic,
            json!([{"value": 0, "ttl_ms": 1}, {"value": 1, "ttl_ms": 3_600_000}, {"value": 2, "ttl_ms": 1}]),
        )
        .await
        .ok();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let lease = queue.lease(json!({"max_records": 9, "wait_ms": 5_000})).await;
    assert_eq!(values(&lease), [1]);
    queue.settle(json!({"ack": receipts(&lease)})).await;
    assert_eq!(values(&queue.lease(json!({"max_records": 9})).await), [0; 0]);
    assert_eq!(queue.counts().await, Counts::default());
}

#[tokio::test]
async fn a_queue_goes_with_its_topic_and_a_later_one_shares_nothing() {
    let queue = Queue::new(api(), json!({})).await;
    queue.fill(2).await;
    let lease = queue.lease(json!({"max_records": 2})).await;
    assert_eq!(queue.api.delete(&queue.path()).await.status, 204);
    queue.put(json!({"topic": queue.topic})).await;
    assert_eq!(queue.statuses(json!({"ack": receipts(&lease)})).await, ["lost"; 2]);
    assert_eq!(values(&queue.lease(json!({"max_records": 9})).await), [0, 1], "a queue of its own");
    assert_eq!(queue.api.delete(&format!("/v1/topics/{}", queue.topic)).await.status, 204);
    queue.api.get(&queue.path()).await.problem(404, "queue_not_found");
}
