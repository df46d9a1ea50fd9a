//! `/connectors`: create, change, show, steer and delete.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{HOST, HeaderValue, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use supervisor::{Restart, TargetState};

use crate::ApiState;
use crate::bodies::{Expanded, ExpandedAll, Info, StateBody, Status, Task};
use crate::error::Refusal;
use crate::request::{empty, flat_map, json, json_body, object, query_flag, query_values, scalar};

/// What Kafka Connect's Java says when there is no configuration where one should be.
pub(crate) const NO_CONFIG: &str = "Cannot invoke \"java.util.Map.get(Object)\" because \"connectorConfig\" is null";
const NO_REQUEST: &str = "Cannot invoke \"org.apache.kafka.connect.runtime.rest.entities.CreateConnectorRequest.name()\" because \"createRequest\" is null";
const CREATE_REQUEST: &str = "org.apache.kafka.connect.runtime.rest.entities.CreateConnectorRequest";

/// What may stand in a path as it is (`UriBuilder.path`): unreserved, sub-delims, colon, at, slash.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@')
    .remove(b'/');

pub(crate) async fn list(State(state): State<ApiState>, RawQuery(query): RawQuery) -> Response {
    let expand = query_values(query.as_deref(), "expand");
    if expand.is_empty() {
        return json(StatusCode::OK, &state.supervisor.list());
    }
    let wants = |what: &str| expand.iter().any(|value| value == what);
    let mut all = ExpandedAll::new();
    for (info, status) in state.supervisor.expand() {
        let name = info.name.clone();
        let info = wants("info").then(|| Info::from(info));
        let status = wants("status").then(|| Status::from(status));
        all.insert(name, Expanded { info, status });
    }
    json(StatusCode::OK, &all)
}

pub(crate) async fn create(
    State(state): State<ApiState>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let members = object(&json_body(&headers, body)?, CREATE_REQUEST)?.ok_or_else(|| Refusal::internal(NO_REQUEST))?;
    if let Some(unknown) = members.keys().find(|key| !["name", "config", "initial_state"].contains(&key.as_str())) {
        return Err(Refusal::internal(format!(
            "Unrecognized field \"{unknown}\" (class {CREATE_REQUEST}), not marked as ignorable (3 known properties: \"config\", \"name\", \"initial_state\")"
        )));
    }
    let text = |key: &str| members.get(key).map_or(Ok(None), |value| scalar(key, value));
    let name = text("name")?.unwrap_or_default();
    // Java's trim: control characters too.
    let name = name.trim_matches(|letter| letter <= ' ');
    let target = target_state(text("initial_state")?.as_deref())?;
    let config = members.get("config").map_or(Ok(None), |config| flat_map(config.get().as_bytes()))?;
    let config = config.ok_or_else(|| Refusal::internal(NO_CONFIG))?;
    let info = state.supervisor.create(name, config, target).await?;
    Ok(located(&headers, name, json(StatusCode::CREATED, &Info::from(info))))
}

/// `CreateConnectorRequest.InitialState.forValue`.
fn target_state(initial: Option<&str>) -> Result<TargetState, Refusal> {
    match initial.map(str::to_ascii_uppercase).as_deref() {
        None | Some("RUNNING") => Ok(TargetState::Running),
        Some("PAUSED") => Ok(TargetState::Paused),
        Some("STOPPED") => Ok(TargetState::Stopped),
        Some(other) => Err(Refusal::internal(format!(
            "Cannot construct instance of `{CREATE_REQUEST}$InitialState`, problem: No enum constant {CREATE_REQUEST}.InitialState.{other}"
        ))),
    }
}

/// Says where the connector is, absolutely if the client said which host it asked.
fn located(headers: &HeaderMap, name: &str, mut response: Response) -> Response {
    let base = headers.get(HOST).and_then(|host| host.to_str().ok()).map(|host| format!("http://{host}"));
    let location = format!("{}/connectors/{}", base.unwrap_or_default(), utf8_percent_encode(name, PATH));
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

pub(crate) async fn info(State(state): State<ApiState>, Path(name): Path<String>) -> Result<Response, Refusal> {
    Ok(json(StatusCode::OK, &Info::from(state.supervisor.info(&name)?)))
}

pub(crate) async fn config(State(state): State<ApiState>, Path(name): Path<String>) -> Result<Response, Refusal> {
    Ok(json(StatusCode::OK, &state.supervisor.info(&name)?.config))
}

pub(crate) async fn put_config(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let config = flat_map(&json_body(&headers, body)?)?.ok_or_else(|| Refusal::internal(NO_CONFIG))?;
    let put = state.supervisor.put_config(&name, config).await?;
    let info = Info::from(put.info);
    Ok(if put.created {
        located(&headers, &name, json(StatusCode::CREATED, &info))
    } else {
        json(StatusCode::OK, &info)
    })
}

pub(crate) async fn patch_config(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let patch = flat_map(&json_body(&headers, body)?)?.ok_or_else(|| Refusal::internal(NO_CONFIG))?;
    Ok(json(StatusCode::OK, &Info::from(state.supervisor.patch_config(&name, patch).await?)))
}

pub(crate) async fn delete(State(state): State<ApiState>, Path(name): Path<String>) -> Result<Response, Refusal> {
    state.supervisor.delete(&name).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn status(State(state): State<ApiState>, Path(name): Path<String>) -> Result<Response, Refusal> {
    Ok(json(StatusCode::OK, &Status::from(state.supervisor.status(&name)?)))
}

pub(crate) async fn tasks(State(state): State<ApiState>, Path(name): Path<String>) -> Result<Response, Refusal> {
    let tasks = state.supervisor.tasks(&name)?;
    Ok(json(StatusCode::OK, &tasks.into_iter().map(Task::from).collect::<Vec<_>>()))
}

pub(crate) async fn task_status(
    State(state): State<ApiState>,
    Path((name, task)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let status = state.supervisor.task_status(&name, task_number(&task)?)?;
    Ok(json(StatusCode::OK, &StateBody::from(status)))
}

pub(crate) async fn restart_task(
    State(state): State<ApiState>,
    Path((name, task)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    state.supervisor.restart_task(&name, task_number(&task)?).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// A path parameter that is no number makes an unknown path, as in JAX-RS.
fn task_number(text: &str) -> Result<usize, Refusal> {
    text.parse().map_err(|_| Refusal::plain(StatusCode::NOT_FOUND))
}

pub(crate) async fn restart(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let restart = Restart {
        include_tasks: query_flag(query.as_deref(), "includeTasks", false),
        only_failed: query_flag(query.as_deref(), "onlyFailed", false),
    };
    let status = state.supervisor.restart(&name, restart).await?;
    Ok(if restart.include_tasks || restart.only_failed {
        json(StatusCode::ACCEPTED, &Status::from(status))
    } else {
        empty(StatusCode::NO_CONTENT)
    })
}

pub(crate) async fn pause(State(state): State<ApiState>, Path(name): Path<String>) -> Result<Response, Refusal> {
    state.supervisor.pause(&name).await?;
    Ok(empty(StatusCode::ACCEPTED))
}

pub(crate) async fn resume(State(state): State<ApiState>, Path(name): Path<String>) -> Result<Response, Refusal> {
    state.supervisor.resume(&name).await?;
    Ok(empty(StatusCode::ACCEPTED))
}

pub(crate) async fn stop(State(state): State<ApiState>, Path(name): Path<String>) -> Result<Response, Refusal> {
    state.supervisor.stop(&name).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}
