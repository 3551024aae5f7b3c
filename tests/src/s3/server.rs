//! The HTTP listener, and the faults that happen between a client and the service.

use super::fault::{Fault, Injection, Op};
use super::service::{Began, Service};
use super::{ACCESS_KEY, SECRET_KEY, State, digest};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http::request::Parts;
use http::{HeaderValue, Method, Request, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use millpond_core::Clock;
use percent_encoding::percent_decode_str;
use s3s::auth::SimpleAuth;
use s3s::dto::{Timestamp, TimestampFormat};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpError, HttpResponse, S3Error, s3_error};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

/// Number of pieces of a body that is sent slowly.
const DRIP_PIECES: usize = 16;

pub(super) async fn serve(listener: std::net::TcpListener, state: Arc<State>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    let mut builder = S3ServiceBuilder::new(Service(Arc::clone(&state)));
    builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
    let service = builder.build();
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).ok();
        let (state, service) = (Arc::clone(&state), service.clone());
        tokio::spawn(async move {
            // A separate task: a request takes effect even if its client has gone.
            let handler = service_fn(move |request| {
                let handling = tokio::spawn(handle(Arc::clone(&state), service.clone(), request));
                async { handling.await.unwrap_or_else(|_| Err(hang_up())) }
            });
            // An error of the handler ends the connection without an answer: this is how a fault resets it.
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), handler)
                .await
                .ok();
        });
    }
}

/// Operation and keys of a request.
struct Target {
    op: Op,
    bucket: String,
    keys: Vec<String>,
}

impl Target {
    fn of(parts: &Parts, body: &[u8]) -> Self {
        let path = parts.uri.path().trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let query = parts.uri.query().unwrap_or("");
        let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
        let (op, keys) = match parts.method {
            Method::POST if has("delete") => (Op::Delete, keys_in(body)),
            Method::GET if key.is_empty() && has("list-type") => (Op::List, Vec::new()),
            _ if key.is_empty() => (Op::Bucket, Vec::new()),
            Method::GET => (Op::Get, vec![decoded(key)]),
            Method::HEAD => (Op::Head, vec![decoded(key)]),
            Method::DELETE => (Op::Delete, vec![decoded(key)]),
            _ => (Op::Put, vec![decoded(key)]),
        };
        Self { op, bucket: bucket.to_owned(), keys }
    }

    fn key(&self) -> &str {
        self.keys.first().map_or("", String::as_str)
    }
}

/// Keys in the XML document of a `DeleteObjects` request.
fn keys_in(document: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(document);
    text.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next()).map(str::to_owned).collect()
}

fn decoded(key: &str) -> String {
    percent_decode_str(key).decode_utf8_lossy().into_owned()
}

fn hang_up() -> HttpError {
    HttpError::new("the connection is to end".into())
}

async fn handle(
    state: Arc<State>,
    service: S3Service,
    request: Request<Incoming>,
) -> Result<HttpResponse, HttpError> {
    let mut began = None;
    let (mut parts, body) = request.into_parts();
    let early = Target::of(&parts, &[]);
    if early.op == Op::Put {
        began = Some(Began(state.buckets.lock().changes(&early.bucket, early.key())));
    }
    let body = body.collect().await.map_err(|_| hang_up())?.to_bytes();
    let target = Target::of(&parts, &body);
    count(&state, &target);
    let drawn = state.faults.lock().draw(target.op, &target.keys);
    if let Some(injection) = drawn
        && let Some(refused) = refuse(&state, &target, injection).await
    {
        return refused.map(|response| dated(&state, response));
    }
    if let Some(began) = began {
        parts.extensions.insert(began);
    }
    let response = match digest_of_document(&parts, &body) {
        Err(error) => error.to_http_response().map_err(|e| HttpError::new(Box::new(e)))?,
        Ok(()) => service.call(Request::from_parts(parts, Body::from(body))).await?,
    };
    let response = match drawn {
        Some(injection) => damage(&state, response, injection).await?,
        None => response,
    };
    Ok(dated(&state, response))
}

/// Verifies the digest of an XML document. Digests of objects are verified where the objects are stored.
fn digest_of_document(parts: &Parts, body: &[u8]) -> Result<(), S3Error> {
    if parts.method == Method::POST { digest::verify(&parts.headers, body) } else { Ok(()) }
}

fn count(state: &State, target: &Target) {
    let mut requests = state.requests.lock();
    let keys: &[String] = if target.keys.is_empty() { &[String::new()] } else { &target.keys };
    for key in keys {
        *requests.entry((target.op, key.clone())).or_default() += 1;
    }
}

/// Injects the faults that keep a request from taking effect, and delays.
async fn refuse(
    state: &State,
    target: &Target,
    injection: Injection,
) -> Option<Result<HttpResponse, HttpError>> {
    let answer = |error: S3Error| Some(error.to_http_response().map_err(|e| HttpError::new(Box::new(e))));
    let happened = || state.faults.lock().happened(injection.fault);
    match injection.fault {
        Fault::Internal => {
            happened();
            answer(s3_error!(InternalError, "We encountered an internal error. Please try again."))
        }
        Fault::SlowDown => {
            happened();
            answer(s3_error!(SlowDown, "Please reduce your request rate."))
        }
        Fault::Forbidden => {
            happened();
            answer(s3_error!(AccessDenied, "Access Denied"))
        }
        Fault::Missing => {
            let is_there = state
                .buckets
                .lock()
                .bucket(&target.bucket)
                .is_some_and(|b| b.objects.contains_key(target.key()));
            if !is_there {
                return None;
            }
            happened();
            answer(s3_error!(NoSuchKey, "The specified key does not exist."))
        }
        Fault::ResetBefore => {
            happened();
            Some(Err(hang_up()))
        }
        Fault::Delay => {
            happened();
            tokio::time::sleep(injection.pause).await;
            None
        }
        Fault::ResetAfter | Fault::Truncate | Fault::Flip | Fault::Drip => None,
    }
}

/// Injects the faults that damage an answer.
async fn damage(
    state: &State,
    response: HttpResponse,
    injection: Injection,
) -> Result<HttpResponse, HttpError> {
    let Injection { fault, pause } = injection;
    if fault == Fault::ResetAfter {
        state.faults.lock().happened(fault);
        return Err(hang_up());
    }
    if !matches!(fault, Fault::Truncate | Fault::Flip | Fault::Drip) || !response.status().is_success() {
        return Ok(response);
    }
    let (mut parts, body) = response.into_parts();
    let bytes = BodyExt::collect(body).await.map_err(HttpError::new)?.to_bytes();
    if bytes.is_empty() {
        return Ok(HttpResponse::from_parts(parts, Body::from(bytes)));
    }
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    let position = {
        let mut faults = state.faults.lock();
        faults.happened(fault);
        faults.below(bytes.len())
    };
    let body = match fault {
        Fault::Truncate => {
            let pieces = [Ok(Frame::data(bytes.slice(..position))), Err(io::Error::other("cut off"))];
            Body::http_body_unsync(StreamBody::new(stream::iter(pieces)))
        }
        Fault::Flip => {
            let mut bytes = bytes.to_vec();
            bytes[position] ^= 1;
            Body::from(bytes)
        }
        _ => Body::http_body_unsync(StreamBody::new(drip(bytes, pause))),
    };
    Ok(HttpResponse::from_parts(parts, body))
}

fn drip(bytes: Bytes, pause: Duration) -> BoxStream<'static, Result<Frame<Bytes>, io::Error>> {
    let size = bytes.len().div_ceil(DRIP_PIECES);
    let pieces: Vec<Bytes> =
        (0..bytes.len()).step_by(size).map(|at| bytes.slice(at..(at + size).min(bytes.len()))).collect();
    let wait = pause / u32::try_from(pieces.len()).unwrap_or(1);
    let slowly = move |piece| async move {
        tokio::time::sleep(wait).await;
        Ok(Frame::data(piece))
    };
    stream::iter(pieces).then(slowly).boxed()
}

/// Sets the `Date` header by the server's clock, which may be wrong.
fn dated(state: &State, mut response: HttpResponse) -> HttpResponse {
    let skew_ms = state.skew_ms.load(Ordering::SeqCst);
    let now_ms = u64::try_from(state.clock.now_ms() + skew_ms).unwrap_or(0);
    let mut text = Vec::new();
    let now = Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_millis(now_ms));
    if now.format(TimestampFormat::HttpDate, &mut text).is_ok()
        && let Ok(value) = HeaderValue::from_bytes(&text)
    {
        response.headers_mut().insert(header::DATE, value);
    }
    response
}
