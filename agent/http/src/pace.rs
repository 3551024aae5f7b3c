//! Closes connections whose clients take answers too slowly, since the bytes of an answer stay in memory
//! until the client has taken them.
//!
//! [`PacedStream`] watches the socket. That does not suffice for HTTP/2, whose clients can leave an answer
//! waiting by flow control without stalling the socket: there, [`paced`] watches each body.

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use millpond_core::saturated;
use parking_lot::Mutex;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

/// Largest frame of a paced body: so much can be taken and not be noticed.
const FRAME_MAX_BYTES: usize = 16 << 10;

/// The slowest that a client may take an answer: while bytes wait for it, in each window so many bytes per
/// second on average.
#[derive(Debug, Clone, Copy)]
pub struct ReadPace {
    pub min_bytes_per_s: u64,
    pub window: Duration,
}

impl Default for ReadPace {
    fn default() -> Self {
        Self { min_bytes_per_s: 16 << 10, window: Duration::from_secs(30) }
    }
}

impl ReadPace {
    /// Whether so many bytes in so long a time are too few.
    fn is_too_slow(self, bytes: u64, elapsed: Duration) -> bool {
        let needed = u128::from(self.min_bytes_per_s) * elapsed.as_millis() / 1_000;
        u128::from(bytes) < needed
    }
}

/// A stream whose writes fail once the other side reads too slowly.
pub struct PacedStream<S> {
    inner: S,
    pace: ReadPace,
    /// Set while bytes wait: the begin of the window, and what was written in it.
    waiting: Option<(Instant, u64)>,
    /// Ends at the end of the window.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> PacedStream<S> {
    pub fn new(inner: S, pace: ReadPace) -> Self {
        Self { inner, pace, waiting: None, timer: None }
    }

    fn written<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        match &polled {
            Poll::Ready(Ok(written)) => {
                if let Some((_, sum)) = &mut self.waiting {
                    *sum += saturated::<u64, _>(bytes(written));
                }
                polled
            }
            Poll::Ready(Err(_)) => polled,
            Poll::Pending => self.check(context),
        }
    }

    /// Waits until the socket takes more, at most until the end of a window that was too slow.
    fn check<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        loop {
            let now = Instant::now();
            let (since, bytes) = *self.waiting.get_or_insert((now, 0));
            let elapsed = now.duration_since(since);
            if elapsed >= self.pace.window {
                if self.pace.is_too_slow(bytes, elapsed) {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "the client takes its answer too slowly",
                    )));
                }
                self.waiting = Some((now, 0));
            }
            let end = self.waiting.map_or(now, |(since, _)| since) + self.pace.window;
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
            if timer.deadline() != end {
                timer.as_mut().reset(end);
            }
            ready!(timer.as_mut().poll(context));
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PacedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PacedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.written(context, polled, |n| *n)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.written(context, polled, |n| *n)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// Called when all that is there was written: nothing waits any more.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(context);
        if polled.is_ready() {
            self.waiting = None;
        }
        self.written(context, polled, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_shutdown(context);
        self.written(context, polled, |()| 0)
    }
}

/// Closes the connection that a request came on.
#[derive(Debug, Clone)]
pub struct Closer {
    pub pace: ReadPace,
    pub close: CancellationToken,
}

/// The body, watched: its connection is closed if the client takes it too slowly.
pub fn paced(body: Body, closer: Closer) -> Body {
    if body.is_end_stream() {
        return body;
    }
    Body::new(PacedBody { inner: body, rest: Bytes::new(), closer, taken: None })
}

struct PacedBody {
    inner: Body,
    /// What is left of the last frame of `inner`.
    rest: Bytes,
    closer: Closer,
    /// Since the first frame.
    taken: Option<Arc<Taken>>,
}

/// The bytes of a body on their way to the client.
#[derive(Default)]
struct Taken(Mutex<TakenBytes>);

#[derive(Default, Clone, Copy)]
struct TakenBytes {
    /// Handed to the connection so far.
    given: u64,
    /// Of these, freed by the connection, which means written to the socket.
    freed: u64,
}

/// A frame that counts itself as taken when it is dropped.
struct TakenFrame {
    bytes: Bytes,
    taken: Arc<Taken>,
}

impl AsRef<[u8]> for TakenFrame {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for TakenFrame {
    fn drop(&mut self) {
        self.taken.0.lock().freed += saturated::<u64, _>(self.bytes.len());
    }
}

/// Closes the connection once a window was too slow. Ends when the body and all of its frames are gone.
async fn watch(taken: std::sync::Weak<Taken>, closer: Closer) {
    let mut before = TakenBytes::default();
    // Whether there was something on its way at the last look. If not, the body had nothing to send, as that
    // of a tail without new records.
    let mut waited = true;
    loop {
        tokio::time::sleep(closer.pace.window).await;
        let Some(now) = taken.upgrade().map(|taken| *taken.0.lock()) else { return };
        let waits = now.freed < now.given;
        if waits && waited && closer.pace.is_too_slow(now.freed - before.freed, closer.pace.window) {
            closer.close.cancel();
            return;
        }
        (before, waited) = (now, waits);
    }
}

impl HttpBody for PacedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return Poll::Ready(other),
            }
        }
        let bytes = this.rest.split_to(this.rest.len().min(FRAME_MAX_BYTES));
        let taken = this.taken.get_or_insert_with(|| {
            let taken = Arc::new(Taken::default());
            tokio::spawn(watch(Arc::downgrade(&taken), this.closer.clone()));
            taken
        });
        taken.0.lock().given += saturated::<u64, _>(bytes.len());
        let frame = TakenFrame { bytes, taken: Arc::clone(taken) };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(frame)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = saturated::<u64, _>(self.rest.len());
        let inner = self.inner.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(inner.lower() + rest);
        hint
    }
}
