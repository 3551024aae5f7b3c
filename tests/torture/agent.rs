//! An agent process that is restarted whenever it ends, with proxies on all its links.

use super::postgres::Postgres;
use millpond_tests::harness::child::millpond;
use millpond_tests::harness::child::signal;
use millpond_tests::proxy::{Protocol, Proxy, Target};
use millpond_tests::s3::TestS3;
use parking_lot::Mutex;
use std::io::{BufRead, BufReader};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

pub const BUCKET: &str = "torture";
pub const PREFIX: &str = "t";
/// Value of the agent's limit on PUTs; many small objects test more than few large ones.
const PUTS_PER_S: &str = "30";

/// Statements whose outcome decides what is stored, with their area.
pub const COMMITS: [(&str, &str); 10] = [
    ("log", include_str!("../../control-plane/queries/log/commit_plain.sql")),
    ("log", include_str!("../../control-plane/queries/log/commit.sql")),
    ("segment", include_str!("../../control-plane/queries/segment/swap.sql")),
    ("admission", include_str!("../../control-plane/queries/queue/admit.sql")),
    ("grant", include_str!("../../control-plane/queries/queue/grant_plain.sql")),
    ("grant", include_str!("../../control-plane/queries/queue/grant.sql")),
    ("keyed grant", include_str!("../../control-plane/queries/queue/grant_keyed.sql")),
    ("settlement", include_str!("../../control-plane/queries/queue/settle_plain.sql")),
    ("settlement", include_str!("../../control-plane/queries/queue/settle.sql")),
    ("expiry", include_str!("../../control-plane/queries/queue/expire.sql")),
];

/// Log texts of an agent that ends at its start because it does not reach its database.
const START_FAILURES: [&str; 2] = ["the database", "the control plane"];

/// Shell script that kills process `$1` once its standard input ends, which happens when the test process
/// ends.
const LEASH: &str = r#"cat > /dev/null; kill -KILL "$1" 2> /dev/null"#;

pub struct Agent {
    pub name: String,
    /// Proxy between clients and the agent.
    pub front: Arc<Proxy>,
    /// Proxy between the agent and Postgres.
    pub database: Arc<Proxy>,
    /// Proxy between the agent and the store.
    pub store: Arc<Proxy>,
    process: Arc<Process>,
    keeper: JoinHandle<()>,
}

struct Process {
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
    front: Arc<Proxy>,
    /// Process id of the running process, once it is ready.
    ready: Mutex<Option<u32>>,
    pid: Mutex<Option<u32>>,
    /// The process was told to end, so its end is expected.
    doomed: AtomicBool,
    closing: AtomicBool,
    log: Mutex<String>,
    surprises: Mutex<Vec<String>>,
}

impl Agent {
    pub async fn start(number: u64, postgres: &Postgres, s3: &TestS3, seed: u64) -> Self {
        let commits: Arc<[String]> = COMMITS.iter().map(|(_, text)| (*text).to_owned()).collect();
        let database =
            Proxy::start(postgres.target(), Protocol::Postgres { commits }, seed ^ (number * 3 + 1)).await;
        let s3_address = s3.url().trim_start_matches("http://").parse().expect("an address");
        let store = Proxy::start(Target::Tcp(s3_address), Protocol::Bytes, seed ^ (number * 3 + 2)).await;
        let nowhere = Target::Tcp(([127, 0, 0, 1], 1).into());
        let front = Arc::new(Proxy::start(nowhere, Protocol::Bytes, seed ^ (number * 3 + 3)).await);
        let url = postgres.url_at(database.address().port());
        let place = format!("s3://{BUCKET}/{PREFIX}");
        let arguments = [
            "agent",
            "--listen",
            "127.0.0.1:0",
            "--put-rate",
            PUTS_PER_S,
            "--database-url",
            &url,
            "--store",
            &place,
        ];
        let mut environment = s3.env().to_vec();
        environment.retain(|(name, _)| *name != "AWS_ENDPOINT");
        environment.push(("AWS_ENDPOINT", format!("http://{}", store.address())));
        let process = Arc::new(Process {
            arguments: arguments.map(str::to_owned).to_vec(),
            environment,
            front: Arc::clone(&front),
            ready: Mutex::new(None),
            pid: Mutex::new(None),
            doomed: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            log: Mutex::default(),
            surprises: Mutex::default(),
        });
        let kept = Arc::clone(&process);
        let keeper = tokio::spawn(async move { kept.keep().await });
        Self {
            name: format!("agent {number}"),
            front,
            database: Arc::new(database),
            store: Arc::new(store),
            process,
            keeper,
        }
    }

    /// Whether the current process has logged that it is ready.
    pub fn is_ready(&self) -> bool {
        let (ready, pid) = (*self.process.ready.lock(), self.pid());
        pid.is_some() && ready == pid
    }

    /// Sends a signal that ends the process; false if none is running.
    pub fn end_by(&self, name: &str) -> bool {
        let pid = self.process.pid.lock();
        let Some(pid) = *pid else { return false };
        self.process.doomed.store(true, Ordering::SeqCst);
        signal(name, &[pid]);
        true
    }

    /// Stops the process by SIGSTOP; returns the process id for [`thaw`](Self::thaw).
    pub fn freeze(&self) -> Option<u32> {
        let pid = self.process.pid.lock();
        signal("STOP", pid.as_slice());
        *pid
    }

    /// Continues the process, unless it has ended since.
    pub fn thaw(&self, frozen: u32) {
        let pid = self.process.pid.lock();
        if *pid == Some(frozen) {
            signal("CONT", &[frozen]);
        }
    }

    pub fn pid(&self) -> Option<u32> {
        *self.process.pid.lock()
    }

    pub fn log(&self) -> String {
        self.process.log.lock().clone()
    }

    /// Unexpected ends of the process.
    pub fn surprises(&self) -> Vec<String> {
        self.process.surprises.lock().clone()
    }

    /// Ends the agent for good by SIGTERM; it must end in time and with success.
    pub async fn close(mut self, seconds: u64) {
        self.process.closing.store(true, Ordering::SeqCst);
        self.end_by("TERM");
        let ended = tokio::time::timeout(Duration::from_secs(seconds), &mut self.keeper).await;
        assert!(
            ended.is_ok(),
            "{} does not end within {seconds} s of SIGTERM:\n{}",
            self.name,
            self.process.last_lines()
        );
        ended.expect("in time").expect("a keeper that did not panic");
    }
}

/// Prints the agent's log if the test fails.
impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}:\n{}", self.name, self.process.last_lines());
        }
    }
}

impl Process {
    async fn keep(self: &Arc<Self>) {
        while !self.closing.load(Ordering::SeqCst) {
            let status = self.attend(self.spawn()).await;
            if !self.doomed.swap(false, Ordering::SeqCst) && !status.success() && !self.may_refuse() {
                self.surprises.lock().push(format!("{status}: {}", self.last_lines()));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Whether the end is allowed: an agent that does not reach its database ends at once, and its service
    /// manager restarts it.
    fn may_refuse(&self) -> bool {
        self.log.lock().lines().next_back().is_some_and(|line| {
            line.starts_with("error: ") && START_FAILURES.iter().any(|why| line.contains(why))
        })
    }

    fn spawn(&self) -> Running {
        let mut command = millpond();
        command.args(&self.arguments).envs(self.environment.iter().cloned());
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let leash = std::process::Command::new("sh")
            .args(["-c", LEASH, "leash", &child.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        *self.pid.lock() = Some(child.id());
        Running { child, leash }
    }

    /// Reads the process's log until it ends.
    async fn attend(self: &Arc<Self>, mut running: Running) -> ExitStatus {
        let stderr = running.child.stderr.take().expect("a pipe");
        let (id, process) = (running.child.id(), Arc::clone(self));
        #[expect(clippy::disallowed_methods, reason = "it reads as long as the process lives")]
        let reader = tokio::task::spawn_blocking(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                process.take(id, &line);
            }
        });
        let status = loop {
            {
                // Whoever sends a signal holds this lock, so that the process id is not reused in the
                // meantime.
                let mut pid = self.pid.lock();
                if let Some(status) = running.child.try_wait().expect("it can be waited for") {
                    *pid = None;
                    break status;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        reader.await.expect("its last words");
        *self.ready.lock() = None;
        status
    }

    fn take(&self, id: u32, line: &str) {
        if let Some((_, address)) = line.split_once("ready address=") {
            self.front.retarget(Target::Tcp(address.trim().parse().expect("an address")));
            *self.ready.lock() = Some(id);
        }
        let mut log = self.log.lock();
        log.push_str(line);
        log.push('\n');
    }

    fn last_lines(&self) -> String {
        let log = self.log.lock();
        let lines: Vec<&str> = log.lines().rev().take(30).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

/// A running process, killed on drop.
struct Running {
    child: Child,
    leash: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        // The leash must end first: it must not signal a process id that the system has reused.
        for process in [&mut self.leash, &mut self.child] {
            process.kill().ok();
            process.wait().ok();
        }
    }
}
