//! Rules on manifests and Rust sources.

use super::words;

const LINES_MAX: usize = 500;
const MEDIAN_MAX: usize = 300;

/// Which of these packages a manifest depends on, in whatever section.
pub fn dependencies_among(manifest: &str, packages: &[&str]) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            // `[dependencies]`, `[target.'…'.dev-dependencies]`, or `[dependencies.name]`.
            inside = section.ends_with("dependencies");
            let named = section.split_once("dependencies.").map(|(_, name)| name);
            found.extend(
                named.filter(|name| packages.contains(name)).map(|name| format!("depends on {name}")),
            );
        } else if inside {
            let name = line.split(['.', '=', ' ']).next().unwrap_or("");
            if packages.contains(&name) {
                found.push(format!("depends on {name}"));
            }
        }
    }
    found
}

/// Lines that name one of these crates as a path's beginning or in a `use`.
pub fn names_crate(source: &str, crates: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in (1..).zip(source.lines()) {
        for name in crates {
            let whole = |at: usize| {
                let before = line[..at].chars().next_back();
                let after = &line[at + name.len()..];
                let ends = after.starts_with("::")
                    || (line.trim_start().starts_with("use ")
                        && (after.starts_with(';') || after.starts_with(" as ")));
                before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':') && ends
            };
            if line.match_indices(name).any(|(at, _)| whole(at)) {
                found.push(format!("line {number} names the crate {name}"));
            }
        }
    }
    found
}

/// `exceptions`: path, its own ceiling, reason. One that is no longer needed is itself a flaw.
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

/// Names that belong to other systems' vocabularies. Only sure ones: formats and protocols of others keep
/// their words.
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

/// Marks of unfinished work, and tests that are left out without a reason.
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
