//! A lean HTTP/1.1 client. The load generator shares its cores with the server, so it must cost as little as
//! possible.

use crate::Outcome;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;

/// A request body, whole or streamed.
pub type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

/// A body that is not streamed.
pub fn whole(bytes: impl Into<Bytes>) -> RequestBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A client of one server, which keeps idle connections for later requests.
pub struct Client {
    authority: String,
    idle: Mutex<Vec<SendRequest<RequestBody>>>,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl Answer {
    /// The answer, or its body as the error if it is not a success.
    pub fn ok(self) -> Outcome<Self> {
        if self.status.is_success() {
            return Ok(self);
        }
        Err(format!("{}: {}", self.status, String::from_utf8_lossy(&self.bytes)).into())
    }

    /// The value of a numeric header, 0 if there is none.
    pub fn number(&self, name: &str) -> i64 {
        self.headers.get(name).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok()).unwrap_or(0)
    }
}

impl Client {
    /// `url`: `http://host:port`.
    pub fn new(url: &str) -> Outcome<Arc<Self>> {
        let authority = url
            .strip_prefix("http://")
            .ok_or("a server's URL begins with http://")?
            .trim_end_matches('/')
            .to_owned();
        Ok(Arc::new(Self { authority, idle: Mutex::new(Vec::new()) }))
    }

    async fn connect(&self) -> Outcome<SendRequest<RequestBody>> {
        let stream = TcpStream::connect(&self.authority).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // An error of the connection is also returned by the request.
        tokio::spawn(async move { connection.await.ok() });
        Ok(sender)
    }

    /// An idle connection that is still alive, or a new one.
    async fn sender(&self) -> Outcome<SendRequest<RequestBody>> {
        loop {
            let Some(mut sender) = self.idle.lock().pop() else { return self.connect().await };
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(header::HeaderName, &str)],
        body: RequestBody,
    ) -> Outcome<Request<RequestBody>> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.authority);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        Ok(request.body(body)?)
    }

    /// Sends a request and reads the whole answer.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(header::HeaderName, &str)],
        body: RequestBody,
    ) -> Outcome<Answer> {
        let request = self.request(method, path, headers, body)?;
        let mut sender = self.sender().await?;
        let response = sender.send_request(request).await?;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await?.to_bytes();
        self.idle.lock().push(sender);
        Ok(Answer { status: parts.status, headers: parts.headers, bytes })
    }

    pub async fn get(&self, path: &str, accept: &str) -> Outcome<Answer> {
        self.call(Method::GET, path, &[(header::ACCEPT, accept)], whole(Bytes::new())).await
    }

    pub async fn put_json(&self, path: &str, body: String) -> Outcome<Answer> {
        self.call(Method::PUT, path, &[(header::CONTENT_TYPE, "application/json")], whole(body)).await
    }

    pub async fn produce(&self, path: &str, content_type: &str, body: RequestBody) -> Outcome<Answer> {
        self.call(Method::POST, path, &[(header::CONTENT_TYPE, content_type)], body).await?.ok()
    }

    /// As [`Client::produce`], with an idempotency key if one is given.
    pub async fn produce_once(
        &self,
        path: &str,
        content_type: &str,
        key: Option<&str>,
        body: RequestBody,
    ) -> Outcome<Answer> {
        let key = key.map(|key| (header::HeaderName::from_static("idempotency-key"), key));
        let headers: Vec<_> = [(header::CONTENT_TYPE, content_type)].into_iter().chain(key).collect();
        self.call(Method::POST, path, &headers, body).await?.ok()
    }

    /// Sends a GET whose answer is endless, on a new connection, which lives as long as the sender.
    pub async fn open(
        &self,
        path: &str,
        accept: &str,
    ) -> Outcome<(Response<Incoming>, SendRequest<RequestBody>)> {
        let request = self.request(Method::GET, path, &[(header::ACCEPT, accept)], whole(Bytes::new()))?;
        let mut sender = self.connect().await?;
        let response = sender.send_request(request).await?;
        if !response.status().is_success() {
            return Err(format!("{path}: {}", response.status()).into());
        }
        Ok((response, sender))
    }
}
