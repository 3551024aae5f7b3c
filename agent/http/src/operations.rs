//! Routes for operators: `/healthz`, `/readyz`, `/metrics`, `/v1/cluster` and `/openapi.json`.

use super::AppState;
use super::error::{Problem, ProblemBody};
use axum::extract::State;
use axum::response::{IntoResponse, Json, Response};
use http::{StatusCode, header};
use millpond_engine::engine;
use serde::Serialize;
use std::sync::LazyLock;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(prometheus))
        .routes(routes!(cluster))
        .routes(routes!(openapi))
}

/// Answers as soon as the process is up.
#[utoipa::path(get, path = "/healthz", tag = "operations",
    responses((status = 200, description = "ok", body = String)))]
async fn healthz() -> &'static str {
    "ok\n"
}

#[derive(Serialize, utoipa::ToSchema)]
pub struct Readiness {
    ready: bool,
    /// "ok", or the error.
    database: String,
    /// "ok", or the error.
    object_store: String,
}

/// Whether database and object store can be reached, and if not, why.
#[utoipa::path(get, path = "/readyz", tag = "operations",
    responses((status = 200, description = "ready", body = Readiness),
        (status = 503, description = "not ready, and why", body = Readiness)))]
async fn readyz(State(app): State<AppState>) -> Response {
    let engine::Readiness { database, object_store } = app.engine.readiness().await;
    let ready = database.is_ok() && object_store.is_ok();
    let told = |outcome: Result<(), String>| outcome.err().unwrap_or_else(|| "ok".to_owned());
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let readiness = Readiness { ready, database: told(database), object_store: told(object_store) };
    (status, Json(readiness)).into_response()
}

/// The agent's metrics, for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "operations",
    responses((status = 200, description = "Prometheus text format",
        body = String, content_type = "text/plain")))]
async fn prometheus(State(app): State<AppState>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], app.engine.metrics()).into_response()
}

#[derive(Serialize, utoipa::ToSchema)]
pub struct Cluster {
    cluster: String,
    epoch: i64,
    /// Version of the agent that answers.
    version: String,
    /// Id of the agent that answers, new at every start.
    agent: String,
}

/// The cluster that this agent belongs to, and the agent itself.
#[utoipa::path(get, path = "/v1/cluster", tag = "operations",
    responses((status = 200, description = "cluster and agent", body = Cluster),
        (status = "5XX", description = "control_plane_unavailable",
            body = ProblemBody, content_type = "application/problem+json")))]
async fn cluster(State(app): State<AppState>) -> Result<Json<Cluster>, Problem> {
    Ok(Json(Cluster {
        cluster: app.engine.cluster.clone(),
        epoch: app.engine.epoch,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        agent: app.engine.agent.to_string(),
    }))
}

static DOCUMENT: LazyLock<String> = LazyLock::new(|| super::openapi().to_json().unwrap_or_default());

/// The OpenAPI document of this API.
#[utoipa::path(get, path = "/openapi.json", tag = "operations",
    responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response()
}
