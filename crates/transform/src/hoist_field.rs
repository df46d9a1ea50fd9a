//! `HoistField`: wraps the whole value into one field.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StructArray};
use arrow::datatypes::Field;
use model::{Batch, Importance, Invalid, Key, Kind, Settings, is_whole_value};
use serde_json::Value;

use crate::Transform;
use crate::values::{Columns, Edit, OnSide, Record, Side, struct_of};

const FIELD: Key = Key::new("field", Kind::String, "Name of the one field that the new struct or map has.")
    .required()
    .importance(Importance::Medium);

/// The keys of the transform.
pub(crate) const KEYS: &[Key] = &[FIELD];

#[derive(Debug)]
struct HoistField {
    field: String,
}

/// Builds the transform of `side`.
pub(crate) fn build(settings: &Settings, side: Side) -> Result<Box<dyn Transform>, Invalid> {
    Ok(Box::new(OnSide { side, edit: HoistField { field: settings.required_string(&FIELD)? } }))
}

impl Edit for HoistField {
    /// The field is optional: a tombstone becomes a record with a null in it, as upstream.
    fn typed(&self, columns: &StructArray, _batch: &Batch) -> Result<Columns, String> {
        let column: ArrayRef = match is_whole_value(columns.fields()) {
            true => columns.column(0).clone(),
            false => Arc::new(columns.clone()),
        };
        let field = Arc::new(Field::new(&self.field, column.data_type().clone(), true));
        Ok(struct_of(vec![field], vec![column], None, columns.len())?.into())
    }

    fn schemaless(&self, value: Value, _record: Record<'_>) -> Result<Value, String> {
        Ok(Value::Object([(self.field.clone(), value)].into_iter().collect()))
    }

    fn changes_schema(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use crate::values::testing::{ints, run, schemaless, transform, typed, whole_texts};
    use model::ValueSchema;
    use std::sync::Arc;

    #[test]
    fn any_value_becomes_a_field() {
        let mut hoist = transform("hoist-field-value", &[("field", "magic")]);
        assert_eq!(run(&mut *hoist, schemaless(&["42", "null"])).0, [r#"{"magic":42}"#, r#"{"magic":null}"#]);
        assert_eq!(run(&mut *hoist, whole_texts(vec![Some("x"), None])).0, ["{magic: x}", "{magic: null}"]);
        assert_eq!(run(&mut *hoist, typed(vec![("a", ints(vec![Some(1)]))])).0, ["{magic: {a: 1}}"]);
    }

    #[test]
    fn what_has_another_schema_has_its_name_no_longer() {
        let named = || {
            let mut batch = typed(vec![("a", ints(vec![Some(1)]))]);
            batch.schema = Some(Arc::new(ValueSchema { name: Some("com.example.A".to_owned()), version: Some(3) }));
            batch
        };
        for (class, keeps) in [
            ("hoist-field-value", false),
            ("extract-field-value", false),
            ("hoist-field-key", true),
            ("flatten-value", true),
        ] {
            let pairs: &[_] = if class.starts_with("flatten") { &[] } else { &[("field", "a")] };
            assert_eq!(transform(class, pairs).apply(named()).batch.schema.is_some(), keeps, "{class}");
        }
    }
}
