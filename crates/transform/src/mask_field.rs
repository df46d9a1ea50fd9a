//! `MaskField`: the null value of its type, or a given text, in place of a field's value.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringArray, StructArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use model::{Batch, Check, Importance, Invalid, Key, Kind, Settings};
use serde_json::{Map, Value};

use crate::Transform;
use crate::java::{parse_double, parse_long};
use crate::keys::{REPLACE_NULL_WITH_DEFAULT, non_empty_list};
use crate::values::{
    Columns, Edit, OnSide, Record, Side, class_of, class_of_type, no_map, repeated, require_map, require_struct,
    struct_of, with_defaults,
};

const PURPOSE: &str = "mask fields";

const FIELDS: Key = Key::new("fields", Kind::List, "Names of fields to mask.")
    .required()
    .check(Check::With(non_empty_list))
    .importance(Importance::High);
const REPLACEMENT: Key =
    Key::new("replacement", Kind::String, "What the fields hold instead; for numbers and texts only.")
        .check(Check::NotEmpty);

/// The keys of the transform.
pub(crate) const KEYS: &[Key] = &[FIELDS, REPLACEMENT, REPLACE_NULL_WITH_DEFAULT];

#[derive(Debug)]
struct MaskField {
    fields: Vec<String>,
    replacement: Option<String>,
    replace_null_with_default: bool,
}

/// Builds the transform of `side`.
pub(crate) fn build(settings: &Settings, side: Side) -> Result<Box<dyn Transform>, Invalid> {
    let edit = MaskField {
        fields: settings.list(&FIELDS)?,
        replacement: settings.string(&REPLACEMENT)?,
        replace_null_with_default: settings.boolean(&REPLACE_NULL_WITH_DEFAULT)?,
    };
    Ok(Box::new(OnSide { side, edit }))
}

fn no_number(text: &str) -> String {
    format!("Unable to convert {text} (class java.lang.String) to number")
}

impl MaskField {
    /// The one value that masks a column of type `data_type`.
    fn mask(&self, data_type: &DataType) -> Result<ArrayRef, String> {
        let is_text = matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
        let class = class_of_type(data_type);
        let is_decimal = matches!(data_type, DataType::Decimal128(..) | DataType::Decimal256(..));
        let text = match &self.replacement {
            Some(text) if is_text => text.as_str(),
            Some(text) if data_type.is_integer() || data_type.is_floating() || is_decimal => text.as_str(),
            Some(_) => return Err(format!("Cannot mask value of type class {class} with custom replacement.")),
            None if is_text => "",
            None => return zero(data_type).ok_or_else(|| format!("Cannot mask value of type: class {class}")),
        };
        let one: ArrayRef = Arc::new(StringArray::from(vec![text]));
        let made = cast(&one, data_type).map_err(|_| no_number(text))?;
        if made.null_count() == 0 { Ok(made) } else { Err(no_number(text)) }
    }

    fn masked_json(&self, value: &Value) -> Result<Value, String> {
        let Some(text) = &self.replacement else {
            return Ok(match value {
                Value::Null => Value::Null,
                Value::Bool(_) => false.into(),
                Value::Number(number) if number.is_f64() => 0.0.into(),
                Value::Number(_) => 0.into(),
                Value::String(_) => "".into(),
                Value::Array(_) => Value::Array(Vec::new()),
                Value::Object(_) => Value::Object(Map::new()),
            });
        };
        match value {
            Value::Null => Ok(Value::Null),
            Value::String(_) => Ok(text.as_str().into()),
            Value::Number(number) if number.is_f64() => {
                parse_double(text).map(Value::from).ok_or_else(|| no_number(text))
            }
            Value::Number(_) => parse_long(text).map(Value::from).ok_or_else(|| no_number(text)),
            other @ (Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
                let class = class_of(other);
                Err(format!("Cannot mask value of type class {class} with custom replacement."))
            }
        }
    }
}

/// False, 0, the epoch, or nothing in a list; `None` for types that have no such value.
fn zero(data_type: &DataType) -> Option<ArrayRef> {
    match data_type {
        DataType::Struct(_) | DataType::Binary | DataType::LargeBinary | DataType::BinaryView => None,
        DataType::FixedSizeBinary(_) | DataType::FixedSizeList(..) | DataType::Null => None,
        // The data of a null is zeros: without its null bit it is the zero of its type, or an empty list.
        other => {
            let data = new_null_array(other, 1).to_data().into_builder().nulls(None).null_count(0).build().ok()?;
            Some(arrow::array::make_array(data))
        }
    }
}

impl Edit for MaskField {
    fn typed(&self, columns: &StructArray, _batch: &Batch) -> Result<Columns, String> {
        require_struct(columns, PURPOSE)?;
        let old = with_defaults(columns, self.replace_null_with_default);
        let mut made: Vec<ArrayRef> = old.columns().to_vec();
        for (index, field) in old.fields().iter().enumerate() {
            if self.fields.iter().any(|name| name == field.name()) && made[index].null_count() < made[index].len() {
                let nulls = made[index].logical_nulls();
                made[index] = repeated(&self.mask(field.data_type())?, columns.len(), nulls.as_ref())?;
            }
        }
        Ok(struct_of(old.fields().iter().cloned().collect(), made, columns.nulls(), columns.len())?.into())
    }

    fn schemaless(&self, value: Value, _record: Record<'_>) -> Result<Value, String> {
        let mut map = require_map(value, PURPOSE)?;
        for field in &self.fields {
            let masked = self.masked_json(map.get(field).unwrap_or(&Value::Null))?;
            map.insert(field.clone(), masked);
        }
        Ok(Value::Object(map))
    }

    fn null(&self) -> Option<String> {
        Some(no_map("null", PURPOSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::testing::{ints, run, schemaless, texts, transform, typed};
    use arrow::array::{BooleanArray, Date32Array};

    #[test]
    fn fields_get_the_null_value_of_their_type() {
        let map = r#"{"s":"x","l":7,"d":1.5,"b":true,"a":[1],"o":{"x":1},"keep":"k","n":null}"#;
        let mut mask = transform("mask-field-value", &[("fields", "s,l,d,b,a,o,n")]);
        let made = run(&mut *mask, schemaless(&[map, "null"]));
        assert_eq!(made.0, [r#"{"s":"","l":0,"d":0.0,"b":false,"a":[],"o":{},"keep":"k","n":null}"#]);
        assert_eq!(made.1, ["Only Map objects supported in absence of schema for [mask fields], found: null"]);
        let columns = typed(vec![
            ("s", texts(vec![Some("x"), None])),
            ("l", ints(vec![Some(7), None])),
            ("b", Arc::new(BooleanArray::from(vec![Some(true), None]))),
            ("d", Arc::new(Date32Array::from(vec![Some(7), None]))),
            ("keep", ints(vec![Some(1), Some(2)])),
        ]);
        let made = run(&mut *mask, columns);
        assert_eq!(
            made.0,
            ["{s: , l: 0, b: false, d: 1970-01-01, keep: 1}", "{s: null, l: null, b: null, d: null, keep: 2}"]
        );
    }

    #[test]
    fn replacements_fit_numbers_and_texts_only() {
        let mask = |replacement| transform("mask-field-value", &[("fields", "f"), ("replacement", replacement)]);
        assert_eq!(
            run(&mut *mask("123"), schemaless(&[r#"{"f":"x"}"#, r#"{"f":1}"#])).0,
            [r#"{"f":"123"}"#, r#"{"f":123}"#]
        );
        assert_eq!(run(&mut *mask("123"), typed(vec![("f", ints(vec![Some(1)]))])).0, ["{f: 123}"]);
        let why = ["Unable to convert abc (class java.lang.String) to number"];
        assert_eq!(run(&mut *mask("abc"), typed(vec![("f", ints(vec![Some(1)]))])).1, why);
        assert_eq!(run(&mut *mask("abc"), schemaless(&[r#"{"f":1}"#])).1, why);
        assert_eq!(
            run(&mut *mask("1"), schemaless(&[r#"{"f":true}"#])).1,
            ["Cannot mask value of type class java.lang.Boolean with custom replacement."]
        );
    }
}
