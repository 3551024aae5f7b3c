//! Conversion of queue requests and answers between JSON and the types of [`crate::history`].

use std::time::Duration;

use crate::history::{
    Dead, Entry, HandOut, Intent, Leased, QueueAnswer, Seen, Spec, Status, Target, Token, Verdict, Which,
    identify,
};
use serde_json::{Value, json};

use super::client::list;

/// A lease and its records, as the API returned it.
#[derive(Debug, Clone)]
pub struct Taken {
    pub queue: String,
    pub lease: String,
    pub deadline_ms: i64,
    pub records: Vec<Value>,
}

/// Target of a settlement: the text of a receipt or of a lease id.
#[derive(Debug, Clone)]
pub enum Claim {
    Receipt(String),
    Lease(String),
}

/// Identity of a record by its value; a value that is no test payload is identified by its hash.
pub fn seen(record: &Value) -> Seen {
    let text = |name: &str| record[name].as_str().map(str::to_owned);
    let value = text("text").or_else(|| text("base64")).unwrap_or_else(|| record["value"].to_string());
    identify(record["key"].as_str().map(str::as_bytes), value.as_bytes())
}

pub fn number(value: &Value, name: &str) -> i64 {
    value[name].as_i64().unwrap_or_else(|| panic!("no number {name} in {value}"))
}

pub fn small<T: TryFrom<i64>>(value: &Value, name: &str) -> T {
    T::try_from(number(value, name)).unwrap_or_else(|_| panic!("{name} is out of range in {value}"))
}

pub fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("no text {name} in {value}")).to_owned()
}

/// Shortest delay after each failure, by the retry policy of a queue's description.
pub fn backoff_ms(retry: &Value) -> Vec<i64> {
    let figure = |name: &str| retry[name].as_f64().unwrap_or_else(|| panic!("no figure {name} in {retry}"));
    let (base_ms, factor, cap_ms, jitter) =
        (figure("base_ms"), figure("factor"), figure("cap_ms"), figure("jitter"));
    let delay = |step: i32| {
        Duration::from_secs_f64((base_ms * factor.powi(step)).min(cap_ms) * (1.0 - jitter) / 1_000.0)
    };
    (0..small(retry, "max_failures"))
        .map(|step| i64::try_from(delay(step).as_millis()).expect("a delay"))
        .collect()
}

pub fn cursors(told: &Value) -> QueueAnswer {
    QueueAnswer::Cursors(
        list(told, "offsets").iter().map(|o| (small(o, "partition"), number(o, "offset"))).collect(),
    )
}

pub fn which(body: &Value) -> Which {
    match body["offsets"].as_array() {
        Some(offsets) => {
            Which::Offsets(offsets.iter().map(|o| (small(o, "partition"), number(o, "offset"))).collect())
        }
        None => Which::Any,
    }
}

pub fn dead_of(row: &Value) -> Dead {
    let reason = row["reason"].as_str().map(Into::into);
    let (attempt, failures) = (small(row, "attempt"), small(row, "failures"));
    Dead { partition: small(row, "partition"), offset: number(row, "offset"), attempt, failures, reason }
}

pub fn spec(queue: &str, made: &Value) -> Spec {
    Spec {
        queue: queue.to_owned(),
        topic: text(made, "topic"),
        keyed: made["mode"] == "keyed",
        max_failures: small(&made["retry"], "max_failures"),
        backoff_ms: backoff_ms(&made["retry"]),
        latest: made["from"] == "latest",
    }
}

pub fn taken(queue: &str, told: &Value) -> Option<Taken> {
    let lease = told["lease_id"].as_str()?.to_owned();
    Some(Taken {
        queue: queue.to_owned(),
        lease,
        deadline_ms: number(told, "deadline_ms"),
        records: list(told, "records").clone(),
    })
}

/// Converts an answer to a lease request; an empty answer becomes a lease without records.
pub fn leased(told: &Value) -> Leased {
    let hand_out = |record: &Value| HandOut {
        partition: small(record, "partition"),
        offset: number(record, "offset"),
        seen: seen(record),
        key: record["key"].as_str().map(Into::into),
        attempt: small(record, "attempt"),
        failures: small(record, "failures"),
        receipt: Token::of(&text(record, "receipt")),
    };
    Leased {
        lease: Token::of(told["lease_id"].as_str().unwrap_or("")),
        now_ms: number(told, "now_ms"),
        deadline_ms: told["deadline_ms"].as_i64().unwrap_or(0),
        records: list(told, "records").iter().map(hand_out).collect(),
    }
}

pub fn entry((claim, intent): &(Claim, Intent)) -> Entry {
    let target = match claim {
        Claim::Receipt(text) => Target::Receipt(Token::of(text)),
        Claim::Lease(text) => Target::Lease(Token::of(text)),
    };
    Entry { target, intent: intent.clone() }
}

/// Body of a settlement, and for each of its results the index of its entry.
pub fn settlement(request: Option<&str>, entries: &[(Claim, Intent)]) -> (Value, Vec<usize>) {
    let names = ["ack", "nack", "renew", "reject", "ack_leases", "renew_leases"];
    let mut parts: Vec<(Vec<Value>, Vec<usize>)> = vec![Default::default(); names.len()];
    for (n, (claim, intent)) in entries.iter().enumerate() {
        let (part, value) = match (claim, intent) {
            (Claim::Receipt(receipt), Intent::Ack) => (0, json!(receipt)),
            (Claim::Receipt(receipt), Intent::Nack { counts, delay_ms, reason }) => {
                (1, json!({"receipt": receipt, "counts": counts, "delay_ms": delay_ms, "reason": reason}))
            }
            (Claim::Receipt(receipt), Intent::Renew { lease_ms }) => {
                (2, json!({"receipt": receipt, "lease_ms": lease_ms}))
            }
            (Claim::Receipt(receipt), Intent::Reject { reason }) => {
                (3, json!({"receipt": receipt, "reason": reason}))
            }
            (Claim::Lease(lease), Intent::Ack) => (4, json!(lease)),
            (Claim::Lease(lease), Intent::Renew { lease_ms }) => {
                (5, json!({"lease_id": lease, "lease_ms": lease_ms}))
            }
            (Claim::Lease(_), intent) => panic!("a whole lease is acked or renewed: {intent:?}"),
        };
        parts[part].0.push(value);
        parts[part].1.push(n);
    }
    let mut body = json!({ "request_id": request });
    let mut order = Vec::new();
    for (name, (values, numbers)) in names.iter().zip(parts) {
        body[*name] = Value::Array(values);
        order.extend(numbers);
    }
    (body, order)
}

/// Verdicts of an atomic request that was refused because some of these receipts were lost.
pub fn refused(problem: &Value, receipts: &[String]) -> Vec<Verdict> {
    let lost = list(problem, "receipts");
    assert!(!lost.is_empty(), "none is lost: {problem}");
    let status =
        |receipt: &String| if lost.contains(&json!(receipt)) { Status::Lost } else { Status::Untouched };
    receipts.iter().map(|receipt| Verdict::new(status(receipt))).collect()
}

pub fn verdicts(told: &Value) -> Vec<Verdict> {
    let status = |result: &Value| match result["status"].as_str() {
        Some("acked") => Status::Acked,
        Some("released") => Status::Released,
        Some("dead") => Status::Dead,
        Some("renewed") => Status::Renewed,
        Some("lost") => Status::Lost,
        _ => panic!("no status in {result}"),
    };
    let verdict = |result: &Value| Verdict {
        status: status(result),
        deadline_ms: result["deadline_ms"].as_i64(),
        records: result["records"].as_u64(),
    };
    list(told, "results").iter().map(verdict).collect()
}
