//! The table of all paths, and what holds for every one of them: methods, media types, limits.

use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post, put};

use crate::error::Refusal;
use crate::{ApiState, connectors, offsets, plugins, worker};

/// Largest body of a request; a configuration with an inline schema is some KB.
const BODY_BYTES_MAX: usize = 4 << 20;

/// After this time a client is told that its request timed out, as in Kafka Connect; the operation goes on.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(90);

/// All endpoints on `state`. Every path also answers with a slash at its end.
pub fn router(state: ApiState) -> Router {
    let json: [(&str, &str, MethodRouter<ApiState>); 18] = [
        ("/", "GET", get(worker::server)),
        ("/health", "GET", get(worker::health)),
        ("/connectors", "POST, GET", get(connectors::list).post(connectors::create)),
        ("/connectors/{name}", "DELETE, GET", get(connectors::info).delete(connectors::delete)),
        (
            "/connectors/{name}/config",
            "GET, PATCH, PUT",
            get(connectors::config).put(connectors::put_config).patch(connectors::patch_config),
        ),
        ("/connectors/{name}/status", "GET", get(connectors::status)),
        ("/connectors/{name}/tasks", "GET", get(connectors::tasks)),
        ("/connectors/{name}/tasks/{task}/status", "GET", get(connectors::task_status)),
        ("/connectors/{name}/tasks/{task}/restart", "POST", post(connectors::restart_task)),
        (
            "/connectors/{name}/offsets",
            "DELETE, GET, PATCH",
            get(offsets::list).patch(offsets::alter).delete(offsets::reset),
        ),
        ("/connectors/{name}/topics", "GET", get(offsets::topics)),
        ("/connectors/{name}/topics/reset", "PUT", put(offsets::forget_topics)),
        ("/connectors/{name}/restart", "POST", post(connectors::restart)),
        ("/connectors/{name}/pause", "PUT", put(connectors::pause)),
        ("/connectors/{name}/resume", "PUT", put(connectors::resume)),
        ("/connectors/{name}/stop", "PUT", put(connectors::stop)),
        ("/connector-plugins", "GET", get(plugins::list)),
        ("/connector-plugins/{plugin}/config", "GET", get(plugins::keys)),
    ];
    let mut router = Router::new();
    for (path, methods, route) in json {
        router = resource(router, path, methods, route.route_layer(from_fn(accepts_json)));
    }
    let validate = put(plugins::validate).route_layer(from_fn(accepts_json));
    router = resource(router, "/connector-plugins/{plugin}/config/validate", "PUT", validate);
    router = resource(router, "/metrics", "GET", get(worker::metrics));
    router
        .fallback(async || Refusal::plain(StatusCode::NOT_FOUND))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn(guard))
        .with_state(state)
}

/// Adds `path`, with and without a slash at its end, which answers OPTIONS and refuses other methods than `methods`.
fn resource(
    router: Router<ApiState>,
    path: &str,
    methods: &'static str,
    route: MethodRouter<ApiState>,
) -> Router<ApiState> {
    let head = if methods.contains("GET") { "HEAD, " } else { "" };
    let allowed = format!("{head}{methods}, OPTIONS");
    let route = route
        .options(async move || options(&allowed))
        .fallback(async || Refusal::plain(StatusCode::METHOD_NOT_ALLOWED));
    if path == "/" {
        return router.route(path, route);
    }
    router.route(path, route.clone()).route(&format!("{path}/"), route)
}

fn options(allowed: &str) -> Response {
    let mut response = allowed.to_owned().into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    if let Ok(allow) = HeaderValue::from_str(&allowed.replace(' ', "")) {
        headers.insert(ALLOW, allow);
    }
    response
}

/// Refuses ambiguous paths as Kafka Connect's server does, and bounds the time of everything else.
async fn guard(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if path.contains("//") {
        return Refusal::new(StatusCode::BAD_REQUEST, "Ambiguous URI empty segment").into_response();
    }
    if path.to_ascii_lowercase().contains("%2f") {
        return Refusal::new(StatusCode::BAD_REQUEST, "Ambiguous URI path separator").into_response();
    }
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Refusal::internal("Request timed out. The operation may still be under way.").into_response(),
    }
}

/// 406 for a client that wants no JSON.
async fn accepts_json(request: Request, next: Next) -> Response {
    if request.method() != Method::OPTIONS && !wants_json(request.headers()) {
        return Refusal::plain(StatusCode::NOT_ACCEPTABLE).into_response();
    }
    next.run(request).await
}

fn wants_json(headers: &HeaderMap) -> bool {
    let mut ranges = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    if ranges.peek().is_none() {
        return true;
    }
    let essence = |range: &str| range.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    ranges
        .flat_map(|value| value.split(','))
        .any(|range| ["*/*", "application/*", "application/json"].contains(&essence(range).as_str()))
}
