//! The HTTP API of an agent: routes, the middleware around every request, and the server that listens.
//!
//! Handlers translate between HTTP and the engine: they parse and check requests, call a verb of
//! [`Engine`], and write its result or a [`Problem`]. They hold no state of their own and must not reach
//! past the engine to the database or the object store.

pub mod body;
pub mod error;
pub mod extract;
pub mod group;
mod linger;
pub mod operations;
pub mod origin;
pub mod pace;
mod page;
pub mod produce;
pub mod queue;
pub mod read;
pub mod server;
pub mod topic;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use error::{Code, Problem};
use http::{HeaderName, HeaderValue, Version, header};
use millpond_engine::Engine;
use millpond_engine::metrics;
use origin::AllowedOrigins;
use pace::Closer;
use std::sync::Arc;
use tokio::time::Instant;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

pub type AppState = Arc<Door>;

/// State that all handlers share: the engine, and which requests are let in.
pub struct Door {
    pub engine: Arc<Engine>,
    pub config: DoorConfig,
}

#[derive(Debug, Clone, Default)]
pub struct DoorConfig {
    /// Refuse requests whose `Host` is not a loopback name, as protection against DNS rebinding.
    pub loopback_only: bool,
    pub allowed_origins: AllowedOrigins,
}

impl Door {
    #[must_use]
    pub fn new(engine: Arc<Engine>, config: DoorConfig) -> AppState {
        Arc::new(Self { engine, config })
    }
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

#[derive(OpenApi)]
#[openapi(info(
    title = "Millpond",
    description = "A serverless queue on object storage: records are batched into segments in a bucket, \
        offsets live in Postgres.",
    license(name = "Apache-2.0", identifier = "Apache-2.0")
))]
struct Document;

/// The routes and the OpenAPI document that describes them, built from the same declarations.
fn described() -> (Router<AppState>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(Document::openapi())
        .merge(topic::routes())
        .merge(produce::routes())
        .merge(read::routes())
        .merge(group::routes())
        .merge(queue::routes())
        .merge(operations::routes())
        .split_for_parts()
}

/// The OpenAPI document that is served at `/openapi.json`.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    described().1
}

/// All routes, with the middleware that every request passes through.
pub fn router(app: AppState) -> Router {
    let cors = app.config.allowed_origins.cors();
    let router = described()
        .0
        .fallback(|| async { Problem::new(Code::NotFound, "there is nothing at this path") })
        .method_not_allowed_fallback(|| async {
            Problem::new(Code::MethodNotAllowed, "the path does not take this method")
        })
        .layer(CatchPanicLayer::custom(|_| {
            Problem::new(Code::Internal, "the request ended in a panic; it is logged").into_response()
        }));
    let router = match cors {
        Some(cors) => router.layer(cors),
        None => router,
    };
    router.layer(middleware::from_fn_with_state(Arc::clone(&app), wrap_request)).with_state(app)
}

/// Middleware for every request: checks the host and the origin, reads the rest of an unread body, gives the
/// request an id and counts it. The id is the client's `x-request-id` if that has 1 to 128 bytes, else new.
async fn wrap_request(State(app): State<AppState>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let given = request.headers().get(&REQUEST_ID).filter(|id| (1..=128).contains(&id.len())).cloned();
    let id = given.unwrap_or_else(|| {
        HeaderValue::from_str(&app.engine.random.uuid(app.engine.clock.now_ms()).to_string())
            .unwrap_or(HeaderValue::from_static("-"))
    });
    let closer =
        request.extensions().get::<Closer>().filter(|_| request.version() == Version::HTTP_2).cloned();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let foreign = app.config.allowed_origins.refusal(request.method(), request.headers(), request.uri());
    let mut response = if let Some(why) = foreign {
        Problem::new(Code::Forbidden, why).into_response()
    } else if app.config.loopback_only && !is_loopback_host(&request) {
        Problem::new(
            Code::Forbidden,
            "without authentication only the host names localhost, 127.0.0.1 and [::1] are answered",
        )
        .into_response()
    } else {
        next.run(linger::lingering(request)).await
    };
    if let Some(closer) = closer {
        response = response.map(|body| pace::paced(body, closer));
    }
    response.headers_mut().insert(REQUEST_ID, id);
    metrics::http_answered(route, response.status().as_u16(), start.elapsed());
    response
}

/// Whether the request names a loopback host, or none. Protects against DNS rebinding: a web page of another
/// origin can reach a loopback port under a host name of its own, but cannot choose the `Host` header.
fn is_loopback_host(request: &Request) -> bool {
    let host = request
        .headers()
        .get(header::HOST)
        .map(|h| h.to_str().unwrap_or("?"))
        .or_else(|| request.uri().authority().map(|a| a.as_str()));
    let Some(host) = host else { return true };
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
        .map_or(host, |(name, _)| name);
    matches!(name.to_ascii_lowercase().as_str(), "localhost" | "127.0.0.1" | "[::1]")
}
