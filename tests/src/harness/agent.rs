//! Agents as separate processes, any number of them on one Postgres and one bucket.

use std::net::SocketAddr;
use std::process::{Command, ExitStatus, Output};

use crate::postgres::Database;
use crate::s3::{Fault, Op, TestS3};

use super::child::{Process, READY_PREFIX, millpond};
use super::client::Api;
use super::process::Home;
use super::wait::within;

pub const BUCKET: &str = "millpond-test";
/// Key prefix within the bucket, since several installations may share a bucket.
pub const PREFIX: &str = "some/where";

/// A migrated database, and a bucket in a test S3.
pub struct Cluster {
    pub database: Database,
    pub s3: TestS3,
    home: Home,
}

impl Cluster {
    pub async fn new() -> Self {
        let cluster = Self::unmigrated().await;
        let ran = cluster.migrate().await;
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        cluster
    }

    pub async fn unmigrated() -> Self {
        let s3 = TestS3::start(1);
        s3.create_bucket(BUCKET);
        Self { database: Database::empty().await, s3, home: Home::open() }
    }

    /// Runs `millpond migrate`.
    pub async fn migrate(&self) -> Output {
        self.run(&["migrate"]).await
    }

    /// The command of an agent, or of any other command that works on the database and the bucket.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = millpond();
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("AWS_") {
                command.env_remove(name);
            }
        }
        command
            .args(args)
            .env("MILLPOND_DATABASE_URL", self.database.url())
            .env("MILLPOND_STORE", format!("s3://{BUCKET}/{PREFIX}"));
        command.envs(self.s3.env());
        command
    }

    /// Runs a command and waits until it ends.
    pub async fn run(&self, args: &[&str]) -> Output {
        let mut command = tokio::process::Command::from(self.command(args));
        command.kill_on_drop(true);
        within(60, "the end of a command", command.output()).await.expect("the binary starts")
    }

    /// Starts an agent on a free port.
    pub fn agent(&self, more: &[&str]) -> Agent {
        self.agent_at("127.0.0.1:0", more)
    }

    pub fn agent_at(&self, listen: &str, more: &[&str]) -> Agent {
        let mut command = self.command(&["agent", "--listen", listen]);
        command.args(more);
        let (process, lines) = Process::spawn(command, self.home.path());
        let line = process.next_line(&lines);
        let address = line.strip_prefix(READY_PREFIX).unwrap_or_else(|| panic!("no address in {line}"));
        Agent { address: address.parse().expect("an address"), process }
    }

    /// Number of GETs that the most requested segment object received.
    pub fn most_gets(&self) -> u64 {
        let gets = self.s3.requests_by_key(Op::Get).into_iter();
        gets.filter(|(key, _)| key.ends_with(".seg")).map(|(_, gets)| gets).max().unwrap_or(0)
    }

    /// Keys of all segments in the bucket.
    pub fn segments(&self) -> Vec<String> {
        self.s3.keys(BUCKET).into_iter().filter(|key| key.ends_with(".seg")).collect()
    }

    /// Number of times a kind of fault was injected.
    pub fn injected(&self, fault: Fault) -> u64 {
        self.s3.injected().get(&fault).copied().unwrap_or(0)
    }
}

/// A running `millpond agent`.
pub struct Agent {
    pub address: SocketAddr,
    process: Process,
}

impl Agent {
    pub fn api(&self) -> Api {
        Api::new(self.address)
    }

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

    /// Kills the agent with SIGKILL, as a crash would.
    pub fn kill(mut self) {
        self.process.kill();
    }

    pub async fn end_by(mut self, name: &str, seconds: u64) -> ExitStatus {
        self.process.end_by(name, seconds).await
    }
}
