//! Tests of the repository's conventions, which read its own sources: a rule without a test is not kept.
//!
//! `rules` holds the pure checkers, which are tested on small inputs; the tests here apply them to the files.

mod rules;

use rules::circles::Allowed;
use rules::{circles, crates, docs, metrics, sources, sql};
use std::fs;
use std::path::{Path, PathBuf};

/// Files that may be longer than the general limit, each with its own limit and the reason.
const LONG_FILES: [(&str, usize, &str); 0] = [];
/// Circles between files or folders that are allowed, each with the reason.
const ALLOWED_CIRCLES: [Allowed; 0] = [];
/// Migrations that databases have applied: their text must not change, even if it breaks a rule.
const RELEASED_MIGRATIONS: [&str; 5] = [
    "migrations/0001_topics.sql",
    "migrations/0002_log.sql",
    "migrations/0003_jobs.sql",
    "migrations/0004_groups.sql",
    "migrations/0005_queues.sql",
];
/// Folders whose Rust lines may be wider: JSON bodies, raw HTTP requests and SQL of tests read better whole.
const WIDE_FOLDERS: [&str; 1] = ["tests/"];
const CRATES_OF_ONE_VERSION: [&str; 3] = ["arrow-array", "object_store", "parquet"];
const SKIPPED_FOLDERS: [&str; 2] = ["target", "millpond-data"];

/// A file, by its path from the repository's root with `/` between folders.
struct File {
    path: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the repository").to_path_buf()
}

fn collect(folder: &Path, prefix: &str, files: &mut Vec<File>) {
    for entry in fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry")) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        if entry.file_type().expect("a type").is_dir() {
            if !name.starts_with('.') && !SKIPPED_FOLDERS.contains(&name.as_str()) {
                collect(&entry.path(), &format!("{path}/"), files);
            }
        } else if let Ok(text) = fs::read_to_string(entry.path()) {
            files.push(File { path, text });
        }
    }
}

fn files(choose: impl Fn(&str) -> bool) -> Vec<File> {
    let mut files = Vec::new();
    collect(&root(), "", &mut files);
    files.retain(|f| choose(&f.path));
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!files.is_empty(), "a rule that looks at nothing");
    files
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).expect(path)
}

/// Applies a checker to every chosen file, and fails with everything it found.
fn check(choose: impl Fn(&str) -> bool, find: impl Fn(&File) -> Vec<String>) {
    let found: Vec<String> = files(choose)
        .iter()
        .flat_map(|f| find(f).into_iter().map(|what| format!("{}: {what}", f.path)).collect::<Vec<_>>())
        .collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

fn is_rust(path: &str) -> bool {
    path.ends_with(".rs")
}

/// Whether a file is outside the checkers, which have to name what they forbid.
fn is_not_ours(path: &str) -> bool {
    !path.starts_with("tests/tidy/")
}

#[test]
fn dependencies_point_inward() {
    let manifest = |path: &str| path.ends_with("/Cargo.toml");
    check(manifest, |f| crates::outward(&f.path, &f.text));
    check(manifest, |f| crates::misplaced(&f.path, &f.text));
    for (path, _) in crates::LAYERS {
        assert!(root().join(path).exists(), "{path} is in the table of layers and not in the repository");
    }
}

#[test]
fn files_use_each_other_in_no_circle() {
    let files = files(is_rust);
    let mut found = Vec::new();
    for source in circles::SOURCES {
        let texts: Vec<(&str, &str)> =
            files.iter().filter_map(|f| Some((f.path.strip_prefix(source)?, f.text.as_str()))).collect();
        assert!(!texts.is_empty(), "{source} holds no Rust file");
        found.extend(circles::unallowed(source, &texts, &ALLOWED_CIRCLES));
    }
    for Allowed { source, reason, .. } in &ALLOWED_CIRCLES {
        assert!(circles::SOURCES.contains(source) && !reason.is_empty(), "{source} is no folder of sources");
    }
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn files_are_short() {
    let lengths: Vec<(String, usize)> = files(|path| is_rust(path) && !path.ends_with("/tests.rs"))
        .into_iter()
        .map(|f| {
            let lines = f.text.lines().count();
            (f.path, lines)
        })
        .collect();
    let found = sources::too_long(&lengths, &LONG_FILES);
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn statements_are_headed_and_single() {
    check(|path| path.starts_with("control-plane/queries/"), |f| sql::flaws(&f.path, &f.text));
}

#[test]
fn lines_are_narrow() {
    let is_free = |path: &str| path.ends_with(".sql") && !RELEASED_MIGRATIONS.contains(&path);
    check(is_free, |f| sources::too_wide(&f.text));
    let is_kept = |path: &str| is_rust(path) && !WIDE_FOLDERS.iter().any(|folder| path.starts_with(folder));
    check(is_kept, |f| sources::too_wide_rust(&f.text));
    for path in RELEASED_MIGRATIONS.iter().chain(&WIDE_FOLDERS) {
        assert!(root().join(path).exists(), "{path} is excepted and not in the repository");
    }
}

#[test]
fn steps_that_grants_share_are_the_same() {
    let shared_queue = read("control-plane/queries/queue/grant.sql");
    let keyed_queue = read("control-plane/queries/queue/grant_keyed.sql");
    let mut found = sql::drift(&shared_queue, &keyed_queue);
    found
        .extend(sql::drift(&keyed_queue, &shared_queue).into_iter().filter(|flaw| flaw.contains("has none")));
    assert!(found.is_empty(), "grant.sql and grant_keyed.sql:\n{}\n", found.join("\n"));
    let names = sql::shared(&shared_queue, &keyed_queue);
    assert!(names.len() > 25, "the steps are not read: {names:?}");
}

#[test]
fn migrations_make_no_stored_code() {
    check(|path| path.starts_with("migrations/"), |f| sql::stored_code(&f.text));
}

#[test]
fn words_are_ours() {
    check(
        |path| (is_rust(path) || path.ends_with(".sql")) && is_not_ours(path),
        |f| sources::foreign_words(&f.text),
    );
    check(|path| path.ends_with(".md"), |f| docs::foreign_words(&f.text));
}

#[test]
fn the_tree_holds_one_version_of_what_must_agree() {
    let lock = read("Cargo.lock");
    for name in CRATES_OF_ONE_VERSION {
        let versions = sources::versions_of(&lock, name);
        assert!(versions.len() <= 1, "Cargo.lock: {name} in versions {versions:?}");
        assert!(
            name == "parquet" || versions.len() == 1,
            "Cargo.lock: {name} is gone: this rule looks at nothing"
        );
    }
}

#[test]
fn metrics_have_one_home_and_one_form() {
    let home = "agent/engine/src/metrics.rs";
    check(
        |path| {
            is_rust(path)
                && path.contains("/src/")
                && path != home
                && !path.starts_with("bench/")
                && is_not_ours(path)
        },
        |f| metrics::strays(&f.text),
    );
    check(|path| path == home, |f| metrics::misnamed(&f.text));
    assert!(metrics::names(&read(home)).len() > 10, "{home}: no names were found");
}

#[test]
fn documents_point_at_what_exists() {
    let root = root();
    let exists = |path: &str| root.join(path).exists();
    check(|path| path.ends_with(".md"), |f| docs::dead_links(&f.path, &f.text, exists));
    check(|path| path.ends_with(".md"), |f| docs::missing_paths(&f.text, exists));
    let map = docs::section(&read("ARCHITECTURE.md"), "## Layers");
    for package in circles::SOURCES.map(|source| source.trim_end_matches("src/")) {
        assert!(map.contains(&format!("| `{package}` |")), "ARCHITECTURE.md: the table names no {package}");
    }
    assert!(read("ARCHITECTURE.md").lines().count() <= 250, "ARCHITECTURE.md: longer than 250 lines");
}

#[test]
fn nothing_is_left_to_do_in_the_sources() {
    let sourcelike = |path: &str| [".rs", ".sql", ".toml", ".md"].iter().any(|end| path.ends_with(end));
    check(|path| sourcelike(path) && is_not_ours(path), |f| sources::unfinished(&f.text));
}
