//! A second agent on the Postgres and the bucket of a running `millpond dev`.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::child::millpond;
use super::client::Api;
use super::process::Dev;

/// A running `millpond agent`, killed on drop.
pub struct Second {
    child: Child,
    pub address: SocketAddr,
}

impl Second {
    pub fn beside(dev: &Dev) -> Self {
        let mut command = millpond();
        command.args(["agent", "--listen", "127.0.0.1:0", "--database-url", &dev.database_url, "--store"]);
        command
            .arg(format!("file://{}", dev.bucket.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let stderr = child.stderr.take().expect("a pipe");
        let (sender, addresses) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let address = line.split("ready address=").nth(1).and_then(|text| text.trim().parse().ok());
                if let Some(address) = address {
                    sender.send(address).ok();
                } else {
                    eprintln!("{line}");
                }
            }
        });
        let address: Result<SocketAddr, _> = addresses.recv_timeout(Duration::from_secs(60));
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let second = Self { child, address: address.unwrap_or(nowhere) };
        assert_ne!(second.address, nowhere, "a second agent gets ready");
        second
    }

    pub fn api(&self) -> Api {
        Api::new(self.address)
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
