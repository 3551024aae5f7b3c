//! Rules on dependencies between packages, read from the manifests.

/// The project's packages by manifest, and the project's packages that each may depend on, except for its
/// tests. Dependencies point inward: `core ← {control-plane, agent/format} ← agent/engine ← doors ← agent`. A
/// door never depends on a door.
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

/// Foreign packages that only these folders may depend on.
pub const CONFINED: [(&str, &[&str]); 6] = [
    ("parquet", &["agent/format/", "archive/"]),
    ("datafusion", &["archive/"]),
    ("axum", &["agent/http/", "agent/", "cli/", "tests/"]),
    ("sqlx", &["control-plane/", "bench/", "agent/", "tests/"]),
    ("utoipa", &["agent/http/"]),
    ("tower-http", &["agent/http/"]),
];

/// Dependencies of a manifest, and whether each is for tests only.
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

/// The project's packages on which a manifest must not depend. Dependencies of tests are free.
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

/// Foreign packages on which a manifest must not depend.
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
