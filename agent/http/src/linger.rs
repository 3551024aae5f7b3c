//! Bodies that are not read to their end, as those of refused requests.
//!
//! A connection that is closed on unread bytes is reset, and the answer is often lost with it: what still
//! comes is read and dropped, for a while, as the answer goes out.

use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use http::header;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

const LINGER: Duration = Duration::from_secs(10);
/// What the system's buffers take anyway.
const SMALL_BYTES: u64 = 64 << 10;

struct Lingering {
    inner: Body,
    ended: bool,
}

/// The request with a body that is read on when its handler drops it.
pub fn lingering(request: Request) -> Request {
    let small = request.body().size_hint().exact().is_some_and(|bytes| bytes <= SMALL_BYTES);
    // Who waits for leave to send has nothing under way.
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
            tokio::time::timeout(LINGER, reading).await.ok();
        });
    }
}
