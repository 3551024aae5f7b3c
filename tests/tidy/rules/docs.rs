//! Rules on Markdown documents.

use super::{without, words};

/// Folders of the repository, by which a path in backticks is recognized.
const FOLDERS: [&str; 7] =
    ["agent/", "archive/", "control-plane/", "core/", "docs/", "migrations/", "tests/"];

/// Words of other systems for things that have another name here. Terms of HTTP and of tools are removed
/// first.
pub fn foreign_words(text: &str) -> Vec<String> {
    const TERMS: [&str; 7] = [
        "server-sent event",
        "text/event-stream",
        "last-event-id",
        "error message",
        "commit message",
        "message queue telemetry",
        "event loop",
    ];
    const WORDS: [&str; 7] = ["message", "messages", "event", "events", "blob", "blobs", "dlq"];
    let text = without(text, &TERMS);
    let mut found: Vec<String> = words(&text)
        .filter(|(_, word)| WORDS.contains(word))
        .map(|(number, word)| format!("line {number}: {word}"))
        .collect();
    found.extend(text.contains("visibility timeout").then(|| "visibility timeout".to_owned()));
    found
}

/// Links to files that do not exist.
pub fn dead_links(path: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    let local = targets.filter(|t| !t.contains("://") && !t.starts_with('#') && !t.starts_with("mailto:"));
    let files = local.map(|t| t.split('#').next().unwrap_or(t));
    files
        .filter(|file| !exists(&joined(folder, file)))
        .map(|file| format!("links to {file}, which is not there"))
        .collect()
}

fn joined(folder: &str, file: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|p| !p.is_empty()).collect();
    for part in file.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts.join("/")
}

/// Paths of the repository's files and folders that stand in backticks.
pub fn paths_in(text: &str) -> Vec<&str> {
    let quoted = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    quoted.filter(|q| FOLDERS.iter().any(|f| q.starts_with(f)) && !q.contains(['<', '{', '*', ' '])).collect()
}

pub fn missing_paths(text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    paths_in(text)
        .into_iter()
        .filter(|path| !exists(path))
        .map(|path| format!("names {path}, which is not there"))
        .collect()
}

/// The lines under a heading, up to the next heading of its level.
pub fn section(text: &str, heading: &str) -> String {
    let level = heading.split(' ').next().unwrap_or("#");
    let body = text.lines().skip_while(|line| *line != heading).skip(1);
    body.take_while(|line| line.split(' ').next() != Some(level)).collect::<Vec<_>>().join("\n")
}
