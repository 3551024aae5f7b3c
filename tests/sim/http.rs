//! The same requests over HTTP, passed to the agent's router without a network.

use crate::draft::Draft;
use crate::world::Agent;
use axum::body::{Body, to_bytes};
use http::{Request, StatusCode, header};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use millpond_tests::history::{Log, Outcome, Placed, ReadAnswer, identify};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

async fn call(agent: &Agent, request: Request<Body>) -> (StatusCode, Value) {
    let router = agent.router.clone().expect("this run speaks HTTP");
    let response = match TowerToHyperService::new(router).call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let status = response.status();
    let body = to_bytes(response.into_body(), usize::MAX).await.expect("a body in memory");
    (status, serde_json::from_slice(&body).expect("JSON"))
}

/// Outcome of a refused request: certainly without effect, or unknown.
fn refused(status: StatusCode, problem: &Value) -> Outcome {
    let known = status.is_client_error() || problem["code"] == "object_store_unavailable";
    if known { Outcome::Fail { current: problem["high_watermark"].as_i64() } } else { Outcome::Info }
}

pub async fn send(draft: &Draft, agent: &Agent) -> Outcome {
    let mut topics: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (sent, record) in draft.produce.records.iter().zip(draft.records()) {
        let mut fields = Map::new();
        fields.insert("text".to_owned(), record.value.into());
        fields.extend(record.key.map(|key| ("key".to_owned(), key.into())));
        fields.extend(sent.partition.map(|partition| ("partition".to_owned(), partition.into())));
        fields.extend(record.dedup_id.map(|id| ("dedup_id".to_owned(), id.into())));
        topics.entry(&sent.topic).or_default().push(fields.into());
    }
    let one = topics.first_key_value().filter(|_| topics.len() == 1);
    let (path, body) = match one {
        Some((topic, records)) => (format!("/v1/topics/{topic}/records"), json!({ "records": records })),
        None => ("/v1/batches".to_owned(), json!({ "topics": topics })),
    };
    let mut request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
    if let Some(key) = &draft.produce.key {
        request = request.header("idempotency-key", key);
    }
    if let Some(expect) = draft.produce.expect {
        request = request.header(header::IF_MATCH, expect);
    }
    let (status, answer) = call(agent, request.body(Body::from(body.to_string())).expect("a request")).await;
    if status != StatusCode::OK {
        return refused(status, &answer);
    }
    let results = &answer["results"];
    let mut next: BTreeMap<&str, usize> = BTreeMap::new();
    let mut placed = Vec::new();
    for sent in &draft.produce.records {
        let of_topic = if one.is_some() { results } else { &results[&sent.topic] };
        let number = next.entry(&sent.topic).or_default();
        let result = &of_topic[*number];
        *number += 1;
        let partition =
            result["partition"].as_i64().and_then(|p| i32::try_from(p).ok()).expect("a partition");
        // The place of a dedup id's first record is not known.
        let Some(offset) = result["offset"].as_i64() else { return Outcome::Info };
        placed.push(Placed { partition, offset });
    }
    Outcome::Produced { placed, duplicate: answer["duplicate"] == true }
}

/// Reads a page; `None` if the agent could not answer.
pub async fn read(
    agent: &Agent,
    log: &Log,
    offset: i64,
    max_bytes: i64,
    limit: usize,
    wait_ms: u64,
) -> Option<ReadAnswer> {
    let (Log { topic, partition }, limit) = (log, limit.min(100_000));
    let query = format!("offset={offset}&max_records={limit}&max_bytes={max_bytes}&wait_ms={wait_ms}");
    let path = format!("/v1/topics/{topic}/partitions/{partition}/records?{query}");
    let (status, answer) = call(agent, Request::get(path).body(Body::empty()).expect("a request")).await;
    if status != StatusCode::OK && status != StatusCode::RANGE_NOT_SATISFIABLE {
        return None;
    }
    let record = |record: &Value| {
        let value = record["text"].as_str().or(record["value"].as_str()).unwrap_or("");
        (
            record["offset"].as_i64().expect("an offset"),
            identify(record["key"].as_str().map(str::as_bytes), value.as_bytes()),
        )
    };
    let records = answer["records"].as_array().map_or_else(Vec::new, |all| all.iter().map(record).collect());
    Some(ReadAnswer {
        log_start: answer["log_start_offset"].as_i64(),
        high_watermark: answer["high_watermark"].as_i64(),
        records,
    })
}
