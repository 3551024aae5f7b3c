//! Rules on metrics: names are `millpond_<area>_<thing>_<unit>`, and all are defined in one file.

const AREAS: [&str; 9] =
    ["agent", "control_plane", "fetch", "group", "http", "job", "produce", "queue", "store"];
const UNITS: [&str; 4] = ["_bytes", "_ratio", "_seconds", "_total"];
const MACROS: [&str; 3] = ["counter!(", "gauge!(", "histogram!("];

/// String literals that begin like the name of a metric.
pub fn names(source: &str) -> Vec<String> {
    let starts = source
        .match_indices("\"millpond_")
        .map(|(at, quote)| &source[at + quote.len() - "millpond_".len()..]);
    starts.filter_map(|rest| rest.split_once('"')).map(|(name, _)| name.to_owned()).collect()
}

/// Metrics that are defined or named outside that file.
pub fn strays(source: &str) -> Vec<String> {
    let mut found: Vec<String> = names(source).into_iter().filter(|name| flaw(name).is_none()).collect();
    found.extend(MACROS.iter().filter(|m| source.contains(*m)).map(|m| (*m).to_owned()));
    found
}

/// Names in that file that do not have the form.
pub fn misnamed(source: &str) -> Vec<String> {
    names(source).iter().filter_map(|name| flaw(name).map(|why| format!("{name}: {why}"))).collect()
}

fn flaw(name: &str) -> Option<&'static str> {
    let rest = name.strip_prefix("millpond_")?;
    if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
        return Some("lower case, digits and _");
    }
    let Some(thing) = AREAS.iter().find_map(|area| rest.strip_prefix(*area)?.strip_prefix('_')) else {
        return Some("not of a known area");
    };
    if !UNITS.iter().any(|unit| thing.ends_with(unit)) {
        return Some("does not say a thing and its unit");
    }
    None
}
