//! `/openapi.json` describes the API as it is implemented.

use super::api;
use millpond_tests::harness::client::{list, send};
use millpond_tests::harness::unique;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Every call of the contract that this version implements.
const CALLS: &[(&str, &str)] = &[
    ("put", "/v1/topics/{topic}"),
    ("get", "/v1/topics"),
    ("get", "/v1/topics/{topic}"),
    ("delete", "/v1/topics/{topic}"),
    ("post", "/v1/topics/{topic}/records"),
    ("post", "/v1/batches"),
    ("get", "/v1/topics/{topic}/partitions/{partition}/records"),
    ("get", "/v1/topics/{topic}/records"),
    ("get", "/v1/topics/{topic}/offsets"),
    ("post", "/v1/groups/{group}/members"),
    ("post", "/v1/groups/{group}/members/{member}/poll"),
    ("delete", "/v1/groups/{group}/members/{member}"),
    ("post", "/v1/groups/{group}/offsets"),
    ("get", "/v1/groups"),
    ("get", "/v1/groups/{group}"),
    ("delete", "/v1/groups/{group}"),
    ("put", "/v1/queues/{queue}"),
    ("get", "/v1/queues"),
    ("get", "/v1/queues/{queue}"),
    ("delete", "/v1/queues/{queue}"),
    ("post", "/v1/queues/{queue}/leases"),
    ("post", "/v1/queues/{queue}/settlements"),
    ("get", "/v1/queues/{queue}/in-flight"),
    ("get", "/v1/queues/{queue}/waiting"),
    ("get", "/v1/queues/{queue}/dead"),
    ("get", "/v1/queues/{queue}/peek"),
    ("post", "/v1/queues/{queue}/dead/redrive"),
    ("post", "/v1/queues/{queue}/dead/purge"),
    ("post", "/v1/queues/{queue}/pause"),
    ("post", "/v1/queues/{queue}/resume"),
    ("post", "/v1/queues/{queue}/purge"),
    ("post", "/v1/queues/{queue}/seek"),
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("get", "/metrics"),
    ("get", "/v1/cluster"),
    ("get", "/openapi.json"),
];

const METHODS: &[&str] = &["get", "put", "post", "delete", "options", "head", "patch", "trace"];

fn calls(document: &Value) -> BTreeSet<(String, String)> {
    let paths = document["paths"].as_object().expect("paths");
    let of = |(path, item): (&String, &Value)| {
        let methods = item.as_object().expect("a path item").keys().filter(|k| METHODS.contains(&k.as_str()));
        methods.map(|method| (method.clone(), path.clone())).collect::<Vec<_>>()
    };
    paths.iter().flat_map(of).collect()
}

#[tokio::test]
async fn it_lists_the_calls_of_the_contract() {
    let document = api().get("/openapi.json").await.ok();
    let contract: BTreeSet<_> =
        CALLS.iter().map(|(method, path)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(calls(&document), contract);
}

#[tokio::test]
async fn every_call_it_lists_is_answered() {
    let api = api();
    let document = api.get("/openapi.json").await.ok();
    let topic = unique("described");
    for (method, path) in calls(&document) {
        let path = path
            .replace("{topic}", &topic)
            .replace("{partition}", "0")
            .replace("{group}", &topic)
            .replace("{member}", "0");
        let answer =
            send(api.request(Method::from_bytes(method.to_uppercase().as_bytes()).unwrap(), &path)).await;
        if answer.status >= 400 {
            let code = answer.json()["code"].as_str().unwrap().to_owned();
            assert!(
                !matches!(code.as_str(), "not_found" | "method_not_allowed" | "internal"),
                "{method} {path}: {code}"
            );
        }
    }
}

#[tokio::test]
async fn it_is_a_well_formed_document_of_version_3_1() {
    let document = api().get("/openapi.json").await.ok();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."), "{}", document["openapi"]);
    for field in ["title", "version", "description"] {
        assert!(!document["info"][field].as_str().unwrap().is_empty(), "info.{field}");
    }
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        assert!(path.starts_with('/'));
        for (method, call) in item.as_object().unwrap().iter().filter(|(k, _)| METHODS.contains(&k.as_str()))
        {
            let what = format!("{method} {path}");
            assert!(
                ids.insert(call["operationId"].as_str().expect(&what).to_owned()),
                "{what}: its operationId stands twice"
            );
            assert!(call["summary"].as_str().is_some_and(|s| !s.is_empty()), "{what} has no summary");
            check_parameters(path, call, &what);
            let responses = call["responses"].as_object().expect(&what);
            assert!(responses.keys().any(|status| status.starts_with('2')), "{what}");
            for (status, response) in responses {
                let bytes = status.as_bytes();
                assert!(
                    bytes.len() == 3
                        && (b'1'..=b'5').contains(&bytes[0])
                        && (status.ends_with("XX") || status.parse::<u16>().is_ok()),
                    "{what}: {status}"
                );
                assert!(response["description"].is_string(), "{what} {status}");
                let is_error = bytes[0] >= b'4' && path.starts_with("/v1");
                assert!(
                    !is_error
                        || response["content"]["application/problem+json"]["schema"]["$ref"]
                            == json!("#/components/schemas/ProblemBody"),
                    "{what} {status}"
                );
            }
        }
    }
    check_references(&document, &document);
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let known = ["type", "oneOf", "allOf", "anyOf", "$ref", "enum"]
            .iter()
            .any(|field| schema.get(*field).is_some());
        assert!(known, "schema {name} says nothing: {schema}");
    }
}

fn check_parameters(path: &str, call: &Value, what: &str) {
    let none = Vec::new();
    let parameters = call.get("parameters").map_or(&none, |_| list(call, "parameters"));
    let mut in_path = BTreeSet::new();
    for parameter in parameters {
        let (name, place) = (parameter["name"].as_str().expect(what), parameter["in"].as_str().expect(what));
        assert!(matches!(place, "path" | "query" | "header" | "cookie"), "{what}: {parameter}");
        assert!(
            parameter.get("schema").is_some() || parameter.get("content").is_some(),
            "{what}: {parameter}"
        );
        if place == "path" {
            assert_eq!(parameter["required"], json!(true), "{what}: {name}");
            in_path.insert(format!("{{{name}}}"));
        }
    }
    let wanted: BTreeSet<String> =
        path.split('/').filter(|part| part.starts_with('{')).map(str::to_owned).collect();
    assert_eq!(in_path, wanted, "{what}");
}

/// Checks that every `$ref` leads to an existing part of the document.
fn check_references(document: &Value, part: &Value) {
    match part {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                let pointer = reference
                    .strip_prefix('#')
                    .unwrap_or_else(|| panic!("{reference} leads out of the document"));
                assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
            }
            fields.values().for_each(|field| check_references(document, field));
        }
        Value::Array(elements) => elements.iter().for_each(|element| check_references(document, element)),
        _ => {}
    }
}

/// The document's schemas of records and the fields that the server accepts must agree in both directions.
#[tokio::test]
async fn the_schemas_of_records_name_the_fields_that_are_there() {
    let (api, topic) = (api(), unique("described"));
    let document = api.get("/openapi.json").await.ok();
    let fields = |schema: &str| {
        let properties = document["components"]["schemas"][schema]["properties"]
            .as_object()
            .unwrap_or_else(|| panic!("{schema}"));
        properties.keys().cloned().collect::<BTreeSet<_>>()
    };
    for field in fields("ProducedRecord") {
        let problem = api.produce(&topic, json!([{field.clone(): []}])).await;
        let text = String::from_utf8_lossy(&problem.body).into_owned();
        assert!(!text.contains("unknown field"), "{field}: {text}");
    }
    let topic = unique("described");
    api.topic(&topic, 1).await;
    api.produce(
        &topic,
        json!([{"key": "k", "value": 1}, {"key_base64": "/w==", "text": "x"}, {"base64": "/w=="}]),
    )
    .await
    .ok();
    let page = api.partition(&topic, 0, "").await.ok();
    let returned: BTreeSet<String> =
        list(&page, "records").iter().flat_map(|r| r.as_object().unwrap().keys().cloned()).collect();
    assert_eq!(returned, fields("ReturnedRecord"));
    let mut page: BTreeSet<String> = page.as_object().unwrap().keys().cloned().collect();
    assert_eq!(page, fields("PartitionAnswer"));
    page = api
        .get(&format!("/v1/topics/{topic}/records"))
        .await
        .ok()
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    assert_eq!(page, fields("TopicAnswer"));
    let description = api.get(&format!("/v1/topics/{topic}")).await.ok();
    assert_eq!(
        description.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>(),
        fields("TopicDescription")
    );
    let problem = api.get("/v1/topics/no-such-topic").await.problem(404, "topic_not_found");
    assert_eq!(problem.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>(), fields("ProblemBody"));
}
