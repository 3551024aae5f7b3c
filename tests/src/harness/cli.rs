//! The client commands (`millpond produce` and others), run as a user runs them.

use std::process::{Output, Stdio};

use tokio::io::AsyncWriteExt;

use super::child::millpond;
use super::process::Dev;
use super::wait::within;

/// Output and exit status of a command.
pub struct Ran {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.success, "{}", self.stderr);
        self.stdout
    }

    /// Standard error of a command that must have failed.
    #[track_caller]
    pub fn error(self) -> String {
        assert!(!self.success, "{}", self.stdout);
        self.stderr
    }
}

/// Runs a client command against a Millpond, with `input` as its standard input.
pub async fn cli(dev: &Dev, args: &[&str], input: &str) -> Ran {
    cli_at(&dev.api().base, args, input).await
}

pub async fn cli_at(url: &str, args: &[&str], input: &str) -> Ran {
    let mut command = tokio::process::Command::from(millpond());
    command.args(args).env("MILLPOND_URL", url).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_owned();
    let writer = tokio::spawn(async move {
        // A command that ends early closes its standard input.
        stdin.write_all(input.as_bytes()).await.ok();
    });
    let output: Output =
        within(90, "the end of a command", child.wait_with_output()).await.expect("its output");
    writer.await.expect("a writer");
    Ran {
        success: output.status.success(),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
