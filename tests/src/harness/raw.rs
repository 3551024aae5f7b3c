//! HTTP byte by byte, for requests that no client library would send.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::wait::within;

/// One TCP connection to the server.
pub struct Raw(TcpStream);

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.expect("a connection"))
    }

    /// The server may have closed already: what it said is read afterwards.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        within(30, "room on the connection", self.0.write_all(bytes.as_ref())).await.ok();
    }

    /// No more will be sent; the answer can still be read.
    pub async fn half_close(&mut self) {
        self.0.shutdown().await.ok();
    }

    /// Everything until the server closes.
    pub async fn read_to_end(&mut self) -> String {
        let mut all = Vec::new();
        within(40, "end of the answer", self.0.read_to_end(&mut all)).await.ok();
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Until the text appears.
    pub async fn read_until(&mut self, end: &str) -> String {
        let mut all = Vec::new();
        let reading = async {
            let mut piece = [0; 4096];
            while !String::from_utf8_lossy(&all).contains(end) {
                match self.0.read(&mut piece).await {
                    Ok(read @ 1..) => all.extend_from_slice(&piece[..read]),
                    _ => break,
                }
            }
        };
        within(30, end, reading).await;
        String::from_utf8_lossy(&all).into_owned()
    }
}

/// One exchange on a connection of its own.
pub async fn exchange(address: SocketAddr, request: impl AsRef<[u8]>) -> String {
    let mut raw = Raw::connect(address).await;
    raw.write(request).await;
    raw.read_to_end().await
}

/// The status of an answer's first line, 0 if there is none.
pub fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}
