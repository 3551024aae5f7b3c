//! `/healthz`, `/readyz`, `/metrics`, `/v1/cluster`.

use super::AppState;
use super::error::{Problem, ProblemBody};
use axum::extract::State;
use axum::response::{IntoResponse, Json, Response};
use http::{StatusCode, header};
use millpond_core::PartId;
use millpond_engine::metrics;
use millpond_format::key;
use serde::Serialize;
use std::sync::LazyLock;
use std::time::Duration;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(prometheus))
        .routes(routes!(cluster))
        .routes(routes!(openapi))
}

/// The process is up.
#[utoipa::path(get, path = "/healthz", tag = "operations", responses((status = 200, description = "ok",
    body = String)))]
async fn healthz() -> &'static str {
    "ok\n"
}

#[derive(Serialize, utoipa::ToSchema)]
pub struct Readiness {
    ready: bool,
    /// "ok", or why not.
    database: String,
    object_store: String,
}

/// Whether requests can be served, and if not, why.
#[utoipa::path(get, path = "/readyz", tag = "operations", 
    responses((status = 200, description = "ready", body = Readiness),
        (status = 503, description = "not ready, and why", body = Readiness)))]
async fn readyz(State(app): State<AppState>) -> Response {
    let database = async {
        match tokio::time::timeout(Duration::from_secs(3), app.plane.ping()).await {
            Ok(Ok(())) => "ok".to_owned(),
            Ok(Err(error)) => millpond_engine::error_chain(&error),
            Err(_) => "no answer within 3 s".to_owned(),
        }
    };
    let store = async {
        match app.store.ping(&key::ingest(&app.cluster, PartId(Uuid::nil()))).await {
            Ok(()) => "ok".to_owned(),
            Err(error) => millpond_engine::error_chain(&error),
        }
    };
    let (database, object_store) = tokio::join!(database, store);
    let ready = database == "ok" && object_store == "ok";
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, database, object_store })).into_response()
}

/// Metrics for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "operations", 
    responses((status = 200, description = "Prometheus' text format",
        body = String, content_type = "text/plain")))]
async fn prometheus(State(app): State<AppState>) -> Response {
    metrics::memory(app.admission.used_bytes(), app.cache.used_bytes());
    let text = app
        .prometheus
        .as_ref()
        .map(metrics_exporter_prometheus::PrometheusHandle::render)
        .unwrap_or_default();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

#[derive(Serialize, utoipa::ToSchema)]
pub struct Cluster {
    cluster: String,
    epoch: i64,
    /// Version of the agent that answers.
    version: String,
    /// Its id, new at every start.
    agent: String,
}

/// What this agent belongs to.
#[utoipa::path(get, path = "/v1/cluster", tag = "operations",
    responses((status = 200, description = "who answers", body = Cluster),
        (status = "5XX", description = "control_plane_unavailable",
            body = ProblemBody, content_type = "application/problem+json")))]
async fn cluster(State(app): State<AppState>) -> Result<Json<Cluster>, Problem> {
    Ok(Json(Cluster {
        cluster: app.cluster.clone(),
        epoch: app.epoch,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        agent: app.agent.to_string(),
    }))
}

static DOCUMENT: LazyLock<String> = LazyLock::new(|| super::openapi().to_json().unwrap_or_default());

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "operations", responses((status = 200, description = "OpenAPI 3.1",
    body = Object)))]
async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response()
}
