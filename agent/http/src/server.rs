//! The HTTP server: accepts connections, serves them with timeouts, and drains them at shutdown.
//!
//! It is built on hyper directly, because `axum::serve` cannot set a timeout for request headers.

use crate::pace::{Closer, PacedStream, ReadPace};
use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Longest wait for the complete headers of a request, including the idle time before it. Also the interval
/// of HTTP/2 pings.
const HEADERS_WAIT_MAX: Duration = Duration::from_secs(30);
/// Longest time that requests in flight may take to finish at shutdown.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// Largest read buffer of an HTTP/1 connection, and largest number of bytes of an answer that it takes at a
/// time; hyper refuses requests whose headers do not fit into the buffer.
const BUFFER_MAX_BYTES: usize = 96 << 10;
/// Largest number of bytes of a stream's answer that an HTTP/2 connection buffers.
const STREAM_BUFFER_MAX_BYTES: usize = 128 << 10;

/// Serves until `shutdown` resolves, then lets requests in flight finish for up to [`DRAIN_MAX`].
pub async fn serve(
    listener: TcpListener,
    router: Router,
    pace: ReadPace,
    shutdown: impl Future<Output = ()>,
) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WAIT_MAX)
        .max_buf_size(BUFFER_MAX_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HEADERS_WAIT_MAX)
        .max_send_buf_size(STREAM_BUFFER_MAX_BYTES)
        .max_concurrent_streams(256);
    let graceful = GracefulShutdown::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        stream.set_nodelay(true).ok();
        let closer = Closer { pace, close: CancellationToken::new() };
        let (router, close) = (TowerToHyperService::new(router.clone()), closer.close.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(closer.clone());
            router.call(request)
        });
        let connection = builder.serve_connection(TokioIo::new(PacedStream::new(stream, pace)), service);
        let connection = graceful.watch(connection.into_owned());
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended with an error");
                },
                () = close.cancelled() => tracing::debug!("a connection took its answers too slowly"),
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_MAX, graceful.shutdown()).await.is_err() {
        tracing::warn!("stopping while requests are still in flight: the time to drain them is over");
    }
}
