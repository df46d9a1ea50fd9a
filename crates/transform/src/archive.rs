//! Jeremy Custenborder's `Archive`: key, value, topic and timestamp together become the value.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, Int64Array, StringBuilder, StructArray};
use arrow::datatypes::Field;
use model::{Batch, Invalid, Settings, ValueSchema, Values, is_whole_value};
use serde_json::{Map, Value};

use crate::insert_field::{timestamp_nulls, topic_column};
use crate::json::json_value;
use crate::values::{Record, Refused, Side, edit_texts, parse, struct_of, without};
use crate::{Transform, Transformed};

/// The name of the schema that upstream gives the new values.
const SCHEMA: &str = "com.github.jcustenborder.kafka.connect.archive.Storage";

struct Archive;

/// Builds the transform.
pub(crate) fn build(_settings: &Settings) -> Result<Box<dyn Transform>, Invalid> {
    Ok(Box::new(Archive))
}

/// The one column that typed keys or values are in a struct.
fn as_column(columns: &StructArray) -> ArrayRef {
    match is_whole_value(columns.fields()) {
        true => columns.column(0).clone(),
        false => Arc::new(columns.clone()),
    }
}

/// The keys as a column. Upstream cannot put a key without a schema beside a value with one; here it is its JSON text.
fn key_column(keys: &Values) -> ArrayRef {
    match keys {
        Values::Typed(columns) => as_column(columns),
        Values::Schemaless(texts) => {
            let mut made = StringBuilder::with_capacity(texts.len(), texts.value_data().len());
            texts.iter().for_each(|text| made.append_option(text.map(String::from_utf8_lossy)));
            Arc::new(made.finish())
        }
    }
}

fn key_json(keys: &Values, row: usize) -> Result<Value, String> {
    match keys {
        Values::Typed(columns) if columns.is_null(row) => Ok(Value::Null),
        Values::Typed(columns) => json_value(&as_column(columns), row),
        Values::Schemaless(texts) => parse(texts, row),
    }
}

/// The new columns. A tombstone becomes a record that holds its key, as upstream.
fn typed(batch: &Batch, keys: &Values, columns: &StructArray) -> Result<StructArray, String> {
    let timestamps = Int64Array::new(batch.timestamps_ms.clone(), timestamp_nulls(batch));
    let columns = vec![key_column(keys), as_column(columns), topic_column(batch)?, Arc::new(timestamps) as ArrayRef];
    let field = |(name, column): (&str, &ArrayRef)| {
        let optional = name != "topic";
        Arc::new(Field::new(name, column.data_type().clone(), optional))
    };
    let fields = ["key", "value", "topic", "timestamp"].into_iter().zip(&columns).map(field).collect();
    struct_of(fields, columns, None, batch.len())
}

fn schemaless(batch: &Batch, keys: &Values, texts: &BinaryArray) -> (BinaryArray, Refused) {
    edit_texts(texts, |value, row| {
        let record = Record { batch, row };
        let mut made = Map::new();
        made.insert("key".to_owned(), key_json(keys, row)?);
        made.insert("value".to_owned(), value);
        made.insert("topic".to_owned(), record.topic().into());
        made.insert("timestamp".to_owned(), record.timestamp_ms().into());
        Ok(Value::Object(made))
    })
}

impl Transform for Archive {
    fn apply(&mut self, mut batch: Batch) -> Transformed {
        let keys = Side::Key.of(&batch);
        match batch.values.clone() {
            Values::Schemaless(texts) => {
                let (texts, refused) = schemaless(&batch, &keys, &texts);
                batch.values = Values::Schemaless(texts);
                without(batch, refused)
            }
            Values::Typed(columns) => match typed(&batch, &keys, &columns) {
                Ok(columns) => {
                    batch.values = Values::Typed(columns);
                    batch.schema = Some(Arc::new(ValueSchema { name: Some(SCHEMA.to_owned()), version: None }));
                    without(batch, Refused::new())
                }
                Err(reason) => {
                    let refused = (0..batch.len()).map(|row| (row, reason.clone())).collect();
                    without(batch, refused)
                }
            },
        }
    }

    fn needs_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use crate::values::testing::{ints, rows, schemaless, transform, typed, types, whole_texts};
    use model::Values;

    const NAME: &str = "com.github.jcustenborder.kafka.connect.archive.Archive";

    #[test]
    fn key_value_topic_and_timestamp_become_the_value() {
        let mut batch = schemaless(&[r#"{"a":1}"#, "null"]);
        batch.key_values = Some(whole_texts(vec![Some("k"), None]).values);
        let made = transform(NAME, &[]).apply(batch);
        assert_eq!(
            rows(&made.batch.values),
            [
                r#"{"key":"k","value":{"a":1},"topic":"test","timestamp":1000}"#,
                r#"{"key":null,"value":null,"topic":"test","timestamp":1001}"#
            ]
        );
        assert!(transform(NAME, &[]).needs_keys());
    }

    #[test]
    fn typed_values_are_wrapped_with_keys_of_either_form() {
        let mut batch = typed(vec![("a", ints(vec![Some(1)]))]);
        batch.key_values = Some(whole_texts(vec![Some("k")]).values);
        let made = transform(NAME, &[]).apply(batch.clone()).batch;
        assert_eq!(rows(&made.values), ["{key: k, value: {a: 1}, topic: test, timestamp: 1000}"]);
        assert_eq!(types(&made.values)[2..], ["topic Utf8", "timestamp Int64?"]);
        assert!(made.schema.unwrap().name.as_ref().unwrap().ends_with(".Storage"));
        batch.key_values = Some(schemaless(&[r#"{"k":1}"#]).values);
        batch.timestamps_ms = vec![-1].into();
        let made = transform(NAME, &[]).apply(batch).batch;
        assert_eq!(rows(&made.values), [r#"{key: {"k":1}, value: {a: 1}, topic: test, timestamp: null}"#]);
        assert!(matches!(made.values, Values::Typed(_)));
    }
}
