//! Settlements: verdicts, retries, dead records.

use crate::api;
use millpond_tests::harness::client::list;
use millpond_tests::harness::queue::{Counts, Queue, receipts, values};
use serde_json::{Value, json};

#[tokio::test]
async fn one_call_settles_in_every_way() {
    let queue = Queue::new(api(), json!({"retry": {"base_ms": 60_000, "jitter": 0}})).await;
    queue.fill(6).await;
    let lease = queue.lease(json!({"max_records": 6})).await;
    let r = receipts(&lease);
    let body = json!({
        "ack": [r[0]],
        "nack": [{"receipt": r[1], "delay_ms": 0, "reason": "smtp 451"}, {"receipt": r[2], "counts": false}],
        "renew": [{"receipt": r[3], "lease_ms": 120_000}],
        "reject": [{"receipt": r[4], "reason": "schema"}],
        "ack_leases": [lease["lease_id"]],
    });
    let results = queue.settle(body).await;
    let statuses: Vec<_> = results.iter().map(|r| r["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["acked", "released", "released", "renewed", "dead", "acked"]);
    assert!(results[3]["deadline_ms"].as_i64().unwrap() > lease["deadline_ms"].as_i64().unwrap() + 60_000);
    assert_eq!(
        results[5],
        json!({"lease_id": lease["lease_id"], "status": "acked", "records": 1}),
        "what no receipt named"
    );
    let again = queue.lease(json!({"max_records": 9, "wait_ms": 5_000})).await;
    let mut history: Vec<_> = list(&again, "records")
        .iter()
        .map(|r| json!({"value": r["value"], "attempt": r["attempt"], "failures": r["failures"]}))
        .collect();
    history.sort_by_key(|record| record["value"].as_i64());
    assert_eq!(
        history,
        [json!({"value": 1, "attempt": 2, "failures": 1}), json!({"value": 2, "attempt": 2, "failures": 0})]
    );
    let dead = queue.list("dead").await;
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0]["reason"], json!("schema"));
    assert_eq!(dead[0]["failures"], json!(0));
    assert_eq!(dead[0]["record"]["value"], json!(4));
    assert_eq!(queue.counts().await, Counts { in_flight: 3, dead: 1, ..Counts::default() });
}

#[tokio::test]
async fn late_double_foreign_and_forged_receipts_change_nothing() {
    let queue = Queue::new(api(), json!({})).await;
    queue.fill(2).await;
    let lease = queue.lease(json!({"max_records": 2})).await;
    let r = receipts(&lease);
    let mut forged = r[1].clone().into_bytes();
    forged[10] = if forged[10] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();
    let body = json!({"ack": [r[0], r[0], forged, "mp1.nonsense", ""], "nack": [{"receipt": r[0]}]});
    assert_eq!(queue.statuses(body).await, ["acked", "lost", "lost", "lost", "lost", "lost"]);
    assert_eq!(
        queue.statuses(json!({"ack": [r[0]], "renew": [{"receipt": r[0]}]})).await,
        ["lost", "lost"],
        "once settled, settled"
    );
    let whole = json!({"ack_leases": ["00000000-0000-0000-0000-000000000000", "no uuid"], "renew_leases": [{"lease_id": lease["lease_id"], "lease_ms": 5_000}]});
    let results = queue.settle(whole).await;
    let told: Vec<_> =
        results.iter().map(|r| (r["status"].as_str().unwrap(), r["records"].as_i64().unwrap())).collect();
    assert_eq!(told, [("lost", 0), ("lost", 0), ("renewed", 1)]);
    assert_eq!(queue.counts().await, Counts { in_flight: 1, ..Counts::default() });
}

#[tokio::test]
async fn a_lease_that_runs_out_is_a_failure_and_its_receipt_is_lost() {
    let queue = Queue::new(api(), json!({"lease_ms": 1_000, "retry": {"base_ms": 0}})).await;
    queue.fill(1).await;
    let first = queue.lease(json!({})).await;
    let second = queue.lease(json!({"wait_ms": 10_000})).await;
    assert_eq!((&second["records"][0]["attempt"], &second["records"][0]["failures"]), (&json!(2), &json!(1)));
    assert_eq!(queue.statuses(json!({"ack": receipts(&first)})).await, ["lost"]);
    assert_eq!(queue.statuses(json!({"ack": receipts(&second)})).await, ["acked"]);
    assert_eq!(queue.counts().await, Counts::default());
}

#[tokio::test]
async fn a_lease_that_is_renewed_does_not_run_out() {
    let queue = Queue::new(api(), json!({"lease_ms": 1_000, "retry": {"base_ms": 0}})).await;
    queue.fill(2).await;
    let lease = queue.lease(json!({"max_records": 2})).await;
    for _ in 0..4 {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let renewed = queue.settle(json!({"renew_leases": [lease["lease_id"]]})).await;
        assert_eq!((&renewed[0]["status"], &renewed[0]["records"]), (&json!("renewed"), &json!(2)));
    }
    assert_eq!(queue.statuses(json!({"ack": receipts(&lease)})).await, ["acked"; 2]);
}

#[tokio::test]
async fn a_record_is_dead_exactly_at_the_limit() {
    let queue = Queue::new(api(), json!({"retry": {"base_ms": 0, "max_failures": 3}})).await;
    queue.fill(1).await;
    for failure in 1..=3 {
        let lease = queue.lease(json!({"wait_ms": 5_000})).await;
        assert_eq!(lease["records"][0]["failures"], json!(failure - 1));
        let released =
            queue.statuses(json!({"nack": [{"receipt": receipts(&lease)[0], "counts": false}]})).await;
        assert_eq!(released, ["released"], "that does not count");
        let lease = queue.lease(json!({"wait_ms": 5_000})).await;
        let told = queue
            .statuses(
                json!({"nack": [{"receipt": receipts(&lease)[0], "reason": format!("failure {failure}")}]}),
            )
            .await;
        assert_eq!(told, [if failure == 3 { "dead" } else { "released" }]);
    }
    let dead = queue.list("dead").await;
    assert_eq!(
        (&dead[0]["failures"], &dead[0]["attempt"], &dead[0]["reason"]),
        (&json!(3), &json!(6), &json!("failure 3"))
    );
    assert_eq!(values(&queue.lease(json!({"wait_ms": 300})).await), [0; 0]);
}

#[tokio::test]
async fn a_nacked_record_waits_for_its_delay() {
    let queue = Queue::new(api(), json!({})).await;
    queue.fill(1).await;
    let lease = queue.lease(json!({})).await;
    queue
        .settle(json!({"nack": [{"receipt": receipts(&lease)[0], "delay_ms": 700, "reason": "later"}]}))
        .await;
    let waiting = queue.list("waiting").await;
    assert_eq!(
        (&waiting[0]["state"], &waiting[0]["reason"], &waiting[0]["record"]["value"]),
        (&json!("retrying"), &json!("later"), &json!(0))
    );
    assert_eq!(queue.counts().await, Counts { retrying: 1, ..Counts::default() });
    assert_eq!(values(&queue.lease(json!({})).await), [0; 0]);
    let again = queue.lease(json!({"wait_ms": 10_000})).await;
    assert!(
        again["now_ms"].as_i64().unwrap() >= waiting[0]["due_at_ms"].as_i64().unwrap(),
        "not before its time"
    );
}

#[tokio::test]
async fn the_same_settlement_is_answered_the_same() {
    let queue = Queue::new(api(), json!({"retry": {"base_ms": 60_000}})).await;
    queue.fill(3).await;
    let lease = queue.lease(json!({"max_records": 3})).await;
    let r = receipts(&lease);
    let body = json!({"request_id": "s1", "ack": [r[0], "mp1.nonsense"], "nack": [{"receipt": r[1]}], "ack_leases": [lease["lease_id"]]});
    let first = queue.settle(body.clone()).await;
    let statuses: Vec<_> = first.iter().map(|r| r["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["acked", "lost", "released", "acked"]);
    for _ in 0..3 {
        assert_eq!(queue.settle(body.clone()).await, first);
    }
    let another = json!({"request_id": "s1", "ack": [r[2]]});
    assert_eq!(
        queue.statuses(another).await,
        ["lost"],
        "another body under the same id is another settlement"
    );
    let mut without: Value = body.clone();
    without.as_object_mut().unwrap().remove("request_id");
    let told = queue.statuses(without).await;
    assert_eq!(told, ["lost"; 4]);
}

#[tokio::test]
async fn what_is_asked_wrongly_is_refused() {
    let queue = Queue::new(api(), json!({})).await;
    for wrong in [
        json!({"nack": [{"receipt": "x", "delay_ms": -1}]}),
        json!({"renew": [{"receipt": "x", "lease_ms": 1}]}),
        json!({"request_id": "x".repeat(200)}),
        json!({"ack": [1]}),
        json!({"acks": []}),
        json!({"ack": vec!["x"; 10_001]}),
    ] {
        queue.post("settlements", wrong).await.problem(400, "bad_request");
    }
    assert_eq!(queue.settle(json!({})).await.len(), 0);
}
