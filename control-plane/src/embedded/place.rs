//! The folders of a database, and the locks that keep other processes out.
//!
//! The data folder holds `lock` (locked while in use), `postgres.log`, and either the database itself
//! (`postgres`, and `run` for its socket) or, if the user of the server cannot reach it, `location`: a file
//! that names the folder with the database. Only one place is looked at: a database that cannot be reached is
//! an error, and is never replaced by an empty one.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::EmbeddedError;
use super::account::Account;

const LOCK_FILE: &str = "lock";
/// How long a lock that is held is tried again.
const LOCK_WAIT_MAX: Duration = Duration::from_millis(500);
const LOG_FILE: &str = "postgres.log";
/// In a data folder whose database was relocated: names the folder of the database.
const POINTER_FILE: &str = "location";
const CLUSTER_FOLDER: &str = "postgres";
const SOCKET_FOLDER: &str = "run";
/// In the folder of a relocated database that is not durable: names the data folder. If that is gone, the
/// folder may be removed.
const THROW_AWAY_FILE: &str = "throw-away";
/// Prefix of the names of incomplete databases.
pub(super) const UNFINISHED_PREFIX: &str = "unfinished-";
/// Prefix of the names of folders with a relocated database or its socket.
const RELOCATED_PREFIX: &str = "millpond-";

/// Maximum length of the path of the socket folder. The path of a socket has at most 103 bytes on macOS and
/// 107 on Linux.
const SOCKET_FOLDER_MAX_BYTES: usize = 103 - "/.s.PGSQL.5432".len();

/// The folders of one database.
#[derive(Debug)]
pub(super) struct DataPlace {
    pub account: Account,
    /// Folder that holds `postgres` and `run`. The user of the server can write to it or, if it is the data
    /// folder, at least enter it.
    pub home: PathBuf,
    pub log: PathBuf,
    pub relocated: bool,
    /// Whether the database already exists.
    pub existing: bool,
    /// Folder of the socket: only the user of the server and root can enter it, and its path is short enough.
    pub socket_folder: PathBuf,
}

/// Locks that keep other processes out. The system releases them when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Locks(#[expect(dead_code, reason = "held, not read")] Vec<File>);

impl DataPlace {
    /// Finds or creates the folders for the database of `data_dir`, and locks them.
    pub async fn open(data_dir: &Path, durable: bool) -> Result<(Self, Locks), EmbeddedError> {
        std::fs::create_dir_all(data_dir).map_err(EmbeddedError::io("make", data_dir))?;
        let data_dir = data_dir.canonicalize().map_err(EmbeddedError::io("find", data_dir))?;
        let mut locks = vec![lock(&data_dir).await?];
        let (account, home) = match relocated_home(&data_dir)? {
            Some(home) => {
                let account = Account::choose(owner(&home)).await?;
                locks.push(lock(&home).await?);
                if durable {
                    drop(std::fs::remove_file(home.join(THROW_AWAY_FILE)));
                }
                (account, home)
            }
            None => {
                let account = Account::choose(owner(&data_dir.join(CLUSTER_FOLDER))).await?;
                (account, data_dir.clone())
            }
        };
        let existing = home.join(CLUSTER_FOLDER).exists();
        if is_ours_alone(&home) {
            account.give(&home)?;
        }
        if is_usable(account, &home).await? {
            return Ok((Self::at(account, home, &data_dir, existing)?, Locks(locks)));
        }
        if existing {
            return Err(EmbeddedError::Closed { folder: home, account: account.to_string() });
        }
        let (home, lock) = relocate(account, &data_dir, durable).await?;
        locks.push(lock);
        Ok((Self::at(account, home, &data_dir, false)?, Locks(locks)))
    }

    pub fn cluster(&self) -> PathBuf {
        self.home.join(CLUSTER_FOLDER)
    }

    fn at(account: Account, home: PathBuf, data_dir: &Path, existing: bool) -> Result<Self, EmbeddedError> {
        Ok(Self {
            account,
            log: data_dir.join(LOG_FILE),
            relocated: home != data_dir,
            existing,
            socket_folder: socket_folder(account, &home)?,
            home,
        })
    }
}

/// Locks `folder`, or fails if another process holds the lock. A child process that is being started briefly
/// holds copies of all open files, between fork and exec, and with them the lock of a server that has just
/// been stopped. So a lock that is held is tried again for a short time.
async fn lock(folder: &Path) -> Result<File, EmbeddedError> {
    let patience = Instant::now() + LOCK_WAIT_MAX;
    loop {
        match try_lock(folder) {
            Err(EmbeddedError::InUse { .. }) if Instant::now() < patience => {
                tokio::time::sleep(Duration::from_millis(20)).await
            }
            outcome => return outcome,
        }
    }
}

fn try_lock(folder: &Path) -> Result<File, EmbeddedError> {
    let path = folder.join(LOCK_FILE);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(EmbeddedError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(EmbeddedError::InUse { folder: folder.to_path_buf() }),
        Err(TryLockError::Error(source)) => Err(EmbeddedError::io("lock", &path)(source)),
    }
}

/// The folder that the `location` file of the data folder names.
fn relocated_home(data_dir: &Path) -> Result<Option<PathBuf>, EmbeddedError> {
    let pointer = data_dir.join(POINTER_FILE);
    let named = match std::fs::read(&pointer) {
        Ok(bytes) => PathBuf::from(OsString::from_vec(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(EmbeddedError::io("read", &pointer)(error)),
    };
    if !named.is_dir() {
        return Err(EmbeddedError::Gone { pointer, location: named });
    }
    Ok(Some(named))
}

/// User and group id of the owner of a path.
fn owner(path: &Path) -> Option<(u32, u32)> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.uid(), found.gid()))
}

/// Whether `folder` holds only files that this module creates, so that its owner may be changed.
fn is_ours_alone(folder: &Path) -> bool {
    let ours = [LOCK_FILE, LOG_FILE, POINTER_FILE, CLUSTER_FOLDER, SOCKET_FOLDER, THROW_AWAY_FILE];
    std::fs::read_dir(folder).is_ok_and(|entries| {
        entries.flatten().all(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            ours.contains(&name.as_ref()) || name.starts_with(UNFINISHED_PREFIX) || name.starts_with(LOG_FILE)
        })
    })
}

/// Tests whether the account can use `folder`: creates `run` in it, owned by the account, and enters it and
/// writes to it as that account.
async fn is_usable(account: Account, folder: &Path) -> Result<bool, EmbeddedError> {
    let run = folder.join(SOCKET_FOLDER);
    make_private(account, &run)?;
    account.can_use(&run).await
}

/// Creates a folder that only the account can enter. Fails if the path belongs to another user or is a
/// symbolic link.
fn make_private(account: Account, path: &Path) -> Result<(), EmbeddedError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => account.give(path),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            // If it still belongs to root, an earlier process ended between creating it and changing its
            // owner.
            let found = std::fs::symlink_metadata(path).map_err(EmbeddedError::io("read", path))?;
            if found.is_dir() && found.uid() == 0 {
                account.give(path)?;
            }
            if account.owns_folder(path) {
                return Ok(());
            }
            Err(EmbeddedError::io("use, since it is another user's,", path)(error))
        }
        Err(error) => Err(EmbeddedError::io("make", path)(error)),
    }
}

/// Creates and locks a folder for the database of `data_dir` where the account can write, and writes its path
/// to `data_dir`.
async fn relocate(
    account: Account,
    data_dir: &Path,
    durable: bool,
) -> Result<(PathBuf, File), EmbeddedError> {
    let temporary = [std::env::temp_dir(), PathBuf::from("/tmp")];
    let state = ["/var/lib", "/var/db"].map(PathBuf::from);
    let parents: Vec<PathBuf> =
        if durable { state.into_iter().chain(temporary).collect() } else { temporary.into_iter().collect() };
    for parent in parents.iter().filter(|parent| parent.is_dir()) {
        let home = parent.join(hashed_name(data_dir));
        if make_private(account, &home).is_err() || !is_usable(account, &home).await? {
            continue;
        }
        let home = home.canonicalize().map_err(EmbeddedError::io("find", &home))?;
        // Must precede the file below: with it, another process may take the folder for abandoned.
        let lock = lock(&home).await?;
        if !durable {
            remove_abandoned(account, parent);
            let note = home.join(THROW_AWAY_FILE);
            std::fs::write(&note, data_dir.as_os_str().as_bytes())
                .map_err(EmbeddedError::io("write", &note))?;
        }
        let pointer = data_dir.join(POINTER_FILE);
        std::fs::write(&pointer, home.as_os_str().as_bytes())
            .map_err(EmbeddedError::io("write", &pointer))?;
        // Removes the folder only if it is empty. If it stays, it does no harm.
        drop(std::fs::remove_dir(data_dir.join(SOCKET_FOLDER)));
        return Ok((home, lock));
    }
    let tried: Vec<String> = parents.iter().map(|parent| parent.display().to_string()).collect();
    Err(EmbeddedError::NoPlace {
        folder: data_dir.to_path_buf(),
        account: account.to_string(),
        tried: tried.join(", "),
    })
}

/// Removes databases that are not durable and whose data folder is gone, for example after a test. Errors are
/// ignored.
fn remove_abandoned(account: Account, parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let home = entry.path();
        if !entry.file_name().to_string_lossy().starts_with(RELOCATED_PREFIX) || !account.owns_folder(&home) {
            continue;
        }
        let Ok(data_dir) = std::fs::read(home.join(THROW_AWAY_FILE)) else {
            continue;
        };
        let abandoned = !Path::new(&OsString::from_vec(data_dir)).exists();
        if abandoned && try_lock(&home).is_ok() {
            drop(std::fs::remove_dir_all(&home));
        }
    }
}

/// Folder of the socket: `run` beside the database, unless that path is too long for a socket.
fn socket_folder(account: Account, home: &Path) -> Result<PathBuf, EmbeddedError> {
    let beside = home.join(SOCKET_FOLDER);
    if beside.as_os_str().len() <= SOCKET_FOLDER_MAX_BYTES && beside.to_str().is_some() {
        return Ok(beside);
    }
    let session = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|folder| !account.is_other() && folder.is_dir() && folder.to_str().is_some())
        .filter(|folder| folder.as_os_str().len() <= SOCKET_FOLDER_MAX_BYTES / 2);
    let parent = session.unwrap_or_else(|| PathBuf::from("/tmp"));
    let folder = parent.join(format!("{}-s", hashed_name(home)));
    make_private(account, &folder)?;
    Ok(folder)
}

/// Name derived from a path: always the same for the same path.
fn hashed_name(path: &Path) -> String {
    let digest = Sha256::digest(path.as_os_str().as_bytes());
    let hex: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{RELOCATED_PREFIX}{hex}")
}
