//! The server process: starting it, waiting until it answers, restarting it when it exits, stopping it.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Connection};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::account::run;
use super::binaries::Binaries;
use super::log::Log;
use super::place::DataPlace;
use super::{EmbeddedError, cluster, settings};

/// Shell script that starts a watcher process and then becomes the server. The watcher reads a pipe whose
/// other end this process holds. If the pipe is closed before this process has written `ended`, this process
/// is gone, and the watcher stops the server: with a checkpoint (SIGINT) and, if it still runs after a
/// minute, without (SIGQUIT). The watcher is not a child of the server, since Postgres does not expect
/// children that it did not start.
const WATCHER_SCRIPT: &str = r#"
server=$$
exec 3<&0 </dev/null
( (
  while read -r word; do
    case $word in
      stop) kill -INT "$server" ;;
      ended) exit ;;
    esac
  done
  seconds=0
  while kill -INT "$server" && [ "$seconds" -lt 60 ]; do sleep 1; seconds=$((seconds + 1)); done
  kill -QUIT "$server"
) <&3 3<&- >/dev/null 2>&1 & )
exec 3<&-
exec "$@"
"#;

/// Interval between connection attempts while the server starts.
const POLL_INTERVAL: Duration = Duration::from_millis(25);
/// Number of connection attempts without any answer after which a running server is given up: a minute.
const MAX_SILENT_POLLS: u32 = 2400;
/// Maximum time for a server that reports that it is replaying its log after a crash.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(300);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum time of an orderly shutdown.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum time of a shutdown without checkpoint, and of a kill.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of start attempts while processes of an earlier server end: half a minute with the delays
/// below.
const MAX_START_TRIES: u32 = 18;
const FIRST_RETRY_DELAY: Duration = Duration::from_millis(50);
const MAX_TRY_DELAY: Duration = Duration::from_secs(2);
const MAX_RESTART_DELAY: Duration = Duration::from_secs(10);

/// Messages of Postgres when another server still uses the folder.
const FOLDER_IN_USE_MESSAGES: [&str; 2] = ["is still in use", "already exists"];
/// SQLSTATE of a server that is starting, recovering or shutting down.
const CANNOT_CONNECT_NOW: &str = "57P03";

#[derive(Debug)]
pub(super) struct Server {
    pub place: DataPlace,
    pub binaries: Binaries,
    pub durable: bool,
    pub log: Log,
}

/// A running server. Dropping it closes the pipe to the watcher, which stops the server; nothing waits for
/// that.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    /// Pipe to the watcher.
    watcher: ChildStdin,
    /// Task that copies stderr to the log.
    reader: JoinHandle<()>,
}

impl Server {
    pub fn connect_options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(&self.place.socket_folder)
            .port(super::PORT)
            .username(super::SUPERUSER)
            .database(database)
            .ssl_mode(PgSslMode::Disable)
    }

    /// Starts a server and waits until it answers, which includes recovery after a crash.
    pub async fn start(&self) -> Result<Running, EmbeddedError> {
        let mut delay = FIRST_RETRY_DELAY;
        for _ in 1..MAX_START_TRIES {
            match self.try_start().await {
                Err(EmbeddedError::ServerExited { output, .. })
                    if FOLDER_IN_USE_MESSAGES.iter().any(|words| output.contains(words)) =>
                {
                    sleep(delay).await;
                    delay = (delay * 2).min(MAX_TRY_DELAY);
                }
                ended => return ended,
            }
        }
        self.try_start().await
    }

    async fn try_start(&self) -> Result<Running, EmbeddedError> {
        cluster::clear(&self.place, &self.binaries).await?;
        let mut running = self.spawn()?;
        let answer = tokio::select! {
            status = running.child.wait() => Err(status),
            answer = timeout(RECOVERY_TIMEOUT, self.answer()) => Ok(answer),
        };
        match answer {
            Ok(Ok(Ok(()))) => Ok(running),
            Ok(Ok(Err(error))) => {
                self.stop(running).await;
                Err(error)
            }
            Ok(Err(_)) => {
                self.stop(running).await;
                Err(self.no_answer(RECOVERY_TIMEOUT))
            }
            Err(status) => {
                // Wait for a limited time: a process of an earlier server may still hold the pipe.
                drop(timeout(CONNECT_TIMEOUT, &mut running.reader).await);
                running.tell_watcher("ended\n").await;
                Err(self.exited(status))
            }
        }
    }

    fn spawn(&self) -> Result<Running, EmbeddedError> {
        let program = self.binaries.program("postgres");
        let socket_folder = self.place.socket_folder.to_string_lossy();
        let mut command = self.place.account.command("sh");
        command.args(["-c", WATCHER_SCRIPT, "sh"]).arg(&program).arg("-D").arg(self.place.cluster());
        for setting in settings::server_settings(&socket_folder, self.durable) {
            command.args(["-c", &setting]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(EmbeddedError::io("run", &program))?;
        let (Some(watcher), Some(stderr)) = (child.stdin.take(), child.stderr.take()) else {
            let missing = std::io::Error::other("no pipe to the new process");
            return Err(EmbeddedError::io("run", &program)(missing));
        };
        Ok(Running { child, watcher, reader: self.log.follow(stderr) })
    }

    /// Waits until the server accepts a connection to the database. Fails if it refuses one for a reason that
    /// waiting does not change.
    async fn answer(&self) -> Result<(), EmbeddedError> {
        let options = self.connect_options(super::DATABASE).disable_statement_logging();
        let mut silent = 0;
        while silent < MAX_SILENT_POLLS {
            match timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&options)).await {
                Ok(Ok(connection)) => {
                    drop(connection.close().await);
                    return Ok(());
                }
                Ok(Err(sqlx::Error::Database(said))) => {
                    if said.code().as_deref() != Some(CANNOT_CONNECT_NOW) {
                        return Err(EmbeddedError::Database {
                            doing: "accept a connection",
                            source: sqlx::Error::Database(said),
                        });
                    }
                    silent = 0;
                }
                _ => silent += 1,
            }
            sleep(POLL_INTERVAL).await;
        }
        Err(self.no_answer(POLL_INTERVAL * MAX_SILENT_POLLS))
    }

    /// Stops the server: orderly, then without a checkpoint, then by killing it. All of them are safe for the
    /// data.
    pub async fn stop(&self, mut running: Running) {
        running.tell_watcher("stop\n").await;
        if timeout(STOP_TIMEOUT, running.child.wait()).await.is_err() {
            tracing::warn!("the embedded Postgres does not stop, stopping it without a checkpoint");
            let mut stop = self.place.account.command(self.binaries.program("pg_ctl"));
            stop.args(["stop", "-s", "-W", "-m", "immediate", "-D"]).arg(self.place.cluster());
            drop(run(stop, KILL_TIMEOUT).await);
            if timeout(KILL_TIMEOUT, running.child.wait()).await.is_err() {
                drop(timeout(KILL_TIMEOUT, running.child.kill()).await);
            }
        }
        running.tell_watcher("ended\n").await;
    }

    fn exited(&self, status: std::io::Result<ExitStatus>) -> EmbeddedError {
        EmbeddedError::ServerExited {
            status: status_text(status),
            log: self.log.path().to_path_buf(),
            output: self.log.last_lines(),
        }
    }

    fn no_answer(&self, waited: Duration) -> EmbeddedError {
        EmbeddedError::NoAnswer {
            seconds: waited.as_secs(),
            log: self.log.path().to_path_buf(),
            output: self.log.last_lines(),
        }
    }

    /// Keeps the server running until `stop` is sent or dropped, then stops it. If it cannot be restarted, it
    /// is tried again forever, with growing delays, since the cause (such as a full disk) may go away.
    pub async fn supervise(
        &self,
        mut running: Running,
        pid: watch::Sender<Option<u32>>,
        mut stop: oneshot::Receiver<()>,
    ) {
        loop {
            pid.send_replace(running.child.id());
            tokio::select! {
                _ = &mut stop => return self.stop(running).await,
                status = running.child.wait() => {
                    let status = status_text(status);
                    tracing::warn!(status, "the embedded Postgres exited, restarting it");
                }
            }
            pid.send_replace(None);
            running.tell_watcher("ended\n").await;
            tokio::select! {
                _ = &mut stop => break,
                started = self.start_again() => running = started,
            }
        }
        // The start was interrupted, and the watcher stops what it had started. Wait for that.
        if let Err(error) = cluster::clear(&self.place, &self.binaries).await {
            tracing::warn!(error = chain(&error), "the embedded Postgres may still be stopping");
        }
    }

    async fn start_again(&self) -> Running {
        let mut delay = FIRST_RETRY_DELAY;
        loop {
            match self.start().await {
                Ok(running) => return running,
                Err(error) => {
                    tracing::error!(
                        error = chain(&error),
                        "the embedded Postgres does not start, trying again"
                    );
                }
            }
            sleep(delay).await;
            delay = (delay * 2).min(MAX_RESTART_DELAY);
        }
    }
}

impl Running {
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends a word to the watcher. A watcher that has ended needs none, so errors are ignored.
    async fn tell_watcher(&mut self, word: &'static str) {
        drop(timeout(CONNECT_TIMEOUT, self.watcher.write_all(word.as_bytes())).await);
    }
}

/// The error as a trait object, so that the log also shows its causes.
fn chain(error: &EmbeddedError) -> &(dyn std::error::Error + 'static) {
    error
}

fn status_text(status: std::io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
}
