//! Schemas that a configuration gives: Spark DDL, StructType, Avro, JSON Schema.

use arrow::array::Array;
use schema::{JsonColumns, Unknown, given};

use crate::pieces::{are_sound, records, split, text};

/// A schema, and behind the first NUL a value that is read with it.
pub(crate) fn given(data: &[u8]) {
    let (schema, value) = split(data);
    let Ok(schema) = given::parse(&text(schema)) else { return };
    assert_eq!(schema.fingerprint(), schema.clone().fingerprint());
    let texts = records(&[value, b"{}"]).values;
    let read = JsonColumns::new(&schema, Unknown::Ignore).read(&texts);
    are_sound(&read.columns);
    assert_eq!(read.columns.len(), texts.len(), "one row a text");
}
