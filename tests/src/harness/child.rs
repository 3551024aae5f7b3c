//! A process of the Millpond binary. Its output is read, and it never outlives the test process.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::wait::until;

/// Path of the binary, which cargo and nextest set for integration tests of the package that builds it.
const BINARY: &str = "CARGO_BIN_EXE_millpond";
const READY_WAIT_MAX: Duration = Duration::from_secs(60);
/// Beginning of the log line in which a server tells its address.
pub const READY_PREFIX: &str = "Millpond is ready on http://";

/// Shell script that kills process `$1` and removes folder `$2` once its standard input ends, which happens
/// when the test process ends.
const LEASH: &str = r#"
cat > /dev/null
kill -TERM "$1" 2> /dev/null
for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    kill -0 "$1" 2> /dev/null || break
    sleep 1
done
kill -KILL "$1" 2> /dev/null
rm -rf "$2"
"#;

/// A running process of the binary, killed on drop.
pub struct Process {
    child: Child,
    leash: Child,
    log: Arc<Mutex<String>>,
}

impl Process {
    /// Starts the command and returns its lines of output. `root` is removed if the test process dies.
    pub fn spawn(mut command: Command, root: &Path) -> (Self, Receiver<String>) {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let leash = Command::new("sh")
            .args(["-c", LEASH, "leash"])
            .arg(child.id().to_string())
            .arg(root)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().expect("a pipe");
        let stdout = child.stdout.take().expect("a pipe");
        collect(stderr, Arc::clone(&log));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Keep reading after the receiver has gone: a closed pipe would end the process.
                sender.send(line).ok();
            }
        });
        (Self { child, leash, log }, lines)
    }

    pub fn next_line(&self, lines: &Receiver<String>) -> String {
        lines
            .recv_timeout(READY_WAIT_MAX)
            .unwrap_or_else(|_| panic!("the process did not get ready:\n{}", self.log()))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("not poisoned").clone()
    }

    /// Waits until the log contains a text: a thread reads it, so a line can arrive after the answer to the
    /// request that caused it.
    pub async fn logged(&self, text: &str) {
        until(10, text, async || self.log().contains(text).then_some(())).await;
    }

    /// Kills the process with SIGKILL, as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it can be waited for");
    }

    /// Sends a signal and waits for the process to end.
    pub async fn end_by(&mut self, name: &str, seconds: u64) -> ExitStatus {
        signal(name, &[self.child.id()]);
        let what = format!("end after SIG{name}");
        let child = &mut self.child;
        let status =
            until(seconds, &what, || std::future::ready(child.try_wait().expect("it can be waited for")))
                .await;
        if !status.success() {
            println!("{}", self.log());
        }
        status
    }

    /// Kills the process if it still runs.
    pub fn stop(&mut self) {
        // The leash must end first: it must not signal a process id that the system has reused.
        self.leash.kill().ok();
        self.leash.wait().ok();
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of process {}:\n{}", self.pid(), self.log());
        }
        self.stop();
    }
}

/// A command of the binary, without any Millpond setting of the environment in which the tests run.
pub fn millpond() -> Command {
    let binary = std::env::var_os(BINARY).unwrap_or_else(|| panic!("{BINARY}: not set to the binary's path"));
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MILLPOND_") && name != "MILLPOND_POSTGRES_BIN" {
            command.env_remove(name);
        }
    }
    command
}

fn collect(mut from: impl Read + Send + 'static, into: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(read @ 1..) = from.read(&mut piece) {
            into.lock().expect("not poisoned").push_str(&String::from_utf8_lossy(&piece[..read]));
        }
    });
}

pub fn signal(name: &str, pids: &[u32]) {
    let pids = pids.iter().map(u32::to_string);
    Command::new("kill")
        .arg(format!("-{name}"))
        .args(pids)
        .stderr(Stdio::null())
        .status()
        .expect("kill can be run");
}
