//! `/connector-plugins`: what can be named in a configuration, its keys, and validation without consequences.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use supervisor::Role;

use crate::ApiState;
use crate::bodies::{ConfigInfos, KeyBody, PluginBody};
use crate::connectors::NO_CONFIG;
use crate::error::Refusal;
use crate::request::{flat_map, json, json_body, query_flag};

pub(crate) async fn list(State(state): State<ApiState>, RawQuery(query): RawQuery) -> Response {
    let connectors_only = query_flag(query.as_deref(), "connectorsOnly", true);
    let plugins = state.supervisor.plugins();
    let shown = plugins.into_iter().filter(|plugin| !connectors_only || plugin.role == Role::Sink);
    json(StatusCode::OK, &shown.map(PluginBody::from).collect::<Vec<_>>())
}

pub(crate) async fn keys(State(state): State<ApiState>, Path(plugin): Path<String>) -> Result<Response, Refusal> {
    let keys = state.supervisor.plugin_keys(&plugin);
    let keys = keys.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, format!("Unknown plugin {plugin}.")))?;
    Ok(json(StatusCode::OK, &keys.into_iter().map(KeyBody::from).collect::<Vec<_>>()))
}

pub(crate) async fn validate(
    State(state): State<ApiState>,
    Path(plugin): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let submitted = flat_map(&json_body(&headers, body)?)?.ok_or_else(|| Refusal::internal(NO_CONFIG))?;
    if let Some(Some(class)) = submitted.get("connector.class")
        && !without_suffix(class).ends_with(without_suffix(&plugin))
    {
        let message = format!("Included connector type {class} does not match request type {plugin}");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
    }
    let validation = state.supervisor.validate(&submitted).map_err(Refusal::of_validation)?;
    Ok(json(StatusCode::OK, &ConfigInfos(validation)))
}

/// `ConnectorPluginsResource.normalizedPluginName`.
fn without_suffix(name: &str) -> &str {
    name.strip_suffix("Connector").filter(|rest| !rest.is_empty()).unwrap_or(name)
}
