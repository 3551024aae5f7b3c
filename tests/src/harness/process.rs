//! `millpond dev` as a process, with the folder it works in.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use super::child::{Process, READY_PREFIX, millpond, signal};
use super::client::Api;
use super::wait::until;

/// A temporary folder in which one Millpond after another works. It is removed on drop, together with a
/// database that had to be placed elsewhere.
pub struct Home {
    root: tempfile::TempDir,
}

impl Home {
    /// A folder that other users may enter, as most folders.
    pub fn open() -> Self {
        Self::with_mode(0o755)
    }

    /// A folder that only its owner may enter.
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

    /// Paths of all segments of the bucket.
    pub fn objects(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.data_dir().join("bucket")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|end| end == "seg") {
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
            // Remove only a folder that has the name of a relocated database.
            if elsewhere.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with("millpond-"))
            {
                drop(std::fs::remove_dir_all(elsewhere));
            }
        }
    }
}

/// A running `millpond dev`.
pub struct Dev {
    process: Process,
    pub address: SocketAddr,
    /// Folder of Postgres' own files.
    pub database: PathBuf,
    pub database_url: String,
    pub bucket: PathBuf,
    _own: Option<Home>,
}

impl Dev {
    /// Starts `millpond dev --ephemeral`, with its temporary folder inside one that is removed in any case.
    pub fn ephemeral() -> Self {
        let home = Home::open();
        let mut command = Self::command(&["--ephemeral", "--listen", "127.0.0.1:0"]);
        command.env("TMPDIR", home.path());
        let root = home.path().to_owned();
        Self::spawn(command, &root, Some(home))
    }

    pub fn start(home: &Home, more: &[&str]) -> Self {
        Self::start_at(home, "127.0.0.1:0", more)
    }

    pub fn start_at(home: &Home, listen: &str, more: &[&str]) -> Self {
        let mut command = Self::command(&["--listen", listen, "--data-dir"]);
        command.arg(home.data_dir()).args(more);
        Self::spawn(command, home.path(), None)
    }

    pub fn command(args: &[&str]) -> Command {
        let mut command = millpond();
        command.arg("dev").args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn spawn(command: Command, root: &Path, own: Option<Home>) -> Self {
        let (process, lines) = Process::spawn(command, root);
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let (database, database_url, bucket) = (PathBuf::new(), String::new(), PathBuf::new());
        let mut dev = Self { process, address: nowhere, database, database_url, bucket, _own: own };
        loop {
            let line = dev.process.next_line(&lines);
            let line = line.trim();
            if let Some(address) = line.strip_prefix(READY_PREFIX) {
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

    /// The log so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Waits until the log contains a text.
    pub async fn logged(&self, text: &str) {
        self.process.logged(text).await;
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The most memory that the agent has had resident so far, in bytes.
    pub fn peak_memory_bytes(&self) -> u64 {
        peak_memory_bytes(self.pid())
    }

    /// Process id of the postmaster, if it runs.
    pub fn postmaster(&self) -> Option<u32> {
        let file = std::fs::read_to_string(self.database.join("postmaster.pid")).ok()?;
        let pid: u32 = file.lines().next()?.trim().parse().ok()?;
        is_running(pid).then_some(pid)
    }

    /// Kills the postmaster and all its processes, as a crash would.
    pub fn kill_postgres(&self) -> bool {
        let Some(postmaster) = self.postmaster() else { return false };
        let mut doomed = children_of(postmaster);
        doomed.insert(0, postmaster);
        signal("KILL", &doomed);
        true
    }

    /// Process ids of all Postgres processes, for signals that do not crash it.
    pub fn postgres_processes(&self) -> Vec<u32> {
        let Some(postmaster) = self.postmaster() else { return Vec::new() };
        let mut all = children_of(postmaster);
        all.insert(0, postmaster);
        all
    }

    /// Kills the agent, as a crash would; its Postgres ends shortly afterwards.
    pub async fn kill(mut self) {
        self.process.kill();
        self.postgres_gone().await;
    }

    /// Kills agent and Postgres at once.
    pub async fn kill_all(mut self) {
        let mut doomed = self.postgres_processes();
        doomed.push(self.pid());
        signal("KILL", &doomed);
        self.process.kill();
        self.postgres_gone().await;
    }

    async fn postgres_gone(&self) {
        until(20, "end of Postgres after its agent's", async || self.postmaster().is_none().then_some(()))
            .await;
    }

    /// Sends a signal and waits for the process to end.
    pub async fn end_by(mut self, name: &str, seconds: u64) -> ExitStatus {
        self.process.end_by(name, seconds).await
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let postgres =
            if self.database.as_os_str().is_empty() { Vec::new() } else { self.postgres_processes() };
        self.process.stop();
        if !postgres.is_empty() {
            signal("KILL", &postgres);
        }
    }
}

/// The most memory that a process has had resident so far, in bytes.
pub fn peak_memory_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    kib << 10
}

/// True if the process runs; a zombie does not.
fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(") ").next().unwrap_or("Z").starts_with('Z'))
}

fn children_of(parent: u32) -> Vec<u32> {
    let own = format!("/proc/{parent}/task/{parent}/children");
    let text = std::fs::read_to_string(own).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
