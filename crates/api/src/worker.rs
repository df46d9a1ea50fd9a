//! What the worker says about itself: version, health, metrics.

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use crate::ApiState;
use crate::bodies::{Health, Server};
use crate::request::json;

pub(crate) async fn server(State(state): State<ApiState>) -> Response {
    let kafka_cluster_id = (state.cluster_id)();
    json(StatusCode::OK, &Server { version: &state.version, commit: &state.commit, kafka_cluster_id })
}

/// The server listens only after the supervisor has started, so there is no "starting" to report.
pub(crate) async fn health() -> Response {
    let message = "Worker has completed startup and is ready to handle requests.";
    json(StatusCode::OK, &Health { status: "healthy", message })
}

pub(crate) async fn metrics(State(state): State<ApiState>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (state.metrics)()).into_response()
}
