//! Who may depend on whom, read off the manifests.

/// Our packages by manifest, and which of ours each may depend on (tests apart). The arrows point inward:
/// `core ← {control-plane, agent/format} ← agent/engine ← doors ← agent`; a door never imports a door.
pub const LAYERS: [(&str, &[&str]); 9] = [
    ("core/Cargo.toml", &[]),
    ("control-plane/Cargo.toml", &["millpond-core"]),
    ("agent/format/Cargo.toml", &["millpond-core"]),
    ("agent/engine/Cargo.toml", &["millpond-core", "millpond-format"]),
    ("agent/http/Cargo.toml", &["millpond-core", "millpond-format", "millpond-engine"]),
    ("cli/Cargo.toml", &[]),
    ("bench/Cargo.toml", &["millpond-core", "millpond-control-plane"]),
    (
        "agent/Cargo.toml",
        &[
            "millpond-core",
            "millpond-control-plane",
            "millpond-engine",
            "millpond-http",
            "millpond-cli",
            "millpond-bench",
        ],
    ),
    ("tests/Cargo.toml", &["millpond-core", "millpond-control-plane"]),
];

/// Foreign packages that only some of ours may name: a folder that names one has to be listed.
pub const CONFINED: [(&str, &[&str]); 6] = [
    ("parquet", &["agent/format/", "archive/"]),
    ("datafusion", &["archive/"]),
    ("axum", &["agent/http/", "agent/", "cli/", "tests/"]),
    ("sqlx", &["control-plane/", "bench/", "agent/", "tests/"]),
    ("utoipa", &["agent/http/"]),
    ("tower-http", &["agent/http/"]),
];

/// Packages that a manifest names, with whether in a section for tests only.
pub fn dependencies(manifest: &str) -> Vec<(String, bool)> {
    let mut section: Option<bool> = None;
    let mut found = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(title) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            let dev = title.contains("dev-dependencies");
            // `[dependencies]`, `[target.'…'.dev-dependencies]`, or `[dependencies.name]`.
            section = title.ends_with("dependencies").then_some(dev);
            found.extend(title.split_once("dependencies.").map(|(_, name)| (name.to_owned(), dev)));
        } else if let Some(dev) = section {
            let name = line.split(['.', '=', ' ']).next().unwrap_or("");
            if !name.is_empty() && !name.starts_with('#') {
                found.push((name.to_owned(), dev));
            }
        }
    }
    found
}

/// Ours that a manifest must not name. Tests of a package may use `millpond-tests`, and those of the binary
/// whatever they test.
pub fn outward(path: &str, manifest: &str) -> Vec<String> {
    let Some((_, allowed)) = LAYERS.iter().find(|(known, _)| *known == path) else {
        return vec!["is not in the table of layers".to_owned()];
    };
    let is_ours = |name: &str| name == "millpond" || name.starts_with("millpond-");
    dependencies(manifest)
        .into_iter()
        .filter(|(name, dev)| is_ours(name) && !allowed.contains(&name.as_str()) && !dev)
        .map(|(name, _)| format!("depends on {name}"))
        .collect()
}

/// Foreign packages that a manifest must not name.
pub fn misplaced(path: &str, manifest: &str) -> Vec<String> {
    let folder = path.trim_end_matches("Cargo.toml");
    let named = dependencies(manifest);
    let names = |package: &str| named.iter().any(|(name, dev)| name == package && !dev);
    let confined = CONFINED.iter().filter(|(package, folders)| names(package) && !folders.contains(&folder));
    let mut found: Vec<String> = confined.map(|(package, _)| format!("depends on {package}")).collect();
    if folder == "agent/format/" && names("tokio") {
        found.push("depends on tokio: formats are computed, not awaited".to_owned());
    }
    found
}
