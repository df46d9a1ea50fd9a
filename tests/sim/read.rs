//! Reads what appeared: Parquet objects, with nothing of the writer's.

use std::collections::BTreeSet;

use arrow_json::LineDelimitedWriter;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::lanes::number_of;

/// A Parquet object as it was read when it appeared.
#[derive(Debug, PartialEq)]
pub(crate) struct Object {
    pub(crate) key: String,
    pub(crate) lane: i32,
    pub(crate) first: i64,
    pub(crate) path: String,
    pub(crate) nonce: String,
    pub(crate) end: i64,
    pub(crate) rows: Vec<Value>,
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
    let [of, partition, first, "snappy", "parquet"] = parts.as_slice() else { return Err("another name".to_owned()) };
    if *of != topic {
        return Err(format!("a file of {of} among those of {topic}"));
    }
    Ok(Object {
        key: key.to_owned(),
        lane: number_of(topic, partition.parse().map_err(|_| "no partition")?),
        first: first.parse().map_err(|_| "no offset")?,
        path: path.to_owned(),
        nonce,
        end: end.parse().map_err(|_| "no end")?,
        rows: rows.map_err(|error| error.to_string())?,
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
