//! Option values that several commands share: the format in which records are printed, and where to begin
//! reading.

use clap::ValueEnum;
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// One value per line, byte for byte as it was produced
    Ndjson,
    /// One record per line, as the server's JSON
    Json,
    /// A table for people; long values are cut off
    Table,
}

/// Where to begin in every partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    Earliest,
    Latest,
    Offset(u64),
    TimestampMs(u64),
}

impl FromStr for StartAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let place = match text {
            "earliest" => Some(Self::Earliest),
            "latest" => Some(Self::Latest),
            _ => match text.strip_prefix("timestamp:") {
                Some(ms) => ms.parse().ok().map(Self::TimestampMs),
                None => text.parse().ok().map(Self::Offset),
            },
        };
        place.ok_or_else(|| "expected earliest, latest, an offset, or timestamp:MILLISECONDS".to_owned())
    }
}
