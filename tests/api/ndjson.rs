//! `POST …/records` with `application/x-ndjson`.

use super::api;
use millpond_tests::harness::FLIGHTS;
use millpond_tests::harness::client::{list, send};
use millpond_tests::harness::raw::Raw;
use millpond_tests::harness::unique;
use millpond_tests::harness::wait::until;
use serde_json::{Value, json};

fn values(log: &[Value]) -> Vec<Value> {
    log.iter().map(|r| r["value"].clone()).collect()
}

#[tokio::test]
async fn each_line_is_a_value() {
    let (api, topic) = (api(), unique("lines"));
    api.topic(&topic, 1).await;
    let answer = api.lines(&topic, "", "{\"n\":1}\n2\n\"three\"\nnull\n[4]\n").await.ok();
    assert_eq!(
        answer,
        json!({"count": 5, "partitions": [{"partition": 0, "first_offset": 0, "last_offset": 4, "count": 5}]})
    );
    assert_eq!(
        values(&api.log(&topic, 0).await),
        [json!({"n": 1}), json!(2), json!("three"), Value::Null, json!([4])]
    );
}

#[tokio::test]
async fn line_ends_are_lf_or_crlf_and_blank_lines_are_skipped() {
    let (api, topic) = (api(), unique("lines"));
    api.topic(&topic, 1).await;
    let answer = api.lines(&topic, "", "\n1\r\n\r\n  \t\n 2 \n\n3").await.ok();
    assert_eq!(answer["count"], json!(3));
    assert_eq!(values(&api.log(&topic, 0).await), [json!(1), json!(2), json!(3)]);
    for empty in ["", "\n", "\r\n\r\n", "  "] {
        assert_eq!(
            api.lines(&topic, "", empty).await.ok(),
            json!({"count": 0, "partitions": []}),
            "{empty:?}"
        );
    }
}

#[tokio::test]
async fn all_names_of_the_type_are_taken() {
    let (api, topic) = (api(), unique("lines"));
    for name in [
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "Application/X-NDJSON; charset=utf-8",
    ] {
        assert_eq!(send(api.post(&topic, name).body("1\n")).await.ok()["count"], json!(1));
    }
}

#[tokio::test]
async fn the_key_comes_from_a_json_pointer() {
    let (api, topic) = (api(), unique("lines"));
    api.topic(&topic, 1).await;
    let cases = [
        ("/k", r#"{"k":"x"}"#, Some("x")),
        ("/k", r#"{"k":"a\u00e9\n"}"#, Some("aé\n")),
        ("/k", r#"{"k":""}"#, Some("")),
        ("/k", r#"{"k":12.50}"#, Some("12.50")),
        ("/k", r#"{"k":true}"#, Some("true")),
        ("/k", r#"{"k":{"a": 1}}"#, Some(r#"{"a": 1}"#)),
        ("/k", r#"{"k":null}"#, None),
        ("/k", r#"{"j":1}"#, None),
        ("/k", "[1,2]", None),
        ("/k", "\"k\"", None),
        ("/a/1", r#"{"a":[5,"six"]}"#, Some("six")),
        ("/a/01", r#"{"a":[5,"six"]}"#, None),
        ("/a/-", r#"{"a":[5,"six"]}"#, None),
        ("/a/7", r#"{"a":[5,"six"]}"#, None),
        ("/a/b/c", r#"{"a":{"b":{"c":"deep"}}}"#, Some("deep")),
        ("/a/b/c", r#"{"a":{"b":7}}"#, None),
        ("/", r#"{"":"empty"}"#, Some("empty")),
        ("/a~1b", r#"{"a/b":"slash"}"#, Some("slash")),
        ("/a~0b", r#"{"a~b":"tilde"}"#, Some("tilde")),
        ("/~01", r#"{"~1":"both"}"#, Some("both")),
        ("/é", r#"{"\u00e9":"escaped"}"#, Some("escaped")),
    ];
    for (n, (pointer, line, key)) in cases.iter().enumerate() {
        let request = api.post(&topic, "application/x-ndjson").query(&[("key", pointer)]).body(*line);
        send(request).await.ok();
        let log = api.log(&topic, 0).await;
        assert_eq!(log[n].get("key").map(|k| k.as_str().unwrap()), *key, "{pointer} in {line}");
        assert_eq!(log[n]["value"], serde_json::from_str::<Value>(line).unwrap());
    }
}

#[tokio::test]
async fn wrong_parameters_are_refused() {
    let (api, topic) = (api(), unique("lines"));
    for query in ["?key=k", "?key=", "?key=/a~2", "?key=/~", "?records=yes", "?kee=/k", "?partition=0"] {
        api.lines(&topic, query, "1\n").await.problem(400, "bad_request");
    }
    let body = json!({"records": []}).to_string();
    for query in [[("key", "/k")], [("records", "true")], [("partition", "0")]] {
        let request = api.post(&topic, "application/json").query(&query).body(body.clone());
        send(request).await.problem(400, "bad_request");
    }
}

#[tokio::test]
async fn with_records_each_line_is_a_whole_record() {
    let (api, topic) = (api(), unique("lines"));
    api.topic(&topic, 2).await;
    let body = concat!(
        r#"{"key":"a","value":{"n":1},"partition":1,"timestamp":5,"headers":{"h":["1","2"]}}"#,
        "\n",
        r#"{"base64":"/w==","partition":1,"timestamp":6}"#,
        "\r\n\n",
        r#"{"partition":1,"timestamp":7}"#
    );
    api.lines(&topic, "?records=true", body).await.ok();
    let log = api.log(&topic, 1).await;
    let at = |offset: i64, timestamp: i64| json!({"topic": topic, "partition": 1, "offset": offset, "timestamp": timestamp, "headers": {}});
    let mut expected = [at(0, 5), at(1, 6), at(2, 7)];
    expected[0]["key"] = json!("a");
    expected[0]["value"] = json!({"n": 1});
    expected[0]["headers"] = json!({"h": ["1", "2"]});
    expected[1]["base64"] = json!("/w==");
    assert_eq!(log, expected);
    let problem = api
        .lines(&topic, "?records=true", "{\"value\":1}\n{\"valeu\":1}\n")
        .await
        .problem(422, "invalid_record");
    assert_eq!((&problem["line"], &problem["committed"]["count"]), (&json!(2), &json!(0)));
    let problem = api
        .lines(&topic, "?records=true", "{\"value\":1,\"partition\":2}\n")
        .await
        .problem(404, "partition_not_found");
    assert_eq!(problem["line"], json!(1));
    let problem = api
        .lines(&topic, "?records=true", "{\"value\":1,\"partition\":-1}\n")
        .await
        .problem(422, "invalid_record");
    assert_eq!(problem["line"], json!(1));
}

#[tokio::test]
async fn keyed_flights_keep_their_order() {
    let (api, topic) = (api(), unique("flights"));
    let answer = api.lines(&topic, "?key=/tailnum", FLIGHTS).await.ok();
    assert_eq!(answer["count"], json!(2000));
    let ranges = list(&answer, "partitions");
    assert_eq!(ranges.iter().map(|p| p["count"].as_i64().unwrap()).sum::<i64>(), 2000);
    assert!(
        ranges.iter().all(|p| p["last_offset"].as_i64().unwrap() + 1 - p["first_offset"].as_i64().unwrap()
            == p["count"].as_i64().unwrap())
    );
    assert_eq!(api.topic_log(&topic).await.len(), 2000);
}

#[tokio::test]
async fn a_bad_line_stops_the_stream_and_is_named() {
    let (api, topic) = (api(), unique("lines"));
    api.topic(&topic, 1).await;
    let bad: [&[u8]; 8] = [
        b"1\n\n{\"a\":\n4\n",
        b"1\n\r\nx\n4\n",
        b"1\n\n{}}\n",
        b"1\n\n\"\xff\"\n",
        b"1\n\n\"\x00\"\n",
        b"1\n\n1 2\n",
        b"1\n2\nnul",
        b"1\n2\n{\"k\":1",
    ];
    for body in bad {
        for query in ["", "?key=/k"] {
            let problem = api.lines(&topic, query, body.to_vec()).await.problem(400, "bad_request");
            assert_eq!(problem["line"], json!(3), "{:?}", String::from_utf8_lossy(body));
            assert_eq!(problem["committed"], json!({"count": 0, "partitions": []}));
        }
    }
    assert_eq!(api.log(&topic, 0).await.len(), 0);
}

/// A chunk ends after 65,536 records; the rest of the body is another commit.
#[tokio::test]
async fn a_bad_line_in_a_later_chunk_leaves_the_chunks_before_it() {
    let (api, topic) = (api(), unique("lines"));
    api.topic(&topic, 1).await;
    let mut body: String = (0..65_546).map(|n| format!("{n}\n")).collect();
    body.push_str("oops\n7\n");
    let problem = api.lines(&topic, "", body).await.problem(400, "bad_request");
    assert_eq!(problem["line"], json!(65_547));
    let range = json!([{"partition": 0, "first_offset": 0, "last_offset": 65_535, "count": 65_536}]);
    // Records without a key are spread by chunk; the topic has one partition, so that the result is
    // predictable.
    assert_eq!(problem["committed"], json!({"count": 65_536, "partitions": range}));
    let description = api.get(&format!("/v1/topics/{topic}")).await.ok();
    assert_eq!(description["partitions"][0]["high_watermark"], json!(65_536));
    let last = api.partition(&topic, 0, "?offset=65535").await.ok();
    assert_eq!(last["records"][0]["value"], json!(65_535));
}

#[tokio::test]
async fn a_chunk_of_exactly_65536_records_is_one_and_one_more_makes_two() {
    let api = api();
    for count in [65_536, 65_537] {
        let topic = unique("lines");
        api.topic(&topic, 1).await;
        let body = "1\n".repeat(count);
        assert_eq!(api.lines(&topic, "", body).await.ok()["count"], json!(count));
        let log = api.partition(&topic, 0, &format!("?offset={}", count - 1)).await.ok();
        assert_eq!(log["high_watermark"], json!(count));
        assert_eq!(list(&log, "records").len(), 1);
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_leaves_a_prefix() {
    let (api, topic) = (api(), unique("lines"));
    api.topic(&topic, 1).await;
    let mut raw = Raw::connect(api.address).await;
    let head = format!(
        "POST /v1/topics/{topic}/records HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\ncontent-length: 100000000\r\n\r\n"
    );
    raw.write(head).await;
    let lines: String = (0..70_000).map(|n| format!("{n}\n")).collect();
    raw.write(lines).await;
    until(30, "the first chunk", async || {
        let description = api.get(&format!("/v1/topics/{topic}")).await.ok();
        (description["partitions"][0]["high_watermark"] == json!(65_536)).then_some(())
    })
    .await;
    drop(raw);
    // A later request that was answered shows that the server has gone past the first one.
    api.lines(&topic, "", "\"after\"\n").await.ok();
    let log = api.log(&topic, 0).await;
    assert_eq!(log.last().unwrap()["value"], json!("after"));
    assert!(log[..log.len() - 1].iter().enumerate().all(|(n, r)| r["value"] == json!(n)));
    assert_eq!(log.len(), 65_537);
}

#[tokio::test]
async fn a_half_closed_connection_that_broke_off_is_told_so() {
    let (api, topic) = (api(), unique("lines"));
    api.topic(&topic, 1).await;
    let mut raw = Raw::connect(api.address).await;
    let head = format!(
        "POST /v1/topics/{topic}/records HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/x-ndjson\r\ncontent-length: 50\r\n\r\n1\n2\n"
    );
    raw.write(head).await;
    raw.half_close().await;
    let answer = raw.read_to_end().await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(api.log(&topic, 0).await.len(), 0);
}

#[tokio::test]
async fn a_body_in_small_pieces_is_one_body() {
    let (api, topic) = (api(), unique("lines"));
    api.topic(&topic, 1).await;
    let mut raw = Raw::connect(api.address).await;
    let head = format!(
        "POST /v1/topics/{topic}/records HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    raw.write(head).await;
    for piece in ["{\"a\"", ":1", "}\r", "\n\"\u{e9}", "\"", "\n3"] {
        raw.write(format!("{:x}\r\n{piece}\r\n", piece.len())).await;
        tokio::task::yield_now().await;
    }
    raw.write("0\r\n\r\n").await;
    let answer = raw.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(values(&api.log(&topic, 0).await), [json!({"a": 1}), json!("é"), json!(3)]);
}
