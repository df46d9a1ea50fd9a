//! `InsertField`: fields made of the record's own place, or of a constant.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, Int64Array, StringArray, StructArray, TimestampMillisecondArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{Field, FieldRef};
use model::{Batch, Importance, Invalid, Key, Kind, Settings};
use serde_json::Value;

use crate::Transform;
use crate::keys::REPLACE_NULL_WITH_DEFAULT;
use crate::values::{
    Columns, Edit, OnSide, Record, Refused, Side, repeated, require_map, require_struct, struct_of, topic,
    with_defaults,
};

const PURPOSE: &str = "field insertion";

const fn name(key: &'static str, doc: &'static str) -> Key {
    Key::new(key, Kind::String, doc).importance(Importance::Medium)
}

const TOPIC_FIELD: Key = name(
    "topic.field",
    "Field name for Kafka topic. End it with ! for a required field or ? for an optional one (the default).",
);
const PARTITION_FIELD: Key = name(
    "partition.field",
    "Field name for Kafka partition. End it with ! for a required field or ? for an optional one (the default).",
);
const OFFSET_FIELD: Key = name(
    "offset.field",
    "Field name for Kafka offset. End it with ! for a required field or ? for an optional one (the default).",
);
const TIMESTAMP_FIELD: Key = name(
    "timestamp.field",
    "Field name for record timestamp. End it with ! for a required field or ? for an optional one (the default).",
);
const STATIC_FIELD: Key = name(
    "static.field",
    "Field name for a constant text. End it with ! for a required field or ? for an optional one (the default).",
);
const STATIC_VALUE: Key = name("static.value", "Value of the field that static.field names.");

/// The keys of the transform.
pub(crate) const KEYS: &[Key] = &[
    TOPIC_FIELD,
    PARTITION_FIELD,
    OFFSET_FIELD,
    TIMESTAMP_FIELD,
    STATIC_FIELD,
    STATIC_VALUE,
    REPLACE_NULL_WITH_DEFAULT,
];

/// A field to insert.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Insertion {
    name: String,
    optional: bool,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Topic,
    Partition,
    Offset,
    Timestamp,
    Static(String),
}

#[derive(Debug)]
pub(crate) struct InsertField {
    insertions: Vec<Insertion>,
    replace_null_with_default: bool,
}

/// Builds the transform of `side`.
pub(crate) fn build(settings: &Settings, side: Side) -> Result<Box<dyn Transform>, Invalid> {
    let mut insertions = Vec::new();
    for (key, what) in [
        (&TOPIC_FIELD, What::Topic),
        (&PARTITION_FIELD, What::Partition),
        (&OFFSET_FIELD, What::Offset),
        (&TIMESTAMP_FIELD, What::Timestamp),
    ] {
        insertions.extend(settings.string(key)?.map(|spec| insertion(&spec, what)));
    }
    if let Some(spec) = settings.string(&STATIC_FIELD)? {
        let Some(value) = settings.string(&STATIC_VALUE)? else {
            let made = insertion(&spec, What::Topic);
            return Err(Invalid::value(
                &STATIC_VALUE,
                "null",
                format!("No value specified for static field: {}", made.name),
            ));
        };
        insertions.push(insertion(&spec, What::Static(value)));
    }
    if insertions.is_empty() {
        return Err(Invalid::new(TOPIC_FIELD.name, "No field insertion configured"));
    }
    let replace_null_with_default = settings.boolean(&REPLACE_NULL_WITH_DEFAULT)?;
    Ok(Box::new(OnSide { side, edit: InsertField { insertions, replace_null_with_default } }))
}

fn insertion(spec: &str, what: What) -> Insertion {
    let (name, optional) = match (spec.strip_suffix('?'), spec.strip_suffix('!')) {
        (Some(name), _) => (name, true),
        (None, Some(name)) => (name, false),
        (None, None) => (spec, true),
    };
    Insertion { name: name.to_owned(), optional, what }
}

/// A column that holds `text` in each row.
pub(crate) fn constant_text(text: &str, rows: usize) -> Result<ArrayRef, String> {
    let one: ArrayRef = Arc::new(StringArray::from(vec![text]));
    repeated(&one, rows, None)
}

/// The topic of each row.
pub(crate) fn topic_column(batch: &Batch) -> Result<ArrayRef, String> {
    match &batch.topics {
        None => constant_text(&batch.topic_partition.topic, batch.len()),
        Some(_) => Ok(Arc::new(StringArray::from_iter_values((0..batch.len()).map(|row| topic(batch, row))))),
    }
}

/// The timestamp of each row; null where a record has none.
pub(crate) fn timestamp_nulls(batch: &Batch) -> Option<NullBuffer> {
    let none = batch.timestamps_ms.iter().any(|timestamp| *timestamp < 0);
    none.then(|| batch.timestamps_ms.iter().map(|timestamp| *timestamp >= 0).collect())
}

impl Insertion {
    fn column(&self, batch: &Batch) -> Result<ArrayRef, String> {
        Ok(match &self.what {
            What::Topic => topic_column(batch)?,
            What::Partition => {
                let one: ArrayRef = Arc::new(Int32Array::from(vec![batch.topic_partition.partition]));
                repeated(&one, batch.len(), None)?
            }
            What::Offset => Arc::new(Int64Array::new(batch.offsets.clone(), None)),
            What::Timestamp => {
                let nulls = timestamp_nulls(batch);
                Arc::new(TimestampMillisecondArray::new(batch.timestamps_ms.clone(), nulls).with_timezone("UTC"))
            }
            What::Static(text) => constant_text(text, batch.len())?,
        })
    }

    fn json(&self, record: Record<'_>) -> Option<Value> {
        match &self.what {
            What::Topic => Some(record.topic().into()),
            What::Partition => Some(record.batch.topic_partition.partition.into()),
            What::Offset => Some(record.batch.offsets[record.row].into()),
            What::Timestamp => record.timestamp_ms().map(Value::from),
            What::Static(text) => Some(text.as_str().into()),
        }
    }
}

impl Edit for InsertField {
    fn typed(&self, columns: &StructArray, batch: &Batch) -> Result<Columns, String> {
        require_struct(columns, PURPOSE)?;
        let old = with_defaults(columns, self.replace_null_with_default);
        let mut fields: Vec<FieldRef> = old.fields().iter().cloned().collect();
        let mut made: Vec<ArrayRef> = old.columns().to_vec();
        let mut refused = Refused::new();
        for insertion in &self.insertions {
            let mut column = insertion.column(batch)?;
            if !insertion.optional && column.null_count() > 0 {
                let missing = (0..column.len()).filter(|row| column.is_null(*row) && columns.is_valid(*row));
                refused.extend(missing.map(|row| (row, no_timestamp(&insertion.name))));
                // Those rows are left out; until then they hold what is there.
                let timestamps = column.as_primitive::<arrow::datatypes::TimestampMillisecondType>();
                let values = timestamps.values().clone();
                column = Arc::new(TimestampMillisecondArray::new(values, None).with_timezone("UTC"));
            }
            fields.push(Arc::new(Field::new(&insertion.name, column.data_type().clone(), insertion.optional)));
            made.push(column);
        }
        Ok(Columns { columns: struct_of(fields, made, columns.nulls(), columns.len())?, refused })
    }

    fn schemaless(&self, value: Value, record: Record<'_>) -> Result<Value, String> {
        if value.is_null() {
            return Ok(value);
        }
        let mut map = require_map(value, PURPOSE)?;
        for insertion in &self.insertions {
            if let Some(value) = insertion.json(record) {
                map.insert(insertion.name.clone(), value);
            }
        }
        Ok(Value::Object(map))
    }
}

fn no_timestamp(name: &str) -> String {
    format!("Invalid value: null used for required field: \"{name}\", schema type: INT64")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::testing::{build, columns, ints, run, schemaless, texts, transform, typed, types, whole_texts};
    use model::Values;

    const ALL: &[(&str, &str)] = &[
        ("topic.field", "topic_field!"),
        ("partition.field", "partition_field"),
        ("offset.field", "offset_field?"),
        ("timestamp.field", "timestamp_field?"),
        ("static.field", "instance_id"),
        ("static.value", "my-instance-id"),
    ];

    #[test]
    fn all_fields_are_added_behind_the_columns() {
        let batch = typed(vec![("magic", ints(vec![Some(42), None]))]);
        let made = transform("insert-field-value", ALL).apply(batch);
        assert_eq!(
            types(&made.batch.values),
            [
                "magic Int64?",
                "topic_field Utf8",
                "partition_field Int32?",
                "offset_field Int64?",
                "timestamp_field Timestamp(ms, \"UTC\")?",
                "instance_id Utf8?",
            ]
        );
        let rows = crate::values::testing::rows(&made.batch.values);
        assert_eq!(
            rows,
            [
                "{magic: 42, topic_field: test, partition_field: 3, offset_field: 10, timestamp_field: 1970-01-01T00:00:01Z, instance_id: my-instance-id}",
                "{magic: null, topic_field: test, partition_field: 3, offset_field: 11, timestamp_field: 1970-01-01T00:00:01.001Z, instance_id: my-instance-id}",
            ]
        );
    }

    #[test]
    fn all_fields_are_put_into_maps_and_tombstones_pass() {
        let made =
            run(&mut *transform("insert-field-value", ALL), schemaless(&[r#"{"magic":42,"topic_field":1}"#, "null"]));
        let row = r#"{"magic":42,"topic_field":"test","partition_field":3,"offset_field":10,"timestamp_field":1000,"instance_id":"my-instance-id"}"#;
        assert_eq!(made, (vec![row.to_owned(), "null".to_owned()], vec![]));
    }

    #[test]
    fn keys_are_edited_by_the_key_class_only() {
        let mut batch = schemaless(&[r#"{"v":1}"#]);
        batch.key_values = Some(schemaless(&[r#"{"k":1}"#]).values);
        let mut insert = transform("insert-field-key", &[("static.field", "s"), ("static.value", "x")]);
        assert!(insert.needs_keys());
        let made = insert.apply(batch).batch;
        assert_eq!(crate::values::testing::rows(&made.values), [r#"{"v":1}"#]);
        assert_eq!(crate::values::testing::rows(&made.key_values.unwrap()), [r#"{"k":1,"s":"x"}"#]);
    }

    #[test]
    fn a_missing_timestamp_is_null_left_out_or_refused() {
        let without = |mut batch: Batch| {
            batch.timestamps_ms = vec![-1, 5].into();
            batch
        };
        let typed_rows = || without(typed(vec![("a", ints(vec![Some(1), Some(2)]))]));
        let optional = run(&mut *transform("insert-field-value", &[("timestamp.field", "t")]), typed_rows());
        assert_eq!(optional.0, ["{a: 1, t: null}", "{a: 2, t: 1970-01-01T00:00:00.005Z}"]);
        let required = run(&mut *transform("insert-field-value", &[("timestamp.field", "t!")]), typed_rows());
        assert_eq!(required.0, ["{a: 2, t: 1970-01-01T00:00:00.005Z}"]);
        assert_eq!(required.1, ["Invalid value: null used for required field: \"t\", schema type: INT64"]);
        let maps = without(schemaless(&["{}", "{}"]));
        let made = run(&mut *transform("insert-field-value", &[("timestamp.field", "t")]), maps);
        assert_eq!(made.0, ["{}", r#"{"t":5}"#]);
    }

    #[test]
    fn what_is_no_struct_or_has_the_field_already_is_refused() {
        let mut insert = transform("insert-field-value", &[("topic.field", "a")]);
        assert_eq!(
            run(&mut *insert, whole_texts(vec![Some("x"), None])),
            (
                vec!["null".to_owned()],
                vec!["Only Struct objects supported for [field insertion], found: java.lang.String".to_owned()]
            )
        );
        let twice = run(&mut *insert, typed(vec![("a", texts(vec![Some("x")]))])).1;
        assert_eq!(twice, ["Cannot create field because of field name duplication a"]);
        let list = run(&mut *insert, schemaless(&["[1]"])).1;
        assert_eq!(
            list,
            ["Only Map objects supported in absence of schema for [field insertion], found: java.util.ArrayList"]
        );
    }

    #[test]
    fn null_rows_of_required_columns_stay_null() {
        let columns = columns(vec![("a", ints(vec![Some(1), None]))]);
        let fields = vec![Arc::new(Field::new("a", arrow::datatypes::DataType::Int64, false))];
        let nulls: NullBuffer = vec![true, false].into();
        let columns = StructArray::new(fields.into(), columns.columns().to_vec(), Some(nulls));
        let batch = crate::values::testing::batch(Values::Typed(columns));
        let made = run(&mut *transform("insert-field-value", &[("topic.field", "t!")]), batch);
        assert_eq!(made, (vec!["{a: 1, t: test}".to_owned(), "null".to_owned()], vec![]));
    }

    #[test]
    fn a_configuration_that_inserts_nothing_is_refused() {
        let error = |pairs: &[(&str, &str)]| build("insert-field-value", pairs).err().unwrap().message;
        assert_eq!(error(&[]), "No field insertion configured");
        assert_eq!(
            error(&[("static.field", "s")]),
            "Invalid value null for configuration static.value: No value specified for static field: s"
        );
    }
}
