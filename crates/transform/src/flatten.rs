//! `Flatten`: nested fields become fields of the record, with names put together.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StructArray};
use arrow::datatypes::{DataType, FieldRef};
use model::{Batch, Importance, Invalid, Key, Kind, Settings};
use serde_json::{Map, Value};

use crate::Transform;
use crate::values::{
    Columns, Edit, OnSide, Record, Side, connect_type, masked, require_map, require_struct, struct_of, with_defaults,
};

const PURPOSE: &str = "flattening";

const DELIMITER: Key = Key::new(
    "delimiter",
    Kind::String,
    "What stands between the names of the levels in the name of a flattened field.",
)
.default(".")
.importance(Importance::Medium);

/// The keys of the transform.
pub(crate) const KEYS: &[Key] = &[DELIMITER];

#[derive(Debug)]
struct Flatten {
    delimiter: String,
}

/// Builds the transform of `side`.
pub(crate) fn build(settings: &Settings, side: Side) -> Result<Box<dyn Transform>, Invalid> {
    Ok(Box::new(OnSide { side, edit: Flatten { delimiter: settings.required_string(&DELIMITER)? } }))
}

impl Flatten {
    fn name(&self, prefix: &str, field: &str) -> String {
        if prefix.is_empty() { field.to_owned() } else { format!("{prefix}{}{field}", self.delimiter) }
    }

    /// Appends the leaves of `parent`, whose rows are null where any level above them is.
    fn leaves(
        &self,
        parent: &StructArray,
        prefix: &str,
        optional: bool,
        fields: &mut Vec<FieldRef>,
        columns: &mut Vec<ArrayRef>,
    ) -> Result<(), String> {
        for (field, column) in parent.fields().iter().zip(with_defaults(parent, true).columns()) {
            let name = self.name(prefix, field.name());
            let optional = optional || field.is_nullable();
            let column = if prefix.is_empty() { column.clone() } else { masked(column, parent.nulls())? };
            match column.data_type() {
                DataType::Struct(_) => self.leaves(column.as_struct(), &name, optional, fields, columns)?,
                DataType::Map(..) => {
                    let connect_type = connect_type(column.data_type());
                    return Err(format!(
                        "Flatten transformation does not support {connect_type} for record with schemas (for field {name})."
                    ));
                }
                _leaf => {
                    fields.push(Arc::new(field.as_ref().clone().with_name(name).with_nullable(optional)));
                    columns.push(column);
                }
            }
        }
        Ok(())
    }

    fn flatten_map(&self, map: Map<String, Value>, prefix: &str, flat: &mut Map<String, Value>) {
        for (field, value) in map {
            let name = self.name(prefix, &field);
            match value {
                Value::Object(inner) => self.flatten_map(inner, &name, flat),
                leaf @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
                    flat.insert(name, leaf);
                }
            }
        }
    }
}

impl Edit for Flatten {
    fn typed(&self, columns: &StructArray, _batch: &Batch) -> Result<Columns, String> {
        require_struct(columns, PURPOSE)?;
        let (mut fields, mut leaves) = (Vec::new(), Vec::new());
        self.leaves(columns, "", false, &mut fields, &mut leaves)?;
        Ok(struct_of(fields, leaves, columns.nulls(), columns.len())?.into())
    }

    fn schemaless(&self, value: Value, _record: Record<'_>) -> Result<Value, String> {
        if value.is_null() {
            return Ok(value);
        }
        let mut flat = Map::new();
        self.flatten_map(require_map(value, PURPOSE)?, "", &mut flat);
        Ok(Value::Object(flat))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::testing::{columns, ints, rows, run, schemaless, texts, transform, typed, types, whole_texts};
    use arrow::array::{MapBuilder, StringBuilder};

    #[test]
    fn maps_are_flattened_and_lists_kept() {
        let map = r#"{"A":{"B":{"int8":8,"list":[{"x":1}]},"n":null,"e":{}},"s":"t"}"#;
        let made = run(&mut *transform("flatten-value", &[]), schemaless(&[map, "null"]));
        assert_eq!(made.0, [r#"{"A.B.int8":8,"A.B.list":[{"x":1}],"A.n":null,"s":"t"}"#, "null"]);
        let made = run(&mut *transform("flatten-value", &[("delimiter", "#")]), schemaless(&[r#"{"A":{"B":1}}"#]));
        assert_eq!(made.0, [r##"{"A#B":1}"##]);
    }

    #[test]
    fn structs_are_flattened_and_nulls_of_outer_ones_reach_the_leaves() {
        let inner = columns(vec![("c", ints(vec![Some(1), Some(2), Some(3)]))]);
        let field = Arc::new(arrow::datatypes::Field::new("c", DataType::Int64, false));
        let inner =
            StructArray::new(vec![field].into(), inner.columns().to_vec(), Some(vec![true, false, true].into()));
        let outer = columns(vec![("b", Arc::new(inner)), ("t", texts(vec![Some("x"); 3]))]);
        let batch = typed(vec![("a", Arc::new(outer)), ("s", ints(vec![None, None, Some(1)]))]);
        let made = transform("flatten-value", &[]).apply(batch).batch;
        assert_eq!(types(&made.values), ["a.b.c Int64?", "a.t Utf8?", "s Int64?"]);
        assert_eq!(
            rows(&made.values),
            ["{a.b.c: 1, a.t: x, s: null}", "{a.b.c: null, a.t: x, s: null}", "{a.b.c: 3, a.t: x, s: 1}"]
        );
    }

    #[test]
    fn typed_maps_and_texts_are_refused() {
        let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        map.append(true).unwrap();
        let made = run(&mut *transform("flatten-value", &[]), typed(vec![("m", Arc::new(map.finish()))]));
        assert_eq!(made.1, ["Flatten transformation does not support MAP for record with schemas (for field m)."]);
        let made = run(&mut *transform("flatten-value", &[]), whole_texts(vec![Some("x"), None]));
        assert_eq!(made.1, ["Only Struct objects supported for [flattening], found: java.lang.String"]);
        assert_eq!(made.0, ["null"]);
    }
}
