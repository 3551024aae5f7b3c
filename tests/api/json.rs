//! `POST …/records` with `application/json`.

use super::api;
use millpond_tests::harness::client::{list, send};
use millpond_tests::harness::unique;
use serde_json::{Value, json};

/// Produces one record into a topic of one partition and reads it back.
async fn round_trip(record: Value) -> Value {
    let (api, topic) = (api(), unique("json"));
    api.topic(&topic, 1).await;
    api.produce(&topic, json!([record])).await.ok();
    let mut log = api.log(&topic, 0).await;
    assert_eq!(log.len(), 1);
    let mut record = log.remove(0);
    assert_eq!(record["topic"], json!(topic));
    record
        .as_object_mut()
        .expect("an object")
        .retain(|name, _| !matches!(name.as_str(), "topic" | "partition" | "offset"));
    record
}

#[tokio::test]
async fn a_record_comes_back_as_it_went() {
    let record = json!({"key": "c7", "value": {"n": 1, "list": [1.5, null, "é"]}, "headers": {"trace": "a"}, "timestamp": 1_760_000_000_000_i64});
    assert_eq!(round_trip(record.clone()).await, record);
}

#[tokio::test]
async fn values_are_json_text_raw_text_bytes_or_nothing() {
    let at = 1_000;
    for (given, returned) in [
        (json!({"value": null}), json!({"value": null})),
        (json!({"value": 0.10}), json!({"value": 0.10})),
        (json!({"value": "x"}), json!({"value": "x"})),
        (json!({"text": "plain"}), json!({"text": "plain"})),
        (json!({"text": ""}), json!({"text": ""})),
        (json!({"text": "with \u{0} and \n"}), json!({"text": "with \u{0} and \n"})),
        // Text that is valid JSON comes back as JSON: both are stored as the same bytes.
        (json!({"text": "{\"a\": [1]}"}), json!({"value": {"a": [1]}})),
        (json!({"base64": "/w=="}), json!({"base64": "/w=="})),
        (json!({"base64": ""}), json!({"text": ""})),
        (json!({"base64": "YWI="}), json!({"text": "ab"})),
        (json!({"base64": "MTI="}), json!({"value": 12})),
        (json!({}), json!({})),
        (json!({"text": null}), json!({})),
    ] {
        let (mut given, mut returned) = (given, returned);
        given["timestamp"] = json!(at);
        returned["timestamp"] = json!(at);
        returned["headers"] = json!({});
        let got = round_trip(given.clone()).await;
        assert_eq!(got, returned, "{given}");
        // `==` on JSON values does not distinguish null from absent.
        assert_eq!(got.get("value").is_some(), returned.get("value").is_some(), "{given}");
    }
}

#[tokio::test]
async fn a_json_value_keeps_its_spelling() {
    let (api, topic) = (api(), unique("json"));
    api.topic(&topic, 1).await;
    let spelled = r#"{"a" : 1.50,  "a":12345678901234567890123, "\u00e9":[ ]}"#;
    let body = format!("{{\"records\":[{{\"value\":{spelled}}},{{\"value\":[1,\n2]}}]}}");
    send(api.post(&topic, "application/json; charset=utf-8").body(body)).await.ok();
    let answer = api.partition(&topic, 0, "").await;
    assert!(answer.text().contains(&format!("\"value\":{spelled}")), "{}", answer.text());
    let pinned = api.partition(&topic, 0, "?encoding=text").await.ok();
    assert_eq!(pinned["records"][0]["text"], json!(spelled));
    assert_eq!(pinned["records"][1]["text"], json!("[1,\n2]"));
    // A record with a line break in its value remains one NDJSON line.
    assert_eq!(
        api.get_as(&format!("/v1/topics/{topic}/partitions/0/records"), "application/x-ndjson")
            .await
            .lines()
            .len(),
        2
    );
}

#[tokio::test]
async fn keys_are_text_or_bytes() {
    let at = json!(5);
    for (given, returned) in [
        (json!({"key": ""}), json!({"key": ""})),
        (json!({"key": "é\u{0}\""}), json!({"key": "é\u{0}\""})),
        (json!({"key_base64": "/wA="}), json!({"key_base64": "/wA="})),
        (json!({"key_base64": "YQ=="}), json!({"key": "a"})),
        (json!({"key": null}), json!({})),
    ] {
        let (mut given, mut returned) = (given, returned);
        for record in [&mut given, &mut returned] {
            record["timestamp"] = at.clone();
            record["value"] = json!(1);
        }
        returned["headers"] = json!({});
        assert_eq!(round_trip(given).await, returned);
    }
}

#[tokio::test]
async fn headers_are_text_bytes_or_lists_in_order() {
    let headers = json!({"a": "1", "b": {"base64": "/w=="}, "c": ["x", {"base64": "gA=="}, "y"], "": "", "Ünï": "ö\u{0}"});
    let record = round_trip(json!({"value": 1, "headers": headers})).await;
    assert_eq!(record["headers"], headers);
    // A header with one value is returned without a list, one with none is left out, and base64 of text is
    // returned as text.
    let record =
        round_trip(json!({"value": 1, "headers": {"one": ["x"], "none": [], "t": {"base64": "YQ=="}}})).await;
    assert_eq!(record["headers"], json!({"one": "x", "t": "a"}));
    let (api, topic) = (api(), unique("json"));
    let body = r#"{"records":[{"value":1,"partition":0,"headers":{"h":"1","g":"2","h":"3"}}]}"#;
    send(api.post(&topic, "application/json").body(body)).await.ok();
    assert_eq!(api.log(&topic, 0).await[0]["headers"], json!({"h": ["1", "3"], "g": "2"}));
}

#[tokio::test]
async fn partitions_are_those_of_kafkas_default_partitioner() {
    let (api, topic) = (api(), unique("json"));
    api.topic(&topic, 8).await;
    // Computed with Kafka's own murmur2: 21 → -973932308, foobar → -790332482, a-little-bit-long-string →
    // -985981536.
    let keys =
        [("21", -973_932_308_i64), ("foobar", -790_332_482), ("a-little-bit-long-string", -985_981_536)];
    let records: Vec<Value> = keys.iter().map(|(key, _)| json!({"key": key, "value": 1})).collect();
    let answer = api.produce(&topic, json!(records)).await.ok();
    for (result, (key, hash)) in list(&answer, "results").iter().zip(keys) {
        assert_eq!(result["partition"], json!((hash & 0x7fff_ffff) % 8), "{key}");
    }
}

#[tokio::test]
async fn unkeyed_records_of_a_request_share_a_partition_and_requests_take_turns() {
    let (api, topic) = (api(), unique("json"));
    api.topic(&topic, 4).await;
    let mut seen = Vec::new();
    for _ in 0..40 {
        let answer = api.produce(&topic, json!([{"value": 1}, {"value": 2}, {"value": 3}])).await.ok();
        let partitions: Vec<&Value> = list(&answer, "results").iter().map(|r| &r["partition"]).collect();
        assert!(partitions.iter().all(|p| *p == partitions[0]), "{answer}");
        seen.push(partitions[0].as_i64().unwrap());
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, [0, 1, 2, 3]);
}

#[tokio::test]
async fn results_stand_in_the_order_of_the_request() {
    let (api, topic) = (api(), unique("json"));
    api.topic(&topic, 3).await;
    let records: Vec<Value> =
        (0..30).map(|n| json!({"value": n, "partition": n % 3, "timestamp": 1000 + n})).collect();
    let answer = api.produce(&topic, json!(records)).await.ok();
    for (n, result) in (0..30).zip(list(&answer, "results")) {
        assert_eq!(
            *result,
            json!({"partition": n % 3, "offset": n / 3, "timestamp": 1000 + n, "duplicate": false})
        );
    }
    assert!(answer.get("duplicate").is_none());
    for partition in 0..3 {
        let values: Vec<i64> =
            api.log(&topic, partition).await.iter().map(|r| r["value"].as_i64().unwrap()).collect();
        assert_eq!(values, (0..10).map(|n| n * 3 + i64::from(partition)).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_record_without_timestamp_gets_the_time_of_the_request() {
    let (api, topic) = (api(), unique("json"));
    let answer =
        api.produce(&topic, json!([{"value": 1, "partition": 0}, {"value": 2, "partition": 0}])).await.ok();
    let given = answer["results"][0]["timestamp"].as_i64().unwrap();
    assert!(given > 1_600_000_000_000, "{given}");
    assert_eq!(answer["results"][1]["timestamp"], json!(given));
    assert_eq!(api.log(&topic, 0).await[1]["timestamp"], json!(given));
}

#[tokio::test]
async fn timestamps_reach_from_1970_to_9999() {
    let (api, topic) = (api(), unique("json"));
    for good in [0, 1, 253_402_300_799_999_i64] {
        let answer = api.produce(&topic, json!([{"value": 1, "partition": 0, "timestamp": good}])).await.ok();
        assert_eq!(answer["results"][0]["timestamp"], json!(good));
    }
    for bad in [-1, i64::MIN, i64::MAX, 253_402_300_800_000] {
        api.produce(&topic, json!([{"value": 1, "partition": 0, "timestamp": bad}]))
            .await
            .problem(422, "invalid_record");
    }
    let times: Vec<Value> = api.log(&topic, 0).await.iter().map(|r| r["timestamp"].clone()).collect();
    assert_eq!(times, [json!(0), json!(1), json!(253_402_300_799_999_i64)]);
}

#[tokio::test]
async fn one_bad_record_stores_nothing_and_is_named() {
    let (api, topic) = (api(), unique("json"));
    api.topic(&topic, 2).await;
    let bad = [
        (json!({"value": 1, "partition": -1}), 422, "invalid_record"),
        (json!({"value": 1, "partition": 2}), 404, "partition_not_found"),
        (json!({"value": 1, "partition": 2_147_483_647}), 404, "partition_not_found"),
        (json!({"value": 1, "text": "x"}), 422, "invalid_record"),
        (json!({"text": "1", "base64": "MQ=="}), 422, "invalid_record"),
        (json!({"value": null, "text": "x"}), 422, "invalid_record"),
        (json!({"key": "a", "key_base64": "YQ==", "value": 1}), 422, "invalid_record"),
        (json!({"base64": "not base64!"}), 422, "invalid_record"),
        (json!({"key_base64": "YQ", "value": 1}), 422, "invalid_record"),
        (json!({"value": 1, "headers": {"millpond.delay": "x"}}), 422, "invalid_record"),
        (json!({"value": 1, "headers": {"millpond.": "x"}}), 422, "invalid_record"),
        (json!({"value": 1, "dedup_id": ""}), 422, "invalid_record"),
        (json!({"value": 1, "ttl_ms": 0}), 422, "invalid_record"),
        (json!({"value": 1, "delay_ms": -1}), 422, "invalid_record"),
        (json!({"value": 1, "delay_ms": 1, "deliver_at_ms": 1}), 422, "invalid_record"),
        (json!({"value": 1, "delay_ms": i64::MAX}), 422, "invalid_record"),
    ];
    for (record, status, code) in bad {
        let problem = api
            .produce(&topic, json!([{"value": "good"}, record, {"value": "good"}]))
            .await
            .problem(status, code);
        assert_eq!(problem["record"], json!(1), "{record}: {problem}");
    }
    assert_eq!(api.topic_log(&topic).await, Vec::<Value>::new());
}

#[tokio::test]
async fn wrong_types_are_refused() {
    let (api, topic) = (api(), unique("json"));
    api.topic(&topic, 1).await;
    let records = [
        json!({"key": 1, "value": 1}),
        json!({"text": 1}),
        json!({"base64": ["YQ=="]}),
        json!({"value": 1, "headers": []}),
        json!({"value": 1, "headers": {"a": 1}}),
        json!({"value": 1, "headers": {"a": null}}),
        json!({"value": 1, "headers": {"a": {"base64": 1}}}),
        json!({"value": 1, "headers": {"a": {"base64": "!"}}}),
        json!({"value": 1, "headers": {"a": [["x"]]}}),
        json!({"value": 1, "partition": "0"}),
        json!({"value": 1, "partition": 0.5}),
        json!({"value": 1, "partition": 4_294_967_296_i64}),
        json!({"value": 1, "timestamp": "now"}),
        json!({"value": 1, "timestamp": 1e18}),
        json!({"value": 1, "valeu": 1}),
        json!(1),
        json!([]),
        json!(null),
    ];
    for record in records {
        let answer = api.produce(&topic, json!([record])).await;
        assert!(matches!(answer.status, 400 | 422), "{record}: {answer:?}");
    }
    for body in [
        "",
        "{",
        "[]",
        "null",
        "{}",
        r#"{"records":{}}"#,
        r#"{"records":[],"x":1}"#,
        r#"{"records":[{"value":1}]}x"#,
    ] {
        let answer = send(api.post(&topic, "application/json").body(body)).await;
        assert!(matches!(answer.status, 400 | 422), "{body}: {answer:?}");
    }
    assert_eq!(api.topic_log(&topic).await, Vec::<Value>::new());
}

#[tokio::test]
async fn bytes_that_are_no_json_are_refused() {
    let (api, topic) = (api(), unique("json"));
    api.topic(&topic, 1).await;
    let bodies: [&[u8]; 7] = [
        b"{\"records\":[{\"text\":\"\xff\"}]}",
        b"{\"records\":[{\"value\":\"\xc3\x28\"}]}",
        b"{\"records\":[{\"key\":\"\xed\xa0\x80\",\"value\":1}]}",
        b"{\"records\":[{\"text\":\"a\x00b\"}]}",
        b"\xef\xbb\xbf{\"records\":[{\"value\":1}]}",
        b"{\"records\":[{\"text\":\"\\ud800\"}]}",
        b"\x00",
    ];
    for body in bodies {
        let answer = send(api.post(&topic, "application/json").body(body)).await;
        assert!(matches!(answer.status, 400 | 422), "{:?}: {answer:?}", String::from_utf8_lossy(body));
    }
    let deep = format!("{{\"records\":[{{\"value\":{}1{}}}]}}", "[".repeat(100_000), "]".repeat(100_000));
    let answer = send(api.post(&topic, "application/json").body(deep)).await;
    assert!(matches!(answer.status, 200 | 400 | 422), "{answer:?}");
    assert_eq!(api.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn no_records_are_no_problem() {
    let (api, topic) = (api(), unique("json"));
    assert_eq!(api.produce(&topic, json!([])).await.ok(), json!({"results": []}));
}

#[tokio::test]
async fn if_match_appends_only_at_that_offset() {
    let (api, topic) = (api(), unique("json"));
    api.topic(&topic, 2).await;
    let body = |n: i64| {
        json!({"records": [{"value": n, "partition": 1}, {"value": n + 1, "partition": 1}]}).to_string()
    };
    let send_at =
        |at: &'static str, n| send(api.post(&topic, "application/json").header("if-match", at).body(body(n)));
    assert_eq!(send_at("0", 0).await.ok()["results"][1]["offset"], json!(1));
    assert_eq!(send_at("\"2\"", 2).await.ok()["results"][0]["offset"], json!(2));
    for stale in ["0", "\"3\"", "5", "9223372036854775807"] {
        let problem = send_at(stale, 9).await.problem(409, "offset_mismatch");
        assert_eq!(problem["high_watermark"], json!(4));
    }
    for wrong in ["-1", "x", "*", "", "\"1", "1.5", "9223372036854775808"] {
        send_at(wrong, 9).await.problem(400, "bad_request");
    }
    let both = json!({"records": [{"value": 1, "partition": 0}, {"value": 1, "partition": 1}]}).to_string();
    send(api.post(&topic, "application/json").header("if-match", "0").body(both))
        .await
        .problem(400, "bad_request");
    let unnamed = json!({"records": [{"value": 1}]}).to_string();
    send(api.post(&topic, "application/json").header("if-match", "0").body(unnamed))
        .await
        .problem(400, "bad_request");
    send(api.post(&topic, "application/x-ndjson").header("if-match", "0").body("1\n"))
        .await
        .problem(400, "bad_request");
    let values: Vec<Value> = api.log(&topic, 1).await.iter().map(|r| r["value"].clone()).collect();
    assert_eq!(values, [json!(0), json!(1), json!(2), json!(3)]);
    assert_eq!(api.log(&topic, 0).await.len(), 0);
}

#[tokio::test]
async fn of_many_who_expect_the_same_offset_one_wins() {
    let (api, topic) = (api(), unique("json"));
    api.topic(&topic, 1).await;
    let body = json!({"records": [{"value": 1, "partition": 0}]}).to_string();
    let tries = (0..16)
        .map(|_| send(api.post(&topic, "application/json").header("if-match", "0").body(body.clone())));
    let answers = futures::future::join_all(tries).await;
    assert_eq!(answers.iter().filter(|a| a.status == 200).count(), 1);
    assert!(answers.iter().all(|a| matches!(a.status, 200 | 409)));
    assert_eq!(api.log(&topic, 0).await.len(), 1);
}

#[tokio::test]
async fn a_dedup_id_is_stored_once_in_the_topic_whatever_its_partition() {
    let (api, topic) = (api(), unique("dedup"));
    api.put(&format!("/v1/topics/{topic}"), json!({"partitions": 2, "dedup_window_ms": 3_600_000})).await;
    let first = api
        .produce(
            &topic,
            json!([{"value": 1, "partition": 0, "dedup_id": "o-1"}, {"value": 2, "partition": 0}]),
        )
        .await
        .ok();
    assert_eq!(first["results"][0]["duplicate"], json!(false));
    let later = json!([{"value": 3, "partition": 1}, {"value": 9, "partition": 1, "dedup_id": "o-1"}, {"value": 4, "partition": 1, "dedup_id": "o-2"},
        {"value": 9, "partition": 1, "dedup_id": "o-2"}, {"value": 5, "partition": 1}]);
    let later = api.produce(&topic, later).await.ok();
    let results: Vec<(i64, i64, bool)> = list(&later, "results")
        .iter()
        .map(|r| {
            (
                r["partition"].as_i64().unwrap(),
                r["offset"].as_i64().unwrap(),
                r["duplicate"].as_bool().unwrap(),
            )
        })
        .collect();
    assert_eq!(results, [(1, 0, false), (0, 0, true), (1, 1, false), (1, 1, true), (1, 2, false)]);
    let values: Vec<Value> = api.log(&topic, 1).await.iter().map(|r| r["value"].clone()).collect();
    assert_eq!(values, [json!(3), json!(4), json!(5)]);
    assert_eq!(api.log(&topic, 0).await.len(), 2);
    // The headers that carry it are not returned.
    assert_eq!(api.log(&topic, 0).await[0]["headers"], json!({}));
}

#[tokio::test]
async fn without_a_window_a_dedup_id_does_nothing() {
    let (api, topic) = (api(), unique("dedup"));
    let record = json!([{"value": 1, "partition": 0, "dedup_id": "o-1"}]);
    for n in 0..2 {
        let answer = api.produce(&topic, record.clone()).await.ok();
        assert_eq!(
            answer["results"][0],
            json!({"partition": 0, "offset": n, "timestamp": answer["results"][0]["timestamp"], "duplicate": false})
        );
    }
}

#[tokio::test]
async fn of_one_dedup_id_sent_by_many_at_once_one_is_stored() {
    let (api, topic) = (api(), unique("dedup"));
    api.put(&format!("/v1/topics/{topic}"), json!({"partitions": 4, "dedup_window_ms": 60_000})).await;
    let tries = (0..16)
        .map(|n| api.produce(&topic, json!([{"value": n, "partition": n % 4, "dedup_id": "same"}])))
        .collect::<Vec<_>>();
    let answers: Vec<Value> =
        futures::future::join_all(tries).await.iter().map(|a| a.ok()["results"][0].clone()).collect();
    assert_eq!(answers.iter().filter(|r| r["duplicate"] == json!(false)).count(), 1);
    assert!(
        answers
            .iter()
            .all(|r| (&r["partition"], &r["offset"]) == (&answers[0]["partition"], &answers[0]["offset"])),
        "{answers:?}"
    );
    assert_eq!(api.topic_log(&topic).await.len(), 1);
}

#[tokio::test]
async fn delays_and_lifetimes_do_not_hide_records_from_readers() {
    let record = round_trip(json!({"value": 1, "timestamp": 7, "delay_ms": 3_600_000, "ttl_ms": 1})).await;
    assert_eq!(record, json!({"value": 1, "timestamp": 7, "headers": {}}));
}

#[tokio::test]
async fn a_traceparent_is_stored_but_not_shown() {
    let (api, topic) = (api(), unique("json"));
    for trace in ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "nonsense"] {
        let body = json!({"records": [{"value": 1, "partition": 0}]}).to_string();
        send(api.post(&topic, "application/json").header("traceparent", trace).body(body)).await.ok();
    }
    assert!(api.log(&topic, 0).await.iter().all(|r| r["headers"] == json!({})));
}
