//! Keeps foreign web pages out: a browser sends their requests to a loopback port without asking anybody.
//!
//! Fetch metadata (`Sec-Fetch-Site`) and `Origin` are set by the browser, and no page can choose them.
//! Programs send neither.

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, Method, Uri};
use tower_http::cors::{AllowHeaders, AllowOrigin, Any, CorsLayer};
use url::Url;

/// Origins of web pages that may use the API besides the server's own: `scheme://host[:port]`.
#[derive(Debug, Clone, Default)]
pub struct AllowedOrigins(Vec<Url>);

#[derive(Debug, thiserror::Error)]
#[error("an origin is scheme://host or scheme://host:port, without a path: {0}")]
pub struct NotAnOrigin(String);

impl AllowedOrigins {
    pub fn parse(origins: &[String]) -> Result<Self, NotAnOrigin> {
        let parse = |text: &String| {
            let url = Url::parse(text).ok().filter(|url| url.origin().ascii_serialization() == *text);
            url.ok_or_else(|| NotAnOrigin(text.clone()))
        };
        origins.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    fn names(&self, origin: &Url) -> bool {
        self.0.iter().any(|allowed| allowed.origin() == origin.origin())
    }

    /// Answers cross-origin questions of browsers for the allowed origins; `None` if there are none.
    #[must_use]
    pub fn cors(&self) -> Option<CorsLayer> {
        let origins: Vec<_> =
            self.0.iter().filter_map(|url| url.origin().ascii_serialization().parse().ok()).collect();
        if origins.is_empty() {
            return None;
        }
        // A wildcard would leave out `Authorization`.
        let layer = CorsLayer::new().allow_origin(AllowOrigin::list(origins));
        Some(layer.allow_methods(Any).allow_headers(AllowHeaders::mirror_request()).expose_headers(Any))
    }

    /// Why a request is refused: it comes from a page of another origin that is not allowed.
    #[must_use]
    pub fn refusal(&self, method: &Method, headers: &HeaderMap, uri: &Uri) -> Option<&'static str> {
        let origin = headers.get(ORIGIN).map(|origin| origin.to_str().ok().and_then(|o| Url::parse(o).ok()));
        match origin {
            // Browsers send `null` for pages in a sandbox and for local files.
            Some(None) => return Some("requests of web pages without an origin are refused"),
            Some(Some(origin)) => {
                if self.names(&origin) {
                    return None;
                }
                if !is_own(&origin, headers, uri) {
                    return Some("requests of web pages of another origin are refused: see --allow-origin");
                }
            }
            None => {}
        }
        let is_cross_site =
            headers.get("sec-fetch-site").is_some_and(|site| site.as_bytes() == b"cross-site");
        (is_cross_site && !matches!(*method, Method::GET | Method::HEAD))
            .then_some("requests of web pages of another site are refused: see --allow-origin")
    }
}

/// Whether host and port of the origin are those that the request was sent to.
fn is_own(origin: &Url, headers: &HeaderMap, uri: &Uri) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).or(uri.authority().map(|a| a.as_str()));
    let Some(host) = host else { return false };
    let Ok(target) = Url::parse(&format!("{}://{host}", origin.scheme())) else { return false };
    target.host() == origin.host() && target.port_or_known_default() == origin.port_or_known_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(allowed: &[&str], method: Method, headers: &[(&'static str, &str)]) -> bool {
        let allowed: Vec<String> = allowed.iter().map(|o| (*o).to_owned()).collect();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().expect("a value"));
        }
        let allowed = AllowedOrigins::parse(&allowed).expect("origins");
        allowed.refusal(&method, &map, &Uri::from_static("/v1/topics")).is_some()
    }

    #[test]
    fn programs_and_own_pages_are_let_in() {
        assert!(!refused(&[], Method::POST, &[("host", "127.0.0.1:8080")]));
        let own = [
            ("host", "127.0.0.1:8080"),
            ("origin", "http://127.0.0.1:8080"),
            ("sec-fetch-site", "same-origin"),
        ];
        assert!(!refused(&[], Method::POST, &own));
        assert!(!refused(&[], Method::POST, &[("host", "mill.example"), ("origin", "https://mill.example")]));
        assert!(!refused(
            &[],
            Method::POST,
            &[("host", "mill.example:443"), ("origin", "https://mill.example")]
        ));
        assert!(!refused(&[], Method::GET, &[("host", "localhost:8080"), ("sec-fetch-site", "cross-site")]));
    }

    #[test]
    fn foreign_pages_are_refused_unless_allowed() {
        let foreign = [("host", "localhost:8080"), ("origin", "https://evil.example")];
        for method in [Method::GET, Method::POST] {
            assert!(refused(&[], method.clone(), &foreign));
            assert!(!refused(&["https://evil.example"], method.clone(), &foreign));
            assert!(refused(&["https://other.example"], method, &foreign));
        }
        assert!(refused(&[], Method::POST, &[("host", "localhost:8080"), ("origin", "null")]));
        assert!(refused(
            &[],
            Method::POST,
            &[("host", "localhost:8080"), ("origin", "http://localhost:9090")]
        ));
        assert!(refused(
            &[],
            Method::DELETE,
            &[("host", "localhost:8080"), ("sec-fetch-site", "cross-site")]
        ));
    }

    #[test]
    fn only_origins_can_be_allowed() {
        for wrong in ["example.org", "https://example.org/", "https://example.org/app", "*", "null"] {
            assert!(AllowedOrigins::parse(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
        assert!(AllowedOrigins::parse(&["http://localhost:3000".to_owned()]).is_ok());
    }
}
