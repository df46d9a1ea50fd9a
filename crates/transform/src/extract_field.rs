//! `ExtractField`: one field becomes the whole value.

use arrow::array::StructArray;
use model::{Batch, Importance, Invalid, Key, Kind, Settings};
use serde_json::Value;

use crate::Transform;
use crate::field_path::{FIELD_SYNTAX_VERSION, FieldPath};
use crate::keys::REPLACE_NULL_WITH_DEFAULT;
use crate::values::{Columns, Edit, OnSide, Record, Side, require_map, require_struct, whole};

const PURPOSE: &str = "field extraction";

const FIELD: Key = Key::new("field", Kind::String, "Field name to extract.").required().importance(Importance::Medium);

/// The keys of the transform.
pub(crate) const KEYS: &[Key] = &[FIELD, FIELD_SYNTAX_VERSION, REPLACE_NULL_WITH_DEFAULT];

#[derive(Debug)]
struct ExtractField {
    path: FieldPath,
    text: String,
    replace_null_with_default: bool,
}

/// Builds the transform of `side`.
pub(crate) fn build(settings: &Settings, side: Side) -> Result<Box<dyn Transform>, Invalid> {
    let text = settings.required_string(&FIELD)?;
    let version = settings.required_string(&FIELD_SYNTAX_VERSION)?;
    let path = FieldPath::new(&text, &version).map_err(|why| Invalid::new(FIELD.name, why))?;
    let replace_null_with_default = settings.boolean(&REPLACE_NULL_WITH_DEFAULT)?;
    Ok(Box::new(OnSide { side, edit: ExtractField { path, text, replace_null_with_default } }))
}

impl Edit for ExtractField {
    fn typed(&self, columns: &StructArray, _batch: &Batch) -> Result<Columns, String> {
        require_struct(columns, PURPOSE)?;
        match self.path.column(columns, self.replace_null_with_default)? {
            Some((_, column)) => Ok(whole(column).into()),
            None => Err(format!("Unknown field: {}", self.text)),
        }
    }

    fn schemaless(&self, value: Value, _record: Record<'_>) -> Result<Value, String> {
        if value.is_null() {
            return Ok(value);
        }
        let map = require_map(value, PURPOSE)?;
        self.path.find(&map).cloned()
    }

    fn changes_schema(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use crate::values::testing::{columns, ints, rows, run, schemaless, texts, transform, typed, types, whole_texts};
    use std::sync::Arc;

    #[test]
    fn a_field_of_a_map_becomes_the_value() {
        let mut extract = transform("extract-field-value", &[("field", "magic")]);
        let made = run(&mut *extract, schemaless(&[r#"{"magic":42}"#, "null", "{}", "7"]));
        assert_eq!(made.0, ["42", "null", "null"]);
        assert_eq!(
            made.1,
            ["Only Map objects supported in absence of schema for [field extraction], found: java.lang.Long"]
        );
    }

    #[test]
    fn a_column_becomes_the_whole_value_and_its_nulls_tombstones() {
        let mut extract = transform("extract-field-value", &[("field", "magic")]);
        let made = extract.apply(typed(vec![("x", texts(vec![None; 2])), ("magic", ints(vec![Some(42), None]))])).batch;
        assert_eq!(
            (types(&made.values), rows(&made.values)),
            (vec!["value Int64?".into()], vec!["42".into(), "null".into()])
        );
        assert_eq!(run(&mut *extract, typed(vec![("x", ints(vec![Some(1)]))])).1, ["Unknown field: magic"]);
        assert!(run(&mut *extract, whole_texts(vec![Some("x")])).1[0].ends_with("found: java.lang.String"));
    }

    #[test]
    fn nested_fields_are_found_by_v2_paths() {
        let pairs = [("field", "magic.foo"), ("field.syntax.version", "V2")];
        let mut extract = transform("extract-field-value", &pairs);
        assert_eq!(run(&mut *extract, schemaless(&[r#"{"magic":{"foo":42}}"#])).0, ["42"]);
        let foo = columns(vec![("foo", Arc::new(columns(vec![("bar", ints(vec![Some(1)]))])))]);
        let made = run(&mut *extract, typed(vec![("magic", Arc::new(foo))]));
        assert_eq!(made.0, ["{bar: 1}"]);
    }
}
