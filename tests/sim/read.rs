//! Reads what appeared: Parquet objects, with nothing of the writer's.

use std::collections::BTreeSet;

use arrow_json::LineDelimitedWriter;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::lanes::number_of;

/// What an object holds of its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Of {
    Values,
    Keys,
    Headers,
}

/// A Parquet object as it was read when it appeared.
#[derive(Debug, PartialEq)]
pub(crate) struct Object {
    pub(crate) key: String,
    pub(crate) of: Of,
    pub(crate) lane: i32,
    pub(crate) first: i64,
    pub(crate) path: String,
    pub(crate) nonce: String,
    pub(crate) end: i64,
    /// Each with `p` and `o`, the lane and offset that the record said of itself.
    pub(crate) rows: Vec<Value>,
}

/// Keys and headers say lane and offset in one text.
pub(crate) fn place_text(lane: i32, offset: i64) -> String {
    format!("{lane}/{offset}")
}

fn place(text: Option<&str>) -> Result<Value, String> {
    let place = text.and_then(|text| text.split_once('/')).and_then(|(lane, offset)| {
        Some(serde_json::json!({ "p": lane.parse::<i64>().ok()?, "o": offset.parse::<i64>().ok()? }))
    });
    place.ok_or_else(|| format!("a key or header that says {text:?}"))
}

/// The rows of another view as those of values.
fn places(of: Of, rows: Vec<Value>) -> Result<Vec<Value>, String> {
    match of {
        Of::Values => Ok(rows),
        Of::Keys => rows.iter().map(|row| place(row["key"].as_str())).collect(),
        Of::Headers => rows.iter().map(|row| place(row["headers"][0]["value"].as_str())).collect(),
    }
}

/// Reads a Parquet object with nothing of the writer's.
pub(crate) fn read(key: &str, bytes: Bytes) -> Result<Object, String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|error| error.to_string())?;
    let entries = reader.metadata().file_metadata().key_value_metadata().cloned().unwrap_or_default();
    let entry = |name: &str| {
        let found = entries.iter().rev().find(|entry| entry.key == name);
        found.and_then(|entry| entry.value.clone()).ok_or(format!("the footer has no {name}"))
    };
    let (nonce, end) = (entry("sluice.nonce")?, entry("sluice.end")?);
    let mut lines = LineDelimitedWriter::new(Vec::new());
    for batch in reader.build().map_err(|error| error.to_string())? {
        lines.write(&batch.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    }
    lines.finish().map_err(|error| error.to_string())?;
    let text = String::from_utf8(lines.into_inner()).map_err(|error| error.to_string())?;
    let rows: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
    let (directory, name) = key.rsplit_once('/').ok_or("a name without a directory")?;
    let (topic, path) =
        directory.strip_prefix("topics/").and_then(|rest| rest.split_once('/')).ok_or("another directory")?;
    let parts: Vec<&str> = name.split(['+', '.']).collect();
    let (named, partition, first, of) = match parts.as_slice() {
        [named, partition, first, "snappy", "parquet"] => (named, partition, first, Of::Values),
        [named, partition, first, "keys", "snappy", "parquet"] => (named, partition, first, Of::Keys),
        [named, partition, first, "headers", "snappy", "parquet"] => (named, partition, first, Of::Headers),
        _ => return Err("another name".to_owned()),
    };
    if *named != topic {
        return Err(format!("a file of {named} among those of {topic}"));
    }
    Ok(Object {
        key: key.to_owned(),
        of,
        lane: number_of(topic, partition.parse().map_err(|_| "no partition")?),
        first: first.parse().map_err(|_| "no offset")?,
        path: path.to_owned(),
        nonce,
        end: end.parse().map_err(|_| "no end")?,
        rows: places(of, rows.map_err(|error| error.to_string())?)?,
    })
}

/// Whether a row says the same as the record: nulls and absent fields are one, numbers count by value.
pub(crate) fn is_same(produced: &Value, row: &Value) -> bool {
    match (produced, row) {
        (Value::Object(left), Value::Object(right)) => {
            let keys: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
            keys.into_iter().all(|key| is_same(&produced[key], &row[key]))
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| is_same(left, right))
        }
        (Value::Number(left), Value::Number(right)) => left.as_f64() == right.as_f64(),
        (left, right) => left == right,
    }
}
