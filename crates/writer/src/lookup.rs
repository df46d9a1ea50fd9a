//! Finds a field by its dotted name: a column of a typed batch, or a value inside JSON text.

use arrow::array::{Array, ArrayRef, StructArray};
use arrow::buffer::NullBuffer;
use serde_json::Value;

/// A field's dotted name, `outer.inner`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldPath {
    name: String,
}

/// What a JSON value holds under a name.
#[derive(Debug, PartialEq)]
pub(crate) enum Found<'a> {
    /// The field, or one that it lies in, is not there.
    Missing,
    /// It, or one that it lies in, is null.
    Null,
    /// Its value.
    Value(&'a Value),
}

impl FieldPath {
    /// `None` if a segment of `name` is empty or blank.
    pub(crate) fn new(name: &str) -> Option<FieldPath> {
        let good = name.split('.').all(|segment| !segment.trim().is_empty());
        good.then(|| FieldPath { name: name.to_owned() })
    }

    /// The dotted name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The column, with the nulls of all that it lies in; `None` if there is none of this name.
    pub(crate) fn column(&self, columns: &StructArray) -> Option<(ArrayRef, Option<NullBuffer>)> {
        let mut nulls = columns.nulls().cloned();
        let mut parent = columns;
        let mut segments = self.name.split('.').peekable();
        loop {
            let column = parent.column_by_name(segments.next()?)?;
            nulls = NullBuffer::union(nulls.as_ref(), column.logical_nulls().as_ref());
            if segments.peek().is_none() {
                return Some((column.clone(), nulls));
            }
            parent = column.as_any().downcast_ref::<StructArray>()?;
        }
    }

    /// The value in `record`, an object of objects.
    pub(crate) fn find<'a>(&self, record: &'a Value) -> Found<'a> {
        let mut value = record;
        for segment in self.name.split('.') {
            value = match value {
                Value::Null => return Found::Null,
                Value::Object(fields) => match fields.get(segment) {
                    Some(field) => field,
                    None => return Found::Missing,
                },
                Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                    return Found::Missing;
                }
            };
        }
        if value.is_null() { Found::Null } else { Found::Value(value) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_value_is_found_missing_or_null() {
        let record = json!({"a": {"b": 1, "n": null}, "n": null, "t": "x"});
        for (name, expected) in [
            ("a.b", Found::Value(&json!(1))),
            ("t", Found::Value(&json!("x"))),
            ("a.n", Found::Null),
            ("n.deeper", Found::Null),
            ("a.c", Found::Missing),
            ("t.deeper", Found::Missing),
            ("c", Found::Missing),
        ] {
            assert_eq!(FieldPath::new(name).unwrap().find(&record), expected, "{name}");
        }
    }

    #[test]
    fn a_name_with_an_empty_segment_is_none() {
        for name in ["", " ", "a.", ".a", "a..b", "a. .b"] {
            assert_eq!(FieldPath::new(name), None, "{name:?}");
        }
    }
}
