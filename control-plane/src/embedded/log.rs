//! The log of the Postgres server: a file of limited size, and its last lines in memory for error messages.

use millpond_core::saturated;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::ChildStderr;
use tokio::task::JoinHandle;

/// Size at which the log file is renamed to `….old`, replacing an earlier one. At most twice this size is
/// kept.
const LOG_FILE_MAX_BYTES: u64 = 4 << 20;
/// Size of the end of the log that is kept in memory.
const TAIL_MAX_BYTES: usize = 8 << 10;
/// Maximum number of log lines in an error message.
const TAIL_MAX_LINES: usize = 20;

/// Log of one server.
#[derive(Clone, Debug)]
pub(super) struct Log {
    path: PathBuf,
    tail: Arc<Mutex<VecDeque<u8>>>,
}

impl Log {
    pub fn new(path: PathBuf) -> Self {
        Self { path, tail: Arc::default() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Copies the stderr of a new server to the log until it ends. If the file cannot be written (full disk),
    /// reading continues all the same, since a server whose stderr is not read blocks.
    pub fn follow(&self, mut stderr: ChildStderr) -> JoinHandle<()> {
        self.tail().clear();
        let log = self.clone();
        tokio::spawn(async move {
            let mut file = open(&log.path).await;
            let mut chunk = vec![0; 8 << 10];
            while let Ok(length @ 1..) = stderr.read(&mut chunk).await {
                let said = chunk.get(..length).unwrap_or_default();
                log.remember(said);
                if let Some((open_file, written)) = &mut file {
                    let kept = open_file.write_all(said).await.is_ok() && open_file.flush().await.is_ok();
                    *written = written.saturating_add(saturated::<u64, _>(length));
                    if !kept || *written >= LOG_FILE_MAX_BYTES {
                        file = open(&log.path).await;
                    }
                }
            }
        })
    }

    pub fn last_lines(&self) -> String {
        let tail: Vec<u8> = self.tail().iter().copied().collect();
        last_lines(&String::from_utf8_lossy(&tail))
    }

    fn remember(&self, said: &[u8]) {
        let mut tail = self.tail();
        tail.extend(said);
        let surplus = tail.len().saturating_sub(TAIL_MAX_BYTES);
        tail.drain(..surplus);
    }

    fn tail(&self) -> std::sync::MutexGuard<'_, VecDeque<u8>> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the log file for appending, and returns its length. A full file is renamed first.
async fn open(path: &Path) -> Option<(File, u64)> {
    let length = |found: std::fs::Metadata| found.len();
    if tokio::fs::metadata(path).await.map_or(0, length) >= LOG_FILE_MAX_BYTES {
        tokio::fs::rename(path, path.with_extension("log.old")).await.ok()?;
    }
    let file = File::options().create(true).append(true).open(path).await.ok()?;
    let written = file.metadata().await.map_or(0, length);
    Some((file, written))
}

/// The last lines of a text.
pub(super) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let surplus = lines.len().saturating_sub(TAIL_MAX_LINES);
    lines.get(surplus..).unwrap_or_default().join("\n")
}
