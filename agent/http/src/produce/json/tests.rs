use super::*;
use millpond_core::{Name, PartitionId, Topic, TopicConfig, TopicId};
use millpond_engine::produce::append::{Basis, BasisTopic};
use proptest::prelude::*;
use std::sync::Arc;

fn builder() -> AppendBuilder {
    let topic = Topic {
        id: TopicId(1),
        tenant: Name::default_tenant(),
        name: Name::new("t").expect("valid"),
        config: TopicConfig::default(),
        partitions: (0..4).map(PartitionId).collect(),
    };
    AppendBuilder::new(
        vec![Arc::new(topic)],
        Basis { timestamp: 7, topics: vec![BasisTopic { partitions: 4, sticky: 2 }] },
    )
}

fn read(body: &str) -> Result<AppendBuilder, Code> {
    let mut builder = builder();
    read_records(body.as_bytes(), &mut builder, &RecordDefaults::default())
        .map_err(|p| p.code)
        .map(|()| builder)
}

#[test]
fn good_records_are_placed() {
    let body = r#"{"records":[{"value":{"n":1}},{"key":"abc","text":"x","partition":3},
        {"key_base64":"AAE=","base64":"/w==","headers":{"a":"1","b":["2",{"base64":"AA=="}]}},
        {},{"value":null,"timestamp":5}]}"#;
    let builder = read(body).expect("valid");
    assert_eq!(builder.records(), 5);
    assert_eq!(builder.order[0].partition, 2, "records without key go to the sticky partition");
    assert_eq!(builder.order[1].partition, 3);
    assert_eq!(builder.timestamp(builder.order[4]), 5);
    assert_eq!(builder.timestamp(builder.order[0]), 7);
}

#[test]
fn bad_records_say_why() {
    let cases = [
        (r#"{"records":[{"value":1,"text":"x"}]}"#, Code::InvalidRecord),
        (r#"{"records":[{"key":"a","key_base64":"YQ=="}]}"#, Code::InvalidRecord),
        (r#"{"records":[{"base64":"%"}]}"#, Code::InvalidRecord),
        (r#"{"records":[{"headers":{"millpond.x":"1"}}]}"#, Code::InvalidRecord),
        (r#"{"records":[{"timestamp":-1}]}"#, Code::InvalidRecord),
        (r#"{"records":[{"timestamp":9223372036854775807}]}"#, Code::InvalidRecord),
        (r#"{"records":[{"partition":-1}]}"#, Code::InvalidRecord),
        (r#"{"records":[{"partition":4}]}"#, Code::PartitionNotFound),
        (r#"{"records":[{"partition":"x"}]}"#, Code::InvalidRecord),
        (r#"{"records":[{"delay_ms":-5}]}"#, Code::InvalidRecord),
        (r#"{"records":[{"delay_ms":1,"deliver_at_ms":1}]}"#, Code::InvalidRecord),
        (r#"{"records":[{"ttl_ms":0}]}"#, Code::InvalidRecord),
        (r#"{"records":[{"colour":1}]}"#, Code::InvalidRecord),
        (r#"{"records":[{"#, Code::BadRequest),
        (r#"{"records":[]} x"#, Code::BadRequest),
        ("", Code::BadRequest),
    ];
    for (body, code) in cases {
        assert_eq!(read(body).err(), Some(code), "{body}");
    }
    let large = format!(r#"{{"records":[{{"text":"{}"}}]}}"#, "x".repeat(1_048_577));
    assert_eq!(read(&large).err(), Some(Code::RecordTooLarge));
}

#[test]
fn pointers_find_what_rfc_6901_says() {
    let text = r#"{"a":{"b":["x",{"c/d":1}]},"m~n":"q","n":null,"s":"a\"b","o":{"z":[1, 2]}}"#;
    let find =
        |p: &str| Pointer::parse(p).expect("valid").find(text).expect("valid JSON").map(Cow::into_owned);
    assert_eq!(find("/a/b/0").as_deref(), Some("x"));
    assert_eq!(find("/a/b/1/c~1d").as_deref(), Some("1"));
    assert_eq!(find("/m~0n").as_deref(), Some("q"));
    assert_eq!(find("/n"), None);
    assert_eq!(find("/missing/deep"), None);
    assert_eq!(find("/a/b/7"), None);
    assert_eq!(find("/a/b/00"), None);
    assert_eq!(find("/s").as_deref(), Some("a\"b"));
    assert_eq!(find("/o").as_deref(), Some(r#"{"z":[1, 2]}"#));
    assert!(Pointer::parse("tailnum").is_err());
    assert!(Pointer::parse("/a~2").is_err());
    assert!(Pointer::parse("/a").expect("valid").find(r#"{"a":1} trailing"#).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut builder = builder();
        read_records(&body, &mut builder, &RecordDefaults::default()).ok();
        super::super::batch::read_batch_shape(&body).ok();
    }

    #[test]
    fn pointer_agrees_with_serde(n in any::<i64>(), s in ".{0,20}") {
        let text = serde_json::json!({"k": s, "n": n}).to_string();
        let find = |p: &str| {
            Pointer::parse(p).expect("valid").find(&text).expect("valid").map(Cow::into_owned)
        };
        prop_assert_eq!(find("/k"), Some(s));
        prop_assert_eq!(find("/n"), Some(n.to_string()));
    }
}
