//! The server process: started on a leash, waited for, restarted when it dies, stopped.

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

/// Becomes the server, after leaving behind a watcher that reads our end of a pipe. When the pipe ends before
/// we said that the server did, we are gone, and the watcher stops the server: with a checkpoint (SIGINT) or,
/// after a minute, without (SIGQUIT). The watcher is no child of the server, which would be puzzled by it.
const LEASH: &str = r#"
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

const POLL: Duration = Duration::from_millis(25);
/// Polls without any answer after which a server that lives is given up: a minute.
const MAX_SILENT_POLLS: u32 = 2400;
/// For a server that says that it is replaying its log after a crash.
const MAX_RECOVERY: Duration = Duration::from_secs(300);
const MAX_CONNECT: Duration = Duration::from_secs(5);
const MAX_STOP: Duration = Duration::from_secs(60);
const MAX_KILL: Duration = Duration::from_secs(10);

/// Tries while an earlier server's last processes go away: half a minute with these delays.
const MAX_TRIES: u32 = 18;
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_TRY_DELAY: Duration = Duration::from_secs(2);
const LONGEST_RESTART_DELAY: Duration = Duration::from_secs(10);

/// What Postgres says when the folder is not free yet.
const NOT_FREE_YET: [&str; 2] = ["is still in use", "already exists"];
const CANNOT_CONNECT_NOW: &str = "57P03";

#[derive(Debug)]
pub(super) struct Server {
    pub place: DataPlace,
    pub binaries: Binaries,
    pub durable: bool,
    pub log: Log,
}

/// Dropping it stops the server, by the leash, without waiting.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    leash: ChildStdin,
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

    /// Starts a server and waits until it answers, recovery after a crash included.
    pub async fn start(&self) -> Result<Running, EmbeddedError> {
        let mut delay = FIRST_DELAY;
        for _ in 1..MAX_TRIES {
            match self.try_start().await {
                Err(EmbeddedError::ServerExited { output, .. })
                    if NOT_FREE_YET.iter().any(|words| output.contains(words)) =>
                {
                    sleep(delay).await;
                    delay = (delay * 2).min(LONGEST_TRY_DELAY);
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
            answer = timeout(MAX_RECOVERY, self.answer()) => Ok(answer),
        };
        match answer {
            Ok(Ok(Ok(()))) => Ok(running),
            Ok(Ok(Err(error))) => {
                self.stop(running).await;
                Err(error)
            }
            Ok(Err(_)) => {
                self.stop(running).await;
                Err(self.no_answer(MAX_RECOVERY))
            }
            Err(status) => {
                // Not for ever: a process of an earlier server may hold the pipe.
                drop(timeout(MAX_CONNECT, &mut running.reader).await);
                running.tell("ended\n").await;
                Err(self.exited(status))
            }
        }
    }

    fn spawn(&self) -> Result<Running, EmbeddedError> {
        let program = self.binaries.program("postgres");
        let socket_folder = self.place.socket_folder.to_string_lossy();
        let mut command = self.place.account.command("sh");
        command.args(["-c", LEASH, "sh"]).arg(&program).arg("-D").arg(self.place.cluster());
        for setting in settings::server_settings(&socket_folder, self.durable) {
            command.args(["-c", &setting]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(EmbeddedError::io("run", &program))?;
        let (Some(leash), Some(stderr)) = (child.stdin.take(), child.stderr.take()) else {
            let missing = std::io::Error::other("no pipe to the new process");
            return Err(EmbeddedError::io("run", &program)(missing));
        };
        Ok(Running { child, leash, reader: self.log.follow(stderr) })
    }

    /// Ends when the server lets us into the database, or with an error that waiting will not mend.
    async fn answer(&self) -> Result<(), EmbeddedError> {
        let options = self.connect_options(super::DATABASE).disable_statement_logging();
        let mut silent = 0;
        while silent < MAX_SILENT_POLLS {
            match timeout(MAX_CONNECT, PgConnection::connect_with(&options)).await {
                Ok(Ok(connection)) => {
                    drop(connection.close().await);
                    return Ok(());
                }
                Ok(Err(sqlx::Error::Database(said))) => {
                    if said.code().as_deref() != Some(CANNOT_CONNECT_NOW) {
                        return Err(EmbeddedError::Database {
                            doing: "let us in",
                            source: sqlx::Error::Database(said),
                        });
                    }
                    silent = 0;
                }
                _ => silent += 1,
            }
            sleep(POLL).await;
        }
        Err(self.no_answer(POLL * MAX_SILENT_POLLS))
    }

    /// Stops a server of ours: its own way, then without a checkpoint, then by force. All are safe for the
    /// data.
    pub async fn stop(&self, mut running: Running) {
        running.tell("stop\n").await;
        if timeout(MAX_STOP, running.child.wait()).await.is_err() {
            tracing::warn!("Postgres does not stop; stopping it without a checkpoint");
            let mut stop = self.place.account.command(self.binaries.program("pg_ctl"));
            stop.args(["stop", "-s", "-W", "-m", "immediate", "-D"]).arg(self.place.cluster());
            drop(run(stop, MAX_KILL).await);
            if timeout(MAX_KILL, running.child.wait()).await.is_err() {
                drop(timeout(MAX_KILL, running.child.kill()).await);
            }
        }
        running.tell("ended\n").await;
    }

    fn exited(&self, status: std::io::Result<ExitStatus>) -> EmbeddedError {
        EmbeddedError::ServerExited {
            status: described(status),
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

    /// Keeps a server running until `stop` is used or dropped, then stops it. A server that cannot be started
    /// again is tried for ever, at growing intervals, since its cause (a full disk) may pass.
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
                    let status = described(status);
                    tracing::warn!(status, "the embedded Postgres died; starting it again");
                }
            }
            pid.send_replace(None);
            running.tell("ended\n").await;
            tokio::select! {
                _ = &mut stop => break,
                started = self.start_again() => running = started,
            }
        }
        // The start was cut short, and the leash stops what it had begun; this waits for it.
        if let Err(error) = cluster::clear(&self.place, &self.binaries).await {
            tracing::warn!(error = chain(&error), "Postgres may still be stopping");
        }
    }

    async fn start_again(&self) -> Running {
        let mut delay = FIRST_DELAY;
        loop {
            match self.start().await {
                Ok(running) => return running,
                Err(error) => {
                    tracing::error!(
                        error = chain(&error),
                        "the embedded Postgres does not start; trying again"
                    );
                }
            }
            sleep(delay).await;
            delay = (delay * 2).min(LONGEST_RESTART_DELAY);
        }
    }
}

impl Running {
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// A word to the watcher; one that is gone needs none.
    async fn tell(&mut self, word: &'static str) {
        drop(timeout(MAX_CONNECT, self.leash.write_all(word.as_bytes())).await);
    }
}

/// For a log line, so that it shows the causes as well.
fn chain(error: &EmbeddedError) -> &(dyn std::error::Error + 'static) {
    error
}

fn described(status: std::io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
}
