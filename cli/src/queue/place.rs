//! Options that name positions in a queue's topic, and options that select dead records.

use std::str::FromStr;

use serde_json::{Map, Value, json};

use super::super::error::CliError;

/// A position in one partition, given as `PARTITION:OFFSET`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    partition: u32,
    offset: u64,
}

impl At {
    fn parse(text: &str) -> Option<Self> {
        let (partition, offset) = text.split_once(':')?;
        Some(Self { partition: partition.parse().ok()?, offset: offset.parse().ok()? })
    }

    fn to_json(self) -> Value {
        json!({"partition": self.partition, "offset": self.offset})
    }
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text).ok_or_else(|| "expected PARTITION:OFFSET, such as 0:812".to_owned())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    Earliest,
    Latest,
    TimestampMs(u64),
    At(At),
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let place = match text {
            "earliest" => Some(Self::Earliest),
            "latest" => Some(Self::Latest),
            _ => match text.strip_prefix("timestamp:") {
                Some(ms) => ms.parse().ok().map(Self::TimestampMs),
                None => At::parse(text).map(Self::At),
            },
        };
        place.ok_or_else(|| {
            "expected earliest, latest, timestamp:MILLISECONDS, or PARTITION:OFFSET".to_owned()
        })
    }
}

/// The body of a seek request: one position for the whole topic, or offsets of some partitions.
pub fn seek(to: &[Destination]) -> Result<Value, CliError> {
    let place = match to {
        [Destination::Earliest] => json!("earliest"),
        [Destination::Latest] => json!("latest"),
        [Destination::TimestampMs(ms)] => json!({"timestamp": ms}),
        places => {
            let offsets: Option<Vec<Value>> = places
                .iter()
                .map(|place| match place {
                    Destination::At(at) => Some(at.to_json()),
                    _ => None,
                })
                .collect();
            json!({"offsets": offsets.ok_or(CliError::SeekPlaces)?})
        }
    };
    Ok(json!({"to": place}))
}

/// Selects dead records; all of them if no option is given.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Selection {
    /// Only the records at one or more PARTITION:OFFSET
    #[arg(long, value_name = "PARTITION:OFFSET", num_args = 1..)]
    offset: Vec<At>,

    /// Only records whose reason matches this pattern; * matches any text
    #[arg(long, value_name = "GLOB", conflicts_with = "offset")]
    reason: Option<String>,
}

impl Selection {
    /// The body of a redrive or purge request.
    pub fn to_json(&self, max_rate: Option<u64>) -> Value {
        let mut body = Map::new();
        if !self.offset.is_empty() {
            body.insert("offsets".to_owned(), self.offset.iter().map(|at| at.to_json()).collect());
        }
        if let Some(reason) = &self.reason {
            body.insert("filter".to_owned(), json!({"reason": reason}));
        }
        if let Some(max_rate) = max_rate {
            body.insert("max_rate".to_owned(), json!(max_rate));
        }
        Value::Object(body)
    }
}
