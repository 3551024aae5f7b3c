//! Offsets of consumer groups: committed, reset, and committed together with records.

use super::api;
use millpond_tests::harness::client::{Answer, Api, send};
use millpond_tests::harness::member::{Member, offsets_of};
use millpond_tests::harness::unique;
use reqwest::Method;
use serde_json::{Value, json};

async fn filled(each: i64) -> (Api, String, String) {
    let (api, topic, group) = (api(), unique("committed"), unique("group"));
    api.topic(&topic, 2).await;
    let records: Vec<Value> =
        (0..2 * each).map(|n| json!({"value": n, "partition": n % 2, "timestamp": 1_000 + n / 2})).collect();
    api.produce(&topic, json!(records)).await.ok();
    (api, topic, group)
}

/// Committed offsets of the group in partitions 0 and 1.
async fn committed(api: &Api, group: &str) -> [Value; 2] {
    let described = api.get(&format!("/v1/groups/{group}")).await.ok();
    [0, 1].map(|p| {
        let partitions = described["partitions"].as_array().expect("a list");
        partitions
            .iter()
            .find(|row| row["partition"] == json!(p))
            .map_or(json!(null), |row| row["committed_offset"].clone())
    })
}

async fn batch(api: &Api, key: Option<&str>, body: &Value) -> Answer {
    let request = api.request(Method::POST, "/v1/batches").json(body);
    send(match key {
        Some(key) => request.header("idempotency-key", key),
        None => request,
    })
    .await
}

/// The `offsets` object of a batch.
fn of_batch(member: &Member, offsets: &[(&str, i64, i64)]) -> Value {
    let mut body = member.offsets(offsets);
    body["group"] = json!(member.group);
    body
}

#[tokio::test]
async fn a_commit_keeps_the_greater_offset() {
    let (api, topic, group) = filled(10).await;
    let member = Member::join(&api, &group, &[&topic], json!({})).await;
    let answer = member.commit(&api, &[(&topic, 1, 3), (&topic, 0, 7)]).await.ok();
    let row = |partition: i64, offset: i64| json!({"topic": topic, "partition": partition, "offset": offset});
    assert_eq!(answer, json!({"offsets": [row(0, 7), row(1, 3)]}));
    let answer = member.commit(&api, &[(&topic, 0, 2)]).await.ok();
    assert_eq!(answer, json!({"offsets": [row(0, 7)]}));
    assert_eq!(member.commit(&api, &[]).await.ok(), json!({"offsets": []}));
    assert_eq!(committed(&api, &group).await, [json!(7), json!(3)]);
}

#[tokio::test]
async fn a_member_that_lost_a_partition_is_fenced() {
    let (api, topic, group) = filled(10).await;
    let mut old = Member::join(&api, &group, &[&topic], json!({})).await;
    let mut new = Member::join(&api, &group, &[&topic], json!({})).await;
    let (_, lost) = new.assigned.first().unwrap().clone();
    let kept = 1 - lost;
    old.commit(&api, &[(&topic, lost, 5)]).await.problem(409, "generation_fenced");
    old.commit(&api, &[(&topic, kept, 5), (&topic, lost, 5)]).await.problem(409, "generation_fenced");
    assert_eq!(committed(&api, &group).await, [json!(null), json!(null)], "nothing of the call");
    old.commit(&api, &[(&topic, kept, 5)]).await.ok();
    let mut early = new.clone();
    early.generation = old.generation;
    early.commit(&api, &[(&topic, lost, 5)]).await.problem(409, "generation_fenced");
    new.commit(&api, &[(&topic, lost, 4)]).await.ok();
    new.poll(&api, json!({})).await;
    new.leave(&api).await;
    new.commit(&api, &[(&topic, lost, 6)]).await.problem(409, "generation_fenced");
    old.commit(&api, &[(&topic, lost, 6)]).await.problem(409, "generation_fenced");
    old.poll(&api, json!({})).await;
    old.commit(&api, &[(&topic, lost, 6)]).await.ok();
}

#[tokio::test]
async fn offsets_are_checked() {
    let (api, topic, group) = filled(10).await;
    let member = Member::join(&api, &group, &[&topic], json!({})).await;
    let problem = member.commit(&api, &[(&topic, 0, 11)]).await.problem(416, "offset_out_of_range");
    assert_eq!(problem["high_watermark"], json!(10));
    member.commit(&api, &[(&topic, 2, 0)]).await.problem(404, "partition_not_found");
    member.commit(&api, &[(&unique("none"), 0, 0)]).await.problem(404, "topic_not_found");
    member.commit(&api, &[(&topic, 0, -1)]).await.problem(400, "bad_request");
    member.commit(&api, &[(&topic, 0, 1), (&topic, 0, 2)]).await.problem(400, "bad_request");
    for (field, value) in [
        ("member_id", json!("x")),
        ("member_id", json!(null)),
        ("generation", json!(null)),
        ("more", json!(1)),
    ] {
        let mut body = member.offsets(&[(&topic, 0, 1)]);
        body[field] = value;
        offsets_of(&api, &group, body).await.problem(400, "bad_request");
    }
    for entry in [
        json!({"topic": topic, "offset": 1}),
        json!({"topic": topic, "partition": 0, "from": "latest"}),
        json!({"partition": 0}),
    ] {
        let mut body = member.offsets(&[]);
        body["offsets"] = json!([entry]);
        offsets_of(&api, &group, body).await.problem(400, "bad_request");
    }
    offsets_of(&api, &unique("none"), member.offsets(&[(&topic, 0, 1)]))
        .await
        .problem(404, "group_not_found");
    assert_eq!(committed(&api, &group).await, [json!(null), json!(null)]);
}

#[tokio::test]
async fn offsets_are_reset_while_the_group_is_empty() {
    let (api, topic, group) = filled(10).await;
    let reset = async |entries: Value| offsets_of(&api, &group, json!({"offsets": entries})).await;
    let row = |partition: i64, offset: i64| json!({"topic": topic, "partition": partition, "offset": offset});
    assert_eq!(reset(json!([row(1, 8)])).await.ok(), json!({"offsets": [row(1, 8)]}), "the group is made");
    assert_eq!(
        reset(json!([{"topic": topic, "from": "latest"}])).await.ok(),
        json!({"offsets": [row(0, 10), row(1, 10)]})
    );
    assert_eq!(
        reset(json!([{"topic": topic, "timestamp": 1_004}])).await.ok(),
        json!({"offsets": [row(0, 4), row(1, 4)]})
    );
    assert_eq!(
        reset(json!([{"topic": topic, "partition": 1, "from": "earliest"}])).await.ok(),
        json!({"offsets": [row(1, 0)]})
    );
    assert_eq!(committed(&api, &group).await, [json!(4), json!(0)]);
    reset(json!([row(0, 11)])).await.problem(416, "offset_out_of_range");
    reset(json!([row(2, 0)])).await.problem(404, "partition_not_found");
    reset(json!([{"topic": unique("none"), "from": "latest"}])).await.problem(404, "topic_not_found");
    reset(json!([{"topic": topic}])).await.problem(400, "bad_request");
    reset(json!([{"topic": topic, "from": "latest"}, row(0, 1)])).await.problem(400, "bad_request");
    let mut member = Member::join(&api, &group, &[&topic], json!({})).await;
    reset(json!([row(0, 1)])).await.problem(409, "group_not_empty");
    assert_eq!(member.drain(&api).await.len(), 16);
    member.leave(&api).await;
    reset(json!([row(0, 1)])).await.ok();
}

#[tokio::test]
async fn records_and_offsets_are_committed_together_or_not_at_all() {
    let (api, topic, group) = filled(10).await;
    let out = unique("out");
    api.topic(&out, 1).await;
    let member = Member::join(&api, &group, &[&topic], json!({})).await;
    let big = "x".repeat(40_000);
    for (n, value) in (1..).zip([json!("small"), json!(big)]) {
        let body = json!({"topics": {out.clone(): [{"value": value}]}, "offsets": of_batch(&member, &[(&topic, 0, n), (&topic, 1, n)])});
        let answer = batch(&api, None, &body).await.ok();
        assert_eq!(answer["results"][&out][0]["offset"], json!(n - 1));
        assert_eq!(committed(&api, &group).await, [json!(n), json!(n)]);
    }
    let other = Member::join(&api, &group, &[&topic], json!({})).await;
    let (_, lost) = other.assigned.first().unwrap().clone();
    let body = |offsets: Value| json!({"topics": {out.clone(): [{"value": "no"}]}, "offsets": offsets});
    let refused =
        async |offsets: Value, status, code| batch(&api, None, &body(offsets)).await.problem(status, code);
    refused(of_batch(&member, &[(&topic, lost, 9)]), 409, "generation_fenced").await;
    refused(of_batch(&other, &[(&topic, lost, 11)]), 416, "offset_out_of_range").await;
    refused(of_batch(&other, &[(&topic, 7, 1)]), 404, "partition_not_found").await;
    refused(of_batch(&other, &[(&unique("none"), 0, 1)]), 404, "topic_not_found").await;
    let mut unknown = of_batch(&other, &[(&topic, lost, 9)]);
    unknown["group"] = json!(unique("none"));
    refused(unknown.clone(), 404, "group_not_found").await;
    unknown["group"] = json!("a b");
    refused(unknown, 400, "bad_request").await;
    refused(json!({"group": group}), 400, "bad_request").await;
    // A bad record does not leave offsets behind either.
    let bad = json!({"topics": {out.clone(): [{"value": 1, "partition": 5}]}, "offsets": of_batch(&other, &[(&topic, lost, 9)])});
    batch(&api, None, &bad).await.problem(404, "partition_not_found");
    assert_eq!((api.topic_log(&out).await.len(), committed(&api, &group).await), (2, [json!(2), json!(2)]));
}

#[tokio::test]
async fn a_batch_may_hold_offsets_alone() {
    let (api, topic, group) = filled(10).await;
    let member = Member::join(&api, &group, &[&topic], json!({})).await;
    let offsets = of_batch(&member, &[(&topic, 0, 3)]);
    assert_eq!(batch(&api, None, &json!({"offsets": offsets})).await.ok(), json!({"results": {}}));
    let empty = json!({"topics": {topic.clone(): []}, "offsets": of_batch(&member, &[(&topic, 1, 4)])});
    assert_eq!(batch(&api, None, &empty).await.ok(), json!({"results": {topic.clone(): []}}));
    assert_eq!(committed(&api, &group).await, [json!(3), json!(4)]);
}

#[tokio::test]
async fn the_retry_of_a_batch_is_answered_as_the_first() {
    let (api, topic, group) = filled(10).await;
    let (out, key) = (unique("out"), unique("key"));
    let member = Member::join(&api, &group, &[&topic], json!({})).await;
    let body =
        json!({"topics": {out.clone(): [{"value": 1}]}, "offsets": of_batch(&member, &[(&topic, 0, 5)])});
    let first = batch(&api, Some(&key), &body).await.ok();
    let alone = json!({"offsets": of_batch(&member, &[(&topic, 1, 5)])});
    let lone_key = unique("key");
    assert!(batch(&api, Some(&lone_key), &alone).await.ok().get("duplicate").is_none());
    member.leave(&api).await;
    // The member is gone and the offsets have changed; the answer is the same.
    offsets_of(&api, &group, json!({"offsets": [{"topic": topic, "from": "earliest"}]})).await.ok();
    let again = batch(&api, Some(&key), &body).await.ok();
    assert_eq!(
        (&again["duplicate"], &again["results"][&out][0]["offset"]),
        (&json!(true), &first["results"][&out][0]["offset"])
    );
    assert_eq!(batch(&api, Some(&lone_key), &alone).await.ok()["duplicate"], json!(true));
    assert_eq!((api.topic_log(&out).await.len(), committed(&api, &group).await), (1, [json!(0), json!(0)]));
    batch(&api, Some(&unique("key")), &body).await.problem(409, "generation_fenced");
    let other = json!({"topics": {out.clone(): [{"value": 2}]}});
    batch(&api, Some(&key), &other).await.problem(409, "idempotency_conflict");
    // Nor does it matter that the topic of the offsets was deleted.
    assert_eq!(api.delete(&format!("/v1/topics/{topic}")).await.status, 204);
    for (key, body) in [(&key, &body), (&lone_key, &alone)] {
        assert_eq!(batch(&api, Some(key), body).await.ok()["duplicate"], json!(true));
        batch(&api, Some(&unique("key")), body).await.problem(404, "topic_not_found");
    }
    let unknown = json!({"offsets": of_batch(&member, &[(&out, 99, 0)])});
    batch(&api, Some(&unique("key")), &unknown).await.problem(404, "partition_not_found");
}
