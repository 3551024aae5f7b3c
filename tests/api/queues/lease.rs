//! Queues are created and records are leased.

use crate::api;
use arrow_array::cast::AsArray;
use arrow_ipc::reader::StreamReader;
use millpond_tests::harness::client::{list, send};
use millpond_tests::harness::queue::{Counts, Queue, receipts, values};
use millpond_tests::harness::unique;
use reqwest::Method;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test]
async fn a_queue_is_made_changed_and_described() {
    let (api, name) = (api(), unique("emails"));
    let path = format!("/v1/queues/{name}");
    api.get(&path).await.problem(404, "queue_not_found");
    let made = api.put(&path, json!({})).await;
    assert_eq!(made.status, 201);
    let described = made.json();
    assert_eq!(
        (&described["queue"], &described["topic"], &described["mode"]),
        (&json!(name), &json!(name), &json!("shared"))
    );
    assert_eq!(
        described["retry"],
        json!({"base_ms": 1000, "factor": 2.0, "cap_ms": 3_600_000, "jitter": 0.2, "max_failures": 20})
    );
    assert_eq!(
        (&described["lease_ms"], &described["max_in_flight"], &described["rate"]),
        (&json!(30_000), &json!(20_000), &json!(null))
    );
    let changed = api
        .put(
            &path,
            json!({"lease_ms": 5_000, "retry": {"max_failures": 3}, "rate": {"limit": 10, "per_ms": 1000}}),
        )
        .await
        .ok();
    assert_eq!(
        (&changed["lease_ms"], &changed["retry"]["max_failures"], &changed["retry"]["base_ms"]),
        (&json!(5_000), &json!(3), &json!(1000))
    );
    let same = api.put(&path, json!({"rate": null})).await.ok();
    assert_eq!((&same["lease_ms"], &same["rate"]), (&json!(5_000), &json!(null)));
    for fixed in [json!({"topic": "another"}), json!({"mode": "keyed"}), json!({"from": "latest"})] {
        api.put(&path, fixed).await.problem(409, "invalid_change");
    }
    for wrong in [
        json!({"lease_ms": 1}),
        json!({"retry": {"factor": 0.5}}),
        json!({"retry": {"jitter": 2}}),
        json!({"retry": {"max_failures": 0}}),
        json!({"rate": {"limit": 0, "per_ms": 1}}),
        json!({"max_in_flight": 0}),
        json!({"unknown": 1}),
        json!({"mode": "other"}),
    ] {
        api.put(&path, wrong).await.problem(400, "bad_request");
    }
    let all = api.get("/v1/queues?limit=1000").await.ok();
    assert!(list(&all, "queues").iter().any(|q| q["queue"] == json!(name)));
    assert_eq!((&all["next"], &all["queues"][0]["approximate"]), (&json!(null), &json!([])));
    assert_eq!(api.delete(&path).await.status, 204);
    api.delete(&path).await.problem(404, "queue_not_found");
    send(api.request(Method::POST, &format!("{path}/leases")).json(&json!({})))
        .await
        .problem(404, "queue_not_found");
}

#[tokio::test]
async fn a_queue_begins_at_the_latest_record_if_it_is_told_so() {
    let (api, topic, name) = (api(), unique("old"), unique("late"));
    api.topic(&topic, 1).await;
    api.produce(&topic, json!([{"value": 0}])).await.ok();
    api.put(&format!("/v1/queues/{name}"), json!({"topic": topic, "from": "latest"})).await;
    let queue = Queue { api, name, topic };
    assert_eq!(values(&queue.lease(json!({})).await), [0; 0]);
    queue.api.produce(&queue.topic, json!([{"value": 1}])).await.ok();
    assert_eq!(values(&queue.lease(json!({"max_records": 10})).await), [1]);
}

#[tokio::test]
async fn what_is_leased_goes_to_nobody_else() {
    let queue = Queue::over(api(), 4, json!({})).await;
    let records: Vec<_> = (0..100).map(|n| json!({"value": n, "partition": n % 4})).collect();
    queue.api.produce(&queue.topic, json!(records)).await.ok();
    let mut seen = Vec::new();
    for _ in 0..20 {
        let lease = queue.lease(json!({"max_records": 7})).await;
        for record in list(&lease, "records") {
            assert_eq!(
                (&record["attempt"], &record["failures"], &record["topic"]),
                (&json!(1), &json!(0), &json!(queue.topic))
            );
        }
        assert!(lease["records"] == json!([]) || lease["deadline_ms"].as_i64() > lease["now_ms"].as_i64());
        seen.extend(values(&lease));
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
    assert_eq!(queue.counts().await, Counts { in_flight: 100, ..Counts::default() });
}

#[tokio::test]
async fn a_call_waits_for_a_record_and_no_longer() {
    let queue = Queue::new(api(), json!({})).await;
    let start = Instant::now();
    let empty = queue.lease(json!({"wait_ms": 300})).await;
    assert_eq!(
        (&empty["lease_id"], &empty["records"], &empty["limited_by"], &empty["deadline_ms"]),
        (&json!(null), &json!([]), &json!(null), &json!(null))
    );
    assert!(start.elapsed() >= Duration::from_millis(300));
    let produce = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        queue.fill(1).await;
    };
    let (lease, ()) = tokio::join!(queue.lease(json!({"wait_ms": 30_000})), produce);
    assert_eq!(values(&lease), [0]);
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn two_queues_on_one_topic_see_every_record_each() {
    let first = Queue::new(api(), json!({})).await;
    let second = Queue { api: api(), name: unique("second"), topic: first.topic.clone() };
    second.put(json!({"topic": first.topic})).await;
    first.fill(3).await;
    let (a, b) =
        (first.lease(json!({"max_records": 9})).await, second.lease(json!({"max_records": 9})).await);
    assert_eq!(values(&a), [0, 1, 2]);
    assert_eq!(values(&b), [0, 1, 2]);
    assert_eq!(first.statuses(json!({"ack": receipts(&b)})).await, ["lost"; 3], "receipts of another queue");
    assert_eq!(second.statuses(json!({"ack": receipts(&b)})).await, ["acked"; 3]);
    assert_eq!(first.counts().await, Counts { in_flight: 3, ..Counts::default() });
    assert_eq!(second.counts().await, Counts::default());
}

#[tokio::test]
async fn the_same_request_id_is_answered_the_same_lease() {
    let queue = Queue::new(api(), json!({})).await;
    queue.fill(10).await;
    let call = json!({"max_records": 4, "request_id": "r1"});
    let (first, again) = (queue.lease(call.clone()).await, queue.lease(call.clone()).await);
    assert_eq!(
        (&first["lease_id"], &first["deadline_ms"], receipts(&first)),
        (&again["lease_id"], &again["deadline_ms"], receipts(&again))
    );
    queue.settle(json!({"ack": [receipts(&first)[0], receipts(&first)[2]]})).await;
    assert_eq!(values(&queue.lease(call.clone()).await), [1, 3], "what is left of it");
    let call = json!({"max_records": 2, "request_id": "twins"});
    let (one, two) = tokio::join!(queue.lease(call.clone()), queue.lease(call.clone()));
    assert_eq!((values(&one), receipts(&one)), (vec![4, 5], receipts(&two)), "two at once");
    queue
        .settle(json!({"nack": [{"receipt": receipts(&one)[0], "delay_ms": 60_000}, {"receipt": receipts(&one)[1], "delay_ms": 60_000}]}))
        .await;
    let other = queue.lease(json!({"max_records": 4, "request_id": "r2"})).await;
    assert_eq!(values(&other), [6, 7, 8, 9]);
    let counts = queue.counts().await;
    assert_eq!(counts, Counts { retrying: 2, in_flight: 6, ..counts });
}

#[tokio::test]
async fn an_answer_keeps_within_the_bytes_asked_for() {
    let queue = Queue::new(api(), json!({})).await;
    let records: Vec<_> =
        (0..10).map(|n| json!({"value": n, "headers": {"pad": "x".repeat(1_000)}})).collect();
    queue.api.produce(&queue.topic, json!(records)).await.ok();
    let lease = queue.lease(json!({"max_records": 10, "max_bytes": 3_500})).await;
    assert_eq!(values(&lease), [0, 1, 2]);
    let tiny = queue.lease(json!({"max_records": 10, "max_bytes": 1})).await;
    assert_eq!(list(&tiny, "records").len(), 1, "the first is given though it is larger");
    let rest = queue.lease(json!({"max_records": 10})).await;
    let given: Vec<_> = list(&rest, "records").iter().map(|r| r["attempt"].as_i64()).collect();
    assert_eq!(given, [Some(1); 6], "what was beyond the bytes was not counted as handed out");
}

#[tokio::test]
async fn leases_come_as_arrow_too() {
    let queue = Queue::new(api(), json!({})).await;
    queue.fill(3).await;
    let request = queue
        .api
        .request(Method::POST, &format!("{}/leases", queue.path()))
        .header("accept", "application/vnd.apache.arrow.stream");
    let answer = send(request.json(&json!({"max_records": 3}))).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/vnd.apache.arrow.stream"));
    let reader = StreamReader::try_new(&answer.body[..], None).unwrap();
    let schema = reader.schema();
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(
        names,
        ["partition", "offset", "timestamp", "key", "value", "headers", "receipt", "attempt", "failures"]
    );
    assert!(
        schema.metadata()["deadline_ms"].parse::<i64>().unwrap()
            > schema.metadata()["now_ms"].parse::<i64>().unwrap()
    );
    let batch = reader.into_iter().next().unwrap().unwrap();
    let values: Vec<_> = batch["value"].as_binary::<i32>().iter().flatten().collect();
    assert_eq!(values, [b"0", b"1", b"2"]);
    let receipts: Vec<_> = batch["receipt"].as_string::<i32>().iter().flatten().collect();
    assert_eq!(queue.statuses(json!({"ack": receipts[..2]})).await, ["acked"; 2]);
    let lease = &schema.metadata()["lease_id"];
    assert_eq!(
        queue.settle(json!({"ack_leases": [lease]})).await,
        [json!({"lease_id": lease, "status": "acked", "records": 1})]
    );
}

#[tokio::test]
async fn a_worker_that_hangs_up_leaves_nothing_counted() {
    let queue = Queue::new(api(), json!({"lease_ms": 60_000})).await;
    let waiting = tokio::spawn(send(
        queue
            .api
            .request(Method::POST, &format!("{}/leases", queue.path()))
            .json(&json!({"wait_ms": 20_000})),
    ));
    tokio::time::sleep(Duration::from_millis(300)).await;
    waiting.abort();
    tokio::time::sleep(Duration::from_millis(200)).await;
    queue.fill(1).await;
    let lease = queue.lease(json!({"wait_ms": 10_000})).await;
    assert_eq!((&lease["records"][0]["attempt"], &lease["records"][0]["failures"]), (&json!(1), &json!(0)));
}

#[tokio::test]
async fn what_is_asked_wrongly_is_refused() {
    let queue = Queue::new(api(), json!({})).await;
    for wrong in [
        json!({"max_records": 0}),
        json!({"max_records": 1001}),
        json!({"max_bytes": 0}),
        json!({"wait_ms": 30_001}),
        json!({"lease_ms": 999}),
        json!({"request_id": ""}),
        json!({"unknown": true}),
    ] {
        queue.post("leases", wrong).await.problem(400, "bad_request");
    }
    let request = queue
        .api
        .request(Method::POST, &format!("{}/leases", queue.path()))
        .header("accept", "application/x-ndjson");
    send(request.json(&json!({}))).await.problem(406, "not_acceptable");
}
