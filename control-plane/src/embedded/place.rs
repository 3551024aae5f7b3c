//! Where a database lies, and who may use it.
//!
//! The data folder holds `lock` (held while in use), `postgres.log`, and either the database itself
//! (`postgres`, and `run` for its socket) or, where the server's user cannot reach it, `location`: a file
//! that names the folder which holds them instead. A database is never looked for in a second place: one that
//! cannot be reached is an error, not an empty start.

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

const LOCK: &str = "lock";
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
const LOG: &str = "postgres.log";
const POINTER: &str = "location";
const CLUSTER: &str = "postgres";
const SOCKET: &str = "run";
/// In a relocated folder of a throw-away database: names its data folder, and permits removal once that is
/// gone.
const THROW_AWAY: &str = "throw-away";
/// Start of every half-made database's name.
pub(super) const UNFINISHED: &str = "unfinished-";
const NAME: &str = "millpond-";

/// Longest socket folder: a socket's path has at most 103 bytes on macOS, 107 on Linux.
const MAX_SOCKET_FOLDER_BYTES: usize = 103 - "/.s.PGSQL.5432".len();

#[derive(Debug)]
pub(super) struct DataPlace {
    pub account: Account,
    /// Holds `postgres` and `run`; the server's user can write there or, if it is the data folder, at least
    /// pass.
    pub home: PathBuf,
    pub log: PathBuf,
    pub relocated: bool,
    /// The database was here before.
    pub existing: bool,
    /// Closed to everybody but the server's user and root, and short.
    pub socket_folder: PathBuf,
}

/// Keep others off the place; released by the system when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Locks(#[expect(dead_code, reason = "held, not read")] Vec<File>);

impl DataPlace {
    /// Finds or makes the place of `data_dir`'s database, and locks it.
    pub async fn open(data_dir: &Path, durable: bool) -> Result<(Self, Locks), EmbeddedError> {
        std::fs::create_dir_all(data_dir).map_err(EmbeddedError::io("make", data_dir))?;
        let data_dir = data_dir.canonicalize().map_err(EmbeddedError::io("find", data_dir))?;
        let mut locks = vec![lock(&data_dir).await?];
        let (account, home) = match pointed_at(&data_dir)? {
            Some(home) => {
                let account = Account::choose(owner(&home)).await?;
                locks.push(lock(&home).await?);
                if durable {
                    drop(std::fs::remove_file(home.join(THROW_AWAY)));
                }
                (account, home)
            }
            None => {
                let account = Account::choose(owner(&data_dir.join(CLUSTER))).await?;
                (account, data_dir.clone())
            }
        };
        let existing = home.join(CLUSTER).exists();
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
        self.home.join(CLUSTER)
    }

    fn at(account: Account, home: PathBuf, data_dir: &Path, existing: bool) -> Result<Self, EmbeddedError> {
        Ok(Self {
            account,
            log: data_dir.join(LOG),
            relocated: home != data_dir,
            existing,
            socket_folder: socket_folder(account, &home)?,
            home,
        })
    }
}

/// Takes `folder` for this process, or finds that another has it. A child that this process is just starting
/// holds its files for an instant, between fork and exec: also the lock of a server that was stopped right
/// before.
async fn lock(folder: &Path) -> Result<File, EmbeddedError> {
    let patience = Instant::now() + LOCK_PATIENCE;
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
    let path = folder.join(LOCK);
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

/// The folder that the data folder names as its database's.
fn pointed_at(data_dir: &Path) -> Result<Option<PathBuf>, EmbeddedError> {
    let pointer = data_dir.join(POINTER);
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

fn owner(path: &Path) -> Option<(u32, u32)> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.uid(), found.gid()))
}

/// Whether `folder` holds nothing but what this module makes, so that its owner may be changed.
fn is_ours_alone(folder: &Path) -> bool {
    let ours = [LOCK, LOG, POINTER, CLUSTER, SOCKET, THROW_AWAY];
    std::fs::read_dir(folder).is_ok_and(|entries| {
        entries.flatten().all(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            ours.contains(&name.as_ref()) || name.starts_with(UNFINISHED) || name.starts_with(LOG)
        })
    })
}

/// Tries it: makes `run` in `folder`, the account's own, and enters and writes it as that account.
async fn is_usable(account: Account, folder: &Path) -> Result<bool, EmbeddedError> {
    let run = folder.join(SOCKET);
    make_private(account, &run)?;
    account.can_use(&run).await
}

/// A folder of the account, closed to others, and no link; refused if the path is somebody else's.
fn make_private(account: Account, path: &Path) -> Result<(), EmbeddedError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => account.give(path),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            // Root's: we were stopped between making it and giving it away.
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

/// Makes and locks a folder for `data_dir`'s database where the account can write, and notes it in
/// `data_dir`.
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
        // Before the note, by which another process may find the folder abandoned.
        let lock = lock(&home).await?;
        if !durable {
            remove_abandoned(account, parent);
            let note = home.join(THROW_AWAY);
            std::fs::write(&note, data_dir.as_os_str().as_bytes())
                .map_err(EmbeddedError::io("write", &note))?;
        }
        let pointer = data_dir.join(POINTER);
        std::fs::write(&pointer, home.as_os_str().as_bytes())
            .map_err(EmbeddedError::io("write", &pointer))?;
        // Only an empty one; what cannot be removed does no harm.
        drop(std::fs::remove_dir(data_dir.join(SOCKET)));
        return Ok((home, lock));
    }
    let tried: Vec<String> = parents.iter().map(|parent| parent.display().to_string()).collect();
    Err(EmbeddedError::NoPlace {
        folder: data_dir.to_path_buf(),
        account: account.to_string(),
        tried: tried.join(", "),
    })
}

/// Removes throw-away databases whose data folder is gone, as after a test. Does its best only.
fn remove_abandoned(account: Account, parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let home = entry.path();
        if !entry.file_name().to_string_lossy().starts_with(NAME) || !account.owns_folder(&home) {
            continue;
        }
        let Ok(data_dir) = std::fs::read(home.join(THROW_AWAY)) else {
            continue;
        };
        let abandoned = !Path::new(&OsString::from_vec(data_dir)).exists();
        if abandoned && try_lock(&home).is_ok() {
            drop(std::fs::remove_dir_all(&home));
        }
    }
}

/// `run` beside the database, unless that path is too long for a socket.
fn socket_folder(account: Account, home: &Path) -> Result<PathBuf, EmbeddedError> {
    let beside = home.join(SOCKET);
    if beside.as_os_str().len() <= MAX_SOCKET_FOLDER_BYTES && beside.to_str().is_some() {
        return Ok(beside);
    }
    let session = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|folder| !account.is_other() && folder.is_dir() && folder.to_str().is_some())
        .filter(|folder| folder.as_os_str().len() <= MAX_SOCKET_FOLDER_BYTES / 2);
    let parent = session.unwrap_or_else(|| PathBuf::from("/tmp"));
    let folder = parent.join(format!("{}-s", hashed_name(home)));
    make_private(account, &folder)?;
    Ok(folder)
}

/// The same name for the same path, always.
fn hashed_name(path: &Path) -> String {
    let digest = Sha256::digest(path.as_os_str().as_bytes());
    let hex: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{NAME}{hex}")
}
