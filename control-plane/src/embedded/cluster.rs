//! The database's files: made whole or not at all, and free of an earlier server before a new one starts.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::account::{run, run_well};
use super::binaries::Binaries;
use super::place::{DataPlace, UNFINISHED};
use super::{EmbeddedError, sync};

const MAX_INITDB: Duration = Duration::from_secs(120);
/// How long an earlier server may take to stop: first its own way, then at once, without a checkpoint.
const STOPS: [(&str, u64); 2] = [("fast", 30), ("immediate", 10)];

/// The major version that made the database; `None` if there is no database yet.
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

/// Makes an empty database. Until the last step, a rename, it has another name, so that one that was cut
/// short is never taken for whole; the next call removes it.
///
/// Everything is written without sync and synced once at the end, by many threads: the tools' own way, one
/// file after another, took 9 s where this takes 1 s.
pub(super) async fn create(
    place: &DataPlace,
    binaries: &Binaries,
    durable: bool,
) -> Result<(), EmbeddedError> {
    let unfinished = fresh_folder(place).await?;
    let mut initdb = place.account.command(binaries.program("initdb"));
    initdb
        .args(["--username", super::SUPERUSER, "--auth=trust"])
        .args(["--encoding=UTF8", "--no-locale", "--data-checksums"])
        .args(["--no-instructions", "--no-sync", "--pgdata"])
        .arg(&unfinished);
    run_well(initdb, MAX_INITDB).await?;
    let mut single_user = place.account.command("sh");
    single_user
        .args(["-c", r#"echo "$0" | "$@""#])
        .arg(format!("CREATE DATABASE {}", super::DATABASE))
        .arg(binaries.program("postgres"))
        .args(["--single", "-F", "-c", "exit_on_error=on", "-D"])
        .arg(&unfinished)
        .arg("postgres");
    run_well(single_user, MAX_INITDB).await?;
    if durable {
        sync::tree(&unfinished).await?;
    }
    let cluster = place.cluster();
    std::fs::rename(&unfinished, &cluster).map_err(EmbeddedError::io("name", &cluster))?;
    sync::tree_entry(&place.home)
}

/// An empty folder of the server's user. An `initdb` that outlived its Millpond may still write to an old
/// one, which is then neither removed nor used.
async fn fresh_folder(place: &DataPlace) -> Result<PathBuf, EmbeddedError> {
    let entries = std::fs::read_dir(&place.home).map_err(EmbeddedError::io("list", &place.home))?;
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            drop(tokio::fs::remove_dir_all(entry.path()).await);
        }
    }
    let mut number = 0_u32;
    loop {
        let folder = place.home.join(format!("{UNFINISHED}{number}"));
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

/// Who has the process id that `postmaster.pid` names.
#[derive(Debug, PartialEq, Eq)]
enum Holder {
    Nobody,
    Server(u32),
    /// Some other program, which got the id after the server's death.
    Stranger,
}

/// Leaves no server on the database: one that runs or is still stopping, after its Millpond was killed, is
/// stopped and waited for. The caller holds the place's lock.
pub(super) async fn clear(place: &DataPlace, binaries: &Binaries) -> Result<(), EmbeddedError> {
    let cluster = place.cluster();
    for (mode, seconds) in STOPS {
        match holder(&cluster).await {
            Holder::Nobody => break,
            Holder::Stranger => {
                // Postgres would take the stranger for a server of this database and refuse to start.
                let stale = cluster.join("postmaster.pid");
                std::fs::remove_file(&stale).map_err(EmbeddedError::io("remove", &stale))?;
                break;
            }
            Holder::Server(pid) => {
                tracing::info!(pid, mode, "stopping the Postgres that an earlier run left");
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

/// A server names its database on its command line and works in it. In a container, root may be denied the
/// second.
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
