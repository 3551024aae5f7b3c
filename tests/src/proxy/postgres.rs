//! The part of Postgres' frontend and backend protocol that is needed to find the execution of a statement
//! and the end of its answer.

use bytes::{Buf, Bytes, BytesMut};
use std::collections::HashMap;
use std::sync::Arc;

/// Request codes of encryption (TLS and GSSAPI), which a client may send instead of a start-up message.
const ENCRYPTION: [u32; 2] = [80_877_103, 80_877_104];

/// One protocol message, with its header.
#[derive(Debug)]
pub struct Frame {
    /// Message type; 0 for the start-up message, which has none.
    pub tag: u8,
    pub bytes: Bytes,
}

/// Splits the bytes of one direction into frames.
#[derive(Debug)]
pub struct Frames {
    buffer: BytesMut,
    untagged: bool,
}

impl Frames {
    #[must_use]
    pub fn of_client() -> Self {
        Self { buffer: BytesMut::new(), untagged: true }
    }

    #[must_use]
    pub fn of_server() -> Self {
        Self { buffer: BytesMut::new(), untagged: false }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete frame.
    pub fn pop(&mut self) -> Option<Frame> {
        let head = if self.untagged { 0 } else { 1 };
        let mut length = self.buffer.get(head..head + 4)?;
        let whole = head + usize::try_from(length.get_u32()).unwrap_or(usize::MAX);
        if self.buffer.len() < whole {
            return None;
        }
        let bytes = self.buffer.split_to(whole).freeze();
        let tag = if std::mem::take(&mut self.untagged) { 0 } else { bytes[0] };
        Some(Frame { tag, bytes })
    }
}

/// Effect of a client's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// Executes a commit: the `nth` of the configured statements, or `COMMIT`. Its answer belongs to the
    /// `sync`th `Sync` of the connection.
    Commit {
        nth: Option<usize>,
        sync: u64,
    },
    /// Asks the server to answer all frames so far.
    Sync,
    Else,
}

/// Prepared statements and portals of a connection that are commits.
#[derive(Debug)]
pub struct Statements {
    commits: Arc<[String]>,
    prepared: HashMap<Bytes, Option<usize>>,
    portals: HashMap<Bytes, Option<usize>>,
    syncs: u64,
}

impl Statements {
    #[must_use]
    pub fn new(commits: Arc<[String]>) -> Self {
        Self { commits, prepared: HashMap::new(), portals: HashMap::new(), syncs: 0 }
    }

    /// Follows the client's frames in order. Panics when the client asks for encryption.
    pub fn see(&mut self, frame: &Frame) -> Does {
        let mut body = frame.bytes.slice(frame.bytes.len().min(5)..);
        match frame.tag {
            0 => {
                let code = frame.bytes.get(4..8).map_or(0, |mut code| code.get_u32());
                assert!(!ENCRYPTION.contains(&code), "encryption must be off on a link that is read");
            }
            b'P' => {
                let (name, text) = (word(&mut body), word(&mut body));
                let nth = self.commits.iter().position(|commit| commit.as_bytes() == text);
                self.prepared.insert(name, nth);
            }
            b'B' => {
                let (portal, name) = (word(&mut body), word(&mut body));
                let nth = self.prepared.get(&name).copied().flatten();
                self.portals.insert(portal, nth);
            }
            b'E' => {
                let nth = self.portals.get(&word(&mut body)).copied().flatten();
                return if nth.is_some() { Does::Commit { nth, sync: self.syncs + 1 } } else { Does::Else };
            }
            b'Q' => {
                self.syncs += 1;
                let text = word(&mut body);
                let text = text.strip_suffix(b";").unwrap_or(&text);
                let commits = text.trim_ascii().eq_ignore_ascii_case(b"commit");
                return if commits { Does::Commit { nth: None, sync: self.syncs } } else { Does::Sync };
            }
            b'S' | b'F' => {
                self.syncs += 1;
                return Does::Sync;
            }
            _ => {}
        }
        Does::Else
    }
}

/// Takes a zero-terminated string off the body, with its terminator.
fn word(body: &mut Bytes) -> Bytes {
    let end = body.iter().position(|byte| *byte == 0).unwrap_or(body.len());
    let word = body.split_to(end);
    body.advance(body.len().min(1));
    word
}
