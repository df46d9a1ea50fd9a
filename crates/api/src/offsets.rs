//! `/connectors/{name}/offsets` (KIP-875) and `/connectors/{name}/topics`.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use model::{Offset, TopicPartition};
use serde_json::{Map, Value, json as value};
use supervisor::OffsetChange;

use crate::ApiState;
use crate::error::Refusal;
use crate::request::{empty, json, json_body, object};

const TOPIC: &str = "kafka_topic";
const PARTITION: &str = "kafka_partition";
const OFFSET: &str = "kafka_offset";
const OFFSETS_CLASS: &str = "org.apache.kafka.connect.runtime.rest.entities.ConnectorOffsets";
const NO_OFFSETS: &str = "Cannot invoke \"org.apache.kafka.connect.runtime.rest.entities.ConnectorOffsets.offsets()\" because \"offsets\" is null";

pub(crate) async fn list(State(state): State<ApiState>, Path(name): Path<String>) -> Result<Response, Refusal> {
    let offsets = state.supervisor.offsets(&name).await?;
    let entry = |(lane, offset): (TopicPartition, Offset)| {
        value!({
            "partition": { PARTITION: lane.partition, TOPIC: &*lane.topic },
            "offset": { OFFSET: offset.get() },
        })
    };
    let offsets: Vec<Value> = offsets.into_iter().map(entry).collect();
    Ok(json(StatusCode::OK, &value!({ "offsets": offsets })))
}

pub(crate) async fn alter(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let entries = entries(&json_body(&headers, body)?)?;
    state.supervisor.check_stopped(&name)?;
    let offsets = entries.iter().map(sink_offset).collect::<Result<BTreeMap<_, _>, _>>()?;
    let message = state.supervisor.change_offsets(&name, OffsetChange::Alter(offsets)).await?;
    Ok(json(StatusCode::OK, &value!({ "message": message })))
}

pub(crate) async fn reset(State(state): State<ApiState>, Path(name): Path<String>) -> Result<Response, Refusal> {
    let message = state.supervisor.change_offsets(&name, OffsetChange::Reset).await?;
    Ok(json(StatusCode::OK, &value!({ "message": message })))
}

pub(crate) async fn topics(State(state): State<ApiState>, Path(name): Path<String>) -> Response {
    let topics = state.supervisor.topics(&name);
    json(StatusCode::OK, &value!({ name: { "topics": topics } }))
}

pub(crate) async fn forget_topics(State(state): State<ApiState>, Path(name): Path<String>) -> Response {
    state.supervisor.forget_topics(&name);
    empty(StatusCode::ACCEPTED)
}

/// The members of `{"offsets": [{"partition": {..}, "offset": {..}}, ..]}`.
fn entries(body: &[u8]) -> Result<Vec<Map<String, Value>>, Refusal> {
    let members = object(body, OFFSETS_CLASS)?.ok_or_else(|| Refusal::internal(NO_OFFSETS))?;
    let unreadable = |why: &dyn std::fmt::Display| Refusal::internal(format!("could not read the offsets: {why}"));
    if let Some(unknown) = members.keys().find(|key| *key != "offsets") {
        return Err(unreadable(&format!("there is no field \"{unknown}\", only \"offsets\"")));
    }
    let offsets = members.get("offsets").map(|offsets| serde_json::from_str::<Option<Vec<_>>>(offsets.get()));
    let entries = offsets.transpose().map_err(|error| unreadable(&error))?.flatten().unwrap_or_default();
    if entries.is_empty() {
        return Err(bad("Partitions / offsets need to be provided for an alter offsets request"));
    }
    Ok(entries)
}

/// One entry as Kafka Connect reads that of a sink: numbers may be texts, an offset may be null.
fn sink_offset(entry: &Map<String, Value>) -> Result<(TopicPartition, Option<Offset>), Refusal> {
    let Some(Value::Object(partition)) = entry.get("partition") else {
        return Err(bad("The partition for a sink connector offset cannot be null or missing"));
    };
    let (Some(topic), Some(number)) = (partition.get(TOPIC), partition.get(PARTITION)) else {
        return Err(bad(format!(
            "The partition for a sink connector offset must contain the keys '{TOPIC}' and '{PARTITION}'"
        )));
    };
    if topic.is_null() {
        return Err(bad("Kafka topic names must be valid strings and may not be null"));
    }
    if number.is_null() {
        return Err(bad("Kafka partitions must be valid numbers and may not be null"));
    }
    let number = text(number);
    let partition: i32 = number.parse().ok().filter(|partition| *partition >= 0).ok_or_else(|| {
        bad(format!(
            "Failed to parse the following Kafka partition value in the provided offsets: '{number}'. Partition values for sink connectors need to be integers."
        ))
    })?;
    let lane = TopicPartition::new(text(topic), partition);
    match entry.get("offset") {
        None | Some(Value::Null) => Ok((lane, None)),
        Some(Value::Object(offset)) if offset.contains_key(OFFSET) => {
            let number = text(&offset[OFFSET]);
            let offset = number.parse().ok().and_then(Offset::new).ok_or_else(|| {
                bad(format!(
                    "Failed to parse the following Kafka offset value in the provided offsets: '{number}'. Offset values for sink connectors need to be integers."
                ))
            })?;
            Ok((lane, Some(offset)))
        }
        Some(_) => {
            Err(bad(format!("The offset for a sink connector should either be null or contain the key '{OFFSET}'")))
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, message)
}
