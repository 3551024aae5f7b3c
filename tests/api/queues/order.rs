//! Keyed queues: the records of one key are handed out one after the other.

use crate::api;
use millpond_tests::harness::client::list;
use millpond_tests::harness::queue::{Counts, Queue, receipts, values};
use serde_json::{Value, json};

fn keys(lease: &Value) -> Vec<String> {
    list(lease, "records").iter().map(|r| r["key"].as_str().unwrap_or("").to_owned()).collect()
}

#[tokio::test]
async fn records_of_one_key_come_one_after_the_other() {
    let queue = Queue::new(api(), json!({"mode": "keyed"})).await;
    let records: Vec<Value> = (0..12).map(|n| json!({"key": format!("k{}", n % 3), "value": n})).collect();
    queue.api.produce(&queue.topic, json!(records)).await.ok();
    for round in 0..4 {
        let mut lease = queue.lease(json!({"max_records": 10, "wait_ms": 5_000})).await;
        // An admission may make the first keys ready before the others.
        while list(&lease, "records").len() < 3 {
            let more = queue.lease(json!({"max_records": 10, "wait_ms": 5_000})).await;
            lease["records"].as_array_mut().unwrap().extend(list(&more, "records").clone());
        }
        let mut got = values(&lease);
        got.sort_unstable();
        assert_eq!(got, [3 * round, 3 * round + 1, 3 * round + 2]);
        assert_eq!(values(&queue.lease(json!({"max_records": 10})).await), [0; 0], "all keys are taken");
        assert_eq!(queue.statuses(json!({"ack": receipts(&lease)})).await, ["acked"; 3]);
    }
    assert_eq!(queue.counts().await, Counts::default());
}

#[tokio::test]
async fn a_blocked_key_blocks_only_itself_and_keeps_its_order() {
    let queue = Queue::new(api(), json!({"mode": "keyed", "retry": {"max_failures": 2}})).await;
    let records = json!([{"key": "a", "value": 0}, {"key": "a", "value": 1}, {"key": "b", "value": 2}, {"key": "b", "value": 3}, {"value": 4}, {"value": 5}]);
    queue.api.produce(&queue.topic, records).await.ok();
    let mut first = Vec::new();
    while first.len() < 4 {
        let lease = queue.lease(json!({"max_records": 9, "wait_ms": 5_000})).await;
        first.extend(list(&lease, "records").clone());
    }
    let value_of = |v: i64| {
        first.iter().find(|r| r["value"] == json!(v)).unwrap_or_else(|| panic!("no {v} in {first:?}"))["receipt"].clone()
    };
    let told =
        queue.statuses(json!({"nack": [{"receipt": value_of(0), "delay_ms": 500}], "ack": [value_of(2), value_of(4), value_of(5)]})).await;
    assert_eq!(told, ["acked", "acked", "acked", "released"]);
    let next = queue.lease(json!({"max_records": 9, "wait_ms": 5_000})).await;
    assert_eq!((keys(&next), values(&next)), (vec!["b".to_owned()], vec![3]), "a waits, b goes on");
    let again = queue.lease(json!({"max_records": 9, "wait_ms": 10_000})).await;
    assert_eq!((values(&again), &again["records"][0]["failures"]), (vec![0], &json!(1)));
    assert_eq!(queue.statuses(json!({"nack": [{"receipt": receipts(&again)[0]}]})).await, ["dead"]);
    let after = queue.lease(json!({"max_records": 9, "wait_ms": 10_000})).await;
    assert_eq!(values(&after), [1], "the dead one no longer blocks its key");
    // A redriven record waits while a later record of its key is held.
    queue.post("dead/redrive", json!({})).await.ok();
    assert_eq!(values(&queue.lease(json!({"max_records": 9, "wait_ms": 300})).await), [0; 0]);
    queue.settle(json!({"ack": receipts(&after)})).await;
    assert_eq!(values(&queue.lease(json!({"max_records": 9, "wait_ms": 5_000})).await), [0]);
}

#[tokio::test]
async fn a_key_is_one_key_however_much_there_is_of_it() {
    let queue = Queue::new(api(), json!({"mode": "keyed"})).await;
    // More than one read returns.
    let big = "x".repeat(1_000_000);
    for _ in 0..6 {
        let records: Vec<Value> = (0..7).map(|_| json!({"key": "k", "text": big})).collect();
        queue.api.produce(&queue.topic, json!(records)).await.ok();
    }
    let mut offsets = Vec::new();
    while offsets.len() < 42 {
        let lease =
            queue.lease(json!({"max_records": 100, "max_bytes": 16_777_216, "wait_ms": 10_000})).await;
        assert_eq!(list(&lease, "records").len(), 1, "one record of a key at a time");
        offsets.push(lease["records"][0]["offset"].as_i64().unwrap());
        assert_eq!(
            list(&queue.lease(json!({"max_records": 100, "max_bytes": 16_777_216})).await, "records").len(),
            0
        );
        queue.settle(json!({"ack": receipts(&lease)})).await;
    }
    assert_eq!(offsets, (0..42).collect::<Vec<_>>());
}
