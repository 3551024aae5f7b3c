//! HTTP to one Millpond: its address, its token, and the reading of problem answers.
//!
//! Every answer that is not a success becomes a [`CliError`], so callers see only successes.

use std::fmt;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use url::{Host, Url};

use super::error::CliError;

#[cfg(test)]
mod tests;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that is gone without a word is noticed after this long.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Of an error's body, more than this is not read.
const MAX_PROBLEM_BYTES: usize = 64 << 10;
/// Of an error's body that is no problem document, this much is shown.
const SHOWN_CHARS: usize = 200;

/// Which Millpond to talk to, and as whom. Has no `Debug`, so that the token stays out of logs.
#[derive(Clone, clap::Args)]
pub struct ClientOptions {
    /// Where Millpond answers
    #[arg(long, env = "MILLPOND_URL", default_value = "http://127.0.0.1:8080", global = true)]
    pub url: String,

    /// The bearer token to show, if the server wants one
    #[arg(long, env = "MILLPOND_TOKEN", hide_env_values = true, global = true, help_heading = "Server")]
    pub token: Option<String>,
}

/// A handle on one server; clones share its connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
}

impl Client {
    pub fn new(options: &ClientOptions) -> Result<Self, CliError> {
        // An error says that a provider is installed already, which serves as well.
        let _already = rustls::crypto::ring::default_provider().install_default();
        let wrong = || CliError::Url { url: options.url.clone() };
        let base = Url::parse(&options.url).map_err(|_| wrong())?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(wrong());
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("millpond-cli/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(KEEPALIVE)
            .tcp_nodelay(true);
        if is_loopback(&base) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(CliError::Request)?;
        Ok(Self { http, base, token: options.token.clone() })
    }

    /// A request to the path made of `segments`, each percent-encoded as needed.
    pub fn request(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends and waits for the head of a successful answer.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, CliError> {
        let response = request.send().await.map_err(|error| self.failed(error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(CliError::Problem(Box::new(Problem::read(response).await)))
    }

    /// Sends and reads the whole of a successful answer.
    pub async fn text(&self, request: RequestBuilder) -> Result<(StatusCode, String), CliError> {
        let response = self.send(request).await?;
        let status = response.status();
        let text = response.text().await.map_err(|error| self.failed(error))?;
        Ok((status, text))
    }

    /// The error for a connection that could not be made or broke, in the head or in the body of an
    /// answer.
    pub fn failed(&self, error: reqwest::Error) -> CliError {
        let url = self.base.as_str().trim_end_matches('/').to_owned();
        let source = error.without_url();
        if source.is_connect() {
            CliError::Unreachable { url, source }
        } else if source.is_builder() || source.is_redirect() {
            CliError::Request(source)
        } else {
            CliError::Connection { url, source }
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// An RFC 9457 problem as Millpond writes it; what came from something else on the way is put into
/// the same form.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Problem {
    pub status: u16,
    pub code: String,
    pub title: String,
    pub detail: String,
    pub retryable: bool,
    /// The line of a streamed body that stopped it, from 1.
    pub line: Option<u64>,
    /// What a streamed produce had stored when it was stopped: a prefix of the body.
    pub committed: Option<Committed>,
    pub log_start_offset: Option<u64>,
    #[serde(skip)]
    pub retry_after: Option<Duration>,
}

/// What a streamed produce stored.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Committed {
    pub count: u64,
    #[serde(default)]
    pub partitions: Vec<PartitionRange>,
    /// The server had stored all of it before, under the same idempotency key.
    #[serde(default)]
    pub duplicate: bool,
}

/// Offsets in one partition, both ends included; others' records may lie between them.
#[derive(Debug, Clone, Deserialize)]
pub struct PartitionRange {
    pub partition: u32,
    pub first_offset: u64,
    pub last_offset: u64,
    #[serde(default)]
    pub count: u64,
}

impl Problem {
    async fn read(mut response: Response) -> Self {
        let status = response.status();
        let headers = response.headers().clone();
        let mut body = Vec::new();
        // What arrived of a cut body is still worth reading.
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_PROBLEM_BYTES {
                break;
            }
        }
        Self::parse(status, &headers, &body)
    }

    fn parse(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let json = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.contains("json"));
        let parsed = if json { serde_json::from_slice::<Self>(body).ok() } else { None };
        let mut problem = parsed.filter(|problem| !problem.code.is_empty()).unwrap_or_else(|| Self {
            code: format!("http_{}", status.as_u16()),
            title: status.canonical_reason().unwrap_or("unknown status").to_owned(),
            detail: String::from_utf8_lossy(body).trim().chars().take(SHOWN_CHARS).collect(),
            ..Self::default()
        });
        problem.status = status.as_u16();
        problem.retry_after = headers
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.trim().parse().ok())
            .map(Duration::from_secs);
        problem
    }

    /// Whether the same request may succeed later: the server says so, or something before the
    /// server was overloaded.
    pub fn is_transient(&self) -> bool {
        self.retryable || matches!(self.status, 429 | 502 | 503 | 504)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.detail.is_empty() { &self.title } else { &self.detail };
        write!(f, "{what} ({})", self.code)
    }
}
