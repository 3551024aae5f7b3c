//! Rules on SQL statements and migrations.

use std::collections::BTreeSet;

/// Beginnings of the sections of a header; each is the beginning of a line.
const SECTIONS: [&str; 4] = ["-- takes", "-- returns", "-- locks", "-- index"];
/// Beginning of the comment by which a step says why it differs from the step of that name in another
/// statement.
const DIFFERS: &str = "-- differs:";

/// The comment lines at the beginning of a file, in lower case.
fn header(text: &str) -> String {
    text.lines().take_while(|line| line.starts_with("--")).collect::<Vec<_>>().join("\n").to_lowercase()
}

/// The lines from `-- Takes:` up to the next section.
fn takes(header: &str) -> String {
    let from = header.lines().skip_while(|line| !line.starts_with(SECTIONS[0]));
    let section = |line: &&str| !SECTIONS[1..].iter().any(|section| line.starts_with(section));
    from.take_while(section).collect::<Vec<_>>().join("\n")
}

/// Numbers of the parameters that occur in a text.
fn parameters(text: &str) -> BTreeSet<u32> {
    let number = |rest: &str| rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
    text.split('$').skip(1).filter_map(number).collect()
}

/// A file without comments and string literals, in lower case.
fn code(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(|line| line.split("--").next().unwrap_or("")).collect();
    let joined = lines.join("\n").to_lowercase();
    joined.split('\'').step_by(2).collect::<Vec<_>>().join("''")
}

/// Flaws of a statement's file. It must be `queries/<noun>/<verb>.sql`, hold one statement, and say in its
/// header what it does, takes, returns and locks, and which index it needs.
pub fn flaws(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if path.split('/').count() != 4 || !path.ends_with(".sql") {
        found.push("is not queries/<noun>/<verb>.sql".to_owned());
    }
    let header = header(text);
    if header.is_empty() {
        found.push("has no header".to_owned());
    } else {
        let missing = ["returns", "locks", "index"].into_iter().filter(|word| !header.contains(word));
        found.extend(missing.map(|word| format!("its header does not say: {word}")));
        let (used, told) = (parameters(&code(text)), parameters(&takes(&header)));
        found.extend(used.difference(&told).map(|n| format!("its header does not say under Takes: ${n}")));
        let named = parameters(&header);
        found
            .extend(named.difference(&used).map(|n| format!("its header names ${n}, which it does not use")));
    }
    if code(text).contains(';') {
        found.push("holds a semicolon: one statement a file, and it needs none".to_owned());
    }
    found
}

/// Functions, procedures and triggers that a migration creates.
pub fn stored_code(text: &str) -> Vec<String> {
    let code = code(text);
    let words: Vec<&str> =
        code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty()).collect();
    let mut found = Vec::new();
    for (at, word) in words.iter().enumerate().filter(|(_, word)| **word == "create") {
        let what = words[at + 1..]
            .iter()
            .find(|w| !["or", "replace", "constraint"].contains(*w))
            .copied()
            .unwrap_or("");
        if ["function", "procedure", "trigger"].contains(&what) {
            found.push(format!("{word} {what}"));
        }
    }
    found
}

/// A common table expression of a statement; it begins and ends on its own lines.
struct Step {
    name: String,
    /// Its text without comments and white space.
    text: String,
    /// The reason after `-- differs:`, if there is one.
    differs: Option<String>,
}

/// Name of the step that begins in this line, which is at the outermost level.
fn opened(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let (name, rest) = line.strip_prefix("with ").unwrap_or(line).split_once(" as ")?;
    let rest = rest.strip_prefix("materialized ").unwrap_or(rest);
    (rest.starts_with('(') && name.chars().all(|c| c.is_alphanumeric() || c == '_')).then_some(name)
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut open: Option<Step> = None;
    let mut depth = 0;
    for line in text.lines() {
        if let (Some(why), Some(step)) = (line.trim_start().strip_prefix(DIFFERS), &mut open) {
            step.differs = Some(why.trim().to_owned());
        }
        let line = line.split("--").next().unwrap_or("");
        if open.is_none() {
            open =
                opened(line).map(|name| Step { name: name.to_owned(), text: String::new(), differs: None });
        }
        let outside_strings: String = line.split('\'').step_by(2).collect();
        depth += outside_strings.matches('(').count();
        depth = depth.saturating_sub(outside_strings.matches(')').count());
        if let Some(mut step) = open.take() {
            step.text.extend(line.strip_prefix("with ").unwrap_or(line).split_whitespace());
            if depth == 0 {
                step.text.truncate(step.text.trim_end_matches(',').len());
                steps.push(step);
            } else {
                open = Some(step);
            }
        }
    }
    steps
}

/// Names of the steps that two statements have in common.
pub fn shared(one: &str, other: &str) -> Vec<String> {
    let others = steps(other);
    steps(one).into_iter().map(|s| s.name).filter(|name| others.iter().any(|o| o.name == *name)).collect()
}

/// Steps that have the same name in two statements but another text, unless both say `-- differs: why`.
pub fn drift(one: &str, other: &str) -> Vec<String> {
    let others = steps(other);
    let mut found = Vec::new();
    for step in steps(one) {
        let name = &step.name;
        let Some(twin) = others.iter().find(|o| o.name == *name) else {
            if step.differs.is_some() {
                found.push(format!("step {name} says that it differs, but the other statement has none"));
            }
            continue;
        };
        match (&step.differs, &twin.differs) {
            (None, None) if step.text != twin.text => {
                found.push(format!(
                    "step {name} is another text in each: make it one, or say `{DIFFERS} why`"
                ));
            }
            (Some(_), None) | (None, Some(_)) => {
                found.push(format!("step {name} says in one statement only that it differs"));
            }
            (Some(_), Some(_)) if step.text == twin.text => {
                found.push(format!("step {name} says that it differs, and does not"));
            }
            (Some(why), Some(other)) if why.is_empty() || other.is_empty() => {
                found.push(format!("step {name} does not say why it differs"));
            }
            _ => {}
        }
    }
    found
}
