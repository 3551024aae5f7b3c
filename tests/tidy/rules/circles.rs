//! Rule on circles of `use` between the files of a crate, and between its top-level folders.
//!
//! A file uses another if it names a path into it: `crate::…`, `super::…`, `self::…`, or a child module by
//! its name. Paths to a file's own ancestors do not count, since a folder's `mod.rs` may own what its files
//! use.
//! Test modules and `tests.rs` files are left out. The checker reads tokens, not types: a path through a
//! re-export counts as a use of the file that re-exports.

use std::collections::{BTreeMap, BTreeSet};

/// Folders of the crates' sources.
pub const SOURCES: [&str; 9] = [
    "core/src/",
    "control-plane/src/",
    "agent/format/src/",
    "agent/engine/src/",
    "agent/http/src/",
    "agent/src/",
    "cli/src/",
    "bench/src/",
    "tests/src/",
];

const TESTS: &str = "#[cfg(test)]\nmod tests {";

/// Path of a module from its crate's root, for instance `["queue", "grant"]`; empty for the root.
type Module = Vec<String>;
type Uses = BTreeMap<Module, BTreeSet<Module>>;

/// An allowed circle and the reason. `members` are sorted module paths, as [`found`] returns them.
pub struct Allowed {
    pub source: &'static str,
    pub members: &'static [&'static str],
    pub reason: &'static str,
}

/// Circles in the crate with the source folder `source` that are not allowed, and allowed ones that no longer
/// exist. `files` are paths within that folder, with texts.
pub fn unallowed(source: &str, files: &[(&str, &str)], allowed: &[Allowed]) -> Vec<String> {
    let found = found(files);
    let allowed: Vec<&Allowed> = allowed.iter().filter(|a| a.source == source).collect();
    let is_allowed = |circle: &Vec<String>| allowed.iter().any(|a| circle.iter().eq(a.members));
    let new =
        found.iter().filter(|c| !is_allowed(c)).map(|c| format!("{source}: circle of {}", c.join(", ")));
    let gone = allowed.iter().filter(|a| !found.iter().any(|circle| circle.iter().eq(a.members)));
    new.chain(gone.map(|a| format!("{source}: needs no exception any more: {}", a.members.join(", "))))
        .collect()
}

/// Circles between files, then those between top-level folders, unless they are the same. A circle is the
/// sorted paths of its modules.
pub fn found(files: &[(&str, &str)]) -> Vec<Vec<String>> {
    let uses = uses(files);
    let mut tops = Uses::new();
    for (user, used) in &uses {
        let top = |module: &Module| module.iter().take(1).cloned().collect::<Module>();
        tops.entry(top(user)).or_default().extend(used.iter().map(top).filter(|used| *used != top(user)));
    }
    let mut found = circles(&uses);
    for circle in circles(&tops) {
        if !found.contains(&circle) {
            found.push(circle);
        }
    }
    found
}

/// Largest groups of modules in which each uses every other, directly or through others.
fn circles(uses: &Uses) -> Vec<Vec<String>> {
    let reached: BTreeMap<&Module, BTreeSet<&Module>> =
        uses.keys().map(|m| (m, reached_from(m, uses))).collect();
    let mut circles = BTreeSet::new();
    for (module, reach) in &reached {
        let back = reach.iter().filter(|other| reached.get(*other).is_some_and(|r| r.contains(module)));
        let circle: BTreeSet<String> = back.map(|member| member.join("::")).collect();
        if circle.len() > 1 {
            circles.insert(circle.into_iter().collect());
        }
    }
    circles.into_iter().collect()
}

fn reached_from<'a>(start: &Module, uses: &'a Uses) -> BTreeSet<&'a Module> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&Module> = uses.get(start).into_iter().flatten().collect();
    while let Some(module) = next.pop() {
        if reached.insert(module) {
            next.extend(uses.get(module).into_iter().flatten());
        }
    }
    reached
}

fn uses(files: &[(&str, &str)]) -> Uses {
    let modules: BTreeSet<Module> = files.iter().filter_map(|(path, _)| module(path)).collect();
    let mut uses = Uses::new();
    for (path, text) in files {
        let Some(user) = module(path) else { continue };
        let text = text.split(TESTS).next().unwrap_or("");
        let used = paths(&tokens(text)).into_iter().filter_map(|path| target(&user, &path, &modules));
        uses.entry(user.clone()).or_default().extend(used.filter(|used| !user.starts_with(used)));
    }
    uses
}

/// Module of a file; `None` for a `tests.rs` file.
fn module(path: &str) -> Option<Module> {
    let path = path.strip_suffix(".rs")?;
    let mut module: Module = path.split('/').map(str::to_owned).collect();
    match module.last()?.as_str() {
        "tests" => return None,
        "mod" | "lib" | "main" => drop(module.pop()),
        _ => {}
    }
    Some(module)
}

/// Innermost module on a path, if the path leads into the crate.
fn target(user: &Module, path: &[&str], modules: &BTreeSet<Module>) -> Option<Module> {
    let (mut full, rest) = match *path.first()? {
        "crate" => (Module::new(), &path[1..]),
        "self" => (user.clone(), &path[1..]),
        "super" => (user.clone(), path),
        child if path.len() > 1 && modules.contains(&joined(user, child)) => (user.clone(), path),
        _ => return None,
    };
    for part in rest {
        if *part == "super" {
            full.pop();
        } else {
            full.push((*part).to_owned());
        }
    }
    while !modules.contains(&full) {
        full.pop()?;
    }
    Some(full)
}

fn joined(module: &Module, child: &str) -> Module {
    module.iter().cloned().chain([child.to_owned()]).collect()
}

/// All paths in a file. A group is expanded: `a::{b, c::*}` gives `a::b` and `a::c::*`.
fn paths<'a>(tokens: &[&'a str]) -> Vec<Vec<&'a str>> {
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at].starts_with(is_word) && (at == 0 || tokens[at - 1] != "::") {
            at = tree(tokens, at, &[], &mut paths);
        } else {
            at += 1;
        }
    }
    paths
}

/// Reads the path or group at token `from`, and adds its paths, each after `prefix`. Returns the index of the
/// token after it.
fn tree<'a>(tokens: &[&'a str], from: usize, prefix: &[&'a str], paths: &mut Vec<Vec<&'a str>>) -> usize {
    let mut path = prefix.to_vec();
    let mut at = from;
    if tokens.get(at) != Some(&"{") {
        path.extend(tokens.get(at));
        at += 1;
        if tokens.get(at) == Some(&"::") {
            return tree(tokens, at + 1, &path, paths);
        }
        paths.push(path);
        return at;
    }
    at += 1;
    while at < tokens.len() && tokens[at] != "}" {
        at = tree(tokens, at, prefix, paths);
        // Skips `as name` and the comma.
        while at < tokens.len() && !["}", ","].contains(&tokens[at]) {
            at += 1;
        }
        at += usize::from(tokens.get(at) == Some(&","));
    }
    at + 1
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Tokens of a Rust text: words, `::` and single characters, without comments, literals and white space.
fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(length) = literal(rest) {
            length
        } else {
            let word = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let length = if rest.starts_with("::") { 2 } else { word.max(first.len_utf8()) };
            tokens.extend(Some(&rest[..length]).filter(|_| !first.is_whitespace()));
            length
        };
        rest = &rest[length..];
    }
    tokens
}

/// Length of the string or character literal at the beginning of a text, or of the quote of a lifetime.
fn literal(text: &str) -> Option<usize> {
    if let Some(raw) = text.strip_prefix("br").or_else(|| text.strip_prefix('r')) {
        let opened = raw.trim_start_matches('#');
        if let Some(body) = opened.strip_prefix('"') {
            let end = format!("\"{}", "#".repeat(raw.len() - opened.len()));
            let length = body.find(&end).map_or(body.len(), |at| at + end.len());
            return Some(text.len() - body.len() + length);
        }
    }
    let quote = text.chars().next().filter(|c| ['"', '\''].contains(c))?;
    if quote == '\'' && text.chars().nth(1) != Some('\\') && text.chars().nth(2) != Some('\'') {
        return Some(1);
    }
    let mut inside = text.char_indices().skip(1);
    while let Some((at, c)) = inside.next() {
        match c {
            '\\' => drop(inside.next()),
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    Some(text.len())
}
