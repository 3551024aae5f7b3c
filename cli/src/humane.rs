//! Parses and prints numbers, durations, sizes and tables in a form for people.

use std::time::Duration;

use super::stored::PartitionRange;

#[cfg(test)]
mod tests;

const DURATION_UNITS_MS: [(&str, u64); 7] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("w", 604_800_000),
    ("", 1),
];
const SIZE_UNITS_BYTES: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("", 1),
];

/// A limit that can be switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    None,
    At(u64),
}

impl Limit {
    /// The limit in the API: a number, or null for none.
    pub fn to_json(self) -> serde_json::Value {
        match self {
            Self::None => serde_json::Value::Null,
            Self::At(value) => value.into(),
        }
    }
}

/// Parses a duration such as `1500`, `90s`, `12h` or `7d` to milliseconds.
pub fn parse_ms(text: &str) -> Result<u64, String> {
    parse_units(text, &DURATION_UNITS_MS)
        .ok_or_else(|| "expected milliseconds, or a number with ms, s, m, h, d or w, such as 7d".to_owned())
}

/// Parses a duration in the same form as [`parse_ms`].
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    parse_ms(text).map(Duration::from_millis)
}

/// Parses a size such as `1048576`, `512KiB` or `10GB` to bytes.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    parse_units(text, &SIZE_UNITS_BYTES)
        .ok_or_else(|| "expected bytes, or a number with KiB, MiB, GiB, TiB, kB, MB, GB or TB".to_owned())
}

/// Like [`parse_ms`], but also takes `none`.
pub fn parse_ms_limit(text: &str) -> Result<Limit, String> {
    if text == "none" { Ok(Limit::None) } else { parse_ms(text).map(Limit::At) }
}

/// Like [`parse_bytes`], but also takes `none`.
pub fn parse_bytes_limit(text: &str) -> Result<Limit, String> {
    if text == "none" { Ok(Limit::None) } else { parse_bytes(text).map(Limit::At) }
}

fn parse_units(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = units.iter().find(|(name, _)| *name == unit.trim_start())?.1;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// A number with separators: `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of records: `1 record`, `2,000 records`.
pub fn records(number: u64) -> String {
    format!("{} {}", count(number), if number == 1 { "record" } else { "records" })
}

/// A duration in the largest unit that represents it exactly: `7d`, `90s`, `1500ms`.
pub fn duration_ms(ms: u64) -> String {
    DURATION_UNITS_MS
        .iter()
        .rev()
        .filter(|(name, factor)| !matches!(*name, "" | "w") && ms != 0 && ms.is_multiple_of(*factor))
        .map(|(name, factor)| format!("{}{name}", ms / factor))
        .next()
        .unwrap_or_else(|| format!("{ms}ms"))
}

/// An age, rounded down to its two largest units: `250ms`, `12s`, `3m 20s`, `2d 5h`.
pub fn age_ms(ms: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    let Some(at) = UNITS.iter().position(|(_, unit)| ms >= *unit) else {
        return format!("{ms}ms");
    };
    let mut rest = ms;
    let mut parts = Vec::new();
    for (name, unit) in UNITS.iter().skip(at).take(2) {
        if rest >= *unit {
            parts.push(format!("{}{name}", rest / unit));
        }
        rest %= unit;
    }
    parts.join(" ")
}

/// A size, rounded down to a tenth of its unit: `1.5 GiB`.
pub fn bytes(bytes: u64) -> String {
    let unit = SIZE_UNITS_BYTES.iter().take(4).rev().find(|(_, factor)| bytes >= *factor);
    match unit {
        Some((name, factor)) => format!("{} {name}", tenths(u128::from(bytes) * 10 / u128::from(*factor))),
        None => format!("{bytes} B"),
    }
}

/// A number per second; a duration of zero counts as one nanosecond.
pub fn per_second(number: u64, elapsed: Duration) -> u64 {
    let rate = u128::from(number) * 1_000_000_000 / elapsed.as_nanos().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// A throughput, such as `12.3 MiB/s`.
pub fn mib_per_second(bytes: u64, elapsed: Duration) -> String {
    format!("{} MiB/s", tenths(u128::from(per_second(bytes, elapsed)) * 10 / (1 << 20)))
}

fn tenths(number: u128) -> String {
    format!("{}.{}", number / 10, number % 10)
}

/// Partitions with their first and last offsets: `partitions 0: 5–20, 3: 7`.
pub fn ranges(partitions: &[PartitionRange]) -> String {
    let mut parts = Vec::with_capacity(partitions.len());
    for PartitionRange { partition, first_offset, last_offset, .. } in partitions {
        parts.push(if first_offset == last_offset {
            format!("{partition}: {first_offset}")
        } else {
            format!("{partition}: {first_offset}–{last_offset}")
        });
    }
    let word = if parts.len() == 1 { "partition" } else { "partitions" };
    format!("{word} {}", parts.join(", "))
}

/// A time, given in milliseconds since the Unix epoch, in the form of RFC 3339 in UTC.
///
/// The date is calculated from days as in H. Hinnant, "chrono-compatible low-level date algorithms",
/// `civil_from_days`.
pub fn instant_ms(ms: i64) -> String {
    let (days, in_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (hour, minute, second) = (in_day / 3_600_000, in_day / 60_000 % 60, in_day / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", in_day % 1_000)
}

/// Text cut off after `width` characters, on one line. Control characters, which a terminal would interpret,
/// are replaced by spaces.
pub fn one_line(text: &str, width: usize) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    if text.chars().nth(width).is_none() {
        return text.chars().map(clean).collect();
    }
    text.chars().take(width.saturating_sub(1)).map(clean).chain(['…']).collect()
}

/// A table with aligned columns. Columns are aligned to the right if they are not the first, and all their
/// cells begin with a digit or are `-`.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    let columns: Vec<(usize, bool)> = headings
        .iter()
        .enumerate()
        .map(|(at, heading)| {
            let cells = || rows.iter().filter_map(|row| row.get(at));
            let width = cells().map(|cell| cell.chars().count()).chain([heading.len()]).max().unwrap_or(0);
            (
                width,
                at > 0
                    && cells()
                        .all(|cell| cell.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '~'))),
            )
        })
        .collect();
    let heading: Vec<String> = headings.iter().map(|heading| (*heading).to_owned()).collect();
    for row in [&heading].into_iter().chain(rows) {
        let cells = row.iter().zip(&columns).map(|(cell, (width, right))| {
            if *right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}
