//! Rules on lock files and Rust sources.

use super::words;

const LINES_MAX: usize = 500;
const MEDIAN_MAX: usize = 300;
const COLUMNS_MAX: usize = 110;

/// Files that are too long. `exceptions`: path, its own limit, reason. An exception that is no longer needed
/// is reported too.
pub fn too_long(lengths: &[(String, usize)], exceptions: &[(&str, usize, &str)]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, lines) in lengths {
        let exception = exceptions.iter().find(|(excepted, _, _)| excepted == path);
        let max = exception.map_or(LINES_MAX, |(_, ceiling, _)| *ceiling);
        if *lines > max {
            found.push(format!("{path}: {lines} lines, at most {max}"));
        }
        if exception.is_some() && *lines <= LINES_MAX {
            found.push(format!("{path}: needs no exception any more"));
        }
    }
    let mut sorted: Vec<usize> = lengths.iter().map(|(_, lines)| *lines).collect();
    sorted.sort_unstable();
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0);
    if median > MEDIAN_MAX {
        found.push(format!("the median file has {median} lines, at most {MEDIAN_MAX}"));
    }
    found
}

/// Lines with too many columns.
pub fn too_wide(text: &str) -> Vec<String> {
    let wide = |(_, line): &(usize, &str)| line.chars().count() > COLUMNS_MAX;
    let told = |(number, line): (usize, &str)| {
        format!("line {number}: {} columns, at most {COLUMNS_MAX}", line.chars().count())
    };
    (1..).zip(text.lines()).filter(wide).map(told).collect()
}

/// The same for Rust, except for lines that consist of one string literal that cannot be broken: it is raw,
/// or has no space.
pub fn too_wide_rust(text: &str) -> Vec<String> {
    let blank = |line: &str| if is_unbreakable(line) { String::new() } else { line.to_owned() };
    too_wide(&text.lines().map(blank).collect::<Vec<_>>().join("\n"))
}

fn is_unbreakable(line: &str) -> bool {
    let literal = line.trim().trim_end_matches([',', ';', ')', '?']);
    let raw = literal.trim_start_matches('b').strip_prefix('r').map(|rest| rest.trim_matches('#'));
    let inside = |literal: &str| Some(literal.strip_prefix('"')?.strip_suffix('"')?.to_owned());
    match raw {
        Some(raw) => inside(raw).is_some_and(|text| !text.contains("\"#")),
        None => inside(literal.trim_start_matches('b')).is_some_and(|text| !text.contains([' ', '"'])),
    }
}

/// Names from the vocabularies of other systems. The lists hold only unambiguous names: foreign formats and
/// protocols keep their words.
pub fn foreign_words(source: &str) -> Vec<String> {
    const NAMES: [&str; 12] = [
        "visibility_timeout",
        "VisibilityTimeout",
        "message_id",
        "MessageId",
        "event_id",
        "EventId",
        "blob_store",
        "BlobStore",
        "dead_letter_queue",
        "DeadLetterQueue",
        "dlq",
        "DLQ",
    ];
    const TYPES: [&str; 4] = ["Message", "Blob", "Cursor", "DeadLetterQueue"];
    const PHRASES: [&str; 4] = ["visibility timeout", "message queue", "dead letter queue", "event log"];
    let mut found: Vec<String> = words(source)
        .filter(|(_, word)| NAMES.contains(word))
        .map(|(number, word)| format!("line {number}: {word}"))
        .collect();
    let all: Vec<(usize, &str)> = words(source).collect();
    for pair in all.windows(2) {
        let [(_, keyword), (number, name)] = pair else { continue };
        if ["struct", "enum", "trait", "type"].contains(keyword) && TYPES.contains(name) {
            found.push(format!("line {number}: a type called {name}"));
        }
    }
    let lower = source.to_lowercase();
    found.extend(PHRASES.iter().filter(|phrase| lower.contains(*phrase)).map(|phrase| (*phrase).to_owned()));
    found
}

/// Versions of a package in a lock file.
pub fn versions_of(lock: &str, package: &str) -> Vec<String> {
    let name = format!("name = \"{package}\"");
    let versions = lock.split("[[package]]").filter(|block| block.lines().any(|line| line == name));
    versions
        .filter_map(|block| block.lines().find_map(|line| line.strip_prefix("version = ")))
        .map(|v| v.trim_matches('"').to_owned())
        .collect()
}

/// Marks of unfinished work, and ignored tests without a reason.
pub fn unfinished(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in (1..).zip(source.lines()) {
        let marked = line
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(|word| ["TODO", "FIXME", "XXX", "HACK"].contains(&word));
        let macros = line.contains("todo!(") || line.contains("unimplemented!(");
        if marked || macros || line.contains("#[ignore]") {
            found.push(format!("line {number}: {}", line.trim()));
        }
    }
    found
}
