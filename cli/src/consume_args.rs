//! Options of the command `millpond consume`, with and without a consumer group.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::choices::{OutputFormat, StartAt};
use super::humane;
use super::retry::Patience;

/// Default of `--retry-for` without `--follow`.
const RETRY_FOR_DEFAULT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, clap::Args)]
pub struct ConsumeArgs {
    /// Topic to read
    pub topic: String,

    /// Read this partition only
    #[arg(long, value_name = "P")]
    pub partition: Option<u32>,

    /// Where to begin: earliest, latest, an offset, or timestamp:MS
    #[arg(long, value_name = "PLACE", default_value = "earliest")]
    pub from: StartAt,

    /// At the end, wait for new records until Ctrl-C
    #[arg(long, short)]
    pub follow: bool,

    /// End after this many records
    #[arg(long, value_name = "N")]
    pub max: Option<u64>,

    #[arg(long, value_enum, default_value_t = OutputFormat::Ndjson)]
    pub format: OutputFormat,

    /// Read as a member of this consumer group: the partitions are shared with the other members, and offsets
    /// of printed records are committed
    #[arg(long, value_name = "GROUP", conflicts_with = "partition")]
    pub group: Option<String>,

    /// With --group: another topic to read; can be repeated
    #[arg(long, value_name = "TOPIC", requires = "group")]
    pub also: Vec<String>,

    /// With --group: time after which the group removes a member that does not poll: milliseconds, or such as
    /// 30s
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "30s",
        value_parser = humane::parse_ms,
        requires = "group"
    )]
    pub session_ms: u64,

    /// How long to retry while the server cannot be reached; 60s by default, for ever with --follow
    #[arg(long, value_name = "DURATION", value_parser = humane::parse_duration)]
    pub retry_for: Option<Duration>,
}

impl ConsumeArgs {
    /// The retry policy that the options ask for.
    pub fn patience(&self) -> Patience {
        let limit = match (self.retry_for, self.follow) {
            (None, true) => None,
            (given, _) => Some(given.unwrap_or(RETRY_FOR_DEFAULT)),
        };
        Patience::new(limit, StdRng::from_os_rng())
    }
}
