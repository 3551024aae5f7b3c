//! `/v1/topics`.

use super::api;
use futures::StreamExt;
use millpond_tests::harness::client::{list, send};
use millpond_tests::harness::unique;
use reqwest::Method;
use serde_json::{Value, json};

const DEFAULTS: &str = r#"{"retention_ms":604800000,"retention_bytes":null,"retention_hold_ms":1209600000,"placement":"auto",
    "dedup_window_ms":0,"max_record_bytes":1048576,"archive":"delete","columns":null}"#;

fn settings(description: &Value) -> Value {
    let mut settings = description.clone();
    let fields = settings.as_object_mut().expect("an object");
    fields.remove("name");
    fields.remove("partitions");
    settings
}

#[tokio::test]
async fn a_topic_is_made_with_the_documented_defaults() {
    let (api, name) = (api(), unique("topic"));
    let made = api.put(&format!("/v1/topics/{name}"), json!({})).await;
    assert_eq!(made.status, 201);
    let made = made.json();
    assert_eq!(made["name"], json!(name));
    assert_eq!(settings(&made), serde_json::from_str::<Value>(DEFAULTS).unwrap());
    let partitions = list(&made, "partitions");
    assert_eq!(partitions.len(), 8);
    for (number, partition) in partitions.iter().enumerate() {
        assert_eq!(
            *partition,
            json!({"partition": number, "log_start_offset": 0, "high_watermark": 0, "bytes": 0})
        );
    }
    assert_eq!(api.get(&format!("/v1/topics/{name}")).await.ok(), made);
}

#[tokio::test]
async fn an_empty_body_makes_a_topic_too() {
    let (api, path) = (api(), format!("/v1/topics/{}", unique("topic")));
    assert_eq!(send(api.request(Method::PUT, &path)).await.status, 201);
    assert_eq!(send(api.request(Method::PUT, &path).body(" \n")).await.status, 200);
}

#[tokio::test]
async fn every_field_is_kept_and_a_field_left_out_keeps_its_value() {
    let (api, path) = (api(), format!("/v1/topics/{}", unique("topic")));
    let given = json!({"retention_ms": null, "retention_bytes": 1_000_000, "retention_hold_ms": 5, "placement": "object",
        "dedup_window_ms": 86_400_000, "max_record_bytes": 8_388_608, "archive": "delete", "columns": {"a": ["int", {"b": null}]}});
    let mut with_partitions = given.clone();
    with_partitions["partitions"] = json!(3);
    assert_eq!(api.put(&path, with_partitions).await.status, 201);
    assert_eq!(settings(&api.get(&path).await.ok()), given);
    let changed = api.put(&path, json!({"placement": "inline"})).await.ok();
    let mut expected = given.clone();
    expected["placement"] = json!("inline");
    assert_eq!(settings(&changed), expected);
    assert_eq!(list(&changed, "partitions").len(), 3);
    let cleared =
        api.put(&path, json!({"retention_ms": 1, "retention_bytes": null, "columns": null})).await.ok();
    expected["retention_ms"] = json!(1);
    expected["retention_bytes"] = Value::Null;
    expected["columns"] = Value::Null;
    assert_eq!(settings(&cleared), expected);
}

#[tokio::test]
async fn the_same_put_again_changes_nothing() {
    let (api, path) = (api(), format!("/v1/topics/{}", unique("topic")));
    let first = api.put(&path, json!({"partitions": 2})).await;
    let again = api.put(&path, json!({"partitions": 2})).await;
    assert_eq!(first.status, 201);
    assert_eq!(again.status, 200);
    assert_eq!(first.json(), again.json());
}

#[tokio::test]
async fn partitions_only_grow() {
    let (api, name) = (api(), unique("topic"));
    let path = format!("/v1/topics/{name}");
    api.topic(&name, 4).await;
    api.produce(&name, json!([{"value": 1, "partition": 3}])).await.ok();
    api.put(&path, json!({"partitions": 3})).await.problem(409, "invalid_change");
    let grown = api.put(&path, json!({"partitions": 6})).await.ok();
    assert_eq!(list(&grown, "partitions").len(), 6);
    assert_eq!(grown["partitions"][3]["high_watermark"], json!(1));
    api.produce(&name, json!([{"value": 2, "partition": 5}])).await.ok();
    assert_eq!(api.log(&name, 5).await.len(), 1);
}

#[tokio::test]
async fn wrong_settings_are_bad_requests_and_make_nothing() {
    let (api, path) = (api(), format!("/v1/topics/{}", unique("topic")));
    let wrong = [
        json!({"partitions": 0}),
        json!({"partitions": -1}),
        json!({"partitions": 10_001}),
        json!({"partitions": 1.5}),
        json!({"partitions": "8"}),
        json!({"partitions": 4_294_967_304_i64}),
        json!({"retention_ms": 0}),
        json!({"retention_ms": -1}),
        json!({"retention_ms": i64::MAX}),
        json!({"retention_bytes": -1}),
        json!({"retention_hold_ms": null, "partitions": 0}),
        json!({"retention_hold_ms": -1}),
        json!({"placement": "tape"}),
        json!({"placement": 1}),
        json!({"dedup_window_ms": 86_400_001}),
        json!({"dedup_window_ms": -1}),
        json!({"max_record_bytes": 0}),
        json!({"max_record_bytes": 8_388_609}),
        json!({"archive": "keep"}),
        json!({"partition": 8}),
        json!([]),
        json!("x"),
        json!(null),
    ];
    for body in wrong {
        let problem = api.put(&path, body.clone()).await.problem(400, "bad_request");
        assert_eq!(problem["retryable"], json!(false), "{body}");
    }
    for body in ["{", "{\"partitions\":8", "\u{0}", "{\"columns\":{\"a\":}}", "{}{}"] {
        send(api.request(Method::PUT, &path).body(body)).await.problem(400, "bad_request");
    }
    send(api.request(Method::PUT, &path).body(vec![0xff, 0xfe])).await.problem(400, "bad_request");
    api.get(&path).await.problem(404, "topic_not_found");
}

#[tokio::test]
async fn columns_are_given_back_as_they_came() {
    let api = api();
    for columns in [r#"{"n":"\u0000","s":"\ud83d\ude00"}"#, "[1e30, 0.10]", "\"x\"", r#"{"a":1,"a":2}"#] {
        let path = format!("/v1/topics/{}", unique("topic"));
        let body = format!("{{\"partitions\":1,\"columns\":{columns}}}");
        let made = send(api.request(Method::PUT, &path).body(body)).await;
        assert_eq!(made.status, 201, "{columns}: {}", made.text());
        assert!(api.get(&path).await.text().contains(&format!("\"columns\":{columns}")), "{columns}");
    }
}

#[tokio::test]
async fn names_have_1_to_249_plain_characters() {
    let api = api();
    let longest = format!("{}{}", unique("n"), "x".repeat(249)).chars().take(249).collect::<String>();
    for good in [longest.as_str(), "a", "A.b_c-9", "..."] {
        let status = api.put(&format!("/v1/topics/{good}"), json!({"partitions": 1})).await.status;
        assert!(matches!(status, 200 | 201), "{good}: {status}");
        assert_eq!(api.delete(&format!("/v1/topics/{good}")).await.status, 204);
    }
    let longer = "x".repeat(250);
    for bad in [longer.as_str(), "a%20b", "%00", "a%00b", "%ff", "a%2Fb", "%C3%A9", "a:b", "a*", "%27", "~"] {
        for method in [Method::PUT, Method::GET, Method::DELETE] {
            send(api.request(method, &format!("/v1/topics/{bad}"))).await.problem(400, "bad_request");
        }
        api.produce(bad, json!([{"value": 1}])).await.problem(400, "bad_request");
        api.partition(bad, 0, "").await.problem(400, "bad_request");
    }
}

#[tokio::test]
async fn the_list_holds_every_topic_by_name() {
    let (api, prefix) = (api(), unique("list"));
    for n in ["c", "a", "b"] {
        api.topic(&format!("{prefix}.{n}"), 2).await;
    }
    let all = api.get(&format!("/v1/topics?after={prefix}")).await.ok();
    let names: Vec<&str> = list(&all, "topics").iter().map(|t| t["name"].as_str().unwrap()).collect();
    let mine: Vec<&&str> = names.iter().filter(|n| n.starts_with(&format!("{prefix}."))).collect();
    assert_eq!(mine, [&format!("{prefix}.a"), &format!("{prefix}.b"), &format!("{prefix}.c")]);
    assert!(names.is_sorted());
    let one = list(&all, "topics").iter().find(|t| t["name"] == json!(format!("{prefix}.b"))).unwrap();
    assert_eq!(*one, api.get(&format!("/v1/topics/{prefix}.b")).await.ok());
}

#[tokio::test]
async fn the_list_comes_in_pages_of_a_thousand() {
    let (api, prefix) = (api(), unique("pages"));
    let names: Vec<String> = (0..2_500).map(|n| format!("{prefix}.{n:04}")).collect();
    let make = async |name: &String| {
        assert_eq!(api.put(&format!("/v1/topics/{name}"), json!({"partitions": 1})).await.status, 201);
    };
    futures::stream::iter(&names).for_each_concurrent(16, make).await;
    let mut after = prefix.clone();
    let mut listed = Vec::new();
    let mut sizes = Vec::new();
    while listed.len() < names.len() {
        let page = api.get(&format!("/v1/topics?after={after}")).await.ok();
        let mine = list(&page, "topics").iter().map(|t| t["name"].as_str().unwrap().to_owned());
        let mine: Vec<String> = mine.filter(|name| name.starts_with(&prefix)).collect();
        assert_eq!(page["next"].is_null(), list(&page, "topics").len() < 1_000);
        sizes.push(mine.len());
        listed.extend(mine);
        after = page["next"].as_str().map_or_else(|| "~".to_owned(), str::to_owned);
    }
    assert_eq!((listed, sizes), (names.clone(), vec![1_000, 1_000, 500]));
    let few = api.get(&format!("/v1/topics?after={}&limit=2", names[9])).await.ok();
    let named: Vec<&Value> = list(&few, "topics").iter().map(|t| &t["name"]).collect();
    assert_eq!((named, &few["next"]), (vec![&json!(names[10]), &json!(names[11])], &json!(names[11])));
    let last = api.get("/v1/topics?after=zzzz&limit=1").await.ok();
    assert_eq!(last, json!({"topics": [], "next": null}));
}

#[tokio::test]
async fn a_page_has_a_thousand_names_at_most() {
    let api = api();
    for noun in ["topics", "queues", "groups"] {
        for wrong in ["limit=0", "limit=1001", "limit=-1", "limit=x", "after=a%20b", "after=", "more=1"] {
            api.get(&format!("/v1/{noun}?{wrong}")).await.problem(400, "bad_request");
        }
        api.get(&format!("/v1/{noun}?limit=1000")).await.ok();
    }
}

#[tokio::test]
async fn describe_counts_what_is_stored() {
    let (api, name) = (api(), unique("topic"));
    api.topic(&name, 2).await;
    api.produce(&name, json!([{"value": "abc", "partition": 1}, {"value": "def", "partition": 1}]))
        .await
        .ok();
    let partitions = api.get(&format!("/v1/topics/{name}")).await.ok()["partitions"].clone();
    assert_eq!(partitions[0]["high_watermark"], json!(0));
    assert_eq!(partitions[1]["high_watermark"], json!(2));
    assert!(partitions[1]["bytes"].as_i64().unwrap() > 0, "{partitions}");
}

#[tokio::test]
async fn a_deleted_topic_is_gone_and_its_successor_is_empty() {
    let (api, name) = (api(), unique("topic"));
    let path = format!("/v1/topics/{name}");
    api.delete(&path).await.problem(404, "topic_not_found");
    api.topic(&name, 2).await;
    api.produce(&name, json!([{"value": 1, "partition": 0}])).await.ok();
    assert_eq!(api.delete(&path).await.status, 204);
    api.get(&path).await.problem(404, "topic_not_found");
    api.delete(&path).await.problem(404, "topic_not_found");
    api.partition(&name, 0, "").await.problem(404, "topic_not_found");
    api.get(&format!("{path}/records")).await.problem(404, "topic_not_found");
    api.get(&format!("{path}/offsets?timestamp=0")).await.problem(404, "topic_not_found");
    api.topic(&name, 1).await;
    assert_eq!(api.log(&name, 0).await, Vec::<Value>::new());
    api.partition(&name, 1, "").await.problem(404, "partition_not_found");
}

#[tokio::test]
async fn producing_makes_a_topic_of_8_partitions() {
    let (api, name) = (api(), unique("auto"));
    api.get(&format!("/v1/topics/{name}")).await.problem(404, "topic_not_found");
    api.produce(&name, json!([{"value": 1}])).await.ok();
    assert_eq!(list(&api.get(&format!("/v1/topics/{name}")).await.ok(), "partitions").len(), 8);
    let reading = unique("auto");
    api.partition(&reading, 0, "").await.problem(404, "topic_not_found");
    api.get(&format!("/v1/topics/{reading}")).await.problem(404, "topic_not_found");
}
