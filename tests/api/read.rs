//! `GET …/partitions/{p}/records` and `GET …/offsets`.

use super::api;
use millpond_tests::harness::client::{Api, list, send};
use millpond_tests::harness::unique;
use millpond_tests::harness::wait::within;
use reqwest::Method;
use serde_json::{Value, json};

/// Creates a topic of two partitions whose partition 1 holds the values 0, 1, 2, … at timestamps 1000, 1010,
/// …, one request each.
async fn filled(api: &Api, count: i64) -> String {
    let topic = unique("read");
    api.topic(&topic, 2).await;
    for n in 0..count {
        api.produce(&topic, json!([{"value": n, "partition": 1, "timestamp": 1000 + 10 * n}])).await.ok();
    }
    topic
}

fn offsets(answer: &Value) -> Vec<i64> {
    list(answer, "records").iter().map(|r| r["offset"].as_i64().expect("a number")).collect()
}

#[tokio::test]
async fn a_read_begins_where_it_is_told() {
    let api = api();
    let topic = filled(&api, 5).await;
    for (query, expected) in [
        ("", vec![0, 1, 2, 3, 4]),
        ("?from=earliest", vec![0, 1, 2, 3, 4]),
        ("?from=latest", vec![]),
        ("?offset=0", vec![0, 1, 2, 3, 4]),
        ("?offset=3", vec![3, 4]),
        ("?offset=5", vec![]),
        ("?timestamp=0", vec![0, 1, 2, 3, 4]),
        ("?timestamp=1020", vec![2, 3, 4]),
        ("?timestamp=1021", vec![3, 4]),
        ("?timestamp=1040", vec![4]),
        ("?timestamp=1041", vec![]),
        ("?timestamp=-9223372036854775808", vec![0, 1, 2, 3, 4]),
        ("?timestamp=9223372036854775807", vec![]),
        ("?offset=1&max_records=2", vec![1, 2]),
        ("?offset=1&max_records=1", vec![1]),
        ("?max_records=100000&max_bytes=16777216", vec![0, 1, 2, 3, 4]),
    ] {
        let answer = api.partition(&topic, 1, query).await;
        let body = answer.ok();
        assert_eq!(offsets(&body), expected, "{query}");
        let next = expected.last().map_or(body["next_offset"].clone(), |last| json!(last + 1));
        assert_eq!(body["next_offset"], next, "{query}");
        assert_eq!((&body["high_watermark"], &body["log_start_offset"]), (&json!(5), &json!(0)));
        assert_eq!(answer.header("millpond-next-offset"), body["next_offset"].to_string());
        assert_eq!(answer.header("millpond-high-watermark"), "5");
        assert_eq!(answer.header("millpond-log-start-offset"), "0");
    }
    assert_eq!(api.partition(&topic, 1, "?offset=5").await.ok()["next_offset"], json!(5));
    assert_eq!(api.partition(&topic, 1, "?from=latest").await.ok()["next_offset"], json!(5));
    assert_eq!(
        api.partition(&topic, 0, "").await.ok(),
        json!({"records": [], "next_offset": 0, "high_watermark": 0, "log_start_offset": 0})
    );
}

#[tokio::test]
async fn beyond_the_log_is_out_of_range() {
    let api = api();
    let topic = filled(&api, 2).await;
    for offset in ["3", "9223372036854775807"] {
        let problem =
            api.partition(&topic, 1, &format!("?offset={offset}")).await.problem(416, "offset_out_of_range");
        assert_eq!((&problem["log_start_offset"], &problem["high_watermark"]), (&json!(0), &json!(2)));
    }
    api.partition(&topic, 0, "?offset=1").await.problem(416, "offset_out_of_range");
}

#[tokio::test]
async fn wrong_questions_are_refused() {
    let api = api();
    let topic = filled(&api, 1).await;
    for query in [
        "?offset=-1",
        "?offset=x",
        "?offset=",
        "?offset=9223372036854775808",
        "?offset=1.0",
        "?from=middle",
        "?from=Earliest",
        "?offset=0&from=earliest",
        "?offset=0&timestamp=0",
        "?from=latest&timestamp=0",
        "?max_records=0",
        "?max_records=100001",
        "?max_records=-1",
        "?max_bytes=0",
        "?max_bytes=16777217",
        "?wait_ms=30001",
        "?wait_ms=-1",
        "?wait_ms=x",
        "?encoding=xml",
        "?ofset=0",
        "?offset=0&offset=1",
        "?offset=%00",
        "?from=%ff",
    ] {
        api.partition(&topic, 1, query).await.problem(400, "bad_request");
    }
    for (partition, status, code) in [
        ("2", 404, "partition_not_found"),
        ("-1", 404, "partition_not_found"),
        ("99999999999", 404, "partition_not_found"),
        ("x", 400, "bad_request"),
        ("1.0", 400, "bad_request"),
        ("%00", 400, "bad_request"),
        ("99999999999999999999", 400, "bad_request"),
    ] {
        api.get(&format!("/v1/topics/{topic}/partitions/{partition}/records")).await.problem(status, code);
    }
    api.partition("no-such-topic", 0, "").await.problem(404, "topic_not_found");
}

#[tokio::test]
async fn max_bytes_bounds_an_answer_but_never_to_nothing() {
    let (api, topic) = (api(), unique("read"));
    api.topic(&topic, 1).await;
    let text = "x".repeat(1000);
    let records: Vec<Value> = (0..10).map(|_| json!({"text": text})).collect();
    api.produce(&topic, json!(records)).await.ok();
    assert_eq!(offsets(&api.partition(&topic, 0, "?max_bytes=1").await.ok()), [0]);
    assert_eq!(offsets(&api.partition(&topic, 0, "?offset=4&max_bytes=999").await.ok()), [4]);
    let some = offsets(&api.partition(&topic, 0, "?max_bytes=3500").await.ok());
    assert_eq!(some, [0, 1, 2]);
    assert_eq!(offsets(&api.partition(&topic, 0, "?max_bytes=20000").await.ok()).len(), 10);
}

#[tokio::test]
async fn pages_of_any_size_make_the_whole() {
    let (api, topic) = (api(), unique("read"));
    api.topic(&topic, 1).await;
    for batch in 0..7 {
        let records: Vec<Value> = (0..11).map(|n| json!({"value": batch * 11 + n})).collect();
        api.produce(&topic, json!(records)).await.ok();
    }
    for max in [1, 2, 3, 10, 11, 12, 76, 77, 78] {
        let (mut next, mut values) = (json!(0), Vec::new());
        while next != json!(77) {
            let page = api.partition(&topic, 0, &format!("?offset={next}&max_records={max}")).await.ok();
            values.extend(list(&page, "records").iter().map(|r| r["value"].as_i64().unwrap()));
            next = page["next_offset"].clone();
        }
        assert_eq!(values, (0..77).collect::<Vec<_>>(), "pages of {max}");
    }
}

#[tokio::test]
async fn an_encoding_can_be_pinned() {
    let (api, topic) = (api(), unique("read"));
    api.topic(&topic, 1).await;
    api.produce(
        &topic,
        json!([{"key": "k", "value": {"n": 1}}, {"text": "a"}, {"base64": "/w==", "key_base64": "/w=="}, {}]),
    )
    .await
    .ok();
    let of = |records: &Value| {
        let fields = |r: &Value| {
            ["key", "key_base64", "value", "text", "base64"]
                .iter()
                .filter_map(|f| r.get(*f).map(|v| (f.to_string(), v.clone())))
                .collect::<serde_json::Map<_, _>>()
        };
        records["records"].as_array().unwrap().iter().map(|r| Value::Object(fields(r))).collect::<Vec<_>>()
    };
    let natural = [
        json!({"key": "k", "value": {"n": 1}}),
        json!({"text": "a"}),
        json!({"key_base64": "/w==", "base64": "/w=="}),
        json!({}),
    ];
    assert_eq!(of(&api.partition(&topic, 0, "").await.ok()), natural);
    assert_eq!(of(&api.partition(&topic, 0, "?encoding=json").await.ok()), natural);
    let text = [
        json!({"key": "k", "text": "{\"n\":1}"}),
        json!({"text": "a"}),
        json!({"key_base64": "/w==", "base64": "/w=="}),
        json!({}),
    ];
    assert_eq!(of(&api.partition(&topic, 0, "?encoding=text").await.ok()), text);
    let base64 = [
        json!({"key_base64": "aw==", "base64": "eyJuIjoxfQ=="}),
        json!({"base64": "YQ=="}),
        json!({"key_base64": "/w==", "base64": "/w=="}),
        json!({}),
    ];
    assert_eq!(of(&api.partition(&topic, 0, "?encoding=base64").await.ok()), base64);
}

#[tokio::test]
async fn ndjson_gives_a_record_a_line_and_the_rest_in_headers() {
    let api = api();
    let topic = filled(&api, 3).await;
    let path = format!("/v1/topics/{topic}/partitions/1/records?max_records=2");
    let answer = api.get_as(&path, "application/x-ndjson").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/x-ndjson"));
    assert_eq!(json!(answer.lines()), api.get(&path).await.ok()["records"]);
    assert_eq!((answer.header("millpond-next-offset"), answer.header("millpond-high-watermark")), ("2", "3"));
    let empty = api.get_as(&format!("/v1/topics/{topic}/partitions/0/records"), "application/x-ndjson").await;
    assert_eq!(empty.text(), "");
}

#[tokio::test]
async fn accept_chooses_the_form() {
    let api = api();
    let topic = filled(&api, 1).await;
    let path = format!("/v1/topics/{topic}/partitions/1/records");
    for (accept, form) in [
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("application/json", "application/json"),
        ("text/html, application/json;q=0.9, */*;q=0.1", "application/json"),
        ("application/x-ndjson; charset=utf-8", "application/x-ndjson"),
        ("text/csv, application/x-ndjson", "application/x-ndjson"),
        ("application/vnd.apache.arrow.stream", "application/vnd.apache.arrow.stream"),
    ] {
        let answer = api.get_as(&path, accept).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, form), "{accept}");
    }
    for accept in ["text/csv", "text/html", "text/event-stream", "application/xml, text/*"] {
        api.get_as(&path, accept).await.problem(406, "not_acceptable");
    }
    let whole = format!("/v1/topics/{topic}/records");
    api.get_as(&whole, "text/csv").await.problem(406, "not_acceptable");
    api.get(&format!("{whole}?follow=true")).await.problem(406, "not_acceptable");
}

#[tokio::test]
async fn a_long_poll_is_woken_by_a_produce() {
    let api = api();
    let topic = filled(&api, 1).await;
    let poll = |query: &'static str| {
        let (api, topic) = (api.clone(), topic.clone());
        tokio::spawn(async move { api.partition(&topic, 1, query).await.ok() })
    };
    let by_offset = poll("?offset=1&wait_ms=30000");
    let by_latest = poll("?from=latest&wait_ms=30000");
    let later = poll("?offset=1&wait_ms=30000&max_records=1");
    // All three polls must return the record, including those that arrive after it was stored, before their
    // wait ends.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    api.produce(&topic, json!([{"value": "now", "partition": 1}])).await.ok();
    for poll in [by_offset, by_latest, later] {
        let answer = within(15, "a woken poll", poll).await.unwrap();
        assert_eq!(offsets(&answer), [1]);
    }
    let other_partition = poll("?offset=2&wait_ms=200");
    api.produce(&topic, json!([{"value": "elsewhere", "partition": 0}])).await.ok();
    assert_eq!(offsets(&within(15, "an unwoken poll", other_partition).await.unwrap()), Vec::<i64>::new());
}

#[tokio::test]
async fn a_long_poll_with_nothing_to_say_answers_empty() {
    let api = api();
    let topic = filled(&api, 1).await;
    let answer =
        within(10, "the end of the poll", api.partition(&topic, 1, "?offset=1&wait_ms=100")).await.ok();
    assert_eq!(answer, json!({"records": [], "next_offset": 1, "high_watermark": 1, "log_start_offset": 0}));
    api.partition(&topic, 1, "?offset=2&wait_ms=30000").await.problem(416, "offset_out_of_range");
}

#[tokio::test]
async fn a_poll_on_a_topic_that_is_deleted_meanwhile_ends() {
    let api = api();
    let topic = filled(&api, 1).await;
    let poll = {
        let (api, topic) = (api.clone(), topic.clone());
        tokio::spawn(async move { api.partition(&topic, 1, "?offset=1&wait_ms=2000").await })
    };
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    api.delete(&format!("/v1/topics/{topic}")).await;
    let answer = within(15, "the end of the poll", poll).await.unwrap();
    answer.problem(404, "topic_not_found");
}

#[tokio::test]
async fn offsets_by_timestamp() {
    let api = api();
    let topic = filled(&api, 3).await;
    api.produce(&topic, json!([{"value": 1, "partition": 0, "timestamp": 1015}, {"value": 1, "partition": 0, "timestamp": 900}]))
        .await
        .ok();
    for (timestamp, zero, one) in [
        ("0", 0, 0),
        ("900", 0, 0),
        ("1010", 0, 1),
        ("1016", 2, 2),
        ("5000", 2, 3),
        ("-5", 0, 0),
        ("9223372036854775807", 2, 3),
    ] {
        let answer = api.get(&format!("/v1/topics/{topic}/offsets?timestamp={timestamp}")).await.ok();
        let expected =
            json!({"partitions": [{"partition": 0, "offset": zero}, {"partition": 1, "offset": one}]});
        assert_eq!(answer, expected, "{timestamp}");
    }
    for query in
        ["", "?timestamp=", "?timestamp=x", "?timestamp=9223372036854775808", "?time=1", "?timestamp=1&x=1"]
    {
        api.get(&format!("/v1/topics/{topic}/offsets{query}")).await.problem(400, "bad_request");
    }
    api.get("/v1/topics/no-such-topic/offsets?timestamp=1").await.problem(404, "topic_not_found");
}

#[tokio::test]
async fn head_says_what_get_would() {
    let api = api();
    let topic = filled(&api, 2).await;
    let answer = send(api.request(Method::HEAD, &format!("/v1/topics/{topic}/partitions/1/records"))).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body.len(), 0);
    assert_eq!(answer.header("millpond-next-offset"), "2");
}

#[tokio::test]
async fn offsets_by_timestamp_pass_over_records_that_were_dropped() {
    let (api, topic) = (api(), unique("dropped"));
    let settings = json!({"partitions": 1, "dedup_window_ms": 60_000});
    assert_eq!(api.put(&format!("/v1/topics/{topic}"), settings).await.status, 201);
    let at = |timestamp: i64| json!({"value": 1, "timestamp": timestamp});
    let once = |timestamp: i64| json!({"value": 1, "timestamp": timestamp, "dedup_id": "x"});
    api.produce(&topic, json!([once(100)])).await.ok();
    // Of the second batch the record with the newest timestamp is dropped.
    for records in
        [json!([at(50), once(200)]), json!([at(120)]), json!([at(50), once(250)]), json!([at(300)])]
    {
        api.produce(&topic, records).await.ok();
    }
    for (timestamp, offset) in [(40, 0), (100, 0), (110, 2), (121, 4), (200, 4), (300, 4), (301, 5)] {
        let found = api.get(&format!("/v1/topics/{topic}/offsets?timestamp={timestamp}")).await.ok();
        assert_eq!(found["partitions"][0]["offset"], json!(offset), "{timestamp}");
    }
}
