//! The HTTP client for one server: its URL, the bearer token, and the conversion of errors.
//!
//! Every answer that is not a success is returned as a [`CliError`].

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use url::{Host, Url};

use super::error::CliError;
use super::problem::Problem;

#[cfg(test)]
mod tests;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle time after which TCP probes whether the server is still there.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// The server to talk to, and the token for it. Has no `Debug`, so that the token does not get into logs.
#[derive(Clone, clap::Args)]
pub struct ClientOptions {
    /// URL of the server
    #[arg(long, env = "MILLPOND_URL", default_value = "http://127.0.0.1:8080", global = true)]
    pub url: String,

    /// Bearer token, if the server requires one
    #[arg(long, env = "MILLPOND_TOKEN", hide_env_values = true, global = true, help_heading = "Server")]
    pub token: Option<String>,
}

/// A page of a listing by name.
#[derive(Deserialize)]
struct NamedPage<'a> {
    #[serde(borrow, alias = "topics", alias = "queues", alias = "groups")]
    items: Vec<&'a RawValue>,
    next: Option<String>,
}

/// A client of one server; clones share its connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
}

impl Client {
    pub fn new(options: &ClientOptions) -> Result<Self, CliError> {
        // An error means that a provider is installed already, which is just as good.
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

    /// A request whose path consists of `segments`, which are percent-encoded where needed.
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

    /// Sends a request and waits for the headers of a successful answer.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, CliError> {
        let response = request.send().await.map_err(|error| self.failed(error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(CliError::Problem(Box::new(Problem::read(response).await)))
    }

    /// Sends a request and reads the whole of a successful answer.
    pub async fn text(&self, request: RequestBuilder) -> Result<(StatusCode, String), CliError> {
        let response = self.send(request).await?;
        let status = response.status();
        let text = response.text().await.map_err(|error| self.failed(error))?;
        Ok((status, text))
    }

    /// Reads all pages of a listing by name. What is returned is the server's answer or, where there are
    /// several, one answer with the items of all.
    pub async fn pages(&self, noun: &'static str) -> Result<String, CliError> {
        let mut after: Option<String> = None;
        let mut items = Vec::new();
        loop {
            let request = self.request(Method::GET, &["v1", noun]);
            let (_, text) = self.text(request.query(&after.as_ref().map(|after| [("after", after)]))).await?;
            let page: NamedPage<'_> = serde_json::from_str(&text)
                .map_err(|error| CliError::Answer { what: "a list", source: Some(error) })?;
            let next = page.next.filter(|next| Some(next) != after.as_ref());
            match next {
                None if after.is_none() => return Ok(text),
                next => {
                    items.extend(page.items.iter().map(|item| item.get().to_owned()));
                    let Some(next) = next else { break };
                    after = Some(next);
                }
            }
        }
        Ok(format!("{{\"{noun}\":[{}],\"next\":null}}", items.join(",")))
    }

    /// The error for a connection that could not be made, or that broke before the end of an answer.
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
