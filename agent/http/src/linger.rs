//! Drains request bodies that a handler did not read to their end, for example those of refused requests.
//!
//! If a server closes a connection with unread bytes, TCP resets it, and the client often loses the answer.
//! Therefore the rest of the body is read and dropped in the background for up to [`DRAIN_MAX`].

use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use http::header;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Longest time that the rest of an unread body is read and dropped.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Bodies of up to this size are not wrapped: they fit into the system's socket buffers.
const SMALL_BODY_MAX_BYTES: u64 = 64 << 10;

struct Lingering {
    inner: Body,
    ended: bool,
}

/// The request with its body wrapped, so that the rest of it is drained when the handler drops it.
pub fn lingering(request: Request) -> Request {
    let small = request.body().size_hint().exact().is_some_and(|bytes| bytes <= SMALL_BODY_MAX_BYTES);
    // With `Expect: 100-continue` the client sends no body before it is told to.
    if small || request.headers().contains_key(header::EXPECT) {
        return request;
    }
    request.map(|inner| Body::new(Lingering { inner, ended: false }))
}

impl HttpBody for Lingering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_frame(context);
        this.ended |= matches!(polled, Poll::Ready(None | Some(Err(_))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        if self.ended || self.inner.is_end_stream() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let mut body = std::mem::take(&mut self.inner);
        runtime.spawn(async move {
            let reading = async { while let Some(Ok(_)) = body.frame().await {} };
            tokio::time::timeout(DRAIN_MAX, reading).await.ok();
        });
    }
}
