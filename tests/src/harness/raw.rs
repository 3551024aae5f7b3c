//! HTTP written byte by byte, for requests that no client library would send.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::wait::within;

/// One TCP connection to the server.
pub struct Raw(TcpStream);

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.expect("a connection"))
    }

    /// A connection that takes few bytes ahead of its reader, so that most of an answer waits in the server.
    pub async fn connect_narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4_096).expect("a small buffer");
        Self(socket.connect(address).await.expect("a connection"))
    }

    /// Reads one byte; `None` at the end.
    pub async fn read_byte(&mut self) -> Option<u8> {
        within(60, "a byte", self.0.read_u8()).await.ok()
    }

    /// Writes bytes. An error is ignored: the server may have closed already, and its answer is read
    /// afterwards.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        within(30, "room on the connection", self.0.write_all(bytes.as_ref())).await.ok();
    }

    /// Closes the sending side; the answer can still be read.
    pub async fn half_close(&mut self) {
        self.0.shutdown().await.ok();
    }

    /// Reads until the server closes.
    pub async fn read_to_end(&mut self) -> String {
        let mut all = Vec::new();
        within(40, "end of the answer", self.0.read_to_end(&mut all)).await.ok();
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Reads until the text appears.
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

/// Sends a request on its own connection and reads the whole answer.
pub async fn exchange(address: SocketAddr, request: impl AsRef<[u8]>) -> String {
    let mut raw = Raw::connect(address).await;
    raw.write(request).await;
    raw.read_to_end().await
}

/// Status code in the first line of an answer, 0 if there is none.
pub fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}
