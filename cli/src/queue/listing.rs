//! Prints listings of records that are in flight, waiting or dead, page after page.

use std::io::Write;

use reqwest::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::client::Client;
use super::super::error::CliError;
use super::super::humane;
use super::super::record::Record;
use super::parse;

/// Records of a page; the server's limit is 1,000.
const PAGE_MAX_RECORDS: u64 = 500;
const REASON_WIDTH: usize = 60;
const STATE_WIDTH: usize = 8;
const INSTANT_WIDTH: usize = 24;

#[derive(Debug, Clone, clap::Args)]
pub struct ListingArgs {
    name: String,

    /// Print the values of the records, too
    #[arg(long)]
    payload: bool,

    /// End after this many records
    #[arg(long, short = 'n', value_name = "N")]
    max: Option<u64>,

    /// Print the server's JSON, one line per record
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    InFlight,
    Waiting,
    Dead,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    records: Vec<&'a RawValue>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    partition: u32,
    offset: u64,
    attempt: u64,
    failures: u64,
    deadline_ms: Option<i64>,
    due_at_ms: Option<i64>,
    died_at_ms: Option<i64>,
    state: Option<String>,
    reason: Option<String>,
    #[serde(default)]
    gone: bool,
    #[serde(borrow)]
    record: Option<&'a RawValue>,
}

impl Listing {
    pub async fn print(
        self,
        client: &Client,
        args: &ListingArgs,
        out: &mut impl Write,
    ) -> Result<(), CliError> {
        if !args.json {
            out.write_all(self.heading(args.payload).as_bytes())?;
        }
        let mut left = args.max.unwrap_or(u64::MAX);
        let mut after: Option<String> = None;
        while left > 0 {
            let path = ["v1", "queues", &args.name, self.path()];
            let mut request =
                client.request(Method::GET, &path).query(&[("max_records", left.min(PAGE_MAX_RECORDS))]);
            if let Some(after) = &after {
                request = request.query(&[("after", after)]);
            }
            if args.payload {
                request = request.query(&[("payload", true)]);
            }
            let (_, text) = client.text(request).await?;
            let page: Page<'_> = parse(&text)?;
            for raw in &page.records {
                let line = if args.json {
                    format!("{}\n", raw.get())
                } else {
                    self.row(&parse(raw.get())?, args.payload)?
                };
                out.write_all(line.as_bytes())?;
            }
            out.flush()?;
            left = left.saturating_sub(u64::try_from(page.records.len()).unwrap_or(u64::MAX));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        out.flush()?;
        Ok(())
    }

    fn path(self) -> &'static str {
        match self {
            Self::InFlight => "in-flight",
            Self::Waiting => "waiting",
            Self::Dead => "dead",
        }
    }

    fn heading(self, payload: bool) -> String {
        let columns = match self {
            Self::InFlight => cells("DEADLINE", None, None),
            Self::Waiting => cells("DUE", Some("STATE"), Some("REASON")),
            Self::Dead => cells("DIED", None, Some("REASON")),
        };
        let value = if payload { "  VALUE" } else { "" };
        line(&format!(
            "{:>9}  {:>12}  {:>7}  {:>8}  {columns}{value}",
            "PARTITION", "OFFSET", "ATTEMPT", "FAILURES"
        ))
    }

    fn row(self, entry: &Entry<'_>, payload: bool) -> Result<String, CliError> {
        let instant = |ms: Option<i64>| ms.map_or_else(|| "-".to_owned(), humane::instant_ms);
        let reason = humane::one_line(
            entry.reason.as_deref().filter(|reason| !reason.is_empty()).unwrap_or("-"),
            REASON_WIDTH,
        );
        let columns = match self {
            Self::InFlight => cells(&instant(entry.deadline_ms), None, None),
            Self::Waiting => {
                cells(&instant(entry.due_at_ms), Some(entry.state.as_deref().unwrap_or("-")), Some(&reason))
            }
            Self::Dead => cells(&instant(entry.died_at_ms), None, Some(&reason)),
        };
        let value = match entry.record {
            _ if !payload => String::new(),
            Some(record) => format!("  {}", Record::parse(record.get().as_bytes())?.value_cell()),
            None if entry.gone => "  (no longer kept)".to_owned(),
            None => "  -".to_owned(),
        };
        let Entry { partition, offset, attempt, failures, .. } = entry;
        Ok(line(&format!("{partition:>9}  {offset:>12}  {attempt:>7}  {failures:>8}  {columns}{value}")))
    }
}

/// The columns that depend on the listing. The reason is padded, since the value may follow it.
fn cells(instant: &str, state: Option<&str>, reason: Option<&str>) -> String {
    let state = state.map_or_else(String::new, |state| format!("  {state:<STATE_WIDTH$}"));
    let reason = reason.map_or_else(String::new, |reason| format!("  {reason:<REASON_WIDTH$}"));
    format!("{instant:<INSTANT_WIDTH$}{state}{reason}")
}

fn line(text: &str) -> String {
    format!("{}\n", text.trim_end())
}
