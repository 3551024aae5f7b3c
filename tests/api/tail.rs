//! `GET /v1/topics/{topic}/records`: one chunk, or a tail.

use super::api;
use futures::StreamExt;
use millpond_tests::harness::client::{Api, list, send};
use millpond_tests::harness::unique;
use millpond_tests::harness::wait::within;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const EVENTS: &str = "text/event-stream";
const NDJSON: &str = "application/x-ndjson";

fn place(record: &Value) -> (i64, i64) {
    (record["partition"].as_i64().expect("a number"), record["offset"].as_i64().expect("a number"))
}

/// An open tail, read piece by piece.
struct Open {
    body: std::pin::Pin<Box<dyn futures::Stream<Item = Result<bytes::Bytes, reqwest::Error>> + Send>>,
    text: String,
}

impl Open {
    async fn new(api: &Api, path: &str, accept: &str, last: Option<&str>) -> Self {
        let mut request = api.request(Method::GET, path).header("accept", accept);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = within(20, "the head of a tail", request.send()).await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], accept);
        Self { body: Box::pin(response.bytes_stream()), text: String::new() }
    }

    /// The next piece of the body up to and including `end`.
    async fn piece(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.text.find(end) {
                let rest = self.text.split_off(at + end.len());
                return std::mem::replace(&mut self.text, rest);
            }
            let more =
                within(20, "more of a tail", self.body.next()).await.expect("a tail goes on").expect("bytes");
            self.text.push_str(std::str::from_utf8(&more).expect("UTF-8"));
        }
    }

    /// Data and id of the next event; the id is optional.
    async fn event(&mut self) -> (Value, Option<String>) {
        loop {
            let event = self.piece("\n\n").await;
            let field =
                |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            if let Some(data) = field("data: ") {
                return (serde_json::from_str(&data).expect("JSON"), field("id: "));
            }
        }
    }

    async fn line(&mut self) -> Value {
        loop {
            let line = self.piece("\n").await;
            if !line.trim().is_empty() {
                return serde_json::from_str(&line).expect("JSON");
            }
        }
    }
}

#[tokio::test]
async fn next_leads_through_all_partitions() {
    let (api, topic) = (api(), unique("tail"));
    api.topic(&topic, 3).await;
    let records: Vec<Value> = (0..50).map(|n| json!({"value": n, "partition": n % 3})).collect();
    api.produce(&topic, json!(records)).await.ok();
    for max in [1, 7, 50, 500] {
        let mut path = format!("/v1/topics/{topic}/records?from=earliest&max_records={max}");
        let mut seen = Vec::new();
        loop {
            let page = api.get(&path).await.ok();
            let records = list(&page, "records");
            if records.is_empty() {
                break;
            }
            assert!(records.len() <= max);
            seen.extend(records.iter().map(place));
            path = format!(
                "/v1/topics/{topic}/records?after={}&max_records={max}",
                page["next"].as_str().unwrap()
            );
        }
        assert_eq!(seen.len(), 50);
        for partition in 0..3 {
            let own: Vec<i64> =
                seen.iter().filter(|(p, _)| *p == partition).map(|(_, offset)| *offset).collect();
            assert!(
                own.iter().enumerate().all(|(n, offset)| i64::try_from(n).unwrap() == *offset),
                "{own:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_topic_read_begins_where_it_is_told() {
    let (api, topic) = (api(), unique("tail"));
    api.topic(&topic, 2).await;
    api.produce(
        &topic,
        json!([{"value": 1, "partition": 0, "timestamp": 10}, {"value": 2, "partition": 1, "timestamp": 20}]),
    )
    .await
    .ok();
    let count = async |query: &str| {
        list(&api.get(&format!("/v1/topics/{topic}/records{query}")).await.ok(), "records").len()
    };
    assert_eq!(count("").await, 2);
    assert_eq!(count("?timestamp=11").await, 1);
    assert_eq!(count("?timestamp=21").await, 0);
    assert_eq!(count("?from=latest").await, 0);
    let latest = api.get(&format!("/v1/topics/{topic}/records?from=latest")).await.ok()["next"]
        .as_str()
        .unwrap()
        .to_owned();
    api.produce(&topic, json!([{"value": 3, "partition": 0}])).await.ok();
    assert_eq!(count(&format!("?after={latest}")).await, 1);
    // A partition that a position does not name is read from its start.
    api.topic(&topic, 3).await;
    api.produce(&topic, json!([{"value": 4, "partition": 2}])).await.ok();
    assert_eq!(count(&format!("?after={latest}")).await, 2);
    for query in [
        "?after=x",
        "?after=",
        "?from=earliest&timestamp=1",
        &format!("?after={latest}&timestamp=1"),
        "?offset=1",
        "?follow=1",
        "?max_records=0",
    ] {
        api.get(&format!("/v1/topics/{topic}/records{query}")).await.problem(400, "bad_request");
    }
    let other = unique("tail");
    api.topic(&other, 2).await;
    api.get(&format!("/v1/topics/{other}/records?after={latest}")).await.problem(400, "bad_request");
}

#[tokio::test]
async fn a_topic_read_waits_for_a_record_in_any_partition() {
    let (api, topic) = (api(), unique("tail"));
    api.topic(&topic, 4).await;
    let poll = {
        let (api, topic) = (api.clone(), topic.clone());
        tokio::spawn(async move { api.get(&format!("/v1/topics/{topic}/records?wait_ms=30000")).await.ok() })
    };
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    api.produce(&topic, json!([{"value": 1, "partition": 3}])).await.ok();
    let answer = within(15, "a woken poll", poll).await.unwrap();
    assert_eq!(list(&answer, "records").iter().map(place).collect::<Vec<_>>(), [(3, 0)]);
    let answer =
        within(10, "an empty poll", api.get(&format!("/v1/topics/{topic}/records?from=latest&wait_ms=100")))
            .await
            .ok();
    assert_eq!(list(&answer, "records").len(), 0);
}

#[tokio::test]
async fn ndjson_holds_the_position_in_a_line_of_its_own() {
    let (api, topic) = (api(), unique("tail"));
    api.topic(&topic, 2).await;
    api.produce(&topic, json!([{"value": 1, "partition": 0}, {"value": 2, "partition": 1}])).await.ok();
    let path = format!("/v1/topics/{topic}/records");
    let mut lines = api.get_as(&path, NDJSON).await.lines();
    let next = lines.pop().unwrap();
    let page = api.get(&path).await.ok();
    assert_eq!((json!(lines), &next["next"]), (page["records"].clone(), &page["next"]));
}

#[tokio::test]
async fn events_follow_and_resume_behind_an_id() {
    let (api, topic) = (api(), unique("tail"));
    api.topic(&topic, 2).await;
    let first: Vec<Value> = (0..10).map(|n| json!({"value": n, "partition": n % 2})).collect();
    api.produce(&topic, json!(first)).await.ok();
    let path = format!("/v1/topics/{topic}/records?from=earliest&max_records=4");
    let mut tail = Open::new(&api, &path, EVENTS, None).await;
    let mut seen = BTreeSet::new();
    let mut id = None;
    while seen.len() < 4 || id.is_none() {
        let (record, own) = tail.event().await;
        assert!(seen.insert(place(&record)), "{record} came twice");
        id = own;
    }
    drop(tail);
    let resumed = seen.clone();
    // `Last-Event-ID` overrides the query: a browser that reconnects sends the first URL again.
    let mut tail = Open::new(&api, &path, EVENTS, id.as_deref()).await;
    while seen.len() < 10 {
        let (record, _) = tail.event().await;
        assert!(seen.insert(place(&record)), "{record} came twice, {resumed:?} before");
    }
    api.produce(&topic, json!([{"value": "live", "partition": 1}])).await.ok();
    let (record, id) = tail.event().await;
    assert_eq!((&record["value"], place(&record)), (&json!("live"), (1, 5)));
    assert!(id.is_some());
    drop(tail);
    let request =
        api.request(Method::GET, &path).header("accept", EVENTS).header("last-event-id", "nonsense");
    send(request).await.problem(400, "bad_request");
}

#[tokio::test]
async fn ndjson_follows_too() {
    let (api, topic) = (api(), unique("tail"));
    api.topic(&topic, 2).await;
    let mut tail =
        Open::new(&api, &format!("/v1/topics/{topic}/records?follow=true&from=latest"), NDJSON, None).await;
    let mut last = Value::Null;
    for n in 0..5 {
        api.produce(&topic, json!([{"value": n, "partition": n % 2}])).await.ok();
        let record = tail.line().await;
        assert_eq!(record["value"], json!(n));
        last = tail.line().await["next"].clone();
    }
    drop(tail);
    api.produce(&topic, json!([{"value": "after"}])).await.ok();
    let path = format!("/v1/topics/{topic}/records?follow=true&after={}", last.as_str().unwrap());
    let mut tail = Open::new(&api, &path, NDJSON, None).await;
    assert_eq!(tail.line().await["value"], json!("after"));
}

#[tokio::test]
async fn a_tail_of_a_deleted_topic_ends_with_a_problem() {
    let (api, topic) = (api(), unique("tail"));
    api.topic(&topic, 1).await;
    api.produce(&topic, json!([{"value": 1}])).await.ok();
    let mut tail = Open::new(&api, &format!("/v1/topics/{topic}/records"), EVENTS, None).await;
    assert_eq!(tail.event().await.0["value"], json!(1));
    api.delete(&format!("/v1/topics/{topic}")).await;
    let mut event = tail.piece("\n\n").await;
    while event.starts_with(':') {
        event = tail.piece("\n\n").await;
    }
    assert!(event.contains("event: problem") && event.contains("topic_not_found"), "{event}");
    assert!(within(20, "the end of the tail", tail.body.next()).await.is_none());
}

#[tokio::test]
async fn a_wide_topic_is_read_where_it_has_records() {
    let (api, topic) = (api(), unique("wide"));
    api.topic(&topic, 300).await;
    let at = |partition: i32| json!([{ "value": partition, "partition": partition }]);
    api.produce(&topic, at(7)).await.ok();
    api.produce(&topic, at(150)).await.ok();
    let read = async |query: String| api.get(&format!("/v1/topics/{topic}/records?{query}")).await.ok();
    let places = |page: &Value| list(page, "records").iter().map(place).collect::<BTreeSet<_>>();
    let first = read("from=earliest".to_owned()).await;
    assert_eq!(places(&first), BTreeSet::from([(7, 0), (150, 0)]));
    let after = first["next"].as_str().expect("a token").to_owned();
    assert_eq!(places(&read(format!("after={after}")).await), BTreeSet::new());
    let waiting = read(format!("after={after}&wait_ms=20000"));
    let (woken, _) = tokio::join!(waiting, api.produce(&topic, at(299)));
    assert_eq!(places(&woken), BTreeSet::from([(299, 0)]));
    let after = woken["next"].as_str().expect("a token").to_owned();
    let mut tail = Open::new(&api, &format!("/v1/topics/{topic}/records?after={after}"), EVENTS, None).await;
    for partition in [0, 299, 64, 7] {
        api.produce(&topic, at(partition)).await.ok();
        assert_eq!(tail.event().await.0["value"], json!(partition));
    }
}
