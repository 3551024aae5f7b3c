//! Problem documents (RFC 9457): the server's error answers.

use super::stored::Committed;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use std::fmt;
use std::time::Duration;

/// Size after which the rest of an error's body is not read.
const PROBLEM_MAX_BYTES: usize = 64 << 10;
/// Characters of an error's body that are shown if it is not a problem document.
const SHOWN_MAX_CHARS: usize = 200;

/// A problem of the server. Errors of proxies and other servers in between are converted to the same form.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Problem {
    pub status: u16,
    pub code: String,
    pub title: String,
    pub detail: String,
    pub retryable: bool,
    /// Number of the line in a streamed body that was refused, counted from 1.
    pub line: Option<u64>,
    /// What a streamed produce had stored before the problem: a prefix of the body.
    pub committed: Option<Committed>,
    pub log_start_offset: Option<u64>,
    #[serde(skip)]
    pub retry_after: Option<Duration>,
}

impl Problem {
    pub async fn read(mut response: Response) -> Self {
        let status = response.status();
        let headers = response.headers().clone();
        let mut body = Vec::new();
        // If the connection breaks, the part of the body that has arrived is used.
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() > PROBLEM_MAX_BYTES {
                break;
            }
        }
        Self::parse(status, &headers, &body)
    }

    pub(crate) fn parse(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let json = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.contains("json"));
        let parsed = if json { serde_json::from_slice::<Self>(body).ok() } else { None };
        let mut problem = parsed.filter(|problem| !problem.code.is_empty()).unwrap_or_else(|| Self {
            code: format!("http_{}", status.as_u16()),
            title: status.canonical_reason().unwrap_or("unknown status").to_owned(),
            detail: String::from_utf8_lossy(body).trim().chars().take(SHOWN_MAX_CHARS).collect(),
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

    /// Whether the same request can succeed later: the server says so, or the status means overload, here or
    /// in a proxy.
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
