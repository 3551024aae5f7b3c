//! The settings of `millpond queue create`. Only those that are given are sent.

use std::str::FromStr;

use clap::ValueEnum;
use serde_json::{Map, Value, json};

use super::super::humane;

/// Settings of a queue. One that is left out keeps its value; in a new queue it gets the server's default.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Settings {
    /// Topic whose records the queue hands out, by default the topic with the queue's name; it cannot be
    /// changed later
    #[arg(long)]
    topic: Option<String>,

    /// Whether records of one key are leased one after the other; it cannot be changed later
    #[arg(long)]
    mode: Option<Mode>,

    /// Time until a lease expires: milliseconds, or such as 30s
    #[arg(long, value_name = "DURATION", value_parser = humane::parse_ms)]
    lease: Option<u64>,

    /// Delay of a retry after the first failure: milliseconds, or such as 1s
    #[arg(long, value_name = "DURATION", value_parser = humane::parse_ms)]
    base: Option<u64>,

    /// Factor by which the delay grows with each further failure
    #[arg(long, value_name = "NUMBER")]
    factor: Option<f64>,

    /// Longest delay of a retry: milliseconds, or such as 1h
    #[arg(long, value_name = "DURATION", value_parser = humane::parse_ms)]
    cap: Option<u64>,

    /// Share of the delay by which it is randomly longer or shorter, from 0 to 1
    #[arg(long, value_name = "SHARE")]
    jitter: Option<f64>,

    /// Number of failures after which a record is dead
    #[arg(long, value_name = "N")]
    max_failures: Option<u32>,

    /// Number of records that can be leased in a time, such as 100/1s, or none for no limit
    #[arg(long, value_name = "N/DURATION")]
    rate: Option<Rate>,

    /// Number of records that can be leased at the same time
    #[arg(long, value_name = "N")]
    max_in_flight: Option<u64>,

    /// Where in the topic a new queue begins; it cannot be changed later, but see `queue seek`
    #[arg(long)]
    from: Option<From>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Records are leased independently of each other
    Shared,
    /// Records of one key are leased one after the other, in order
    Keyed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum From {
    Earliest,
    Latest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rate {
    Unlimited,
    Limited { limit: u64, per_ms: u64 },
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::Unlimited);
        }
        let limited = text.split_once('/').and_then(|(limit, per)| {
            let per = if per.starts_with(|c: char| c.is_ascii_digit()) { per } else { &format!("1{per}") };
            Some(Self::Limited { limit: limit.parse().ok()?, per_ms: humane::parse_ms(per).ok()? })
        });
        limited.ok_or_else(|| "expected records in a time, such as 100/1s, or none".to_owned())
    }
}

impl Rate {
    fn to_json(self) -> Value {
        match self {
            Self::Unlimited => Value::Null,
            Self::Limited { limit, per_ms } => json!({"limit": limit, "per_ms": per_ms}),
        }
    }
}

impl Settings {
    pub fn to_json(&self) -> Value {
        let retry = object([
            ("base_ms", self.base.map(Value::from)),
            ("factor", self.factor.map(Value::from)),
            ("cap_ms", self.cap.map(Value::from)),
            ("jitter", self.jitter.map(Value::from)),
            ("max_failures", self.max_failures.map(Value::from)),
        ]);
        let mode = self.mode.map(|mode| match mode {
            Mode::Shared => "shared",
            Mode::Keyed => "keyed",
        });
        let from = self.from.map(|from| match from {
            From::Earliest => "earliest",
            From::Latest => "latest",
        });
        Value::Object(object([
            ("topic", self.topic.clone().map(Value::from)),
            ("mode", mode.map(Value::from)),
            ("lease_ms", self.lease.map(Value::from)),
            ("retry", (!retry.is_empty()).then_some(Value::Object(retry))),
            ("rate", self.rate.map(Rate::to_json)),
            ("max_in_flight", self.max_in_flight.map(Value::from)),
            ("from", from.map(Value::from)),
        ]))
    }
}

/// A JSON object of the members that have a value.
fn object<const N: usize>(members: [(&str, Option<Value>); N]) -> Map<String, Value> {
    members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
