//! The database files (the Postgres data directory): creates them completely or not at all, and stops an
//! earlier server before a new one starts.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::account::{run, run_checked};
use super::binaries::Binaries;
use super::place::{DataPlace, UNFINISHED_PREFIX};
use super::{EmbeddedError, sync};

const INITDB_TIMEOUT: Duration = Duration::from_secs(120);
/// Shutdown modes for an earlier server, in order, each with its maximum time in seconds: an orderly
/// shutdown, then one without checkpoint.
const STOP_MODES: [(&str, u64); 2] = [("fast", 30), ("immediate", 10)];

/// Major version of Postgres that created the database; `None` if there is no database yet.
pub(super) fn made_by(place: &DataPlace) -> Result<Option<u32>, EmbeddedError> {
    if !place.existing {
        return Ok(None);
    }
    let path = place.cluster().join("PG_VERSION");
    let version = std::fs::read_to_string(&path).unwrap_or_default();
    match version.trim().parse() {
        Ok(major) => Ok(Some(major)),
        Err(_) => Err(EmbeddedError::Damaged { path }),
    }
}

/// Creates an empty database. Until the last step, a rename, its folder has another name, so that an
/// incomplete one is never used. The next call removes an incomplete one.
///
/// Files are written without sync and synced at the end by many threads. When the tools synced them one by
/// one, this took 9 s instead of 1 s.
pub(super) async fn create(
    place: &DataPlace,
    binaries: &Binaries,
    durable: bool,
) -> Result<(), EmbeddedError> {
    let unfinished = new_empty_folder(place).await?;
    let mut initdb = place.account.command(binaries.program("initdb"));
    initdb
        .args(["--username", super::SUPERUSER, "--auth=trust"])
        .args(["--encoding=UTF8", "--no-locale", "--data-checksums"])
        .args(["--no-instructions", "--no-sync", "--pgdata"])
        .arg(&unfinished);
    run_checked(initdb, INITDB_TIMEOUT).await?;
    let mut single_user = place.account.command("sh");
    single_user
        .args(["-c", r#"echo "$0" | "$@""#])
        .arg(format!("CREATE DATABASE {}", super::DATABASE))
        .arg(binaries.program("postgres"))
        .args(["--single", "-F", "-c", "exit_on_error=on", "-D"])
        .arg(&unfinished)
        .arg("postgres");
    run_checked(single_user, INITDB_TIMEOUT).await?;
    if durable {
        sync::tree(&unfinished).await?;
    }
    let cluster = place.cluster();
    std::fs::rename(&unfinished, &cluster).map_err(EmbeddedError::io("name", &cluster))?;
    sync::tree_entry(&place.home)
}

/// Makes an empty folder that belongs to the user of the server, and removes older incomplete ones. An
/// `initdb` that outlived its Millpond may still write to such a folder; if it cannot be removed, it stays
/// unused.
async fn new_empty_folder(place: &DataPlace) -> Result<PathBuf, EmbeddedError> {
    let entries = std::fs::read_dir(&place.home).map_err(EmbeddedError::io("list", &place.home))?;
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED_PREFIX) {
            drop(tokio::fs::remove_dir_all(entry.path()).await);
        }
    }
    let mut number = 0_u32;
    loop {
        let folder = place.home.join(format!("{UNFINISHED_PREFIX}{number}"));
        match std::fs::create_dir(&folder) {
            Ok(()) => {
                place.account.give(&folder)?;
                return Ok(folder);
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(EmbeddedError::io("make", &folder)(error)),
        }
    }
}

/// The process whose id `postmaster.pid` names.
#[derive(Debug, PartialEq, Eq)]
enum Holder {
    /// There is no such process.
    Nobody,
    /// A server of this database.
    Server(u32),
    /// Another program that got the process id after the server had died.
    Stranger,
}

/// Stops a server that still runs on the database, for example after its Millpond was killed, and waits for
/// its end. The caller holds the lock of the data folder.
pub(super) async fn clear(place: &DataPlace, binaries: &Binaries) -> Result<(), EmbeddedError> {
    let cluster = place.cluster();
    for (mode, seconds) in STOP_MODES {
        match holder(&cluster).await {
            Holder::Nobody => break,
            Holder::Stranger => {
                // Postgres would take the other program for a server of this database and refuse to start.
                let stale = cluster.join("postmaster.pid");
                std::fs::remove_file(&stale).map_err(EmbeddedError::io("remove", &stale))?;
                break;
            }
            Holder::Server(pid) => {
                tracing::info!(pid, mode, "stopping the Postgres server of an earlier run");
                let mut stop = place.account.command(binaries.program("pg_ctl"));
                stop.args(["stop", "-w", "-s", "-m", mode, "-t", &seconds.to_string()])
                    .arg("-D")
                    .arg(&cluster);
                run(stop, Duration::from_secs(seconds + 10)).await?;
            }
        }
    }
    if let Holder::Server(pid) = holder(&cluster).await {
        return Err(EmbeddedError::StillRunning { location: cluster, pid });
    }
    for left_over in [".s.PGSQL.5432", ".s.PGSQL.5432.lock"] {
        drop(std::fs::remove_file(place.socket_folder.join(left_over)));
    }
    Ok(())
}

async fn holder(cluster: &Path) -> Holder {
    let file = std::fs::read_to_string(cluster.join("postmaster.pid")).unwrap_or_default();
    let Some(pid) = file.lines().next().and_then(|line| line.trim().parse::<u32>().ok()) else {
        return Holder::Nobody;
    };
    if Path::new("/proc/self/cmdline").exists() {
        return holder_by_proc(cluster, pid);
    }
    let mut ps = tokio::process::Command::new("ps");
    ps.args(["-o", "command=", "-p", &pid.to_string()]);
    match run(ps, Duration::from_secs(10)).await {
        Ok(found) if found.status.success() => {
            let path = cluster.to_string_lossy();
            if found.stdout.contains("postgres") && found.stdout.contains(path.as_ref()) {
                Holder::Server(pid)
            } else {
                Holder::Stranger
            }
        }
        _ => Holder::Nobody,
    }
}

/// Reads /proc. A server has the folder of the database on its command line and as working directory. In a
/// container, root may not be allowed to read the latter.
fn holder_by_proc(cluster: &Path, pid: u32) -> Holder {
    let Ok(arguments) = std::fs::read(format!("/proc/{pid}/cmdline")) else {
        return Holder::Nobody;
    };
    let named = arguments.split(|byte| *byte == 0).any(|argument| argument == cluster.as_os_str().as_bytes());
    let works_there = || std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|folder| folder == cluster);
    if named || works_there() { Holder::Server(pid) } else { Holder::Stranger }
}

#[cfg(test)]
mod tests {
    use super::{Holder, holder};

    #[tokio::test]
    async fn a_process_id_counts_only_if_it_is_a_server_of_this_database() {
        let cluster = tempfile::tempdir().expect("a folder");
        let pid_file = cluster.path().join("postmaster.pid");
        assert_eq!(holder(cluster.path()).await, Holder::Nobody);
        std::fs::write(&pid_file, format!("{}\n/d\n", std::process::id())).expect("written");
        assert_eq!(holder(cluster.path()).await, Holder::Stranger);
        std::fs::write(&pid_file, "4194304999\n").expect("written");
        assert_eq!(holder(cluster.path()).await, Holder::Nobody);
    }
}
