//! The user account that the Postgres server runs as, and running programs as that user.
//!
//! Postgres refuses to run as root, so root runs it as another user. Every program runs with an environment
//! without `PG*` variables, in `/` (the user may not be able to read the caller's working directory), in its
//! own process group (so that Ctrl-C in a terminal reaches only the caller), and for a limited time.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::Command;

use super::EmbeddedError;

/// Users that root may run the server as. The first one that exists is used.
const SERVER_USERS: [&str; 2] = ["postgres", "nobody"];
/// Maximum run time of a small tool such as `id`.
const TOOL_TIMEOUT: Duration = Duration::from_secs(10);

/// A user account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    /// User and group id to run as; `None`: those of this process.
    change_to: Option<(u32, u32)>,
}

/// Result of a program that has ended.
#[derive(Debug)]
pub(super) struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    /// Last lines of stdout and stderr together, for error messages.
    pub last_lines: String,
}

impl Account {
    /// Chooses the user for a database whose files belong to `owner` (user and group id; `None`: there is no
    /// database yet).
    ///
    /// A process that is not root always stays the same user. Root runs the server as the owner of the files,
    /// so that a database keeps its owner; without one, as the first of `postgres` and `nobody` that exists.
    pub async fn choose(owner: Option<(u32, u32)>) -> Result<Self, EmbeddedError> {
        if effective_uid().await? != 0 {
            return Ok(Self { change_to: None });
        }
        if let Some(owner) = owner.filter(|(uid, _)| *uid != 0) {
            return Ok(Self { change_to: Some(owner) });
        }
        for name in SERVER_USERS {
            if let Some(identity) = find_user(name).await {
                return Ok(Self { change_to: Some(identity) });
            }
        }
        Err(EmbeddedError::NoAccount)
    }

    /// Whether this process is root and the server runs as another user.
    pub fn is_other(self) -> bool {
        self.change_to.is_some()
    }

    /// Makes this user the owner of `path`, but not of its content.
    pub fn give(self, path: &Path) -> Result<(), EmbeddedError> {
        if let Some((uid, gid)) = self.change_to {
            std::os::unix::fs::chown(path, Some(uid), Some(gid))
                .map_err(EmbeddedError::io("change the owner of", path))?;
        }
        Ok(())
    }

    /// Whether `path` is a folder of this user. A symbolic link is not followed.
    pub fn owns_folder(self, path: &Path) -> bool {
        std::fs::symlink_metadata(path)
            .is_ok_and(|found| found.is_dir() && self.change_to.is_none_or(|(uid, _)| uid == found.uid()))
    }

    /// Tests, as this user, whether `folder` can be entered and written to.
    pub async fn can_use(self, folder: &Path) -> Result<bool, EmbeddedError> {
        let mut command = self.command("sh");
        command.args(["-c", r#"cd "$1" && test -w . && test -x ."#, "sh"]).arg(folder);
        Ok(run(command, TOOL_TIMEOUT).await?.status.success())
    }

    /// A command that runs as this user. Its standard streams are closed unless the caller sets them.
    pub fn command(self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        // On macOS a postmaster that starts threads exits, and the locale lookup starts some unless a locale
        // is set.
        command
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        if let Some((uid, gid)) = self.change_to {
            // The standard library drops root's supplementary groups when it changes the user.
            command.gid(gid).uid(uid);
        }
        command
    }
}

impl std::fmt::Display for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.change_to {
            Some((uid, _)) => write!(f, "user {uid} (Postgres does not run as root)"),
            None => f.write_str("the current user"),
        }
    }
}

/// Runs a program until it ends, and kills it after `at_most`. A failure status of the program is not an
/// error.
pub(super) async fn run(mut command: Command, at_most: Duration) -> Result<Finished, EmbeddedError> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let Ok(output) = tokio::time::timeout(at_most, command.output()).await else {
        return Err(EmbeddedError::ToolTimedOut { program, seconds: at_most.as_secs() });
    };
    let output = output.map_err(EmbeddedError::io("run", Path::new(&program)))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let both = format!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
    Ok(Finished { status: output.status, stdout, last_lines: super::log::last_lines(&both) })
}

/// Like [`run`], but a failure status is an error that contains the last lines of the output.
pub(super) async fn run_checked(command: Command, at_most: Duration) -> Result<Finished, EmbeddedError> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let finished = run(command, at_most).await?;
    if finished.status.success() {
        return Ok(finished);
    }
    Err(EmbeddedError::ToolFailed {
        program,
        status: finished.status.to_string(),
        output: finished.last_lines,
    })
}

async fn effective_uid() -> Result<u32, EmbeddedError> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let from_proc = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().nth(1)?.parse().ok());
    if let Some(uid) = from_proc {
        return Ok(uid);
    }
    let mut id = Command::new("id");
    id.arg("-u");
    let finished = run_checked(id, TOOL_TIMEOUT).await?;
    finished.stdout.trim().parse().map_err(|_| EmbeddedError::ToolFailed {
        program: "id -u".to_owned(),
        status: "its output is not a number".to_owned(),
        output: finished.last_lines,
    })
}

/// User and group id of `name`: from /etc/passwd, else (macOS, LDAP) from the program `id`.
async fn find_user(name: &str) -> Option<(u32, u32)> {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    if let Some(found) = in_passwd(&passwd, name) {
        return Some(found);
    }
    let mut found = Vec::new();
    for flag in ["-u", "-g"] {
        let mut id = Command::new("id");
        id.args([flag, name]);
        found.push(run_checked(id, TOOL_TIMEOUT).await.ok()?.stdout.trim().parse().ok()?);
    }
    Some((*found.first()?, *found.get(1)?))
}

fn in_passwd(passwd: &str, name: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some((uid, gid))
    })
}

#[cfg(test)]
mod tests {
    use super::in_passwd;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgres2:x:7:8::/:\npostgres:x:101:104:a,b:/var:/bin/sh\n";
        assert_eq!(in_passwd(passwd, "postgres"), Some((101, 104)));
        assert_eq!(in_passwd(passwd, "nobody"), None);
    }

    #[test]
    fn a_negative_id_as_on_macos_is_left_to_the_system() {
        assert_eq!(in_passwd("nobody:*:-2:-2::/:\n", "nobody"), None);
    }
}
