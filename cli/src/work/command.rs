//! Runs the worker's command for one record.
//!
//! The command runs in a process group of its own, so that Ctrl-C at the terminal only reaches the worker.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::last_line::LastLine;
use super::leased::Leased;
use super::outbox::Outcome;

/// Longest wait for the end of standard error after the command has ended, since processes that it has left
/// behind may keep it open. Then the last line so far is used.
const STDERR_WAIT_MAX: Duration = Duration::from_millis(200);

/// A running command.
pub struct Running {
    child: Child,
    /// Writes the value to standard input.
    feeding: JoinHandle<()>,
    /// Copies standard error to that of the worker.
    copying: JoinHandle<()>,
    last_line: Arc<Mutex<LastLine>>,
}

/// Why a command was not started.
pub enum NotStarted {
    /// The record does not fit into the environment: counts as a failure of the record, with this reason.
    Record(String),
    /// The command cannot be run at all.
    Command(io::Error),
}

/// Starts the command for a record. Must be called within a Tokio runtime.
pub fn start(command: &[OsString], record: Leased) -> Result<Running, NotStarted> {
    let (program, arguments) =
        command.split_first().map_or((OsStr::new(""), command), |(first, rest)| (first.as_os_str(), rest));
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| Leased::inherited(name)) {
        command.env_remove(name);
    }
    command
        .args(arguments)
        .envs(&record.variables)
        .stdin(Stdio::piped())
        .stdout(Stdio::inherit())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        ErrorKind::ArgumentListTooLong => {
            NotStarted::Record(format!("key and headers are too long for a command: {error}"))
        }
        _ => NotStarted::Command(error),
    })?;
    let last_line = Arc::new(Mutex::new(LastLine::default()));
    let feeding = tokio::spawn(feed(child.stdin.take(), record.value));
    let copying = tokio::spawn(copy(child.stderr.take(), last_line.clone()));
    Ok(Running { child, feeding, copying, last_line })
}

/// Writes the value to standard input. Errors are ignored: a command need not read it.
async fn feed(stdin: Option<ChildStdin>, value: Vec<u8>) {
    if let Some(mut stdin) = stdin {
        stdin.write_all(&value).await.ok();
    }
}

/// Copies standard error to that of the worker, and remembers the last line.
async fn copy(stderr: Option<ChildStderr>, last_line: Arc<Mutex<LastLine>>) {
    let Some(mut stderr) = stderr else { return };
    let mut buffer = [0; 8 << 10];
    while let Ok(length) = stderr.read(&mut buffer).await
        && let Some(chunk) = buffer.get(..length)
        && !chunk.is_empty()
    {
        last_line.lock().push(chunk);
        // Errors are ignored: the last line is needed even if the worker's standard error is closed.
        let chunk = chunk.to_vec();
        spawn_blocking(move || io::stderr().write_all(&chunk)).await.ok();
    }
}

impl Running {
    /// Waits until the command ends, and kills it when `kill` is cancelled.
    pub async fn outcome(mut self, kill: CancellationToken) -> Outcome {
        let status = tokio::select! {
            biased;
            status = self.child.wait() => status,
            () = kill.cancelled() => {
                self.kill();
                self.child.wait().await.ok();
                self.feeding.abort();
                return Outcome::Released;
            }
        };
        self.feeding.abort();
        match status {
            Ok(status) if status.success() => Outcome::Done,
            Ok(status) => {
                timeout(STDERR_WAIT_MAX, self.copying).await.ok();
                let last_line = self.last_line.lock().text();
                Outcome::Failed(last_line.unwrap_or_else(|| told(status)))
            }
            Err(error) => Outcome::Failed(format!("cannot wait for the command: {error}")),
        }
    }

    /// Kills the command and all processes of its group. The command has not been reaped yet, so its process
    /// id cannot have been reused.
    fn kill(&self) {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process_group(pid, Signal::KILL).ok();
        }
    }
}

/// The reason of a nack if the command has written nothing to standard error.
fn told(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}
