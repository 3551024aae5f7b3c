//! The HTTP server: accepts connections, serves them with timeouts, and drains them at shutdown.
//!
//! It is built on hyper directly, because `axum::serve` cannot set a timeout for request headers.

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_io_timeout::TimeoutStream;

/// Longest wait for the complete headers of a request, including the idle time before it. Also the interval
/// of HTTP/2 pings.
const HEADERS_WAIT_MAX: Duration = Duration::from_secs(30);
/// Longest time that requests in flight may take to finish at shutdown.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// Longest time that a client may read nothing of an answer. Then its connection is closed and the memory of
/// the answer is freed.
const WRITE_STALL_MAX: Duration = Duration::from_secs(60);
/// Largest read buffer of an HTTP/1 connection; hyper refuses requests whose headers do not fit into it.
const BUFFER_MAX_BYTES: usize = 512 << 10;

/// Serves until `shutdown` resolves, then lets requests in flight finish for up to [`DRAIN_MAX`].
pub async fn serve(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()>) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WAIT_MAX)
        .max_buf_size(BUFFER_MAX_BYTES)
        .pipeline_flush(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HEADERS_WAIT_MAX)
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
        let service = TowerToHyperService::new(router.clone());
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_STALL_MAX));
        let connection = builder.serve_connection(TokioIo::new(Box::pin(stream)), service);
        let connection = graceful.watch(connection.into_owned());
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended with an error");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_MAX, graceful.shutdown()).await.is_err() {
        tracing::warn!("stopping while requests are still in flight: the time to drain them is over");
    }
}
