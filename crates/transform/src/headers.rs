//! The transforms that write headers: `InsertHeader` and `HeaderFrom`. A header's value is its text.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringBuilder, StructArray};
use model::{Batch, Check, Headers, Importance, Invalid, Key, Kind, Settings, Values};
use serde_json::Value;

use crate::cast::text_column;
use crate::json::json_value;
use crate::keys::{REPLACE_NULL_WITH_DEFAULT, non_empty_list};
use crate::values::{
    Refused, Side, edit_texts, no_map, require_map, require_struct, struct_of, with_defaults, without,
};
use crate::{Transform, Transformed};

const HEADER: Key = Key::new("header", Kind::String, "The name of the header.")
    .required()
    .check(Check::NotEmpty)
    .importance(Importance::High);
const VALUE_LITERAL: Key = Key::new("value.literal", Kind::String, "The text of the header; null stands for no value.")
    .required()
    .check(Check::NotEmpty)
    .importance(Importance::High);
const FIELDS: Key = Key::new("fields", Kind::List, "Fields whose values go into headers.")
    .required()
    .check(Check::With(non_empty_list))
    .importance(Importance::High);
const HEADERS: Key = Key::new("headers", Kind::List, "Names of the headers, in the order of the fields.")
    .required()
    .check(Check::With(non_empty_list))
    .importance(Importance::High);
const OPERATION: Key =
    Key::new("operation", Kind::String, "move takes the fields out of the record; copy leaves them.")
        .required()
        .check(Check::OneOf(&["move", "copy"]))
        .importance(Importance::High);

/// The keys of `InsertHeader`.
pub(crate) const INSERT_KEYS: &[Key] = &[HEADER, VALUE_LITERAL];
/// The keys of `HeaderFrom`.
pub(crate) const FROM_KEYS: &[Key] = &[FIELDS, HEADERS, OPERATION, REPLACE_NULL_WITH_DEFAULT];

type Text = Option<Vec<u8>>;

/// The headers of `batch`, one list for each row, to be changed.
pub(crate) fn lists(batch: &Batch) -> Vec<Headers> {
    batch.headers.as_ref().map_or_else(|| vec![Headers::new(); batch.len()], |all| all.to_vec())
}

/// A JSON value as the text of a header.
pub(crate) fn header_text(value: &Value) -> Text {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone().into_bytes()),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Some(other.to_string().into_bytes())
        }
    }
}

/// A column as texts of headers: JSON where its values are nested. The result is a column of texts.
pub fn header_texts(column: &ArrayRef) -> Result<ArrayRef, String> {
    if !column.data_type().is_nested() {
        return text_column(column);
    }
    let mut texts = StringBuilder::new();
    for row in 0..column.len() {
        match json_value(column, row)? {
            Value::Null => texts.append_null(),
            value => texts.append_value(value.to_string()),
        }
    }
    Ok(Arc::new(texts.finish()))
}

struct InsertHeader {
    header: String,
    value: Text,
}

/// Builds `InsertHeader`.
pub(crate) fn build_insert(settings: &Settings) -> Result<Box<dyn Transform>, Invalid> {
    let literal = settings.required_string(&VALUE_LITERAL)?;
    let value = match serde_json::from_str(&literal) {
        Ok(Value::Null) => None,
        Ok(Value::String(text)) => Some(text.into_bytes()),
        Ok(_) | Err(_) => Some(literal.into_bytes()),
    };
    Ok(Box::new(InsertHeader { header: settings.required_string(&HEADER)?, value }))
}

impl Transform for InsertHeader {
    fn apply(&mut self, mut batch: Batch) -> Transformed {
        let mut all = lists(&batch);
        all.iter_mut().for_each(|of_row| of_row.push((self.header.clone(), self.value.clone())));
        batch.headers = Some(Arc::new(all));
        Transformed { batch, rejected: Vec::new() }
    }
}

struct HeaderFrom {
    side: Side,
    fields: Vec<String>,
    headers: Vec<String>,
    moves: bool,
    replace_null_with_default: bool,
}

/// Builds `HeaderFrom` of `side`.
pub(crate) fn build_from(settings: &Settings, side: Side) -> Result<Box<dyn Transform>, Invalid> {
    let (fields, headers) = (settings.list(&FIELDS)?, settings.list(&HEADERS)?);
    if fields.len() != headers.len() {
        return Err(Invalid::new(
            FIELDS.name,
            "'fields' config must have the same number of elements as 'headers' config.",
        ));
    }
    let moves = settings.required_string(&OPERATION)? == "move";
    let replace_null_with_default = settings.boolean(&REPLACE_NULL_WITH_DEFAULT)?;
    Ok(Box::new(HeaderFrom { side, fields, headers, moves, replace_null_with_default }))
}

impl HeaderFrom {
    fn purpose(&self) -> &'static str {
        if self.moves { "header move" } else { "header copy" }
    }

    /// What is left of typed values, and a column of texts for each field.
    fn typed(&self, columns: &StructArray) -> Result<(StructArray, Vec<ArrayRef>), String> {
        require_struct(columns, self.purpose())?;
        let old = with_defaults(columns, self.replace_null_with_default);
        let texts = self.fields.iter().map(|name| {
            let column = old.column_by_name(name).ok_or_else(|| format!("Field does not exist: {name}"))?;
            header_texts(column)
        });
        let texts = texts.collect::<Result<Vec<_>, String>>()?;
        if !self.moves {
            return Ok((columns.clone(), texts));
        }
        let kept = old.fields().iter().zip(old.columns()).filter(|(field, _)| !self.fields.contains(field.name()));
        let (fields, kept) = kept.map(|(field, column)| (field.clone(), column.clone())).unzip();
        Ok((struct_of(fields, kept, columns.nulls(), columns.len())?, texts))
    }

    fn apply_typed(&self, columns: &StructArray, all: &mut [Headers]) -> (Values, Refused) {
        let null = || no_map("null", self.purpose());
        let (made, texts) = match self.typed(columns) {
            Ok(made) => made,
            Err(why) => {
                let reason = |row| if columns.is_null(row) { null() } else { why.clone() };
                return (Values::Typed(columns.clone()), (0..columns.len()).map(|row| (row, reason(row))).collect());
            }
        };
        for (row, of_row) in all.iter_mut().enumerate() {
            for (header, texts) in self.headers.iter().zip(&texts) {
                let texts = texts.as_string::<i32>();
                let text = texts.is_valid(row).then(|| texts.value(row).as_bytes().to_vec());
                of_row.push((header.clone(), text));
            }
        }
        let refused = (0..columns.len()).filter(|row| columns.is_null(*row)).map(|row| (row, null())).collect();
        (Values::Typed(made), refused)
    }

    fn apply_json(&self, value: Value, of_row: &mut Headers) -> Result<Value, String> {
        let mut map = require_map(value, self.purpose())?;
        for (field, header) in self.fields.iter().zip(&self.headers) {
            let text = map.get(field).and_then(header_text);
            of_row.push((header.clone(), text));
            if self.moves {
                map.shift_remove(field);
            }
        }
        Ok(Value::Object(map))
    }
}

impl Transform for HeaderFrom {
    fn apply(&mut self, batch: Batch) -> Transformed {
        let mut all = lists(&batch);
        let (values, refused) = match self.side.of(&batch) {
            Values::Typed(columns) => self.apply_typed(&columns, &mut all),
            Values::Schemaless(texts) => {
                let (texts, refused) = edit_texts(&texts, |value, row| self.apply_json(value, &mut all[row]));
                (Values::Schemaless(texts), refused)
            }
        };
        let mut batch = self.side.put(batch, values);
        batch.headers = Some(Arc::new(all));
        without(batch, refused)
    }

    fn needs_keys(&self) -> bool {
        self.side == Side::Key
    }
}

#[cfg(test)]
mod tests {
    use crate::values::testing::{columns, ints, rows, schemaless, texts, transform, typed};
    use arrow::array::ArrayRef;
    use std::sync::Arc;

    #[test]
    fn a_literal_is_inserted_as_its_text() {
        let header = |literal| {
            let mut insert = transform("insert-header", &[("header", "h"), ("value.literal", literal)]);
            insert.apply(schemaless(&["1"])).batch.headers.unwrap()[0][0].1.clone()
        };
        assert_eq!(header("1.50"), Some(b"1.50".to_vec()));
        assert_eq!(header("\"x\""), Some(b"x".to_vec()));
        assert_eq!(header("null"), None);
    }

    #[test]
    fn fields_move_into_headers() {
        let pairs = [("fields", "a,b"), ("headers", "ha,hb"), ("operation", "move")];
        let expected = vec![("ha".to_owned(), Some(b"1".to_vec())), ("hb".to_owned(), Some(b"x".to_vec()))];
        let mut from = transform("header-from-value", &pairs);
        let made = from.apply(schemaless(&[r#"{"a":1,"c":2,"b":"x"}"#, "null"]));
        assert_eq!(rows(&made.batch.values), [r#"{"c":2}"#]);
        assert_eq!(made.batch.headers.unwrap()[0], expected);
        assert_eq!(
            made.rejected[0].reason,
            "Only Map objects supported in absence of schema for [header move], found: null"
        );
        let columns =
            || typed(vec![("a", ints(vec![Some(1)])), ("b", texts(vec![Some("x")])), ("c", ints(vec![Some(2)]))]);
        let made = from.apply(columns()).batch;
        assert_eq!((rows(&made.values), &made.headers.unwrap()[0]), (vec!["{c: 2}".to_owned()], &expected));
        let pairs = [("fields", "a,b"), ("headers", "ha,hb"), ("operation", "copy")];
        let made = transform("header-from-value", &pairs).apply(columns()).batch;
        assert_eq!((rows(&made.values), &made.headers.unwrap()[0]), (vec!["{a: 1, b: x, c: 2}".to_owned()], &expected));
    }

    #[test]
    fn a_nested_field_is_json_in_a_header() {
        let mut from = transform("header-from-value", &[("fields", "in"), ("headers", "h"), ("operation", "copy")]);
        let nested: ArrayRef = Arc::new(columns(vec![("t", ints(vec![Some(1)])), ("u", texts(vec![Some("x")]))]));
        for batch in [typed(vec![("in", nested)]), schemaless(&[r#"{"in":{"t":1,"u":"x"}}"#])] {
            let headers = from.apply(batch).batch.headers.unwrap();
            assert_eq!(headers[0], [("h".to_owned(), Some(br#"{"t":1,"u":"x"}"#.to_vec()))]);
        }
    }
}
