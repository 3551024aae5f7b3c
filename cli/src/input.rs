//! Reads the input of `millpond produce` and streams it as a request body, decompressed, in bounded memory.
//!
//! gzip (also with several members) and Zstandard are recognized by their first bytes, not by the name.

use std::fs::{self, File};
use std::io::{self, Cursor, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use futures::stream;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::error::CliError;

#[cfg(test)]
mod tests;

/// Size of the chunks in which a regular file is sent.
const FILE_CHUNK_BYTES: usize = 512 << 10;
/// Largest chunk of a pipe. The result of each read is sent at once, so that chunks are often smaller.
const PIPE_CHUNK_MAX_BYTES: usize = 64 << 10;
/// Number of chunks that are read ahead of the connection; with the size of chunks this bounds the memory.
const CHUNKS_AHEAD_MAX: usize = 8;
/// Size of the read buffer in front of a decompressor.
const COMPRESSED_BUFFER_BYTES: usize = 256 << 10;

/// The input of a produce command.
pub struct Input {
    path: Option<PathBuf>,
    size_bytes: Option<u64>,
}

impl Input {
    /// The file at `path`, or standard input if it is `None` or `-`.
    pub fn find(path: Option<&Path>) -> Result<Self, CliError> {
        let Some(path) = path.filter(|path| *path != Path::new("-")) else {
            return Ok(Self { path: None, size_bytes: None });
        };
        let mut input = Self { path: Some(path.to_owned()), size_bytes: None };
        let metadata = fs::metadata(path).map_err(|error| input.failed(error))?;
        input.size_bytes = metadata.is_file().then_some(metadata.len());
        Ok(input)
    }

    /// The size of a regular file as stored (not decompressed); `None` for other inputs.
    pub fn size_bytes(&self) -> Option<u64> {
        self.size_bytes
    }

    /// Whether the input gives the same bytes each time it is opened.
    pub fn is_repeatable(&self) -> bool {
        self.size_bytes.is_some()
    }

    /// The name of the input in messages.
    pub fn name(&self) -> String {
        match &self.path {
            Some(path) => path.display().to_string(),
            None => "standard input".to_owned(),
        }
    }

    /// The error for an input that cannot be read.
    pub fn failed(&self, source: io::Error) -> CliError {
        CliError::Input { name: self.name(), source }
    }

    /// Starts reading from the beginning. Reading ends at the end of the input, with an error, or when the
    /// body is dropped.
    pub fn open(&self) -> Result<(reqwest::Body, Arc<Progress>), CliError> {
        let (raw, chunk_bytes): (Box<dyn Read + Send>, usize) = match &self.path {
            Some(path) => {
                let file = File::open(path).map_err(|error| self.failed(error))?;
                let regular = self.size_bytes.is_some();
                (Box::new(file), if regular { FILE_CHUNK_BYTES } else { PIPE_CHUNK_MAX_BYTES })
            }
            None => (Box::new(io::stdin()), PIPE_CHUNK_MAX_BYTES),
        };
        let whole_chunks = self.size_bytes.is_some();
        let progress = Arc::new(Progress::default());
        let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD_MAX);
        let raw = Counted { raw, progress: progress.clone() };
        // A separate thread, not a blocking task: at its end the runtime would wait for a task that is stuck
        // in a read.
        std::thread::Builder::new()
            .name("input".to_owned())
            .spawn(move || pump(raw, chunk_bytes, whole_chunks, &sender))
            .map_err(|error| self.failed(error))?;
        let state = (receiver, progress.clone());
        let chunks = stream::unfold(state, |(mut receiver, progress)| async move {
            progress.wants_input.store(true, Ordering::Relaxed);
            let chunk = receiver.recv().await;
            progress.wants_input.store(false, Ordering::Relaxed);
            let chunk = match chunk? {
                Ok(bytes) => {
                    progress.take(&bytes);
                    Ok(bytes)
                }
                Err(error) => {
                    let copy = io::Error::from(error.kind());
                    *progress.failure.lock() = Some(error);
                    Err(copy)
                }
            };
            Some((chunk, (receiver, progress)))
        });
        Ok((reqwest::Body::wrap_stream(chunks), progress))
    }
}

/// Progress of reading and sending one body.
#[derive(Default)]
pub struct Progress {
    read_bytes: AtomicU64,
    taken_bytes: AtomicU64,
    taken_lines: AtomicU64,
    wants_input: AtomicBool,
    failure: Mutex<Option<io::Error>>,
}

impl Progress {
    /// Bytes of the input as stored (not decompressed) that were read; a little ahead of what was sent.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the body that the connection has accepted.
    pub fn taken_bytes(&self) -> u64 {
        self.taken_bytes.load(Ordering::Relaxed)
    }

    /// Line ends among the bytes that the connection has accepted.
    pub fn taken_lines(&self) -> u64 {
        self.taken_lines.load(Ordering::Relaxed)
    }

    /// Whether the connection is waiting for input.
    pub fn wants_input(&self) -> bool {
        self.wants_input.load(Ordering::Relaxed)
    }

    /// The error with which reading failed, if it did; returned once.
    pub fn take_failure(&self) -> Option<io::Error> {
        self.failure.lock().take()
    }

    fn take(&self, bytes: &[u8]) {
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
        self.taken_lines.fetch_add(to_u64(lines), Ordering::Relaxed);
        self.taken_bytes.fetch_add(to_u64(bytes.len()), Ordering::Relaxed);
    }
}

fn to_u64(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// A reader that counts the bytes that are read.
struct Counted<R> {
    raw: R,
    progress: Arc<Progress>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.raw.read(buffer)?;
        self.progress.read_bytes.fetch_add(to_u64(read), Ordering::Relaxed);
        Ok(read)
    }
}

/// Reads the input to its end and sends it in chunks. `whole_chunks`: fill each chunk with several reads.
fn pump(
    raw: impl Read + Send + 'static,
    chunk_bytes: usize,
    whole_chunks: bool,
    sender: &mpsc::Sender<io::Result<Bytes>>,
) {
    let mut reader = match decoder(raw) {
        Ok(reader) => reader,
        Err(error) => {
            let _gone = sender.blocking_send(Err(error));
            return;
        }
    };
    loop {
        let (chunk, end) = match next_chunk(&mut reader, chunk_bytes, whole_chunks) {
            Ok(chunk) if chunk.is_empty() => return,
            Ok(chunk) => (Ok(chunk), false),
            Err(error) => (Err(error), true),
        };
        if sender.blocking_send(chunk).is_err() || end {
            return;
        }
    }
}

/// Reads the next chunk; an empty chunk means the end of the input.
fn next_chunk(reader: &mut impl Read, chunk_bytes: usize, whole: bool) -> io::Result<Bytes> {
    let mut chunk = vec![0; chunk_bytes];
    let mut filled = 0;
    while filled < chunk.len() {
        match reader.read(&mut chunk[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        if !whole {
            break;
        }
    }
    chunk.truncate(filled);
    Ok(Bytes::from(chunk))
}

/// The input, decompressed if it begins as gzip or Zstandard.
fn decoder(mut raw: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    let mut magic = Vec::with_capacity(4);
    raw.by_ref().take(4).read_to_end(&mut magic)?;
    let whole = Cursor::new(magic.clone()).chain(raw);
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => {
            let buffered = io::BufReader::with_capacity(COMPRESSED_BUFFER_BYTES, whole);
            Box::new(MultiGzDecoder::new(buffered))
        }
        [0x28, 0xb5, 0x2f, 0xfd] => {
            let buffered = io::BufReader::with_capacity(COMPRESSED_BUFFER_BYTES, whole);
            Box::new(zstd::stream::read::Decoder::with_buffer(buffered)?)
        }
        _ => Box::new(whole),
    })
}
