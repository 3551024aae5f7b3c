//! The binary as a process of its own, with the folder it works in.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use super::client::Api;
use super::wait::until;

const BINARY: &str = env!("CARGO_BIN_EXE_millpond");
const START: Duration = Duration::from_secs(60);

/// Kills process `$1` and removes folder `$2` once its standard input ends, which it does with the test process at the latest.
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

/// A temporary folder that one Millpond after the other works in; removed at the end, with a database that had to be elsewhere.
pub struct Home {
    root: tempfile::TempDir,
}

impl Home {
    /// One that other users may pass, as most folders.
    pub fn new() -> Self {
        Self::with_mode(0o755)
    }

    /// One that only its owner may enter.
    pub fn closed() -> Self {
        Self::with_mode(0o700)
    }

    fn with_mode(mode: u32) -> Self {
        let root = tempfile::Builder::new().prefix("millpond-test-").tempdir().expect("a temporary folder");
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(mode)).expect("its mode");
        Self { root }
    }

    pub fn path(&self) -> &Path {
        self.root.path()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.root.path().join("data")
    }

    /// Every object of the bucket.
    pub fn objects(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.data_dir().join("bucket")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Ok(elsewhere) = std::fs::read_to_string(self.data_dir().join("postgres/location")) {
            let elsewhere = PathBuf::from(elsewhere);
            // Only what a relocated database is called.
            if elsewhere.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with("millpond-")) {
                drop(std::fs::remove_dir_all(elsewhere));
            }
        }
    }
}

/// A running `millpond dev`.
pub struct Dev {
    child: Child,
    leash: Child,
    pub address: SocketAddr,
    /// Where Postgres' own files are.
    pub database: PathBuf,
    pub database_url: String,
    pub bucket: PathBuf,
    log: Arc<Mutex<String>>,
    _own: Option<Home>,
}

impl Dev {
    /// With `--ephemeral`, and its temporary folder within one that is removed in any case.
    pub fn ephemeral() -> Self {
        let home = Home::new();
        let mut command = Self::command(&["--ephemeral", "--listen", "127.0.0.1:0"]);
        command.env("TMPDIR", home.path());
        Self::spawn(command, home.path().to_owned(), Some(home))
    }

    pub fn start(home: &Home, more: &[&str]) -> Self {
        Self::start_at(home, "127.0.0.1:0", more)
    }

    pub fn start_at(home: &Home, listen: &str, more: &[&str]) -> Self {
        let mut command = Self::command(&["--listen", listen, "--data-dir"]);
        command.arg(home.data_dir()).args(more);
        Self::spawn(command, home.path().to_owned(), None)
    }

    pub fn command(args: &[&str]) -> Command {
        let mut command = millpond();
        command.arg("dev").args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn spawn(mut command: Command, root: PathBuf, own: Option<Home>) -> Self {
        let mut child = command.spawn().expect("the binary starts");
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
                // Read on when nobody wants it any more: a closed pipe would end the process.
                sender.send(line).ok();
            }
        });
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut dev = Self {
            child,
            leash,
            address: nowhere,
            database: PathBuf::new(),
            database_url: String::new(),
            bucket: PathBuf::new(),
            log,
            _own: own,
        };
        loop {
            let Ok(line) = lines.recv_timeout(START) else { panic!("millpond dev did not get ready:\n{}", dev.log()) };
            let line = line.trim();
            if let Some(address) = line.strip_prefix("Millpond is ready on http://") {
                dev.address = address.parse().expect("an address");
            } else if let Some(folder) = line.strip_prefix("records ") {
                dev.bucket = PathBuf::from(folder.trim());
            } else if let Some(folder) = line.strip_prefix("database ") {
                dev.database = PathBuf::from(folder.trim());
            } else if let Some(url) = line.strip_prefix("psql ") {
                dev.database_url = url.trim_matches('"').to_owned();
            } else if line.is_empty() {
                return dev;
            }
        }
    }

    pub fn api(&self) -> Api {
        Api::new(self.address)
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("not poisoned").clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The postmaster's process, while there is one.
    pub fn postmaster(&self) -> Option<u32> {
        let file = std::fs::read_to_string(self.database.join("postmaster.pid")).ok()?;
        let pid: u32 = file.lines().next()?.trim().parse().ok()?;
        is_running(pid).then_some(pid)
    }

    /// Ends Postgres as a crash would: the postmaster and all its processes.
    pub fn kill_postgres(&self) -> bool {
        let Some(postmaster) = self.postmaster() else { return false };
        let mut doomed = children_of(postmaster);
        doomed.insert(0, postmaster);
        signal("KILL", &doomed);
        true
    }

    /// All of Postgres' processes, for signals that crash nothing.
    pub fn postgres_processes(&self) -> Vec<u32> {
        let Some(postmaster) = self.postmaster() else { return Vec::new() };
        let mut all = children_of(postmaster);
        all.insert(0, postmaster);
        all
    }

    /// Ends the agent as a crash would; its Postgres goes with it, a moment later.
    pub async fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it can be waited for");
        self.postgres_gone().await;
    }

    /// Ends agent and Postgres at once.
    pub async fn kill_all(mut self) {
        let mut doomed = self.postgres_processes();
        doomed.push(self.child.id());
        signal("KILL", &doomed);
        self.child.wait().expect("it can be waited for");
        self.postgres_gone().await;
    }

    async fn postgres_gone(&self) {
        until(20, "end of Postgres after its agent's", async || self.postmaster().is_none().then_some(())).await;
    }

    /// Sends a signal and waits for the end.
    pub async fn end_by(mut self, name: &str, seconds: u64) -> ExitStatus {
        signal(name, &[self.child.id()]);
        let log = Arc::clone(&self.log);
        let what = format!("end after SIG{name}");
        let child = &mut self.child;
        let status = until(seconds, &what, || std::future::ready(child.try_wait().expect("it can be waited for"))).await;
        if !status.success() {
            println!("{}", log.lock().expect("not poisoned"));
        }
        status
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of the agent on {}:\n{}", self.address, self.log());
        }
        // The leash first: it must not signal a process id that was given anew.
        self.leash.kill().ok();
        self.leash.wait().ok();
        let postgres = if self.database.as_os_str().is_empty() { Vec::new() } else { self.postgres_processes() };
        self.child.kill().ok();
        self.child.wait().ok();
        if !postgres.is_empty() {
            signal("KILL", &postgres);
        }
    }
}

/// The binary, with no setting of whoever runs the tests.
pub fn millpond() -> Command {
    let mut command = Command::new(BINARY);
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
    Command::new("kill").arg(format!("-{name}")).args(pids).stderr(Stdio::null()).status().expect("kill can be run");
}

/// A process that waits to be reaped does not run.
fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.rsplit(") ").next().unwrap_or("Z").starts_with('Z'))
}

fn children_of(parent: u32) -> Vec<u32> {
    let own = format!("/proc/{parent}/task/{parent}/children");
    let text = std::fs::read_to_string(own).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
