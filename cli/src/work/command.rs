//! One run of the worker's command, for one record.
//!
//! It runs in a process group of its own, so that a Ctrl-C at the terminal reaches the worker only.

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

/// How long a command's standard error may stay open after its end, in the hands of what it left behind,
/// before its last line is taken.
const STDERR_GRACE: Duration = Duration::from_millis(200);

/// A command that was started.
pub struct Running {
    child: Child,
    feeding: JoinHandle<()>,
    copying: JoinHandle<()>,
    last_line: Arc<Mutex<LastLine>>,
}

/// Why a command was not started.
pub enum NotStarted {
    /// The record does not fit into an environment: its fault.
    Record(String),
    Command(io::Error),
}

/// Must be called within a runtime.
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

/// A command need not read what it is given.
async fn feed(stdin: Option<ChildStdin>, value: Vec<u8>) {
    if let Some(mut stdin) = stdin {
        stdin.write_all(&value).await.ok();
    }
}

async fn copy(stderr: Option<ChildStderr>, last_line: Arc<Mutex<LastLine>>) {
    let Some(mut stderr) = stderr else { return };
    let mut buffer = [0; 8 << 10];
    while let Ok(length) = stderr.read(&mut buffer).await
        && let Some(chunk) = buffer.get(..length)
        && !chunk.is_empty()
    {
        last_line.lock().push(chunk);
        // Whom nobody listens to still has a last line.
        let chunk = chunk.to_vec();
        spawn_blocking(move || io::stderr().write_all(&chunk)).await.ok();
    }
}

impl Running {
    /// Waits for its end, and brings it about once `kill` says so.
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
                timeout(STDERR_GRACE, self.copying).await.ok();
                let last_line = self.last_line.lock().text();
                Outcome::Failed(last_line.unwrap_or_else(|| told(status)))
            }
            Err(error) => Outcome::Failed(format!("its end cannot be learnt: {error}")),
        }
    }

    /// Together with what it has started. The process is not reaped yet, so its id is nobody else's.
    fn kill(&self) {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process_group(pid, Signal::KILL).ok();
        }
    }
}

fn told(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}
