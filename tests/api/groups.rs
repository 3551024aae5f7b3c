//! `/v1/groups`: members, their partitions, and their polls.

use super::api;
use millpond_tests::harness::client::{Api, list, send};
use millpond_tests::harness::member::{Member, assigned, join, place};
use millpond_tests::harness::unique;
use millpond_tests::harness::wait::{until, within};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// Produces records whose values name their partition and position.
async fn fill(api: &Api, topic: &str, partitions: i64, each: i64) {
    let records: Vec<Value> = (0..partitions)
        .flat_map(|p| (0..each).map(move |n| json!({"value": [p, n], "partition": p})))
        .collect();
    api.produce(topic, json!(records)).await.ok();
}

async fn filled(partitions: i32, each: i64) -> (Api, String, String) {
    let (api, topic, group) = (api(), unique("read-in-groups"), unique("group"));
    api.topic(&topic, partitions).await;
    if each > 0 {
        fill(&api, &topic, i64::from(partitions), each).await;
    }
    (api, topic, group)
}

fn numbers(member: &Member) -> Vec<i64> {
    member.assigned.iter().map(|(_, p)| *p).collect()
}

#[tokio::test]
async fn one_member_reads_everything_in_the_order_of_each_partition() {
    let (api, topic, group) = filled(3, 40).await;
    let mut member = Member::join(&api, &group, &[&topic], json!({"client_id": "w1"})).await;
    assert_eq!(numbers(&member), [0, 1, 2]);
    let (mut next, mut begins) = ([0; 3], BTreeSet::new());
    loop {
        let records = member.poll(&api, json!({"max_records": 7})).await;
        let Some(first) = records.first() else { break };
        assert!(records.len() <= 7);
        begins.insert(place(first).1);
        for record in &records {
            let (name, partition, offset) = place(record);
            assert_eq!((name, &record["value"]), (topic.clone(), &json!([partition, offset])));
            let at = &mut next[usize::try_from(partition).unwrap()];
            assert_eq!(offset, *at);
            *at += 1;
        }
    }
    assert_eq!((next, begins.len()), ([40; 3], 3), "each partition has its turn");
}

#[tokio::test]
async fn the_same_position_gives_the_same_records_again() {
    let (api, topic, group) = filled(2, 30).await;
    let mut member = Member::join(&api, &group, &[&topic], json!({})).await;
    for _ in 0..3 {
        let limits = json!({"max_records": 9});
        let (first, again) = (
            member.poll_again(&api, limits.clone()).await.ok(),
            member.poll_again(&api, limits.clone()).await.ok(),
        );
        assert_eq!(first, again);
        assert_eq!(list(&first, "records").len(), 9);
        member.take(&first);
    }
    // As NDJSON: the same records, and the other fields in the last line.
    let request = api
        .request(Method::POST, &format!("{}/poll", member.path()))
        .header("accept", "application/x-ndjson");
    let lines = send(request.json(&json!({"after": member.after, "max_records": 9}))).await.lines();
    let json = member.poll_again(&api, json!({"max_records": 9})).await.ok();
    assert_eq!(lines[..9], list(&json, "records")[..]);
    assert_eq!((&lines[9]["next"], assigned(&lines[9])), (&json["next"], member.assigned.clone()));
    let request = api
        .request(Method::POST, &format!("{}/poll", member.path()))
        .header("accept", "application/vnd.apache.arrow.stream");
    send(request.json(&json!({}))).await.problem(406, "not_acceptable");
}

#[tokio::test]
async fn partitions_are_shared_and_move_only_where_they_must() {
    let (api, topic, group) = filled(8, 0).await;
    let mut a = Member::join(&api, &group, &[&topic], json!({})).await;
    let mut b = Member::join(&api, &group, &[&topic], json!({})).await;
    assert!(b.generation > a.generation);
    a.poll(&api, json!({})).await;
    assert_eq!((a.assigned.len(), b.assigned.len(), a.generation), (4, 4, b.generation));
    assert!(a.assigned.is_disjoint(&b.assigned));
    let (of_a, of_b) = (a.assigned.clone(), b.assigned.clone());
    let mut c = Member::join(&api, &group, &[&topic], json!({})).await;
    a.poll(&api, json!({})).await;
    b.poll(&api, json!({})).await;
    assert_eq!(c.assigned.len(), 2);
    assert!(a.assigned.is_subset(&of_a) && b.assigned.is_subset(&of_b));
    let (of_a, of_c) = (a.assigned.clone(), c.assigned.clone());
    assert_eq!(b.leave(&api).await.status, 204);
    b.leave(&api).await.problem(404, "member_not_found");
    b.poll_again(&api, json!({})).await.problem(404, "member_not_found");
    a.poll(&api, json!({})).await;
    c.poll(&api, json!({})).await;
    assert!(of_a.is_subset(&a.assigned) && of_c.is_subset(&c.assigned));
    assert_eq!(a.assigned.len(), 4);
    assert_eq!(c.assigned.len(), 4);
}

#[tokio::test]
async fn members_may_subscribe_to_different_topics() {
    let (api, first, group) = filled(4, 1).await;
    let second = unique("read-in-groups");
    api.topic(&second, 2).await;
    fill(&api, &second, 2, 1).await;
    let mut a = Member::join(&api, &group, &[&first], json!({})).await;
    let mut b = Member::join(&api, &group, &[&first, &second, &first], json!({})).await;
    assert!(b.drain(&api).await.iter().any(|r| r["topic"] == json!(second)));
    a.drain(&api).await;
    assert_eq!(a.assigned.len(), 3);
    assert_eq!(b.assigned.len(), 3);
    assert!(a.assigned.iter().all(|(topic, _)| *topic == first));
}

#[tokio::test]
async fn without_a_position_reading_starts_where_the_group_is() {
    let (api, topic, group) = filled(1, 10).await;
    let mut late = Member::join(&api, &group, &[&topic], json!({"from": "latest"})).await;
    assert!(late.poll(&api, json!({})).await.is_empty());
    api.produce(&topic, json!([{"value": "new", "partition": 0}])).await.ok();
    assert_eq!(late.poll(&api, json!({})).await.len(), 1, "its position is where it began");
    late.leave(&api).await;
    let mut member = Member::join(&api, &group, &[&topic], json!({"from": "earliest"})).await;
    assert_eq!(member.poll(&api, json!({"max_records": 3})).await.len(), 3);
    member.commit(&api, &[(&topic, 0, 2)]).await.ok();
    let rest = member.drain(&api).await;
    assert_eq!(place(&rest[0]).2, 3, "what was committed does not move who reads");
    member.after = None;
    assert_eq!(place(&member.poll(&api, json!({})).await[0]).2, 2);
    member.leave(&api).await;
    let mut heir = Member::join(&api, &group, &[&topic], json!({"from": "latest"})).await;
    assert_eq!(place(&heir.poll(&api, json!({})).await[0]).2, 2);
}

#[tokio::test]
async fn a_poll_waits_for_records() {
    let (api, topic, group) = filled(2, 0).await;
    let mut member = Member::join(&api, &group, &[&topic], json!({})).await;
    let (other, waiter) = (api.clone(), member.clone());
    let waiting = tokio::spawn(async move { waiter.poll_again(&other, json!({"wait_ms": 30_000})).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    api.produce(&topic, json!([{"value": 1}])).await.ok();
    let answer = within(20, "the poll", waiting).await.unwrap().ok();
    assert_eq!(member.take(&answer).len(), 1);
    assert!(member.poll(&api, json!({"wait_ms": 200})).await.is_empty());
}

#[tokio::test]
async fn a_waiting_poll_returns_when_the_generation_changes() {
    let (api, topic, group) = filled(4, 0).await;
    let mut member = Member::join(&api, &group, &[&topic], json!({})).await;
    let wait = |member: &Member| {
        let (api, member) = (api.clone(), member.clone());
        tokio::spawn(async move { member.poll_again(&api, json!({"wait_ms": 30_000})).await })
    };
    member.poll(&api, json!({})).await;
    let before = member.after.clone();
    let waiting = wait(&member);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let second = Member::join(&api, &group, &[&topic], json!({"session_ms": 5_000})).await;
    let answer = within(20, "the join to be noticed", waiting).await.unwrap().ok();
    assert!(member.take(&answer).is_empty());
    assert_eq!((member.generation, member.assigned.len()), (second.generation, 2));
    // A change between two polls is also reported at once.
    let waiting =
        within(20, "the news", wait(&Member { after: before, ..member.clone() })).await.unwrap().ok();
    assert!(waiting["generation"].as_i64() >= Some(second.generation));
    // The second member never polls: the first one notices its end while it waits.
    let answer = within(20, "the death to be noticed", wait(&member)).await.unwrap().ok();
    member.take(&answer);
    assert_eq!(member.assigned.len(), 4);
    second.poll_again(&api, json!({})).await.problem(404, "member_not_found");
    // So is growth of the topic.
    let waiting = wait(&member);
    tokio::time::sleep(Duration::from_millis(200)).await;
    api.topic(&topic, 6).await;
    let answer = within(20, "the growth to be noticed", waiting).await.unwrap().ok();
    member.take(&answer);
    assert_eq!(member.assigned.len(), 6);
}

#[tokio::test]
async fn polling_keeps_the_session_and_silence_ends_it() {
    let (api, topic, group) = filled(1, 1).await;
    let mut member = Member::join(&api, &group, &[&topic], json!({"session_ms": 1_500})).await;
    // The poll lasts longer than the session, which is renewed meanwhile.
    member.drain(&api).await;
    assert!(member.poll(&api, json!({"wait_ms": 4_000})).await.is_empty());
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = member.after.clone();
        assert!(
            member.poll(&api, json!({"max_records": 0, "wait_ms": 30_000})).await.is_empty(),
            "it only renews, and does not wait"
        );
        assert_eq!(member.after, before);
    }
    let seen = |described: Value| list(&described, "members").len();
    assert_eq!(seen(api.get(&format!("/v1/groups/{group}")).await.ok()), 1);
    until(30, "the end of the session", || async {
        (seen(api.get(&format!("/v1/groups/{group}")).await.ok()) == 0).then_some(())
    })
    .await;
    member.poll_again(&api, json!({})).await.problem(404, "member_not_found");
    member.leave(&api).await.problem(404, "member_not_found");
}

#[tokio::test]
async fn a_later_topic_of_the_name_begins_anew() {
    let (api, topic, group) = filled(2, 5).await;
    let mut member = Member::join(&api, &group, &[&topic], json!({})).await;
    assert_eq!(member.drain(&api).await.len(), 10);
    member.commit(&api, &[(&topic, 0, 5), (&topic, 1, 5)]).await.ok();
    assert_eq!(api.delete(&format!("/v1/topics/{topic}")).await.status, 204);
    assert!(member.poll(&api, json!({})).await.is_empty());
    assert!(member.assigned.is_empty());
    member.commit(&api, &[(&topic, 0, 5)]).await.problem(404, "topic_not_found");
    api.topic(&topic, 2).await;
    fill(&api, &topic, 2, 3).await;
    assert_eq!(member.drain(&api).await.len(), 6, "its position is not taken over");
    let described = api.get(&format!("/v1/groups/{group}")).await.ok();
    assert!(
        list(&described, "partitions").iter().all(|p| p["committed_offset"] == json!(null)),
        "{described}"
    );
}

#[tokio::test]
async fn joining_makes_topics_and_takes_what_is_valid() {
    let (api, topic, group) = (api(), unique("made-by-joining"), unique("group"));
    let member =
        Member::join(&api, &group, &[&topic], json!({"session_ms": 1_800_000, "client_id": "c"})).await;
    assert_eq!(member.assigned.len(), 8);
    let names: Vec<String> = (0..65).map(|n| format!("{topic}-{n}")).collect();
    for (topics, more) in [
        (vec![], json!({})),
        (vec!["a b"], json!({})),
        (names.iter().map(String::as_str).collect(), json!({})),
        (vec![&*topic], json!({"session_ms": 999})),
        (vec![&*topic], json!({"session_ms": 1_800_001})),
        (vec![&*topic], json!({"session_ms": "1"})),
        (vec![&*topic], json!({"from": "somewhere"})),
        (vec![&*topic], json!({"client_id": "x".repeat(257)})),
        (vec![&*topic], json!({"member": 1})),
    ] {
        join(&api, &group, &topics, more.clone()).await.problem(400, "bad_request");
    }
    join(&api, "a%20b", &[&topic], json!({})).await.problem(400, "bad_request");
    for body in [
        json!({"after": "?"}),
        json!({"after": 1}),
        json!({"max_records": 100_001}),
        json!({"max_records": -1}),
        json!({"max_bytes": 0}),
        json!({"wait_ms": 30_001}),
        json!({"unknown": 1}),
    ] {
        member.poll_again(&api, body.clone()).await.problem(400, "bad_request");
    }
    let other = Member::join(&api, &unique("group"), &[&topic], json!({})).await;
    let foreign = other.poll_again(&api, json!({})).await.ok()["next"].clone();
    member.poll_again(&api, json!({"after": foreign})).await.problem(400, "bad_request");
    for id in ["x", "0190b6a0-0000-7000-8000-000000000000"] {
        let path = format!("/v1/groups/{group}/members/{id}/poll");
        send(api.request(Method::POST, &path).json(&json!({}))).await.problem(404, "member_not_found");
    }
    let path = format!("/v1/groups/{}/members/{}/poll", unique("none"), member.id);
    send(api.request(Method::POST, &path).json(&json!({}))).await.problem(404, "group_not_found");
}

#[tokio::test]
async fn groups_are_listed_described_and_forgotten() {
    let (api, topic, group) = filled(2, 10).await;
    api.get(&format!("/v1/groups/{group}")).await.problem(404, "group_not_found");
    api.delete(&format!("/v1/groups/{group}")).await.problem(404, "group_not_found");
    let mut member =
        Member::join(&api, &group, &[&topic], json!({"client_id": "w1", "from": "latest"})).await;
    member.commit(&api, &[(&topic, 1, 4)]).await.ok();
    let described = api.get(&format!("/v1/groups/{group}")).await.ok();
    let one = &described["members"][0];
    assert_eq!(
        (&one["member_id"], &one["client_id"], &one["from"]),
        (&json!(member.id), &json!("w1"), &json!("latest"))
    );
    assert_eq!(
        (&one["topics"], &one["session_ms"], assigned(one)),
        (&json!([topic]), &json!(30_000), member.assigned.clone())
    );
    assert_eq!((&described["group"], &described["generation"]), (&json!(group), &json!(member.generation)));
    let row = |partition: i32, committed: Value, lag: Value, owner: Value| {
        json!({"topic": topic, "partition": partition, "member_id": owner, "committed_offset": committed, "log_start_offset": 0,
            "high_watermark": 10, "lag": lag})
    };
    assert_eq!(
        described["partitions"],
        json!([
            row(0, json!(null), json!(null), json!(member.id)),
            row(1, json!(4), json!(6), json!(member.id))
        ])
    );
    let all = api.get("/v1/groups").await.ok();
    let mut own = list(&all, "groups").iter().filter(|g| g["group"] == json!(group));
    assert_eq!(own.next().unwrap()["partitions"], described["partitions"]);
    api.delete(&format!("/v1/groups/{group}")).await.problem(409, "group_not_empty");
    member.poll(&api, json!({"max_records": 0})).await;
    assert_eq!(member.leave(&api).await.status, 204);
    let described = api.get(&format!("/v1/groups/{group}")).await.ok();
    assert_eq!(
        (&described["members"], &described["partitions"]),
        (&json!([]), &json!([row(1, json!(4), json!(6), json!(null))]))
    );
    assert_eq!(api.delete(&format!("/v1/groups/{group}")).await.status, 204);
    api.get(&format!("/v1/groups/{group}")).await.problem(404, "group_not_found");
    member.poll_again(&api, json!({})).await.problem(404, "group_not_found");
}

#[tokio::test]
async fn many_members_that_join_at_once_all_get_their_share() {
    let (api, topic, group) = filled(12, 0).await;
    let joins: Vec<_> = (0..12)
        .map(|_| {
            let (api, topic, group) = (api.clone(), topic.clone(), group.clone());
            tokio::spawn(async move { Member::join(&api, &group, &[&topic], json!({})).await })
        })
        .collect();
    let mut all = BTreeSet::new();
    for joining in joins {
        let mut member = joining.await.unwrap();
        member.poll(&api, json!({})).await;
        all.insert((member.id.clone(), member.generation));
    }
    let mut partitions = BTreeSet::new();
    let described = api.get(&format!("/v1/groups/{group}")).await.ok();
    for member in list(&described, "members") {
        assert_eq!(assigned(member).len(), 1, "{described}");
        partitions.extend(assigned(member));
    }
    assert_eq!(all.len(), 12);
    assert_eq!(partitions.len(), 12);
}
