//! Rules on statements and migrations.

/// The comment lines that a file begins with.
fn header(text: &str) -> String {
    text.lines().take_while(|line| line.starts_with("--")).collect::<Vec<_>>().join("\n").to_lowercase()
}

/// A file without comments and string literals, in lower case.
fn code(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(|line| line.split("--").next().unwrap_or("")).collect();
    let joined = lines.join("\n").to_lowercase();
    joined.split('\'').step_by(2).collect::<Vec<_>>().join("''")
}

/// A statement's file is `queries/<noun>/<verb>.sql`, says what it does, returns and locks and which index it
/// needs, and holds one statement.
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
    }
    if code(text).contains(';') {
        found.push("holds a semicolon: one statement a file, and it needs none".to_owned());
    }
    found
}

/// Functions, procedures and triggers that a migration makes.
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
